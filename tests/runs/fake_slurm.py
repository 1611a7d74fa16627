"""Slurm's commands as far as `slurm.py` and submitit use them, for one user and one machine: jobs are processes here.

``python fake_slurm.py COMMAND ..`` with FAKE_SLURM naming a folder. Each element of a job array has a folder in it with
the files ``state`` (as sacct prints it), ``pid`` (its session, while it runs) and ``fate`` (what becomes of it when its
processes end, in place of COMPLETED or FAILED). Output and options follow the manual pages of sbatch, squeue, sacct,
scancel and scontrol.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

WAITS, RUNS, REQUEUED = "PENDING", "RUNNING", "requeued"
KILL_WAIT = 2.0
HOME = Path(os.environ.get("FAKE_SLURM", "/nonexistent"))


def read(job: Path, name: str) -> str:
    return (job / name).read_text() if (job / name).exists() else ""


def write(job: Path, name: str, text: str) -> None:
    temporary = job / f".{name}.{os.getpid()}"
    temporary.write_text(text)
    temporary.replace(job / name)


def jobs(ids: list[str]) -> list[Path]:
    """Folders by id; that of an array stands for its elements."""
    found = sorted(HOME.glob("[0-9]*"), key=lambda path: [int(part) for part in path.name.split("_")])
    return [job for job in found if job.name in ids or job.name.split("_")[0] in ids]


def running() -> list[str]:
    """The jobs that wait or run."""
    return [job.name for job in HOME.glob("[0-9]*") if read(job, "state") in (WAITS, RUNS)]


def kill(job: Path, number: int) -> None:
    """Signal the step of a job: all processes of its session but the batch shell, as Slurm does."""
    pid = read(job, "pid")
    for process in Path("/proc").glob("[0-9]*") if pid else ():
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if fields[3] == pid and (process.name != pid or number == signal.SIGKILL):
                os.kill(int(process.name), number)
        except OSError:
            continue


def end(job: Path, fate: str, number: int = signal.SIGKILL) -> None:
    """End a job, which is then what `fate` says."""
    if read(job, "state") == WAITS:
        write(job, "state", fate)
    elif read(job, "state") == RUNS:
        write(job, "fate", fate)
        kill(job, number)


def sbatch(script: str) -> int:
    lines = [shlex.split(line)[1] for line in Path(script).read_text().splitlines() if line.startswith("#SBATCH")]
    asked = dict(line.removeprefix("--").partition("=")[::2] for line in lines)
    if asked.get("partition") == "nowhere":
        print("sbatch: error: invalid partition specified: nowhere", file=sys.stderr)
        print("sbatch: error: Batch job submission failed: Invalid partition name specified", file=sys.stderr)
        return 1
    array = re.fullmatch(r"0-(\d+)%(\d+)", asked["array"]) if "array" in asked else None
    number = 1 + max((int(path.name.split("_")[0]) for path in HOME.glob("[0-9]*")), default=0)
    names = [f"{number}_{index}" for index in range(int(array[1]) + 1)] if array else [str(number)]
    for name in names:
        job = HOME / name
        job.mkdir(parents=True)
        write(job, "script", Path(script).read_text())
        write(job, "name", asked["job-name"])
        write(job, "state", WAITS)
    command = [sys.executable, "-S", __file__, "controller", array[2] if array else "1", *names]
    with (HOME / "controller.log").open("a") as log:
        subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    print(f"Submitted batch job {number}")
    return 0


def controller(at_once: str, *names: str) -> int:
    """Starts the jobs of an array, again after a requeue, until all have ended."""
    running: dict[str, subprocess.Popen[bytes]] = {}
    while any(read(HOME / name, "state") in (WAITS, RUNS) for name in names):
        for name in [name for name in names if read(HOME / name, "state") == WAITS and len(running) < int(at_once)]:
            job, (number, _, index) = HOME / name, name.partition("_")
            array = {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index} if index else {}
            env = {**os.environ, "SLURM_JOB_ID": str(int(number) + 1000 * bool(index)), "SLURM_NTASKS": "1", **array}
            write(job, "fate", "")
            write(job, "state", RUNS)
            script = ["bash", str(job / "script")]
            running[name] = subprocess.Popen(script, env=env, start_new_session=True)
            write(job, "pid", str(running[name].pid))
            write(job, "starts", read(job, "starts") + "x")
        for name in [name for name, process in running.items() if process.poll() is not None]:
            job, code = HOME / name, running.pop(name).returncode
            fate = read(job, "fate") or ("FAILED" if code else "COMPLETED")
            kill(job, signal.SIGKILL)
            (job / "pid").unlink()
            write(job, "state", WAITS if fate == REQUEUED else fate)
        time.sleep(0.05)
    return 0


def srun(*args: str) -> int:
    given = list(args)
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID", ""), os.environ.get("SLURM_ARRAY_TASK_ID", "")
    files = {}
    while given[0].startswith("--"):
        option = given.pop(0)
        if option == "--unbuffered":
            continue
        value = given.pop(0)
        if option in ("--output", "--error"):
            for sign, text in {"%j": os.environ["SLURM_JOB_ID"], "%A": array, "%a": index, "%t": "0"}.items():
                value = value.replace(sign, text)
            files[option] = Path(value).open("ab")  # noqa: SIM115 - the process writes to it
        else:
            assert option == "--cpus-per-task", option
    # srun is no target of the signals that it forwards.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT):
        signal.signal(number, lambda *_: None)
    env = {**os.environ, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    code = subprocess.Popen(given, env=env, stdout=files["--output"], stderr=files["--error"]).wait()
    return code if code >= 0 else 128 - code


def squeue(*args: str) -> int:
    assert (args[:3], args[4:]) == (("--noheader", "--array", "--name"), ("--format", "%i")), args
    for job in jobs([path.name for path in HOME.glob("[0-9]*")]):
        if read(job, "name") == args[3] and read(job, "state") in (WAITS, RUNS):
            print(job.name)
    return 0


def sacct(*args: str) -> int:
    assert args[:3] == ("-o", "JobID,State,NodeList", "--parsable2"), args
    print("JobID|State|NodeList")
    waiting: dict[str, list[str]] = {}
    for job in jobs([given for given in args[3:] if given != "-j"]):
        state = read(job, "state")
        number, _, index = job.name.partition("_")
        if state == WAITS and index:
            waiting.setdefault(number, []).append(index)
            continue
        for step in ("", ".batch", ".0"):
            print(f"{job.name}{step}|{state if not step else state.split()[0]}|node1")
    for number, indices in waiting.items():
        print(f"{number}_[{','.join(indices)}%4]|{WAITS}|None assigned")
    return 0


def scancel(*args: str) -> int:
    options = {arg.partition("=")[0]: arg.partition("=")[2] for arg in args if arg.startswith("--")}
    ids = [arg for arg in args if arg[0].isdigit()]
    if "--signal" in options:
        name = options["--signal"] or args[args.index("--signal") + 1]
        for job in jobs(ids):
            kill(job, signal.Signals[f"SIG{name.removeprefix('SIG')}"])
        return 0
    chosen = [job for job in jobs(ids) if options.get("--state") in (None, read(job, "state"))]
    for job in chosen:
        end(job, f"CANCELLED by {os.getuid()}", signal.SIGTERM)
    until = time.monotonic() + KILL_WAIT
    while any(read(job, "state") == RUNS for job in chosen):
        time.sleep(0.05)
        if time.monotonic() > until:
            for job in chosen:
                kill(job, signal.SIGKILL)
    return 0


def scontrol(verb: str, job_id: str) -> int:
    assert verb == "requeue", verb
    (job,) = [job for job in jobs([job_id]) if job.name == job_id]
    if "--requeue" not in read(job, "script"):
        print("Requested operation is presently disabled", file=sys.stderr)
        return 1
    write(job, "requeues", read(job, "requeues") + "x")
    end(job, REQUEUED, signal.SIGCONT)
    return 0


if __name__ == "__main__":
    sys.exit(globals()[sys.argv[1]](*sys.argv[2:]))
