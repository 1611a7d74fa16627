"""A world of its own for tests of evaluation: two small tasks on local parquet, and random checkpoints for cells."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as Datum
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, LlavaProcessor, Qwen2Config

from vr_eval import paths
from vr_eval.config import checkpoint_folders as store
from vr_eval.config.cell import Cell
from vr_eval.config.checkpoint_folders import trained_checkpoint
from vr_eval.config.grid import Grid, load_grid
from vr_eval.config.identity import checkpoint_id
from vr_eval.micro.tokenizer import train_tokenizer
from vr_eval.models.checkpoints import save_checkpoint
from vr_eval.models.config import LVLMConfig
from vr_eval.models.lvlm import LVLM
from vr_eval.models.processor import lvlm_processor

SIDE, PATCH = 48, 4
TASKS = ("vr_toy_ocr", "vr_toy_doc")
QUESTIONS = 12
TEMPLATE = """\
task: {task}
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: data/{task}.parquet
test_split: test
output_type: generate_until
doc_to_visual: !function scoring.visual
doc_to_text: !function scoring.text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: {tokens}, do_sample: false, until: ["\\n\\n"]}}
process_results: !function scoring.score
metric_list:
  - metric: toy_match
    aggregation: mean
    higher_is_better: true
metadata: {{version: 1}}
"""
SCORING = """\
def visual(doc):
    return [doc["image"].convert("RGB")]


def text(doc):
    return doc["question"]


def score(doc, results):
    return {"toy_match": (len(results[0]) % 4) / 3}
"""
GRID = """\
# Does a toy work?
#
# About toys.
name: toys
backbone: micro
seeds: [0]
tasks: [vr_toy_ocr, vr_toy_doc]
cells:
  - {projector: mlp}
  - {projector: avg_pool, ratio: 4, refusion: vision_remember}
baseline: {projector: mlp}
batch_size: 4
"""


def use(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `root` the place of tasks and checkpoints, and the working directory; nothing travels with the project."""
    resource = paths.resource
    monkeypatch.setattr(store, "PACKAGE", root / "package")
    monkeypatch.setattr(paths, "resource", lambda name: root / name if name == "tasks" else resource(name))
    monkeypatch.setenv("VR_EVAL_HOME", str(root / "home"))
    monkeypatch.chdir(root)


def png(seed: int, side: int = SIDE) -> bytes:
    """A random image of coarse blocks."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (6, 6, 3), generator=generator, dtype=torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks.numpy()).resize((side, side), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def write_tasks(root: Path, *, corrupt: tuple[int, ...] = (), questions: int = QUESTIONS) -> None:
    """Both tasks under `root/tasks`; two questions an image; the images of questions `corrupt` of the second broken."""
    folder = root / "tasks" / "toy"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "scoring.py").write_text(SCORING)
    for number, task in enumerate(TASKS):
        (folder / f"{task}.yaml").write_text(TEMPLATE.format(task=task, tokens=6 + 3 * number))
        rows = []
        for doc in range(questions):
            content = png(100 * number + doc // 2)
            broken = number == 1 and doc in corrupt
            rows.append(
                {
                    "id": f"{task}-{doc}",
                    "image": {"bytes": content[:90] if broken else content, "path": None},
                    "image_id": f"{task}-image{doc // 2}",
                    "kind": "long" if doc % 3 else "short",
                    "question": " ".join(["which", "code", "is", "printed", "here"][: 1 + doc % 5]) + f" {doc}?",
                    "answer": hashlib.sha256(str(doc).encode()).hexdigest()[:4],
                }
            )
        features = Features({name: Datum() if name == "image" else Value("string") for name in rows[0]})
        Dataset.from_list(rows, features=features).to_parquet(folder / "data" / f"{task}.parquet")


def processor(ratio: int) -> LlavaProcessor:
    """A real processor around a tokenizer of a few words."""
    tokenizer = train_tokenizer(["which code is printed here? 0123456789"] * 3)
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return lvlm_processor(images, tokenizer, PATCH, ratio)


def model(
    projector: str,
    ratio: int,
    refusion: str,
    vocabulary: int,
    image_token: int,
    seed: int = 0,
    options: dict[str, dict[str, object]] | None = None,
) -> LVLM:
    """A random LVLM on a tower that is the same for all of one `seed`; refusion does something."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    built = LVLM(
        LVLMConfig(
            vision,
            text,
            projector=projector,
            ratio=ratio,
            refusion=refusion,
            options=options,
            select_layer=-1,
            image_token_id=image_token,
        )
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in (built.projector, built.refusion):
            for parameter in part.parameters() if part is not None else ():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return built


def write_checkpoint(folder: Path, identity: str, projector: str, ratio: int, refusion: str, seed: int = 0) -> None:
    """A complete checkpoint that carries `identity`."""
    reads = processor(ratio)
    made = model(projector, ratio, refusion, len(reads.tokenizer), reads.image_token_id, seed)
    save_checkpoint(made, reads, folder, {"checkpoint_id": identity})


def write_checkpoints(cells: tuple[Cell, ...]) -> None:
    """Checkpoints for `cells`, as if they had been trained on this machine."""
    for cell in cells:
        write_checkpoint(trained_checkpoint(cell), checkpoint_id(cell), cell.projector, cell.ratio, cell.refusion)


def toy_grid(folder: Path, text: str = GRID, **arguments: object) -> Grid:
    """The grid of `text`, read from a file in `folder`."""
    path = folder / "toys.yaml"
    path.write_text(text)
    return load_grid(path, **arguments)  # type: ignore[arg-type]
