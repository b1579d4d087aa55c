"""Run directories: exact resume after kills and signals, and what is left when something goes wrong."""

import builtins
import errno
import importlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from began import eval as began_eval
from began import train
from common import runs
from common.cli import UserError, read_args, run_main
from common.data import CLASSES
from common.metrics import images
from common.runs import Run, read_log
from egan.population import SharedLoop
from mdma import jets

from .helpers import smoke_run

SMOKE = ["--smoke", "--size", "8", "--width", "4", "--code-dim", "4", "--log-every", "2"]


@pytest.fixture
def no_curves(monkeypatch):
    """Most of a tiny run's time is matplotlib."""
    monkeypatch.setattr(train, "draw_curves", lambda *args, **kwargs: None)


def run_began(*argv):
    return train.main([str(word) for word in argv])


def checkpoint(directory):
    return torch.load(Path(directory) / "last.pt", weights_only=True)


def leaves(value, path=""):
    """(path, bytes or value) of everything in nested dicts and lists: NaN, -0.0 and dtypes count."""
    if isinstance(value, dict):
        return [leaf for k, v in value.items() for leaf in leaves(v, f"{path}.{k}")]
    if isinstance(value, (list, tuple)):
        return [leaf for k, v in enumerate(value) for leaf in leaves(v, f"{path}.{k}")]
    if torch.is_tensor(value):
        return [(path, str(value.dtype), value.contiguous().numpy().tobytes())]
    return [(path, value)]


def differing(a, b):
    a, b = checkpoint(a), checkpoint(b)
    assert a["step"] == b["step"]
    return [
        x[0]
        for x, y in zip(leaves([a["state"], a["rng"]]), leaves([b["state"], b["rng"]]), strict=True)
        if x != y
    ]


def wait_for(condition, process, seconds=120):
    end = time.time() + seconds
    while not condition():
        assert process.poll() is None, f"ended by itself: {process.communicate()}"
        assert time.time() < end, "nothing happened"
        time.sleep(0.005)


def logged(directory):
    path = Path(directory) / "log.jsonl"
    return [line["step"] for line in read_log(path)] if path.exists() else []


# --- exact resume


