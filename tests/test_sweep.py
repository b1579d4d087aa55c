"""Tables of many runs: what is kept, tried again, and never mixed. (Whole tables: in the folders' tests.)"""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
import argparse
import importlib
from pathlib import Path

import pytest
import torch

import began.train
from common.cli import UserError
from common.runs import load_checkpoint, lock_path, read_log, save_atomic
from common import sweep as sweep_module
from common.sweep import at_shared_steps, end_sweep, failures, gpus_of, select_rows, sweep

REPO = Path(__file__).resolve().parent.parent
SWEEPS = {"mdma", "began", "pan", "bigan", "cagan", "egan", "sagan_wgangp"}


def namespace(**more):
    return argparse.Namespace(
        **{"jobs": 1, "threads": 1, "device": "cpu", "data_dir": "data", "n": 100} | more
    )


def cells(n):
    return [{"name": f"run{i}", "seed": i, "flags": ["--lr", "1"]} for i in range(n)]


def train(argv):
    """A run that leaves a checkpoint and nothing else."""
    where = Path(argv[argv.index("--out") + 1])
    where.mkdir()
    save_atomic(
        {"format": 1, "paper": "none", "step": 2, "args": {"steps": 2}, "state": {}},
        where / "last.pt",
    )


def measure(where, cell, args):
    return {"seed_plus_n": cell["seed"] + args.n}


def values(results):
    return sorted(r["metrics"]["seed_plus_n"] for r in results)


def test_a_failed_run_is_named_and_tried_again(tmp_path, capsys):
    seen = []

    def fails(argv):
        seen.append(argv)
        raise UserError("no such data")

    for _ in range(2):
        found = sweep(cells(2), fails, None, namespace(), tmp_path, ["--quick"])
        assert [(r["name"], r["error"]) for r in found] == [
            ("run0", "no such data"),
            ("run1", "no such data"),
        ]
    assert "run0: FAILED: no such data" in capsys.readouterr().err
    assert len(seen) == 4 == len(read_log(tmp_path / "results.jsonl"))
    assert seen[1] == [
        "--seed",
        "1",
        "--device",
        "cpu",
        "--data-dir",
        "data",
        "--quick",
        "--lr",
        "1",
        "--out",
        str(tmp_path / "run1"),
    ]


def test_a_run_that_has_a_checkpoint_goes_on_from_it_until_its_last_step(tmp_path):
    where, seen = tmp_path / "run0", []
    checkpoint = {"format": 1, "paper": "none", "step": 1, "args": {"steps": 2}, "state": {}}

    def goes_on(argv):
        seen.append(argv)
        save_atomic(checkpoint | {"step": 2}, where / "last.pt")

    where.mkdir()
    save_atomic(checkpoint, where / "last.pt")
    (result,) = sweep(cells(1), goes_on, measure, namespace(), tmp_path)
    assert len(seen) == 1 and seen[0][-2:] == ["--resume", str(where)]
    assert "--out" not in seen[0] and result["step"] == 2


def test_a_run_that_another_sweep_trains_is_left_alone(tmp_path):
    """It may have no checkpoint yet. Without the other sweep, it was stopped, and begins anew."""
    (tmp_path / "run0").mkdir()
    (tmp_path / "run0" / "log.jsonl").write_text("a step\n")
    (tmp_path / "run0.log").touch()
    lock = lock_path(tmp_path / "run0.log")
    other, mine = sweep(cells(2), train, measure, namespace(), tmp_path, [])
    assert f"{tmp_path / 'run0.log'}: another process trains there" in other["error"]
    assert "metrics" in mine and os.listdir(tmp_path / "run0") == ["log.jsonl"]
    os.close(lock)
    assert failures(sweep(cells(2), train, measure, namespace(), tmp_path, [])) == []
    (stopped,) = tmp_path.glob("run0.stopped-*")
    assert os.listdir(stopped) == ["log.jsonl"] and os.listdir(tmp_path / "run0") == ["last.pt"]
    os.close(lock_path(tmp_path / "run0.log"))  # the lock ends with the run


def test_flags_that_a_run_refuses_are_named(tmp_path):
    """The parser has written the line into the run's log, and asks for the end of the process."""
    found = sweep(cells(2), began.train.main, None, namespace(), tmp_path, ["--stpes=2"])
    line = "its flags are refused: unknown flag --stpes: did you mean --steps?"
    assert [r["error"].startswith(line) for r in found] == [True, True]
    assert len(read_log(tmp_path / "results.jsonl")) == 2


