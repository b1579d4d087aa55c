"""The templates in docs/cluster: their shell runs here, with srun and scontrol that stand in for SLURM's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bigan import reproduce
from common.runs import load_checkpoint, read_log

from .helpers import smoke_run

REPO = Path(__file__).resolve().parent.parent
CLUSTER = REPO / "docs" / "cluster"
SWEEP = "--toy --only ALI GAN --seeds 1 --jobs 1 --n 70 --bn-batches 2 --out table".split()
SWEEP += ["--train-flags", "--width 4 --batch-size 16 --steps 4 --log-every 2"]
TRAIN = ["began.train", "--smoke", "--steps", "8"]


@pytest.fixture
def cluster(here, env):
    """cluster(words, task=…): the code with which slurm.sh ends, in the current directory."""
    programs = here / "bin"
    programs.mkdir()
    (here / "docs").symlink_to(REPO / "docs")
    scripts = {  # a file `preempt` here cuts the task short after four steps, as if by SIGTERM
        # like SLURM's it gives a step as many CPUs as SRUN_CPUS_PER_TASK says
        "srun": 'echo "$SRUN_CPUS_PER_TASK" > cpus; if [ -e preempt ]; then "$@" --steps 4; rm preempt; exit 143; fi; exec "$@"',
        "scontrol": 'echo "$@" >> scontrol.log',
    }
    for name, text in scripts.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (programs / name).chmod(0o755)
    slurm = {
        "PYTHON": sys.executable,
        "SLURM_JOB_ID": "17",
        "SLURM_ARRAY_JOB_ID": "17",
        "TQDM_DISABLE": "1",
    }
    slurm |= {"PATH": f"{programs}:{env['PATH']}"}

    def run(*words, **more):
        return subprocess.run(
            ["bash", CLUSTER / "slurm.sh", *words],
            env=env | slurm | more,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def test_an_array_job_is_a_sweep(cluster, here, capsys):
    """Two tasks, then the call that draws: it trains nothing."""
    for task in ("0", "1"):
        done = cluster("part", "2", "bigan.reproduce", *SWEEP, SLURM_ARRAY_TASK_ID=task)
        assert done.returncode == 0 and f"part {task}/2 is through, 1 runs" in done.stderr
    assert not list(here.glob("table/*.png"))
    assert [r["row"] for i in (0, 1) for r in read_log(here / f"table/results-{i}of2.jsonl")] == [
        "ALI",
        "GAN",
    ]
    reproduce.main(SWEEP)
    assert "2 of 2 runs are there, 0 to do" in capsys.readouterr().err
    assert (here / "table/toy.png").exists() and len(
        json.loads((here / "table/toy.json").read_text())
    ) == 2


def test_a_preempted_training_queues_again_and_goes_on(cluster, here):
    (here / "preempt").touch()
    done = cluster("train", "runs/a", *TRAIN)
    assert done.returncode == 143, done.stderr
    assert (here / "scontrol.log").read_text() == "requeue 17\n"
    assert load_checkpoint(here / "runs/a/last.pt")["step"] == 4
    assert (here / "cpus").read_text() == "4\n"
    done = cluster("train", "runs/a", *TRAIN, SLURM_CPUS_PER_TASK="9")
    assert (here / "cpus").read_text() == "9\n"
    assert done.returncode == 0 and "steps 5 to 8" in done.stderr, done.stderr
    assert load_checkpoint(here / "runs/a/last.pt")["step"] == 8
    assert (here / "scontrol.log").read_text() == "requeue 17\n"


def test_a_preempted_part_queues_itself_again_and_no_other(cluster, here):
    """The last task of an array has the id of the whole array."""
    (here / "bin/srun").write_text("#!/usr/bin/env bash\nexit 143\n")
    done = cluster("part", "4", "bigan.reproduce", *SWEEP, SLURM_ARRAY_TASK_ID="3")
    assert done.returncode == 143, done.stderr
    assert (here / "scontrol.log").read_text() == "requeue 17_3\n"


def test_a_training_stopped_before_its_first_checkpoint_begins_anew(cluster, here):
    smoke_run("began", here / "runs/a", "--steps", 8)
    (here / "runs/a/last.pt").unlink()
    done = cluster("train", "runs/a", *TRAIN)
    assert done.returncode == 0 and "steps 1 to 8" in done.stderr, done.stderr


def test_a_mistake_ends_the_task_and_does_not_queue_it_again(cluster, here):
    done = cluster("part", "2", "bigan.reproduce", *SWEEP, SLURM_ARRAY_TASK_ID="2")
    assert done.returncode == 2 and "2/2 is no part" in done.stderr
    done = cluster("nonsense")
    assert done.returncode == 2 and "docs/cluster/task.sh train DIR MODULE" in done.stderr
    assert not (here / "scontrol.log").exists()


def test_commands_in_the_templates_name_modules_that_there_are():
    for path in CLUSTER.iterdir():
        words = path.read_text().split()
        named = [word for word in words if word.endswith((".reproduce", ".train", ".simulate"))]
        assert named or path.name == "task.sh"
        for module in named:
            assert (REPO / f"{module.replace('.', '/')}.py").exists(), f"{path.name}: {module}"
