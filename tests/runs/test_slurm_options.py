"""`--slurm`: files and KEY=VALUE, everything that is wrong at once, with its place and the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from vr_eval.errors import InputError
from vr_eval.runs.executors.slurm_options import SlurmOptions, parse_slurm, slurm_keys, slurm_keys_text

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "slurm.yaml"


def problems(*given: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse_slurm(given)
    return str(caught.value).splitlines()


def test_nothing_given_is_one_gpu_of_the_default_partition() -> None:
    assert parse_slurm([]) == SlurmOptions()
    assert (SlurmOptions().gpus, SlurmOptions().partition) == (1, None)


def test_later_ones_win(tmp_path: Path) -> None:
    file = tmp_path / "gpu.yaml"
    file.write_text("partition: gpu\ngpus: 2\nsetup: [module load cuda, export A=1]\n")
    options = parse_slurm(["partition=debug", "minutes=30", str(file), "gpus=4", "gpus=8"])
    assert options == SlurmOptions(partition="gpu", minutes=30, gpus=8, setup=("module load cuda", "export A=1"))


def test_one_line_will_do_for_the_setup_and_a_value_may_hold_an_equals_sign() -> None:
    assert parse_slurm(["setup=export A=1"]).setup == ("export A=1",)


def test_null_is_the_choice_of_the_cluster() -> None:
    assert parse_slurm(["partition=gpu", "partition=null"]).partition is None


def test_every_problem_has_its_file_line_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gpu.yaml").write_text("# ours\npartiton: gpu\ngpus: many\naccount: 1234\ncluster: slrum\n")
    text = problems("gpu.yaml", "minutes=2", "qos=[", "nowhere.yaml")
    assert [line for line in text if line.startswith("gpu.yaml")] == [
        f"gpu.yaml:2: partiton: unknown key (allowed: {', '.join(slurm_keys())}; did you mean 'partition'?)",
        "gpu.yaml:3: gpus: this value does not fit (given: 'many'; allowed: a whole number from 0 to 64)",
        "gpu.yaml:4: account: this value does not fit (given: 1234; allowed: text, or null)",
        "gpu.yaml:5: cluster: this value does not fit (given: 'slrum'; allowed: slurm, local; did you mean 'slurm'?)",
    ]
    assert "    Put it in quotes; on the command line: --slurm 'account=\"..\"'" in text
    assert "--slurm: minutes: this value does not fit (given: 2; allowed: a whole number from 5 to 43200)" in text
    assert any(line.startswith("--slurm: qos: not valid YAML") for line in text)
    assert any(line.startswith("--slurm: there is no such file (given: 'nowhere.yaml'") for line in text)
    assert len([line for line in text if not line.startswith(" ")]) == 7


@pytest.mark.parametrize("text", ["", "# nothing"])
def test_an_empty_file_gives_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text(text)
    assert parse_slurm([str(tmp_path / "empty.yaml")]) == SlurmOptions()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("=gpu", "there is no such file"),
        (".", "there is no such file"),
        ("notice=900", "less than the time of a job, 600 s"),
        ('partition="gpu\\n#SBATCH --nodes=9"', "one line of text"),
    ],
)
def test_what_is_no_option_is_said(given: str, says: str) -> None:
    assert says in "\n".join(problems("minutes=10", given))


def test_a_list_is_no_file_of_options(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("[gpus, 2]")
    assert "a mapping of keys" in problems(str(tmp_path / "list.yaml"))[0]


def test_every_key_is_explained() -> None:
    text = "\n".join(slurm_keys_text(100))
    assert all(f"\n  {key} " in f"\n{text}" for key in slurm_keys())


def test_the_example_is_taken() -> None:
    options = parse_slurm([str(EXAMPLE)])
    assert options.partition == "gpu"
    assert parse_slurm([str(EXAMPLE), "cluster=local"]).cluster == "local"