def test_terminated_then_killed_then_resumed_is_the_undisturbed_run(here, env, no_curves, capfd):
    """SIGTERM at some step; the command that it prints, executed as printed, is killed at a random later step by
    SIGKILL; what is left goes on here. Weights, optimisers, k_t and the log are the undisturbed run's."""
    words = [
        *SMOKE,
        "--steps=60",
        "--save-every",
        "3",
        "--sample-every",
        "1000",
        "--log-every",
        "1",
    ]
    start = dict(cwd=here, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    broken = "a broken run"  # the space must be quoted in what is printed
    process = subprocess.Popen(
        [sys.executable, "-m", "began.train", *words, "--out", broken], **start
    )
    wait_for(lambda: len(logged(broken)) >= 2, process)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM, err
    stopped = checkpoint(broken)["step"]
    assert (
        f"stopped by SIGTERM after step {stopped}, saved." in err
        and logged(broken)[-1] == stopped < 60
    )
    command = err.splitlines()[-1]
    assert command.startswith("  python -m began.train --resume ")

    kill_at = random.randint(stopped + 4, stopped + 16)
    process = subprocess.Popen(["bash", "-c", "exec" + command], **start)
    wait_for(lambda: (logged(broken) or [0])[-1] >= kill_at, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    saved = checkpoint(broken)["step"]
    assert saved % 3 == 0 and stopped < saved < 60, f"killed at {kill_at}, {stopped} {saved}"
    with open(f"{broken}/log.jsonl", "a") as f:
        f.write('{"step": 59, "L_x"')  # a line that the kill cut short

    run_began("--resume", broken)
    run_began(*words, "--out", "whole")
    assert logged(broken) == logged("whole") == list(range(1, 61))
    assert differing(broken, "whole") == [], f"stopped at {stopped}, killed at {kill_at}"
    for a, b in zip(read_log(f"{broken}/log.jsonl"), read_log("whole/log.jsonl")):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}

    names = {leaf[0].split(".")[1] for leaf in leaves(checkpoint("whole")["state"])}
    assert {"G", "D", "opt_G", "opt_D", "k_t"} <= names and checkpoint("whole")["state"]["k_t"] > 0
    run_began(*words, "--steps", 6, "--seed", 1, "--out", "other")  # the comparison can fail
    run_began(*words, "--steps", 6, "--out", "short")
    assert {".0.G.net.0.weight", ".0.D.decoder.0.weight", ".0.k_t"} <= set(
        differing("other", "short")
    )


def test_resume_with_the_plateau_halving_of_learning_rates(here, no_curves):
    words = [*SMOKE, "--lr-halve-patience", 2, "--steps", 11, "--lr-d", 0.05]
    run_began(*words, "--out", "whole")
    run_began(*words, "--steps", 5, "--out", "parts")
    run_began("--resume", "parts", "--steps", 11)
    assert differing("whole", "parts") == []
    assert checkpoint("whole")["state"]["opt_D"]["param_groups"][0]["lr"] < 0.05


def test_rerun_is_bit_identical_and_other_seeds_are_not(here, no_curves):
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(7)  # what happened before must not matter
        run_began(*SMOKE, "--steps", 3, "--seed", seed, "--out", out)
    assert differing("a", "b") == [] and differing("a", "c")


def test_resume_restores_the_global_generators_and_values(here):
    run, net = toy_run("x"), torch.nn.Linear(2, 2)
    run.save(1, net=net, k=0.25, population=[{"w": torch.ones(1)}])
    first = draws()
    again = Run("toy", Namespace(**vars(run.args) | {"resume": "x"}), run.device)
    other = torch.nn.Linear(2, 2)
    step, values = again.resume(net=other)
    assert draws() == first
    assert step == 1 and values == {"k": 0.25, "population": [{"w": torch.ones(1)}]}
    assert torch.equal(other.weight, net.weight)
    assert toy_run("y").resume(net=other) == (0, {})


def test_seconds_go_on_from_the_last_line_that_is_kept(here):
    run = toy_run("x")
    run.save(2)
    lines = [{"step": step, "seconds": 100 * step**2} for step in (1, 2, 3)]
    Path("x/log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = Run("toy", Namespace(**vars(run.args) | {"resume": "x"}), run.device)
    start, _ = again.resume()
    for step in again.steps(start, 4):
        again.log(step, L=0.0)
    assert [line["seconds"] // 100 for line in read_log("x/log.jsonl")] == [1, 4, 4, 4]


def test_the_time_to_go_is_of_ten_steps_after_the_first(here, monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    for step in toy_run("x").steps(0, 1214):
        clock[0] += 60 if step < 4 else 0.5
    assert "0.5 s per step: about 10 min to go" in capsys.readouterr().err


def draws():
    return [random.random(), np.random.randn(), *torch.randn(3).tolist()]


# --- signals


def signal_in_step(monkeypatch, step, number=signal.SIGINT):
    """Send ourselves a signal while step `step` computes."""
    calls = []

    def update_k(*args, original=train.update_k):
        calls.append(1)
        if len(calls) == step:
            os.kill(os.getpid(), number)
        return original(*args)

    monkeypatch.setattr(train, "update_k", update_k)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_finish_the_step_save_and_print_the_command(
    here, monkeypatch, no_curves, capsys, number
):
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        signal_in_step(patch, 4, number)
        with pytest.raises(SystemExit) as e:
            run_began(*SMOKE, "--steps", 9, "--out", "x")
    assert e.value.code == 128 + number and signal.getsignal(number) is handler
    lines = capsys.readouterr().err.splitlines()
    assert f"stopped by {number.name} after step 4, saved. Go on with:" == lines[-2]
    assert checkpoint("x")["step"] == 4 and logged("x") == [2, 4]
    command = shlex.split(lines[-1])
    assert command[:3] == ["python", "-m", "began.train"]
    run_began(*command[3:])
    assert checkpoint("x")["step"] == 9 and logged("x") == [2, 4, 6, 8, 9]


def test_a_second_ctrl_c_stops_at_once_and_names_what_is_left(here, monkeypatch, no_curves):
    twice = signal.SIGINT, signal.SIGINT

    def update_k(*args, original=train.update_k):
        for number in twice if read_log("x/log.jsonl") else ():  # in a step after a save
            os.kill(os.getpid(), number)
        return original(*args)

    monkeypatch.setattr(train, "update_k", update_k)
    with pytest.raises(KeyboardInterrupt, match=re.escape("x/last.pt at step 2")):
        run_began(*SMOKE, "--steps", 9, "--save-every", 2, "--out", "x")
    assert checkpoint("x")["step"] == 2


def test_the_printed_command_keeps_the_steps_that_a_resumption_asked_for(
    here, monkeypatch, no_curves, capsys
):
    run_began(*SMOKE, "--steps", 2, "--out", "x")
    signal_in_step(monkeypatch, 1)
    with pytest.raises(SystemExit):
        run_began("--resume", "x", "--steps=7")
    run_began(*shlex.split(capsys.readouterr().err.splitlines()[-1])[3:])
    assert checkpoint("x")["step"] == 7


def test_a_signal_after_the_last_chance_to_save_costs_one_more_step(
    here, monkeypatch, no_curves, capsys
):
    """It comes in step 4 after `due` has said that nothing is to be saved."""

    def due(self, step, every, original=Run.due):
        answer = original(self, step, every)
        if step == 4 and every == 100:
            os.kill(os.getpid(), signal.SIGTERM)
        return answer

    monkeypatch.setattr(Run, "due", due)
    with pytest.raises(SystemExit):
        run_began(
            *SMOKE,
            "--steps",
            9,
            "--log-every",
            99,
            "--sample-every",
            99,
            "--save-every",
            100,
            "--out",
            "x",
        )
    assert "after step 5, saved" in capsys.readouterr().err and checkpoint("x")["step"] == 5


def test_a_signal_in_the_last_step_leaves_a_finished_run(here, monkeypatch, no_curves):
    signal_in_step(monkeypatch, 3)
    assert run_began(*SMOKE, "--steps", 3, "--out", "x")["step"] == 3 == checkpoint("x")["step"]


# --- what is refused


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of 3 steps. Copy what you damage."""
    directory = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "draw_curves", lambda *args, **kwargs: None)
        run_began(*SMOKE, "--steps", 3, "--out", directory)
    return directory


@pytest.fixture
def copy(finished, here):
    (here / "run").mkdir()
    for name in ("args.json", "log.jsonl", "last.pt"):
        (here / "run" / name).write_bytes((finished / name).read_bytes())
    return Path("run")


def snapshot(directory):
    return {str(p): p.read_bytes() for p in sorted(Path(directory).rglob("*")) if p.is_file()}


def refused(capsys, directory, *argv):
    """run_main's one line and exit code 2; nothing on disk is changed."""
    before = snapshot(".")
    capsys.readouterr()
    with pytest.raises(SystemExit) as e:
        run_main(lambda: run_began("--resume", directory, "--steps", 6, *argv))
    lines = capsys.readouterr().err.splitlines()
    assert e.value.code == 2 and len(lines) == 1 and snapshot(".") == before
    return lines[0]


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b[:10],
        lambda b: b"",
        lambda b: b"hello\n",
        lambda b: b"\x80\x02e.",
        lambda b: b[:-1],
    ],
)
def test_a_damaged_checkpoint_is_named(copy, capsys, damage):
    path = copy / "last.pt"
    path.write_bytes(damage(path.read_bytes()))
    assert "run/last.pt is damaged" in refused(capsys, "run")


def test_damage_is_described_in_whole_words(copy):
    path = copy / "last.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError) as e:
        runs.load_checkpoint(path)
    assert re.fullmatch(
        r"run/last.pt is damaged or not a checkpoint \(\w+Error: [^\n]*(\w| …)\): take another "
        "one, or train anew",
        str(e.value),
    )
    path.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UserError, match="not a checkpoint: not only tensors and plain values$"):
        runs.load_checkpoint(path)
    with pytest.raises(
        UserError, match="^run is a directory: name the checkpoint in it, such as run/last.pt$"
    ):
        runs.load_checkpoint(copy)


def test_summaries_end_at_a_word():
    assert runs.summary(ValueError("a b\n c")) == "ValueError: a b c"
    short = runs.summary(ValueError("word " * 100))
    assert len(short) <= 160 and short.endswith("word …")


def test_a_state_that_does_not_fit_names_the_tensor_and_its_shapes():
    here, there = torch.nn.Linear(2, 3), torch.nn.Linear(4, 3).state_dict()
    words = r"^G in x doesn't fit .*: weight has the shape \(3, 4\) there and \(3, 2\) here$"
    with pytest.raises(UserError, match=words):
        runs.load_state(here, there, "G in x")
    bias = there.pop("bias")
    with pytest.raises(UserError, match=r"weight has the shape .*, and 1 more$"):
        runs.load_state(here, there, "G in x")
    state = here.state_dict()
    with pytest.raises(UserError, match="more_bias is missing here$"):
        runs.load_state(here, state | {"more_bias": bias}, "G in x")
    with pytest.raises(UserError, match="bias is missing there$"):
        runs.load_state(here, {"weight": state["weight"]}, "G in x")
    optimiser = torch.optim.Adam(here.parameters())
    other = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(
        UserError, match="^opt doesn't fit .*: ValueError: loaded state dict .*size of optimizer's"
    ):
        runs.load_state(optimiser, other.state_dict(), "opt")
    with pytest.raises(UserError, match="^G doesn't fit"):
        runs.load_state(here, None, "G")


def test_moments_get_the_memory_format_of_their_weights():
    """Else fused Adam gives one weight's moments to another."""
    weights = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))

    def trained(memory_format, state=None):
        p = weights.clone(memory_format=memory_format).requires_grad_()
        optimiser = torch.optim.Adam([p], fused=True)
        if state is not None:
            runs.load_state(optimiser, deepcopy(state), "opt")
        p.grad = p.detach().square()
        optimiser.step()
        return p.detach(), optimiser.state_dict()

    _, state = trained(torch.contiguous_format)
    expected, _ = trained(torch.contiguous_format, state)
    found, after = trained(torch.channels_last, state)
    torch.testing.assert_close(found, expected)
    assert after["state"][0]["exp_avg"].is_contiguous(memory_format=torch.channels_last)


