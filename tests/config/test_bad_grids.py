"""Bad input must end with a message that names file, line, key, given, allowed and the nearest name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.config.grid_texts import MINIMAL, PRODUCT
from vr_eval.config.grid import load_grid
from vr_eval.errors import InputError
from vr_eval.methods.registry import METHODS

Refused = Callable[..., str]
HEAD = "name: a\nbackbone: micro\n"


def test_every_problem_of_a_file_is_reported_at_once_in_the_order_of_lines(refused: Refused) -> None:
    message = refused(
        """\
        name: a/b
        backbone: mikro
        seeds: [-1, 2, 2, true]
        suites: [ocr]
        tasks: [vr_micro_ocr]
        lmit: 4
        grid:
          projector: [avg_pol]
          ratoi: [4]
          refusion: [vision_remeber]
        recipe: {warmpu: 5, stage2: {step: 5}, warmup: 2}
        batch_size: many
        """
    )
    lines = [line for line in message.splitlines() if not line.startswith(" ")]
    assert [line.split(": ")[:2] for line in lines] == [
        ["grid.yaml:1", "name"],
        ["grid.yaml:2", "backbone"],
        ["grid.yaml:3", "seeds"],
        ["grid.yaml:3", "seeds"],
        ["grid.yaml:3", "seeds"],
        ["grid.yaml:5", "tasks"],
        ["grid.yaml:6", "lmit"],
        ["grid.yaml:8", "grid.projector"],
        ["grid.yaml:9", "grid.ratoi"],
        ["grid.yaml:10", "grid.refusion"],
        ["grid.yaml:11", "recipe.warmpu"],
        ["grid.yaml:11", "recipe.warmup"],
        ["grid.yaml:11", "recipe.stage2.step"],
        ["grid.yaml:12", "batch_size"],
    ]
    for name in ("micro", "limit", "avg_pool", "ratio", "vision_remember", "warmup", "steps"):
        assert f"did you mean '{name}'?" in message


def test_a_missing_file_names_the_ablations_and_the_nearest() -> None:
    with pytest.raises(InputError, match=r"shiped: there is no such file .*allowed: .*shipped; did you mean 'shipped'"):
        load_grid("shiped")
    with pytest.raises(InputError, match=r"elsewhere/shipped.yaml: there is no such file"):
        load_grid("elsewhere/shipped.yaml")


def test_a_folder_is_no_grid_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this is a folder"):
        load_grid(tmp_path)


@pytest.mark.parametrize("name", ["a" * 5000, "nul\0byte"])
def test_an_impossible_file_name_is_an_error(name: str) -> None:
    with pytest.raises(InputError):
        load_grid(name)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_an_empty_file_is_an_error(refused: Refused, text: str) -> None:
    assert "grid.yaml: the file is empty" in refused(text)


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", "4\n"])
def test_a_file_that_is_no_mapping_is_an_error(refused: Refused, text: str) -> None:
    assert "grid.yaml:1: a grid file is a mapping" in refused(text)


def test_tabs_are_named_with_their_line(refused: Refused) -> None:
    message = refused("name: a\ngrid:\n\tprojector: [mlp]\n")
    assert "grid.yaml:3: this line is indented with a tab" in message
    assert "spaces" in message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: [a\n", 1),
        ("name: a\nseeds: [0\nlimit: 3\n", 3),
        ("name: 'a\n", 1),
        ("name: a: b\n", 1),
        ("name: a\n---\nname: b\n", 2),
        ("name: a\nlimit: \x01\n", 2),
    ],
)
def test_broken_yaml_is_named_with_its_line(refused: Refused, text: str, line: int) -> None:
    message = refused(text)
    assert "not valid YAML" in message
    assert message.startswith("grid.yaml:")
    assert int(message.split(":")[1]) >= line


def test_a_key_given_twice_is_an_error(refused: Refused) -> None:
    assert "grid.yaml:3: name: this key is given twice (first on line 1)" in refused(
        "name: a\nbackbone: micro\nname: b\ncells: [{projector: mlp}]\n"
    )
    assert "projector: this key is given twice" in refused(HEAD + "cells: [{projector: mlp, projector: mlp}]")


def test_aliases_are_refused_before_they_can_grow(refused: Refused) -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(50))
    assert "grid.yaml:1: not valid YAML: anchors and aliases" in refused(bomb)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.getcwd []", "!function x", "!!int a", "!!set {a}"])
def test_tags_are_refused(refused: Refused, tag: str) -> None:
    assert "tags (!) are not taken" in refused(f"name: a\nbackbone: {tag}\n")


def test_deep_nesting_is_refused(refused: Refused) -> None:
    assert "levels of nesting" in refused("name: " + "[" * 5000)


def test_a_binary_file_is_an_error(tmp_path: Path) -> None:
    for content in (b"\x00\x01\x02", b"name: a\nlimit: \xff\xfe\n", b"#" * 2_000_000):
        (tmp_path / "grid.yaml").write_bytes(content)
        with pytest.raises(InputError, match=r"grid\.yaml"):
            load_grid("grid.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("backbone: micro\ncells: [{projector: mlp}]", "name: must be given"),
        ("name: a\ncells: [{projector: mlp}]", "backbone: must be given (allowed: micro"),
        ("name: 2024\n", "name: must be text (given: 2024"),
        ("name: ''\n", "name: cannot name a run (given: ''"),
        ("name: ../up\n", "name: cannot name a run (given: '../up'"),
        ("name: 'a\\b'\n", "name: cannot name a run"),
        ("name: .hidden\n", "name: cannot name a run"),
        (f"name: {'n' * 65}\n", "name: cannot name a run"),
        ("backbone: [micro]\n", "backbone: unknown backbone (given: ['micro']"),
        (HEAD, "the file asks for no cell"),
        (HEAD + "cells: []", "the file asks for no cell"),
        (HEAD + "grid: {}", "grid: the grid is empty"),
        (HEAD + "grid:\n", "grid: must be a mapping of axes (given: None"),
        (HEAD + "grid: [mlp]", "grid: must be a mapping of axes"),
        (HEAD + "grid: {ratio: [4]}", "grid: the axis projector is missing"),
        (HEAD + "grid: {projector: []}", "grid.projector: this axis has no values"),
        (HEAD + "grid: {projector: [mlp, mlp]}", "grid.projector: this value is given twice (given: 'mlp'"),
        (HEAD + "grid: {projector: {mlp: 1}}", "grid.projector: unknown projector (given: {'mlp': 1}"),
        (HEAD + "cells: {projector: mlp}", "cells: must be a list of mappings"),
        (HEAD + "cells: [mlp]", "cells: must be a list of mappings"),
        (HEAD + "cells: [{}]", "cells[0]: the row is empty"),
        (HEAD + "cells: [{ratio: 4}]", "cells[0].projector: must be given"),
        (HEAD + "cells: [{projector: mlp, seed: 1}]", "cells[0].seed: unknown key"),
        (HEAD + "cells: [{projector: vision_remember}]", "Write refusion: vision_remember"),
        (HEAD + "cells: [{projector: mlp, refusion: null}]", "Write the word none."),
        (HEAD + "cells: [{projector: mlp, refusion: no}]", "Write the word none."),
        (HEAD + "cells: [{projector: mlp, pruning: fast}]", "unknown pruning (given: 'fast'; allowed: none"),
        (HEAD + "cells: [{1: mlp}]", "a key must be text (given: '1')"),
        (HEAD + "cells: [{projector: mlp}]\nseeds: []", "seeds: the list is empty"),
        (HEAD + "cells: [{projector: mlp}]\nseeds: [-1]", "from 0 to 4294967295"),
        (HEAD + "cells: [{projector: mlp}]\nseeds: [0, 0]", "seeds: given twice (given: 0)"),
        (HEAD + "cells: [{projector: mlp}]\nseeds: [1.0]", "seeds: this value does not fit (given: 1.0"),
        (HEAD + f"cells: [{{projector: mlp}}]\nseeds: [{'9' * 5000}]", "this number is too long"),
        (HEAD + "cells: [{projector: mlp}]\nlimit: 0", "limit: this value does not fit (given: 0"),
        (HEAD + "cells: [{projector: mlp}]\nlimit: true", "limit: this value does not fit (given: True"),
        (HEAD + "cells: [{projector: mlp}]\nbatch_size: null", "batch_size: this value does not fit (given: None"),
        (HEAD + "cells: [{projector: mlp}]\nsuites: []", "suites: the list is empty"),
        (HEAD + "cells: [{projector: mlp}]\nsuites: [ocr, ocr]", "suites: given twice"),
        (HEAD + "cells: [{projector: mlp}]\nsuites: [occr]", "unknown suite (given: 'occr'; allowed: ocr, chart"),
        (HEAD + "cells: [{projector: mlp}]\nsuites: [4]", "suites: must be names (given: 4"),
        (HEAD + "cells: [{projector: mlp}]\ntasks: [vr_micro_orc]", "unknown task (given: 'vr_micro_orc'"),
        (HEAD + "cells: [{projector: mlp}]\nrecipe: [1]", "recipe: must be a mapping (given: [1]"),
        (
            HEAD + "cells: [{projector: mlp}]\nrecipe: {stage2: {lr_decoder: .nan}}",
            "recipe.stage2.lr_decoder: this",
        ),
        (HEAD + "cells: [{projector: mlp}]\nrecipe: {stage2: {lr_decoder: 0}}", "a number above 0, at most 1"),
        (HEAD + "cells: [{projector: mlp}]\nrecipe: {lr_methods: 1}", "a mapping of names to: a number above 0"),
        (HEAD + "cells: [{projector: mlp}]\nrecipe: {lr_methods: {mlp: 2}}", "lr_methods: this value does not fit"),
        (
            HEAD + "cells: [{projector: mlp}]\nrecipe: {lr_methods: {avg_pol: 1}}",
            "recipe.lr_methods.avg_pol: no method of this name learns",
        ),
        (HEAD + "cells: [{projector: mlp}]\nrecipe: {images: 10.0}", "recipe.images: this value does not fit"),
        (HEAD + "cells: [{projector: mlp}]\nrecipe: {stage1: {steps: 0}, stage2: {steps: 0}}", "nothing is trained"),
        (HEAD + "cells: [{projector: mlp}]\noptions: [a]", "options: must map methods to their options"),
        (HEAD + "cells: [{projector: mlp}]\noptions: {mpl: {}}", "options.mpl: unknown method (given: 'mpl'"),
        (HEAD + "cells: [{projector: mlp}]\noptions: {mlp: 4}", "options.mlp: must be a mapping of options"),
        (HEAD + "cells: [{projector: mlp}]\noptions: {mlp: {dept: 4}}", "mlp has no option dept (allowed: depth; did"),
        (
            HEAD + "cells: [{projector: mlp}]\noptions: {tokenpacker: {heads: 4}}",
            "no cell of this file uses tokenpacker",
        ),
        (HEAD + "cells: [{projector: mlp, vision_remember.halo: 1}]", "this row does not use vision_remember"),
        (HEAD + "grid: {projector: mlp, vision_remember.halo: [0, 1]}", "no cell of this file uses vision_remember"),
        (HEAD + "cells: [{projector: mlp, mlp.depht: 1}]", "did you mean 'depth'?"),
        (HEAD + "cells: [{projector: mlp, mlp.depth: true}]", "(given: True; allowed: a whole number from 1 to 8)"),
        (HEAD + "cells: [{projector: mlp}]\nbaseline: mlp", "baseline: must be a mapping"),
        (HEAD + "cells: [{projector: mlp}]\nbaseline: {}", "baseline: the row is empty"),
        (HEAD + "cells: [{projector: mlp}]\nexclude: [{projector: mlp}]", "exclude: there is no grid"),
    ],
)
def test_a_wrong_value_is_named_with_its_key(refused: Refused, text: str, expected: str) -> None:
    message = refused(text)
    assert expected in message
    assert all(line.startswith(("grid.yaml", "    ")) for line in message.splitlines())


def test_a_ratio_that_does_not_divide_the_grid_names_those_that_do(refused: Refused) -> None:
    message = refused("name: a\nbackbone: micro\ngrid:\n  projector: [avg_pool, tokenpacker]\n  ratio:\n  - 4\n  - 5\n")
    assert message == (
        "grid.yaml:7: grid.ratio: a ratio of 1/5 does not divide the 12x12 patch grid of micro "
        "(given: 5; allowed: 1, 4, 9, 16, 36, 144)"
    )


@pytest.mark.parametrize("ratio", ["25", "0", "-4", "1/4", "0.25", "true", "null", "[4]", "four"])
def test_a_ratio_that_is_none_is_refused(refused: Refused, ratio: str) -> None:
    message = refused(f"{HEAD}cells: [{{projector: avg_pool, ratio: {ratio}}}]")
    assert "grid.yaml:3: cells[0].ratio" in message
    assert "allowed: 1, 4, 9, 16, 36, 144" in message


def test_a_ratio_written_as_a_fraction_is_explained(refused: Refused) -> None:
    assert "Write 4 for 1/4" in refused(f"{HEAD}cells: [{{projector: avg_pool, ratio: 1/4}}]")


def test_an_impossible_combination_of_a_product_suggests_what_to_do(refused: Refused) -> None:
    message = refused(
        HEAD + "grid:\n  ratio: [4, 9]\n  projector: [avg_pool,\n    mlp]\n  refusion: [none, vision_remember]"
    )
    assert message.count("mlp cannot make a ratio of") == 2
    assert "grid.yaml:6: grid.projector: mlp cannot make a ratio of 1/4 (allowed: ratio: 1)" in message
    assert "exclude: [{projector: mlp}]" in message
    assert "cells" in message


def test_an_impossible_row_is_named(refused: Refused) -> None:
    message = refused(HEAD + "cells:\n- projector: mlp\n  ratio: 4")
    assert message == "grid.yaml:5: cells[0].ratio: mlp cannot make a ratio of 1/4 (allowed: ratio: 1)"


def test_a_projector_that_compresses_needs_a_ratio(refused: Refused) -> None:
    assert "cells[0].projector: avg_pool needs a ratio (allowed: 1, 4, 9" in refused(
        HEAD + "cells: [{projector: avg_pool}]"
    )
    assert "grid.projector: avg_pool needs a ratio" in refused(HEAD + "grid: {projector: [mlp, avg_pool]}")


def test_a_row_that_is_there_already_is_an_error(refused: Refused) -> None:
    message = refused(HEAD + "cells:\n- {projector: mlp}\n- {projector: mlp, mlp.depth: 2}")
    assert "grid.yaml:5: cells[1]: this is mlp again (first: cells[0], line 4)" in message
    message = refused(PRODUCT + "# end\n", "cells=[{projector: mlp}, {projector: avg_pool, ratio: 4, refusion: none}]")
    assert "--set: cells[1]: this is avg_pool 1/4 again (first: grid, line 5)" in message


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("vision_remember.levels: [2, 5]", "the vision tower has no layer 5 (allowed: 0 to 4"),
        ("vision_remember.levels: [3, 2]", "layers must rise"),
        ("vision_remember.levels: [2, 2]", "layers must rise"),
        (
            "vision_remember.levels: [-1]",
            "(given: [-1]; allowed: a list of: a whole number from 0 to 1000000",
        ),
        ("vision_remember.levels: []", "(given: []; allowed: a list of"),
        ("vision_remember.levels: 3", "(given: 3; allowed: a list of"),
        ("vision_remember.levels: [true]", "(given: [True]; allowed: a list of"),
        ("vision_remember.layers: [4]", "the decoder has no layer 4 (allowed: 0 to 3"),
        ("vision_remember.heads: 7", "7 heads do not divide the decoder's width of 128 (allowed: 1, 2, 4, 8"),
        ("tokenpacker.heads: 7", "7 heads do not divide the vision tower's width of 96 (allowed: 1, 2, 3, 4, 6"),
        ("tokenpacker.levels: [9]", "the vision tower has no layer 9"),
        ("vision_remember.halo: 12", "a halo of 12 reaches past the whole 12x12 patch grid (allowed: 0 to 11)"),
        ("vision_remember.scope: globl", "(given: 'globl'; allowed: local, global; did you mean 'global'?)"),
        ("vision_remember.ffn: 1", "(given: 1; allowed: true or false)"),
    ],
)
def test_an_option_that_does_not_fit_is_named_wherever_it_stands(refused: Refused, option: str, expected: str) -> None:
    row = "projector: tokenpacker, ratio: 4, refusion: vision_remember"
    method, name = option.split(": ")[0].split(".")
    inner = f"{name}: {option.split(': ')[1]}"
    in_cell = refused(f"{HEAD}cells:\n- {{{row}, {option}}}")
    assert f"grid.yaml:4: cells[0].{method}.{name}: " in in_cell
    assert expected in in_cell
    in_options = refused(f"{HEAD}cells: [{{{row}}}]\noptions:\n  {method}:\n    {inner}")
    assert f"grid.yaml:6: options.{method}.{name}: " in in_options
    assert expected in in_options


def test_an_axis_of_lists_written_as_a_list_is_explained(refused: Refused) -> None:
    axes = "projector: avg_pool, ratio: 4, refusion: vision_remember, vision_remember.levels: [2, 3]"
    assert "list of lists: [[2, 3], [4]]" in refused(f"{HEAD}grid: {{{axes}}}")


def test_options_that_cancel_each_other_are_refused(refused: Refused) -> None:
    row = "projector: avg_pool, ratio: 4, refusion: vision_remember, vision_remember.scope: global"
    message = refused(f"{HEAD}cells: [{{{row}, vision_remember.halo: 1}}]")
    assert "cells[0].vision_remember.halo: vision_remember: a halo has no effect with scope: global" in message


def test_a_local_refusion_needs_a_projector_that_keeps_the_grid(
    refused: Refused, load: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(METHODS["avg_pool"].options, "keeps_grid", False)
    row = "projector: avg_pool, ratio: 4, refusion: vision_remember"
    assert "which avg_pool does not keep" in refused(f"{HEAD}cells: [{{{row}}}]")
    load(f"{HEAD}cells: [{{{row}, vision_remember.scope: global}}]")


def test_the_baseline_must_fit_exactly_one_configuration(refused: Refused) -> None:
    message = refused(PRODUCT, "baseline={projector: avg_pool}")
    assert "--set: baseline: this fits 2 configurations: avg_pool 1/4; avg_pool 1/4 + vision_remember" in message
    assert "baseline: this fits no configuration" in refused(PRODUCT, "baseline.ratio=4")


def test_an_exclusion_that_excludes_nothing_is_an_error(refused: Refused) -> None:
    message = refused(PRODUCT + "exclude:\n  - {projector: tokenpacker, ratio: 9}")
    assert "grid.yaml:13: exclude[0]: no combination of the grid agrees with this" in message


def test_excluding_everything_is_an_error(refused: Refused) -> None:
    assert "every combination of the grid is excluded" in refused(PRODUCT + "exclude: [{ratio: 4}]")


def test_a_huge_product_is_refused_at_once(refused: Refused) -> None:
    axis = list(range(1, 9))
    text = f"{HEAD}grid: {{projector: mlp, mlp.depth: {axis}}}\nseeds: {list(range(251))}"
    assert "this asks for 2008 cells, seeds included (allowed: at most 2000)" in refused(text)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("limit", "--set: must look like KEY=VALUE (given: 'limit')"),
        ("=4", "--set: must look like KEY=VALUE"),
        ("limit=-1", "--set: limit: this value does not fit (given: -1"),
        ("limit=[1", "--set: limit: not valid YAML"),
        ("lmit=1", "--set: lmit: unknown key"),
        ("limit.x=1", "--set: limit.x: there are no keys below limit"),
        ("recipe.stage2.step=1", "--set: recipe.stage2.step: unknown key"),
        ("recipe.stage1.lr_tower=1e-6", "--set: recipe.stage1.lr_tower: unknown key"),
        ("recipe.stage2=50", "--set: recipe.stage2: must be a mapping (given: 50; allowed: steps, "),
        ("recipe.stage2.steps=fast", "--set: recipe.stage2.steps: this value does not fit (given: 'fast'"),
        ("options.tokenpacker.heads=7", "--set: options.tokenpacker.heads: tokenpacker: 7 heads do not divide"),
        ("grid.vision_remember.scope=[local, glob]", "--set: grid.vision_remember.scope: this value does not fit"),
        ("backbone=&x micro", "anchors and aliases"),
    ],
)
def test_a_bad_override_is_named_as_such(refused: Refused, override: str, expected: str) -> None:
    assert expected in refused(PRODUCT, override)


def test_bad_options_of_the_command_line_are_named_as_such(refused: Refused) -> None:
    message = refused(MINIMAL, limit=-1, batch_size=0, backbone="mirco")
    assert "--limit: limit: this value does not fit (given: -1" in message
    assert "--batch-size: batch_size: this value does not fit (given: 0" in message
    assert "--backbone: backbone: unknown backbone (given: 'mirco'; allowed: micro, " in message
    assert "did you mean 'micro'?)" in message


def test_terminal_escapes_in_a_file_are_not_printed(refused: Refused) -> None:
    assert "\x1b" not in refused(HEAD + 'cells: [{projector: "\\e[2Jmlp"}]')
