"""Mutation testing: does a test fail where the code computes something else?

    python scripts/mutants.py --seconds 600 --modules layers methods/sva

One place of one module is changed at a time (another operator, a constant one off, a condition turned round, a keyword
left out, a statement dropped), in a copy of the tree, and the tests that concern that module run on it. A mutant that
no test kills is either equivalent (the change cannot be seen) or a test that is missing. The sample is drawn by the
seed; the same seed, modules and code give the same mutants in the same order, however long the run is.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = "methods/reference_projectors methods/reference_vision_remember"
TILES = "methods/reference_walk models/hd models/tiles models/tiling models/internvl"
OPTIONS = "config/combinations config/methods_registry config/bad_grids config/sizes config/plan"
REMEMBER = f"{REFERENCE} methods/vision_remember methods/initialisation methods/reference_walk"
STACKS = "methods/deepstack methods/golden_deepstack methods/reference_projectors models/encoding"
SVA = "methods/reference_projectors methods/sva methods/golden_sva methods/initialisation"
PRUNING = "methods/reference_pruning methods/golden_fastv models/pruning"
SPECS = f"{OPTIONS} methods/options methods/sva methods/deepstack models/downsample {REFERENCE} shipped"
TESTS = {
    "layers/": f"{REFERENCE} methods/sva measure/flops",
    "methods/vision_remember/module.py": REMEMBER,
    "methods/sva/module.py": SVA,
    "methods/sva_connector/module.py": SVA,
    "methods/sva_connector/layers.py": SVA,
    "methods/tokenpacker/module.py": "methods/initialisation methods/golden_tokenpacker methods/golden_runner",
    "methods/deepstack/module.py": STACKS,
    "methods/downsample/module.py": "models/downsample",
    "methods/keeping.py": PRUNING,
    "methods/fastv/module.py": PRUNING,
    "methods/random/module.py": PRUNING,
    "methods/registry.py": OPTIONS,
    "methods/options.py": SPECS,
    "methods/spec.py": SPECS,
    **{f"methods/{file.parent.name}/spec.py": SPECS for file in (ROOT / "vr_eval" / "methods").glob("*/spec.py")},
    "methods/": f"{REFERENCE} methods/projectors methods/initialisation models/encoding methods/sva",
    "models/seams.py": "methods/reference_walk methods/deepstack",
    "models/reduced.py": "methods/reference_pruning models/pruning models/reduced methods/golden_fastv",
    "models/layout.py": "methods/reference_walk models/pruning models/tiles",
    "models/tiles.py": TILES,
    "models/tiling/": TILES,
    "models/encoding.py": "models/encoding models/downsample",
    "stats.py": "stats",
    "adapters/answering.py": "adapters/answering adapters/ending adapters/real_backbones",
    "adapters/batches.py": "adapters/batches",
    "config/identity.py": "config/identity shipped",
    "models/reading.py": "models/reading",
    "training/typed.py": "training/typed training/columns",
    "training/columns.py": "training/columns training/checked",
    "training/llava_file.py": "training/llava_file training/typed",
    "training/records.py": "training/columns training/llava_file training/checked",
    "training/tables.py": "training/columns training/llava_file",
    "probes/data/": "probes/data",
}
"""Modules under vr_eval by the beginning of their path (the first that fits counts), and their tests, quick ones
first: `methods/sva` is tests/methods/test_sva.py."""
SWAPS: dict[type, Any] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
UNSEEN = (ast.Raise, ast.JoinedStr, ast.Assert, ast.Import, ast.ImportFrom)
FIELDS_UNSEEN = ("annotation", "returns", "decorator_list")
LEFT_ALONE = ("source", "default_note", "strict")
"""Not looked into: messages, imports, types. Keywords left alone: words about an option, and a check of lengths."""
PRELOADED = [f"transformers.models.{name}.modeling_{name}" for name in ("clip", "qwen2", "llava_next")]
PRELOADED += ["pytest", "hypothesis", "pandas", "datasets", "scipy.stats", "timm.layers", "torchvision.transforms.v2"]
"""Imported once, for all the processes that fork: what the tests import of other projects, and takes seconds."""


@dataclass(frozen=True)
class Mutant:
    """One change of one module: its new text, and what to print."""

    module: str
    line: int
    before: str
    after: str
    text: str

    def __str__(self) -> str:
        start = max(0, len(os.path.commonprefix([self.before, self.after])) - 40)  # noqa: RUF071  # no paths
        before, after = self.before[start:][:120], self.after[start:][:120]
        return f"{self.module}:{self.line}  {before}  ->  {after}"


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    """Which part of a node may give way, and to what."""
    match node:
        case ast.Compare() if type(node.ops[0]) in SWAPS:
            yield node, ast.Compare(node.left, [SWAPS[type(node.ops[0])](), *node.ops[1:]], node.comparators)
        case ast.BoolOp():
            yield node, ast.BoolOp(SWAPS[type(node.op)](), node.values)
        case ast.BinOp() if type(node.op) in SWAPS:
            yield node, ast.BinOp(node.left, SWAPS[type(node.op)](), node.right)
        case ast.Constant(bool(value)):
            yield node, ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield node, ast.Constant(value + (1 if value == int(value) else 0.5))
        case ast.UnaryOp():
            yield node, node.operand
        case ast.If() | ast.While() | ast.IfExp() | ast.comprehension(ifs=[_]):
            test = node.ifs[0] if isinstance(node, ast.comprehension) else node.test
            yield test, ast.UnaryOp(ast.Not(), test)
        case ast.Call() if not ast.unparse(node.func).rpartition(".")[2][:1].isupper():  # a class would only miss it
            for left_out in filter(seen, node.keywords):
                others = [keyword for keyword in node.keywords if keyword is not left_out]
                yield node, ast.Call(node.func, node.args, others)
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            yield node, ast.Return(ast.Constant(None))
        case ast.AugAssign() | ast.Continue() | ast.Break() | ast.Expr(value=ast.Call()):
            yield node, ast.Pass()


def seen(node: object) -> bool:
    return not isinstance(node, UNSEEN) and not (isinstance(node, ast.keyword) and node.arg in LEFT_ALONE)


def parts(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, in the order of the text, but for what is not looked into."""
    for field, value in ast.iter_fields(node):
        if field not in FIELDS_UNSEEN:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and seen(child):
                    yield child
                    yield from parts(child)