def test_any_damaged_bytes_end_in_a_user_error(copy):
    """torch.load lets out IndexError, KeyError, AssertionError, … of a pickle with flipped bytes."""
    path, rng, found = copy / "small.pt", random.Random(0), 0
    runs.save_atomic(
        {"format": 1, "paper": "began", "args": {"a": 1}, "state": {"w": torch.zeros(2)}}, path
    )
    whole = path.read_bytes()
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(len(whole))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            runs.load_checkpoint(path, "began")
        except UserError as e:
            assert "small.pt" in str(e) and "\n" not in str(e)
            found += 1
    assert found > 100


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(paper="egan"), "is a checkpoint of egan, not of began"),
        (dict(format=99), "has format 99"),
        (dict(format=None), "has format None"),
    ],
)
def test_another_folders_or_formats_checkpoint_is_named(copy, capsys, change, words):
    torch.save(checkpoint(copy) | change, copy / "last.pt")
    assert f"run/last.pt {words}" in refused(capsys, "run")


@pytest.mark.parametrize(
    "content", [{"w": torch.zeros(2)}, [1, 2], torch.zeros(3), {"paper": "began"}]
)
def test_another_pt_file_is_named(copy, capsys, content):
    torch.save(content, copy / "last.pt")
    assert refused(capsys, "run").startswith("error: run/last.pt ")


