"""The script for a GPU, rehearsed on the CPU: each part's status, what it leaves, and what stops none of the others."""

import argparse
import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import common.plots
import mdma.figures
from common.cuda import GraphedStep
from common.errors import UserError
from mdma import eval as mdma_eval
from mdma.features import generate

from . import gpu_run

CPU = ["--device", "cpu", "--rehearse", "--folders", "mdma"]


def in_this_process(settings, limit):
    """As gpu_run.run_apart, without the seconds that importing torch takes."""
    gpu_run.run_here(settings)


def main(*words, run=in_this_process):
    return gpu_run.main([*CPU, "--out", "out", *words], run)


def read(path="out/gpu_run.json"):
    return json.loads(Path(path).read_text(), parse_constant=pytest.fail)  # no NaN, no Infinity


@pytest.fixture
def faked(here, monkeypatch):
    """faked[part] = a function in place of a part's; those that aren't set find nothing wrong."""
    fine = lambda args, report, *options: report.check("fine", 0, 1)
    parts = dict.fromkeys(gpu_run.PARTS, fine)
    monkeypatch.setattr(gpu_run, "PARTS", parts)
    return parts


@pytest.mark.filterwarnings("ignore:.*singular covariance")
def test_rehearsal(here, monkeypatch):

    def save_nothing(figure, path):  # drawing takes most of the seconds
        common.plots.plt.close(figure)
        Path(path).touch()

    for module in (common.plots, mdma.figures):
        monkeypatch.setattr(module, "save_figure", save_nothing)
    result = main("--commit", "abc")
    assert read() == json.loads(json.dumps(result))
    parts = result["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "machine": "pass",
        "jets": "not run",
        "graphs": "pass",
        "smoke mdma off": "pass",
        "generation": "pass",
        "steps": "pass",
        "training": "pass",
        "evaluation last": "pass",
        "evaluation best": "pass",
    }
    assert parts["machine"]["numbers"]["device"] == f"cpu, {torch.get_num_threads()} threads"
    assert parts["machine"]["numbers"]["commit"] == "abc" and result["seconds"] > 0

    # What only a GPU can show is not said to have passed, though here both sides are the same.
    checks = parts["graphs"]["checks"]
    for name, check in checks.items():
        ran = name.endswith("resumed against unbroken")
        assert check["status"] == ("pass" if ran else "not run"), name
        assert check["value"] == (1 if name.endswith("no graph was recorded") else 0), name
    assert len(checks) == 2 * (3 * 3 + 1) and parts["graphs"]["numbers"]["lsgan: graphs"] == 0
    checks = parts["smoke mdma off"]["checks"]
    assert checks.pop("losses against the CPU's")["status"] == "not run"
    assert {name: check["status"] for name, check in checks.items()} == dict.fromkeys(
        ("train, resume", "evaluate", "draw", "export", "draw on the CPU"), "pass"
    )
    numbers = parts["generation"]["numbers"]
    assert numbers["t30, TF32 on"].startswith("not run")
    assert numbers["t30, TF32 off"]["us_per_jet"] > 0
    assert numbers["t150, TF32 off"]["difference_from_cpu"] == 0
    numbers = parts["steps"]["numbers"]
    assert numbers["150 particles, batch 512, graphed"].startswith("not run")
    assert len(numbers["150 particles, batch 128, eager"]["each"]) == 2
    assert parts["training"]["numbers"]["steps"] == 10
    assert all(part["numbers"]["metrics"] for name, part in parts.items() if name[:4] == "eval")

    files = {path.name: path.stat().st_size for path in Path("out").iterdir()}
    assert sorted(files) == result["files"] and len(files) <= 8 and max(files.values()) < 1e6
    G, trained, stats, step = mdma_eval.load("out/t150_gpu.pt", torch.device("cpu"))
    jets = generate(G, 5, stats, trained.num_particles, torch.Generator().manual_seed(0))
    assert step == 10 and jets.shape == (5, 8, 3) and jets.isfinite().all()
    assert {p.name for p in here.iterdir()} == {"out"}
    timers = [t for t in threading.enumerate() if isinstance(t, threading.Timer)]
    assert all(timer.finished.is_set() for timer in timers)  # else it would end these tests