def test_a_run_that_a_signal_stops_ends_the_sweep(tmp_path):
    with pytest.raises(SystemExit) as e:
        sweep(cells(2), lambda argv: sys.exit(143), None, namespace(), tmp_path)
    assert e.value.code == 143 and not read_log(tmp_path / "results.jsonl")


SWEEP_OF = """
import sys
import began.train
from common.sweep import sweep
from tests.test_sweep import measure, namespace

cells = [{"name": f"run{i}", "seed": i, "flags": ["--steps", n]} for i, n in enumerate(sys.argv[1:])]
flags = ["--smoke", "--save-every", "100000", "--sample-every", "100000"]
sweep(cells, began.train.main, measure, namespace(jobs=2), "there", flags)
"""


@pytest.mark.parametrize(
    "steps, send", [(("4", "90000"), os.kill), (("90000", "90000", "90000"), os.killpg)]
)
def test_sigterm_lets_the_trainings_of_all_jobs_save_and_end(here, env, steps, send):
    """SLURM sends it to all processes, HTCondor to the first. One without work ends, and none begins another."""
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP_OF, *steps],
        cwd=here,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        logs = [Path(f"there/run{i}/log.jsonl") for i in (0, 1)]
        end = time.time() + 300
        short = steps[0] == "4"
        while not all(map(read_log, logs)) or short != Path("there/results.jsonl").exists():
            assert process.poll() is None and time.time() < end, process.communicate()
            time.sleep(0.05)
        send(process.pid, signal.SIGTERM)
        err = process.communicate(timeout=120)[1]
        assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in err, err
        with pytest.raises(ProcessLookupError):  # multiprocessing's own helper takes a moment
            while time.time() < end:
                os.killpg(process.pid, 0)
                time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for i in (1,) if short else (0, 1):
        assert load_checkpoint(f"there/run{i}/last.pt")["step"] == read_log(logs[i])[-1]["step"]
        assert "stopped by SIGTERM after step" in Path(f"there/run{i}.log").read_text()
    assert not Path("there/run2").exists()