def test_a_pickle_that_would_run_code_is_not_run(copy, capsys):
    class Evil:
        def __reduce__(self):
            return Path("hacked").touch, ()

    torch.save(checkpoint(copy) | {"evil": Evil()}, copy / "last.pt")
    assert "run/last.pt is damaged or not a checkpoint" in refused(capsys, "run")


def test_missing_directories_and_checkpoints_are_named(copy, capsys):
    assert "--resume nowhere: no args.json there" in refused(capsys, "nowhere")
    with pytest.raises(UserError, match="no checkpoint nothing.pt"):
        runs.load_checkpoint("nothing.pt", "began")


def test_a_run_killed_before_its_first_checkpoint_starts_again(copy, capsys):
    whole = checkpoint(copy)
    (copy / "last.pt").unlink()
    run_began("--resume", copy)
    assert "no last.pt yet: starting from step 0" in capsys.readouterr().err
    again = checkpoint(copy)
    assert again["step"] == whole["step"]
    assert leaves(again["state"]) == leaves(whole["state"])
    assert logged(copy) == sorted(set(logged(copy)))


def test_args_follow_a_resumption_without_a_checkpoint(copy):
    (copy / "last.pt").unlink()
    run_began("--resume", copy, "--steps", 4)
    assert json.loads((copy / "args.json").read_text())["steps"] == 4


def test_a_second_process_in_a_directory_is_refused_and_changes_nothing(copy, capsys):
    """Here another Run of this process: a lock is of the open file. It ends with the steps."""
    args = Namespace(**(read_args(copy) | {"resume": "run"}))
    first = Run("began", args, torch.device("cpu"))
    steps = first.steps(3, 9)
    next(steps)
    with open("run/log.jsonl", "a") as f:
        f.write('{"step": 4, "seconds": 1}\n')  # past last.pt, so a resumption drops it
    assert "run: another process trains there" in refused(capsys, "run")
    steps.close()
    run_began("--resume", "run", "--steps", 6)
    assert logged("run")[-1] == 6


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.ENOTSUP])
def test_a_file_system_without_locks_is_no_reason_to_stop(copy, monkeypatch, number):
    def flock(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    run_began("--resume", copy, "--steps", 10)
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    run_began("--resume", copy, "--steps", 11)
    assert checkpoint(copy)["step"] == 11


def test_out_beside_resume_is_refused(copy, capsys):
    assert "--out y with --resume run" in refused(capsys, "run", "--out", "y")


def test_args_follow_a_resumption(copy):
    run_began("--resume", copy, "--steps", 11, "--log-every", 1)
    saved = json.loads((copy / "args.json").read_text())
    assert saved["steps"] == 11 and saved["log_every"] == 1
    seconds = [line["seconds"] for line in runs.read_log(copy / "log.jsonl")]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("content", [b"", b'{"steps": 3', b"\xff\xfe\x00", b"[1]", b"null"])
def test_damaged_arguments_are_named(copy, capsys, content):
    (copy / "args.json").write_bytes(content)
    assert "run/args.json is damaged" in refused(capsys, "run")


def test_a_full_run_directory_is_refused(copy, capsys):
    before = snapshot(".")
    with pytest.raises(UserError, match="--out run is not empty.* --resume run"):
        run_began(*SMOKE, "--out", "run")
    with pytest.raises(UserError, match="--out run/args.json is a file: give a directory"):
        run_began(*SMOKE, "--out", "run/args.json")
    assert snapshot(".") == before


def test_resume_with_other_networks_is_refused(copy, capsys):
    assert "--z-dim 5: the run in run was started with 48" in refused(capsys, "run", "--z-dim", 5)
    args = json.loads((copy / "args.json").read_text())
    (copy / "args.json").write_text(json.dumps(args | {"z_dim": 5}))
    assert "G in run/last.pt doesn't fit" in refused(capsys, "run")


def test_a_slim_checkpoint_is_not_resumed(copy, capsys):
    began_eval.main(["--ckpt", "run/last.pt", "--slim", "new/there/slim.pt"])
    Path("new/there/slim.pt").replace(copy / "last.pt")
    assert "run/last.pt has no D: it can be sampled, not resumed" in refused(capsys, "run")


def test_resume_that_asks_for_no_more_steps(copy, capsys):
    for steps in (3, 2):
        line = refused(capsys, "run", "--steps", steps)
        assert "the run in run has done 3 steps already" in line and "--steps" in line


# --- other data than at the start


def draw_images(root, *names):
    for i, name in enumerate(names):
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (16, 32, 3), np.uint8)
        Image.fromarray(pixels).save(path)