def test_a_training_that_time_ends_counts(here, monkeypatch):
    from mdma import train

    def stopped(flags, whole=train.main):
        whole(flags)
        raise SystemExit(143)  # as after SIGTERM: it has saved

    monkeypatch.setattr(train, "main", stopped)
    settings = settings_of(here, "training") | {"seconds": 60, "measured": {}}
    gpu_run.run_here(settings)
    result = read(settings["result"])
    assert result["finished"] and result["numbers"]["steps"] == 10
    assert result["checks"]["a checkpoint is there"]["status"] == "pass"


def test_what_fails_stops_no_other_part(faked):
    faked["graphs"] = lambda args, report: report.check("G", math.nan, 0.1)
    faked["smoke"] = lambda *words: 1 / 0
    faked["generation"] = lambda args, report: report.note(us=math.inf)
    faked["steps"] = lambda args, report: torch.zeros(2) @ torch.zeros(3)

    def stopped(args, report):
        report.check("before", 0, 1)
        raise SystemExit(3)

    faked["training"] = stopped
    parts = main()["parts"]
    assert [part["status"] for part in parts.values()] == (
        ["pass", "pass", "fail", "fail", "pass", "fail", "fail", "pass", "pass"]
    )
    assert read()["parts"]["graphs"]["checks"]["G"]["value"] == "nan"
    assert read()["parts"]["generation"]["numbers"]["us"] == "inf"
    assert parts["smoke mdma off"]["error"].startswith("ZeroDivisionError")
    assert parts["training"]["checks"]["before"]["status"] == "pass"
    assert parts["training"]["error"] == "SystemExit: 3"


def test_a_part_that_takes_too_long_is_stopped_and_keeps_what_it_found(faked):
    def slow(settings, limit):
        gpu_run.run_here(settings)
        if settings["part"] != "generation":
            return None
        result = read(settings["result"])
        del result["finished"]
        Path(settings["result"]).write_text(json.dumps(result))
        return "was stopped at its limit of 3 s"

    part = main(run=slow)["parts"]["generation"]
    assert part["status"] == "fail" and part["error"] == "was stopped at its limit of 3 s"
    assert part["checks"]["fine"]["status"] == "pass"


def settings_of(tmp_path, part="jets"):
    args = gpu_run.arguments.parse_args(gpu_run.Args, "", CPU)
    return gpu_run.settings_of(part, args, tmp_path)


def test_parts_run_apart(tmp_path):
    """In a process each: its result, its exit status, its limit."""
    settings = settings_of(tmp_path)
    assert gpu_run.run_apart(settings, 60) is None
    assert read(settings["result"])["not_run"] == "a rehearsal trains on toys"
    settings = settings_of(tmp_path, "unknown")
    assert gpu_run.run_apart(settings, 60) is None
    assert read(settings["result"])["error"] == "KeyError: 'unknown'"
    del settings["result"]
    assert gpu_run.run_apart(settings, 60) == "ended with exit status 1"
    assert "AttributeError" in Path(settings["log"]).read_text()
    settings = settings_of(tmp_path, "machine")
    assert gpu_run.run_apart(settings, 0.01) == "was stopped at its limit of 0 s"


def test_minutes_are_kept(faked):
    """Without --rehearse the training takes what the others leave, and late parts are not begun."""
    settings = []
    faked["machine"] = lambda args, report: report.note(device_type="cuda")

    def run(part, limit):
        settings.append((part, limit))
        gpu_run.run_here(part)

    words = ["--device", "cpu", "--folders", "mdma", "--out"]
    gpu_run.main([*words, "long", "--minutes", "100"], run)
    training, limit = next((s, limit) for s, limit in settings if s["part"] == "training")
    assert training["seconds"] == gpu_run.TRAINING and limit == gpu_run.TRAINING + 20
    assert [s["part"] for s, _ in settings][3:5] == ["smoke mdma off", "generation"]
    settings.clear()
    gpu_run.main([*words, "short", "--minutes", "2"], run)
    training, _ = next((s, limit) for s, limit in settings if s["part"] == "training")
    assert 0 < training["seconds"] <= 60 and all(limit <= 120 for _, limit in settings)
    late = gpu_run.run_part("steps", argparse.Namespace(rehearse=False), Path(), lambda: 4, run)
    assert late == {"status": "not run", "why": "no time was left"}

    def slow(part, limit):
        run(part, limit)
        if part["part"].startswith("smoke"):
            time.sleep(6)

    gpu_run.main([*words, "slow", "--minutes", "0.12"], slow)
    result = read(Path("slow/gpu_run.json"))
    assert result["parts"]["steps"]["why"] == "no time was left" and "files" in result


