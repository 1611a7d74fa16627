from __future__ import annotations

import pickle

import pytest

from vr_eval.errors import MISSING, InputError, Problem, VrEvalError, nearest, sanitize_terminal


def test_a_problem_names_place_key_given_allowed_and_nearest_in_one_line_and_the_hint_in_a_second() -> None:
    problem = Problem("unknown projector", "grid.yaml", 7, "grid.projector", "mpl", "mlp, avg_pool", "mlp", "Fix it.")
    assert problem.render() == (
        "grid.yaml:7: grid.projector: unknown projector (given: 'mpl'; allowed: mlp, avg_pool; did you mean 'mlp'?)\n"
        "    Fix it."
    )


def test_a_problem_shows_a_given_null_but_nothing_when_nothing_was_given() -> None:
    assert Problem("must be text", given=None).render() == "must be text (given: None)"
    assert Problem("must be text").render() == "must be text"
    assert Problem("must be text").given is MISSING


def test_a_long_given_value_is_cut() -> None:
    assert len(Problem("wrong", given="x" * 10_000).render()) < 200


def test_an_input_error_holds_every_problem_and_ends_with_exit_code_2() -> None:
    error = InputError([Problem("first"), Problem("second")])
    assert str(error) == "first\nsecond"
    assert error.exit_code == 2
    assert VrEvalError.exit_code == 1
    assert InputError(Problem("only")).problems == (Problem("only"),)


def test_an_input_error_without_a_problem_is_a_bug() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        InputError([])


def test_an_input_error_survives_the_way_out_of_a_worker_process() -> None:
    error = pickle.loads(pickle.dumps(InputError(Problem("first", file="a.yaml"))))
    assert str(error) == "a.yaml: first"
    assert error.problems[0].given is MISSING


@pytest.mark.parametrize(
    ("name", "expected"), [("tokenpaker", "tokenpacker"), ("MLP", "mlp"), ("zzz", None), (4, None), ("", None)]
)
def test_nearest_finds_misspelt_names_only(name: object, expected: str | None) -> None:
    assert nearest(name, ["mlp", "tokenpacker", "avg_pool"]) == expected


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain text\n\tindented", "plain text\n\tindented"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jcleared", "cleared"),
        ("back\x08space\rreturn\x00nul\x7f", "backspacereturnnul"),
        ("\u202egnp.exe", "gnp.exe"),
        ("\x1bc reset", " reset"),
        ("cut off \x1b[", "cut off "),
        ("Größe 数 😀", "Größe 数 😀"),
    ],
)
def test_nothing_printed_can_move_the_cursor_or_change_the_terminal(text: str, clean: str) -> None:
    assert sanitize_terminal(text) == clean


def test_a_rendered_problem_is_safe_to_print() -> None:
    assert "\x1b" not in Problem("bad \x1b[2J name", key="\x1b]0;x\x07", allowed="\x1b[1m").render()