def own_images(folder, *flags):
    """A run of 2 steps on the images in own/ and the command that goes on with it."""
    words = ["--dataset", "folder", "--data-dir", "own", "--size", "16", *flags]
    smoke_run(folder, "x", "--batch-size", 4, "--steps", 2, *words)
    module = importlib.import_module(f"{folder}.train")
    return lambda *more: module.main(["--resume", "x", "--steps", "3", *more])


def add_a_cat(own):
    draw_images(own, "cat/6.png")


def exchange_a_cat(own):
    (own / "cat/0.png").rename(own / "cat/7.png")


def rename_a_class(own):
    (own / "cat").rename(own / "zcat")


@pytest.mark.parametrize(
    "folder, change, words",
    [
        ("began", add_a_cat, "images 6, here 7"),
        ("bigan", exchange_a_cat, r"hash of file names \w+, here \w+"),
        ("cagan", rename_a_class, r"classes \['cat', 'dog'\], here \['dog', 'zcat'\]"),
        ("egan", rename_a_class, "classes .*"),
        ("pan --task deraining --size 32", add_a_cat, "images 6, here 7"),
        ("sagan_wgangp --images 5", add_a_cat, "hash of file names .*"),  # 5 others are chosen
    ],
)
def test_a_run_goes_on_with_its_own_data_only(here, folder, change, words):
    """Which are the same in another place, and with another picture in a file; else nothing is changed."""
    folder, *flags = folder.split()
    draw_images("own", *(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(3)))
    go_on = own_images(folder, *flags)
    shutil.copytree("own", "copy")
    change(Path("own"))
    before = snapshot("x")
    advice = "Bring it back, or start anew with --out$"
    with pytest.raises(
        UserError, match=f"the run in x was trained on other data: {words}. {advice}"
    ):
        go_on()
    assert snapshot("x") == before
    draw_images("copy", "dog/0.png")
    assert go_on("--data-dir", "copy")["step"] == 3


def test_a_run_goes_on_with_its_own_pairs_only(here):
    draw_images("own", *(f"{i}.png" for i in range(5)))
    go_on = own_images("pan", "--task", "pairs", "--net", "deraining", "--size", "32")
    draw_images("own", "6.png")
    with pytest.raises(UserError, match="x was trained on other data: pairs 4, here 5. Bring"):
        go_on()


def test_a_run_goes_on_with_its_own_jets_only(here):
    real = jets.load_jets("synthetic", "t", 8, "data", "train")
    arrays = dict(particles=real.particles.numpy(), mask=real.mask.numpy())
    np.savez("own.npz", **arrays)
    smoke_run("mdma", "x", "--dataset", "own.npz", "--steps", 2)
    whole = Path("own.npz").read_bytes()
    np.savez("own.npz", **arrays | {"particles": arrays["particles"] * np.float32([2, 1, 1])})
    module = importlib.import_module("mdma.train")
    with pytest.raises(
        UserError, match=r"other data: ranges of the features \[.*\], here \[.*\]. Bring "
    ):
        module.main(["--resume", "x", "--steps", "3"])
    Path("own.npz").write_bytes(whole)
    assert module.main(["--resume", "x", "--steps", "3"])["step"] == 3