def test_mistakes_are_told_in_a_line(here, monkeypatch):
    with pytest.raises(UserError, match=r"^no CUDA GPU \(torch sees cpu, . threads only\)"):
        gpu_run.main(["--device", "cpu", "--out", "out", "--folders", "mdma"], in_this_process)
    assert read()["parts"]["machine"]["status"] == "pass"
    with pytest.raises(UserError, match="--out out is not empty"):
        main()
    with pytest.raises(UserError, match="--folders gan: there are began, "):
        main("--folders", "gan")
    there = gpu_run.find_spec
    monkeypatch.setattr(gpu_run, "find_spec", lambda name: None if name == "tqdm" else there(name))
    with pytest.raises(UserError, match="lacks tqdm: pip install"):
        gpu_run.main([*CPU, "--out", "new"], in_this_process)


def test_differences_of_weights_are_shares_of_the_way():
    start = {"a": torch.zeros(2), "b": torch.ones(1)}
    b = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([5.0])}
    a = {"a": torch.tensor([3.0, 0.3]), "b": torch.tensor([5.4])}
    assert gpu_run.difference(a, b, start) == pytest.approx(0.1)
    assert gpu_run.difference(b, b, start) == gpu_run.difference(start, start, start) == 0
    assert gpu_run.difference(start, b, start) == 1
    assert gpu_run.difference(a, start, start) == math.inf
    assert math.isnan(gpu_run.difference(a | {"b": torch.tensor([math.nan])}, b, start))


def test_a_graph_that_forgets_its_arguments_is_seen(here, monkeypatch):
    """Recorded once, it would compute on the same noise and jets in every step of one shape."""

    class Forgetful(GraphedStep):
        first = {}

        def __call__(self, *arguments):
            shapes = tuple(getattr(a, "shape", a) for a in arguments)
            return self.step(*self.first.setdefault(shapes, arguments))

    flags, steps = gpu_run.schedule_flags("lsgan")
    flags = [*flags, "--steps", str(steps), "--batch-size", "32"]
    right, _ = gpu_run.weights(flags, "cpu", Path("right"))
    monkeypatch.setattr("mdma.train.GraphedStep", Forgetful)
    wrong, _ = gpu_run.weights(flags, "cpu", Path("wrong"))
    start = gpu_run.initial_weights(flags)
    for net in ("G", "D", "G_ema"):
        apart = gpu_run.difference(wrong[net], right[net], start[net])
        assert apart > 5 * gpu_run.SCHEDULES["lsgan"][1], net


def test_the_largest_batch_that_pays():
    def measured(**ms):
        return {f"150 particles, batch {b[1:]}, graphed": {"ms": v} for b, v in ms.items()}

    batches = [128, 512, 2048]
    assert gpu_run.best_batch(measured(_128=2, _512=4, _2048=10), batches) == (2048, 10)
    assert gpu_run.best_batch(measured(_128=2, _512=4, _2048=12), batches) == (512, 4)
    assert gpu_run.best_batch(measured(_128=2, _512=6, _2048=7), batches) == (128, 2)
    assert gpu_run.best_batch(measured(_512=6), batches) == (512, 6)
    assert gpu_run.best_batch({}, batches) == (128, None)


def test_losses_are_compared_key_by_key():
    ours = {"step": 1, "seconds": 5.0, "L_D": 1.02, "share": 0.0}
    cpu = {"step": 1, "seconds": 9.0, "L_D": 1.00, "share": 0.0}
    assert gpu_run.loss_difference(ours, cpu) == pytest.approx(0.02 / 1.01)
    assert gpu_run.loss_difference(ours | {"share": 1.0}, cpu) == pytest.approx(100)
    survivors = {"selected_minimax": 1.0}, {"selected_minimax": 0.0}
    assert gpu_run.loss_difference(cpu | survivors[0], cpu | survivors[1]) == 0


def test_the_shell_script_passes_its_flags_on(here, repo):
    done = subprocess.run(
        ["bash", repo / "tests/gpu_run.sh", "--folders", "gan"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "OUT": str(here / "out")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: --folders gan: there are")