def mutants(module: str, source: str) -> list[Mutant]:
    """Every mutant of one module; the text around the change stays as it is."""
    raw = source.encode()
    starts = [0, *accumulate(map(len, raw.splitlines(keepends=True)))]
    found = []
    for old, new in (change for node in parts(ast.parse(source)) for change in changes(node)):
        assert isinstance(old, ast.expr | ast.stmt)
        first, last = starts[old.lineno - 1] + old.col_offset, starts[(old.end_lineno or 0) - 1]
        last += old.end_col_offset or 0
        written = f"({ast.unparse(new)})" if isinstance(old, ast.expr) else ast.unparse(new)
        text = raw[:first] + written.encode() + raw[last:]
        found.append(Mutant(module, old.lineno, ast.unparse(old), ast.unparse(new), text.decode()))
    return found


def tests_of(module: str) -> list[str]:
    """The tests that concern a module."""
    fitting = next(tests for start, tests in TESTS.items() if module.startswith(start))
    return [re.sub(r"(\w+)$", r"test_\1.py", f"tests/{name}") for name in fitting.split()]


def modules(chosen: list[str]) -> list[str]:
    """Paths under vr_eval of the modules that have tests in `TESTS`, those alone whose path begins with one chosen."""
    every = [path.relative_to(ROOT / "vr_eval").as_posix() for path in sorted((ROOT / "vr_eval").rglob("*.py"))]
    known = [module for module in every if module.startswith(tuple(TESTS)) and not module.endswith("__init__.py")]
    return [module for module in known if not chosen or module.startswith(tuple(chosen))]


def copied(folder: Path) -> Path:
    """The files that git knows or would, in a folder of their own."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def run(tree: Path, tests: list[str], goldens: Path) -> None:
    """In a process of its own: run `tests` on `tree` and exit as pytest does."""
    import pytest

    os.setsid()  # so that what the tests start ends with them
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path.insert(0, str(tree))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    arguments = ["-q", "-x", "-p", "no:cacheprovider", f"--goldens={goldens}", f"--rootdir={tree}"]
    os._exit(int(pytest.main([*arguments, *tests])))


def outcome(tree: Path, tests: list[str], goldens: Path, limit_s: float) -> str:
    """`survived`, `killed`, or `timeout`, which is a death too."""
    child = multiprocessing.get_context("fork").Process(target=run, args=(tree, tests, goldens))
    try:
        child.start()
        child.join(limit_s)
        if child.is_alive():
            return "timeout"
    finally:  # after Ctrl-C too
        if child.is_alive():
            os.killpg(child.pid or 0, signal.SIGKILL)
            child.join()
    if child.exitcode == 5:
        raise SystemExit(f"no test was collected from {' '.join(tests)}")
    return "survived" if child.exitcode == 0 else "killed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=900, help="no mutant is begun after so long (default 900)")
    parser.add_argument("--count", type=int, default=10**6, help="at most so many mutants")
    parser.add_argument("--modules", nargs="*", default=[], help="beginnings of paths, such as methods/sva")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--goldens", type=Path, default=ROOT.parent / "shared" / "goldens")
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's client is imported
    for name in PRELOADED:
        importlib.import_module(name)
    sys.dont_write_bytecode = True
    started, limits, counts = time.monotonic(), {}, Counter[str]()
    sample = [m for name in modules(given.modules) for m in mutants(name, (ROOT / "vr_eval" / name).read_text())]
    random.Random(given.seed).shuffle(sample)
    report = ROOT / "mutants" / f"seed{given.seed}.txt"
    report.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, report.open("w") as kept:
        tree = copied(Path(folder))
        for mutant in sample[: given.count]:
            tests, path = tests_of(mutant.module), tree / "vr_eval" / mutant.module
            if time.monotonic() - started > given.seconds:
                break
            if tuple(tests) not in limits:  # they have to pass on the code as it is
                begun = time.monotonic()
                if outcome(tree, tests, given.goldens, 1800) != "survived":
                    raise SystemExit(f"without any change one fails of {' '.join(tests)}")
                limits[tuple(tests)] = 30 + 4 * (time.monotonic() - begun)
            original = path.read_text()
            path.write_text(mutant.text)
            found = outcome(tree, tests, given.goldens, limits[tuple(tests)])
            path.write_text(original)
            counts[found] += 1
            for file in (kept, sys.stdout):
                print(f"{found:9}{mutant}", file=file, flush=True)
    dead = counts["killed"] + counts["timeout"]
    print(f"{dead} of {counts.total()} died, {counts['survived']} survived; see {report.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