def test_a_checkpoint_that_does_not_say_its_data_goes_on(copy):
    older = checkpoint(copy)
    assert older.pop("data") == {"images": 512, "classes": CLASSES["synthetic"]}
    torch.save(older, copy / "last.pt")
    assert run_began("--resume", copy, "--steps", 4)["step"] == 4


def test_a_checkpoint_that_does_not_say_its_data_is_not_continued_on_a_file_elsewhere(here):
    from mdma import train

    x = jets.load_jets("synthetic", "t", 8, "data", "train")
    for place in ("a", "b"):
        Path(place).mkdir()
        np.savez(f"{place}/own.npz", particles=x.particles, mask=x.mask)
    train.main(["--smoke", "--dataset", "a/own.npz", "--steps", "2", "--out", "x"])
    older = checkpoint(Path("x"))
    del older["data"]
    torch.save(older, "x/last.pt")
    with pytest.raises(
        UserError, match="other data: --dataset .*a/own.npz, here .*b/own.npz. Bring"
    ):
        train.main(["--resume", "x", "--dataset", "b/own.npz", "--steps", "3"])
    same = str(Path("a/own.npz").resolve())
    assert train.main(["--resume", "x", "--dataset", same, "--steps", "3"])["step"] == 3


# --- full disks, kills while writing


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def half_write(path, mode="r", *args, **kwargs):
    f = builtins.open(path, mode, *args, **kwargs)
    if "w" in mode:

        class Half:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                f.close()

            def write(self, data):
                f.write(data[: len(data) // 2])
                no_space()

        return Half()
    return f


@pytest.mark.parametrize("where", ["open", "write", "fsync", "replace"])
def test_no_space_left_keeps_the_old_checkpoint(here, monkeypatch, where):
    path = here / "last.pt"
    runs.save_atomic({"old": torch.ones(100)}, path)
    before = snapshot(".")
    with monkeypatch.context() as patch:
        if where in ("open", "write"):
            patch.setattr(runs, "open", no_space if where == "open" else half_write, raising=False)
        else:
            patch.setattr(os, where, no_space)
        with pytest.raises(
            UserError, match="can't write .*last.pt: No space left on device.*untouched"
        ):
            runs.save_atomic({"new": torch.zeros(100)}, path)
    assert snapshot(".") == before  # and no temporary file


@pytest.mark.parametrize(
    "number, advice",
    [
        (errno.ENOSPC, "Make room"),
        (errno.EROFS, "Nothing can be written there"),
        (errno.EACCES, "Ask its owner for permission"),
    ],
)
def test_a_run_directory_that_can_no_longer_be_written(copy, monkeypatch, capsys, number, advice):
    """At the log and at the checkpoint: one line, and everything written before is as it was."""
    before = snapshot(copy)

    def open_(path, mode="r", *args, **kwargs):
        if "r" not in mode and Path(path).parent.name == "run":
            raise OSError(number, os.strerror(number), str(path))
        return builtins.open(path, mode, *args, **kwargs)

    def replace(source, target):
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    for where, name, refusing in ((runs, "open", open_), (os, "replace", replace)):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, refusing, raising=False)
            line = refused(capsys, "run")
        assert "run/" in line and os.strerror(number) in line and advice in line
        assert snapshot(copy) == before
    assert checkpoint(copy)["step"] == 3


def test_a_disk_that_fills_up_in_a_run(here, monkeypatch, no_curves, capsys):
    def fsync(fd, original=os.fsync):
        return no_space() if logged("x")[-1:] == [4] else original(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SystemExit) as e:
        run_main(lambda: run_began(*SMOKE, "--save-every", 2, "--steps", 9, "--out", "x"))
    assert (
        e.value.code == 2 and "x/last.pt: No space left" in capsys.readouterr().err.splitlines()[-1]
    )
    assert checkpoint("x")["step"] == 2 and not list(here.rglob("*.tmp"))


def test_killed_while_writing_keeps_the_old_file(here):
    path = here / "last.pt"
    runs.save_atomic({"old": torch.ones(100)}, path)
    before = path.read_bytes()
    child = os.fork()
    if child == 0:  # all but the last bytes are written, then SIGKILL
        os.fsync = lambda fd: (os.ftruncate(fd, 500), os.kill(os.getpid(), signal.SIGKILL))
        runs.save_atomic({"new": torch.zeros(100)}, path)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert path.read_bytes() == before


def test_two_jobs_that_keep_one_file_at_once_do_not_disturb_each_other(here, monkeypatch, capsys):
    """The second one writes it whole just before the first one's is renamed."""
    state = {"w": torch.ones(2)}
    writers = {
        "weights.pt": lambda path: runs.save_atomic(state, path, shared=True),
        "features.pt": lambda path: images._write_cache(state, path),
        "jets.npz": lambda path: jets._write_compact(
            path, np.ones((1, 2, 3)), np.ones((1, 2), bool)
        ),
    }
    for name, write in writers.items():
        waiting = [name]

        def replace(source, target, write=write, waiting=waiting, original=os.replace):
            if waiting:
                write(Path(waiting.pop()))
            original(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            write(Path(name))
    assert {path.name for path in here.iterdir()} == set(writers)
    assert not capsys.readouterr().err


# --- non-finite numbers


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_the_run_and_leaves_the_last_good_checkpoint(
    here, monkeypatch, no_curves, bad
):
    calls = []

    def generator_loss(error):
        calls.append(1)
        return error.mean() * (bad if len(calls) == 5 else 1)

    words = "^step 5: L_G is (nan|inf). The last good checkpoint is x/last.pt at step 3$"
    with monkeypatch.context() as patch, pytest.raises(UserError, match=words):
        patch.setattr(train, "generator_loss", generator_loss)
        run_began(*SMOKE, "--steps", 9, "--save-every", 3, "--log-every", 100, "--out", "x")
    assert checkpoint("x")["step"] == 3 and runs.first_nonfinite(checkpoint("x")) is None
    run_began("--resume", "x")  # from which one can go on


SICK = {
    "began": ["--smoke", "--size", "8", "--width", "4", "--code-dim", "4"],
    "bigan": ["--smoke"],
    "cagan": ["--smoke", "--fid-samples", "20"],
    "egan": ["--smoke", "--dataset", "synthetic", "--fid-samples", "16"],
    "mdma": ["--smoke"],
    "pan": ["--smoke"],
    "sagan_wgangp": ["--smoke", "--method", "gan", "--fid-samples", "16"],
}


def watched(monkeypatch, poison):
    """Call poison(step, {name: network, optimiser, …}) as each step begins. The names are those of `Run.resume`."""
    parts = {}

    def resume(self, original=Run.resume, **state):
        parts.update(state)
        return original(self, **state)

    def steps(self, start, total, original=Run.steps):
        for step in original(self, start, total):
            poison(step, parts)
            yield step

    monkeypatch.setattr(Run, "resume", resume)
    monkeypatch.setattr(Run, "steps", steps)


@torch.no_grad()
def fill_with_nan(net):
    for p in net.parameters():
        p.fill_(float("nan"))


def stops_at_step_3(monkeypatch, folder, poison, words):
    """A run that is poisoned at step 3, where it is measured, ends in one line; from step 2 one can go on."""
    module = importlib.import_module(f"{folder}.train")
    for name in ("curves", "draw_features"):  # mdma's pictures take seconds
        monkeypatch.setattr(module, name, lambda *args, **kwargs: None, raising=False)
    cadence = [
        "--steps",
        "6",
        "--save-every",
        "2",
        "--sample-every",
        "3",
        "--log-every",
        "3",
        "--out",
        "x",
    ]
    with monkeypatch.context() as patch:
        watched(patch, poison)
        with pytest.raises(
            UserError, match=f"^step 3: {words}. The last good checkpoint is x/last.pt at step 2$"
        ):
            module.main([*SICK[folder], *cadence])
    saved = runs.load_checkpoint("x/last.pt", folder)
    assert saved["step"] == 2 and runs.first_nonfinite(saved) is None
    assert module.main(["--resume", "x", "--steps", "3"])["step"] == 3


@pytest.mark.filterwarnings("ignore:.*singular covariance")
@pytest.mark.parametrize("folder", SICK)
def test_losses_are_checked_before_anything_is_measured(here, monkeypatch, folder):
    def poison(step, parts):
        if step == 3:
            fill_with_nan(parts["D"])

    stops_at_step_3(monkeypatch, folder, poison, r".*\b\w+ is nan")


@pytest.mark.filterwarnings("ignore:.*singular covariance")
@pytest.mark.parametrize("folder", SICK)
def test_samples_that_are_not_finite_are_neither_drawn_nor_measured(here, monkeypatch, folder):
    """G's weights overflow in the very step whose losses were still finite."""
    due = []

    def poison(step, parts):
        if step == 3 and folder == "egan":  # its generators are replaced each step
            due.append(step)
        elif step == 3:
            G = parts["T" if folder == "pan" else "G"]
            opt = parts[{"bigan": "opt_GE", "pan": "opt_T"}.get(folder, "opt_G")]
            opt.register_step_post_hook(lambda *args: fill_with_nan(G))

    def survivors(self, places, original=SharedLoop.survivors):
        chosen = original(self, places)
        if due:
            due.clear()
            fill_with_nan(chosen.individuals[0][0])
        return chosen

    monkeypatch.setattr(SharedLoop, "survivors", survivors)
    stops_at_step_3(monkeypatch, folder, poison, "the (samples|jets) are not finite")


def test_each_batch_of_samples_is_checked(here):
    run = toy_run("x")
    run.total = 4
    batches = [torch.zeros(2, 1), torch.zeros(2, 1), torch.tensor([[0.0], [float("inf")]])]
    assert len(list(run.checked(1, batches[:2]))) == 2
    with pytest.raises(
        UserError, match="^step 1: the samples are not finite. No checkpoint had been saved in x$"
    ):
        list(run.checked(1, batches))


def test_a_signal_after_a_step_that_was_not_read_logs_no_empty_line(here):
    run = toy_run("x")
    run.total, run.args.log_every = 4, 2
    run.device = torch.device("cuda")  # where values are read at log steps only

    def then_a_signal(step, **values):
        run.stop = signal.SIGTERM  # after `check` found nothing due
        return {}

    run.check = then_a_signal
    run.log(1, L=torch.tensor(1.0))
    assert not (run.dir / "log.jsonl").exists()


def toy_run(out, **more):
    args = Namespace(out=str(out), resume=None, seed=0, steps=4, log_every=1, save_every=2, **more)
    return Run("toy", args, torch.device("cpu"))


def test_non_finite_states_are_never_saved(here):
    run, net = toy_run("x"), torch.nn.BatchNorm1d(2)
    opt = torch.optim.Adam(net.parameters())
    net(torch.randn(4, 2)).pow(3).sum().backward()
    opt.step()
    run.save(1, net=net, opt=opt)
    good = Path("x/last.pt").read_bytes()
    for name, tensor in (
        ("net.weight", net.weight),
        ("net.running_var", net.running_var),
        ("opt.state.0.exp_avg", opt.state[net.weight]["exp_avg"]),
    ):
        kept = tensor.detach().clone()
        with torch.no_grad():
            tensor[1] = float("nan")
        with pytest.raises(
            UserError, match=f"step 2: state.{name} is not finite. The last good .* at step 1"
        ):
            run.save(2, net=net, opt=opt)
        with torch.no_grad():
            tensor.copy_(kept)
    with pytest.raises(UserError, match="state.k is not finite"):
        run.save(2, k=float("inf"))
    assert Path("x/last.pt").read_bytes() == good


# --- files of a run


def test_files_of_a_run(finished):
    assert {p.name for p in finished.iterdir()} == {
        "args.json",
        "env.json",
        "log.jsonl",
        "last.pt",
        "samples",
    }
    args, env = (json.loads((finished / name).read_text()) for name in ("args.json", "env.json"))
    assert args["steps"] == 3 and args["size"] == 8 and args["channels"] == 1
    assert {"commit", "command", "device", "torch", "python"} <= set(env)
    packaged = env["torch"].partition("+")[0]  # only a build's own name may have +cpu or +cu130
    assert packaged == torch.__version__.partition("+")[0]
    saved = checkpoint(finished)  # weights_only=True
    assert set(saved) == {"format", "paper", "step", "args", "data", "state", "rng"}
    assert (saved["format"], saved["paper"], saved["step"], saved["args"]["size"]) == (
        1,
        "began",
        3,
        8,
    )
    lines = read_log(finished / "log.jsonl")
    assert [line["step"] for line in lines] == [2, 3]
    assert set(lines[0]) == {"step", "L_x", "L_G", "L_D", "k", "M", "seconds"}


def test_directories_without_out_do_not_collide(here, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *args: "20260101-000000")
    dirs = [toy_run("").dir for _ in range(3)]
    assert len(set(dirs)) == 3 and all(d.parent == Path("runs/toy") and d.is_dir() for d in dirs)


def test_due(here):
    run = toy_run("x")
    run.total = 10
    assert [step for step in range(1, 11) if run.due(step, 4)] == [4, 8, 10]
    run.stop = signal.SIGINT
    assert run.due(1, 4)


def test_newest_checkpoint(here):
    with pytest.raises(UserError, match="runs/toy"):
        runs.newest_checkpoint("toy")
    for age, name in ((50, "b"), (10, "a"), (90, "c")):
        path = Path("runs/toy", name, "last.pt")
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    assert runs.newest_checkpoint("toy") == Path("runs/toy/a/last.pt")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a file of Linux that is always full")
def test_a_log_that_cannot_be_written_is_named():
    with pytest.raises(
        UserError, match="can't write /dev/full: No space left on device. Make room"
    ):
        runs.append_line("/dev/full", "{}")


def test_a_line_cut_short_by_a_full_disk_costs_no_other_line(tmp_path):
    log = tmp_path / "log.jsonl"
    runs.append_line(log, '{"step": 1}')
    with open(log, "a") as f:
        f.write('{"st')
    runs.append_line(log, '{"step": 3}')
    runs.append_line(log, '{"step": 4}')
    assert [line["step"] for line in read_log(log)] == [1, 3, 4]
    assert log.read_text().count("\n") == 4