def test_sigterm_does_what_it_did_once_a_sweep_is_through(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    sweep(cells(1), train, measure, namespace(jobs=2), tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_several_processes_find_the_same(tmp_path):
    """--jobs 2, as by default on two cores: train and measure are found by the processes that it starts."""
    results = sweep(cells(3), train, measure, namespace(jobs=2), tmp_path)
    assert values(results) == [100, 101, 102]
    assert {result["env"]["command"] for result in results} == {shlex.join(sys.orig_argv)}
    assert values(read_log(tmp_path / "results.jsonl")) == [100, 101, 102]


def test_runs_are_spread_over_the_gpus(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus_of("cpu") == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    assert gpus_of("auto") == gpus_of("cuda") == ["0", "1"]
    assert gpus_of("cuda:1") == [None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5e,7")
    assert gpus_of("auto") == ["GPU-5e", "7"]


def gpu_seen(where, cell, args):
    """The one GPU that this process may see, once another process has said which it sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    where.with_suffix(".gpu").write_text(seen)
    for _ in range(600):
        if len(list(where.parent.glob("*.gpu"))) == 2:
            return {"gpu": seen}
        time.sleep(0.1)
    return {"gpu": f"{seen}, and no second process"}


def test_each_process_of_a_sweep_sees_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_module, "gpus_of", lambda device: ["7", "GPU-5e"])
    results = sweep(cells(2), train, gpu_seen, namespace(jobs=None), tmp_path)
    assert {result["metrics"]["gpu"] for result in results} == {"7", "GPU-5e"}


def test_by_default_a_run_per_core_or_per_gpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep_module, "usable_cores", lambda: 3)
    sweep([], train, measure, namespace(jobs=None), tmp_path)
    assert "3 at a time" in capsys.readouterr().err
    monkeypatch.setattr(sweep_module, "gpus_of", lambda device: [None])
    sweep([], train, measure, namespace(jobs=None), tmp_path)
    assert "1 at a time" in capsys.readouterr().err


def test_other_flags_are_refused_in_the_same_folder(tmp_path):
    """A table may not average results of different trainings. How many at a time changes no result."""
    sweep([], train, measure, namespace(), tmp_path, ["--quick"])
    with pytest.raises(UserError, match="other flags"):
        sweep([], train, measure, namespace(), tmp_path, ["--steps", "9"])
    sweep([], train, measure, namespace(jobs=2), tmp_path, ["--quick"])


@pytest.mark.parametrize(
    "flag", ["n", "extractor", "inception_weights", "split", "seed", "amp", "bank", "bn_batches"]
)
def test_other_measurements_are_refused_in_the_same_folder(tmp_path, flag):
    """Nor may it average results of different measurements."""
    sweep([], train, measure, namespace(**{flag: 1}), tmp_path)
    with pytest.raises(UserError, match="other flags"):
        sweep([], train, measure, namespace(**{flag: 2}), tmp_path)


def test_a_folder_is_trained_with_one_amp(tmp_path):
    """--quick's own depends on the machine. A folder of before goes on, and has one from then on."""
    seen = []

    def noting(argv):
        seen.append(argv[argv.index("--amp") :])
        train(argv)

    folder = tmp_path / "new"
    sweep(cells(1), noting, measure, namespace(train_amp="bf16"), folder, ["--quick"])
    assert seen[0][:4] == ["--amp", "bf16", "--quick", "--lr"]  # what is typed comes later
    part = namespace(train_amp="off", part=(1, 2))
    with pytest.raises(UserError, match="other flags"):
        sweep(cells(2), noting, measure, part, folder, ["--quick"])

    folder = tmp_path / "old"
    sweep(cells(1), train, measure, namespace(), folder, ["--quick"])
    found = sweep(cells(2), noting, measure, namespace(train_amp="off"), folder, ["--quick"])
    assert values(found) == [100, 101] and len(seen) == 2
    with pytest.raises(UserError, match="other flags"):
        sweep(cells(2), noting, measure, namespace(train_amp="bf16"), folder, ["--quick"])
    with pytest.raises(UserError, match="other flags"):
        sweep(cells(2), noting, measure, namespace(), folder, ["--quick"])


@pytest.mark.parametrize("content", [b"", b'{"train": ', b"\xff\xfe"])
def test_damaged_settings_are_named_and_nothing_is_lost(tmp_path, content):
    sweep(cells(1), train, measure, namespace(), tmp_path)
    results = (tmp_path / "results.jsonl").read_bytes()
    (tmp_path / "settings.json").write_bytes(content)
    with pytest.raises(UserError, match="settings.json is damaged: .*another --out"):
        sweep(cells(1), train, measure, namespace(), tmp_path)
    assert (tmp_path / "results.jsonl").read_bytes() == results
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(UserError, match="other flags"):
        sweep(cells(1), train, measure, namespace(), tmp_path)


def test_a_result_cut_short_costs_only_itself(tmp_path):
    """A kill or a full disk in the middle of a line: that run is measured again, once, and no other."""
    sweep(cells(3), train, measure, namespace(), tmp_path)
    path = tmp_path / "results.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1], lines[2][:20]]))
    measured = []

    def counting(where, cell, args):
        measured.append(cell["name"])
        return measure(where, cell, args)

    for _ in range(2):
        assert values(sweep(cells(3), None, counting, namespace(), tmp_path)) == [100, 101, 102]
    assert measured == ["run2"] and len(read_log(path)) == 3


def test_only_these_rows_in_the_tables_order():
    rows = {"GAN": ["--a"], "WGAN": [], "ALI": ["--b"]}
    assert list(select_rows(rows, ["ALI", "GAN"]).items()) == [("GAN", ["--a"]), ("ALI", ["--b"])]
    assert select_rows(rows, None) == rows
    with pytest.raises(UserError, match="--only VAE: the rows are GAN, WGAN, ALI"):
        select_rows(rows, ["GAN", "VAE"])


# --- parts, one a machine


@pytest.mark.parametrize("n", [2, 3])
def test_the_parts_joined_are_the_whole(tmp_path, n):
    """Each run is trained by one part; the call without a part then trains none, and finds them all."""
    whole = sweep(cells(5), train, measure, namespace(), tmp_path / "whole", ["--quick"])
    parts, there = [], tmp_path / "parts"
    for i in range(n):
        found = sweep(cells(5), train, measure, namespace(part=(i, n)), there, ["--quick"])
        assert {r["name"] for r in found} == {f"run{k}" for k in range(i, 5, n)}
        assert read_log(there / f"results-{i}of{n}.jsonl") == found
        parts += found
    joined = sweep(cells(5), None, None, namespace(), there, ["--quick"])
    assert sorted(parts, key=lambda r: r["name"]) == joined
    keep = ("name", "seed", "flags", "step", "metrics")
    same = [[{k: result[k] for k in keep} for result in results] for results in (joined, whole)]
    assert same[0] == same[1] and not read_log(there / "results.jsonl")


def test_what_a_part_has_not_trained_the_whole_trains(tmp_path):
    sweep(cells(4), train, measure, namespace(part=(1, 2)), tmp_path)
    assert values(sweep(cells(4), train, measure, namespace(), tmp_path)) == [100, 101, 102, 103]
    assert [r["name"] for r in read_log(tmp_path / "results.jsonl")] == ["run0", "run2"]
    found = sweep(cells(4), None, None, namespace(part=(0, 2)), tmp_path)  # nothing is left to do
    assert [r["name"] for r in found] == ["run0", "run2"]


def test_a_part_leaves_the_files_of_the_others_alone(tmp_path):
    """Another machine may be in the middle of a line there."""
    sweep(cells(4), train, measure, namespace(part=(0, 2)), tmp_path)
    other = tmp_path / "results-0of2.jsonl"
    other.write_text(other.read_text() + '{"name": "ru')
    before = {path: path.read_bytes() for path in tmp_path.glob("*-0of2*")}
    sweep(cells(4), train, measure, namespace(part=(1, 2)), tmp_path)
    assert len(before) == 2 and before == {path: path.read_bytes() for path in before}


def test_parts_with_other_flags_are_refused(tmp_path):
    sweep(cells(2), train, measure, namespace(part=(0, 2)), tmp_path, ["--quick"])
    for part in ((1, 2), None):
        with pytest.raises(UserError, match="other flags"):
            sweep(cells(2), train, measure, namespace(part=part), tmp_path, ["--steps", "9"])


def test_the_end_of_a_part(capsys):
    """Without a part the script goes on and draws. A part with failed runs does not end well."""
    good, bad = {"name": "a", "metrics": {}}, {"name": "b", "error": "no such data"}
    assert failures([good, bad, bad]) == ["b: no such data", "b: no such data"]
    assert end_sweep(None, [good, bad]) is None
    with pytest.raises(UserError, match="no run came through: b: no such data; b: no such data$"):
        end_sweep(None, [bad, bad])
    with pytest.raises(SystemExit) as e:
        end_sweep((1, 4), [good])
    assert not e.value.code and "part 1/4 is through, 1 runs" in capsys.readouterr().err
    with pytest.raises(UserError, match="1 of 2 runs of part 1/4 failed.*: b: no such data$"):
        end_sweep((1, 4), [good, bad])


def test_every_script_that_sweeps_is_tested_here():
    assert SWEEPS == {p.parent.name for p in REPO.glob("*/*.py") if "= sweep(" in p.read_text()} - {
        "tests"
    }


@pytest.mark.parametrize("folder", sorted(SWEEPS))
def test_a_part_of_each_script_trains_its_share_and_draws_nothing(folder, here, monkeypatch):
    script, shares = importlib.import_module(f"{folder}.reproduce"), []

    def only_looking(cells, train, measure, args, where, shared):
        shares.append([cell["name"] for cell in cells if args.part == (1, 2)])
        return []

    monkeypatch.setattr(script, "sweep", only_looking)
    what = {"bigan": ["--toy"], "egan": ["--table2"], "sagan_wgangp": ["--compare"]}.get(folder, [])
    with pytest.raises(SystemExit) as e:
        script.main([*what, "--part", "1/2", "--seeds", "2", "--out", "there"])
    assert not e.value.code and not list(here.iterdir())
    assert len(shares) == (2 if folder == "pan" else 1) and all(shares)


def test_curves_are_compared_at_the_steps_that_all_runs_have():
    whole, stopped = ([{"step": step} for step in steps] for steps in ((5, 10, 15), (5, 7, 10, 15)))
    assert at_shared_steps([stopped, whole]) == [whole, whole]
    assert at_shared_steps([whole, [], stopped[:2]]) == [whole[:1], [], whole[:1]]
    assert at_shared_steps([[], []]) == [[], []]
