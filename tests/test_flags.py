"""Every flag of every train.py matters: another value of it gives another run.

Flags are found in the parsers, so a new one is tested as soon as it is there. "Another run" means
other weights, other logged metrics or other state in last.pt after a few --smoke steps; what an
optimiser only remembers of its arguments does not count. Which other values a flag has comes from
the parser, too: each other choice, on for off, numbers doubled or one larger. NEEDS says what must
stand beside a flag so that it can act at all, VALUES gives words that a parser cannot know, and
EXEMPT the few flags that are not tested here.
"""

import argparse
import functools
import importlib
import tempfile
from pathlib import Path

import pytest
import torch

from common.cli import UserError
from common.runs import read_log
from tests.helpers import FOLDERS, smoke_run

EXEMPT = {  # what is not tested here, and why
    "help": "ends the program",
    "data_dir": "a place; synthetic data come from none",
    "out": "a place",
    "resume": "test_runs.py: going on is exact",
    "device": "the same up to rounding; tests run on the CPU",
    "skip_bad": "no drawn image is bad: test_data.py makes some",
    "quick": "a preset of other flags",
    "smoke": "a preset of other flags, which all runs here have",
    "began.encoder_weights": "needs a file: test_began.py",
    "cagan.attributes": "needs CelebA's files: test_cagan.py makes some",
    "egan.population": "the same up to rounding: test_steps.py, test_egan.py",
    "mdma.amp": "refused: jets need float32",
    "mdma.dataset": "needs files: test_mdma_data.py makes some",
    "pan.direction": "needs pairs of files: test_pan_train.py makes some",
    "mdma.veto": "acts where a run gets worse: test_mdma.py",
    "sagan_wgangp.extractor": "the other one needs Inception's weights",
}
TRACELESS = {"log_every", "sample_every", "save_every", "eager"}  # must change no weight
BASE = {  # flags of all runs of a folder
    "began": "--steps 3",
    "bigan": "--steps 3",
    "cagan": "--steps 3 --width 4",
    "egan": "--steps 3 --mu 2",
    "mdma": "--steps 3 --lr 1e-3",
    "pan": "--steps 3",
    "sagan_wgangp": "--steps 3 --method wgan_gp",
}
NEEDS = {  # what must stand beside a flag so that it can act
    "began.gamma": "--lambda-k 1",
    "began.lr_halve_patience": "--steps 5 --lr-g 0.1 --lr-d 0.1",
    "bigan.lr_weight": "--method joint-lr",
    "cagan.lambda_cls": "--loss modified_ac",
    "cagan.lambda_gp": "--adv wgan-gp --n-critic 1",
    "cagan.mix_from": "--unbalanced 1 1",
    "cagan.mix_ramp": "--unbalanced 1 1",
    "egan.channels": "--dataset synthetic --width-g 4 --width-d 4",
    "egan.fid_samples": "--dataset synthetic --width-g 4 --width-d 4",
    "egan.gamma": "--lr-g 0.05 --lr-d 0.01 --steps 6",
    "egan.gp": "--d-norm none",
    "egan.size": "--dataset synthetic --width-g 4 --width-d 4",
    "mdma.gp": "--objective wgan-gp",
    "pan.bottleneck": "--task inpainting --size 64",
    "pan.dropout": "--net unet6 --size 64",
    "pan.lambda_pixel": "--pixel l1",
    "pan.net": "--size 64",
    "pan.task": "--net unet6 --size 64 --channels 3",
    "sagan_wgangp.batch_norm": "--gp 0",
}
VALUES = {  # words that a parser cannot know
    "mdma.train_jets": ("32",),
    "bigan.hold_out": ("disc", "ring"),
    "cagan.fid_samples": ("20",),
    "cagan.unbalanced": ("2 1", "1 2"),
    "pan.lambdas": ("1 1.5 1.5 1", "0 0 0 0"),
    "pan.net": ("unet6",),
    "sagan_wgangp.attention": ("auto", "4", "4,8"),
}


STATEFUL = {  # networks and options that looking might disturb
    "cagan": ("--norm batch",),
    "sagan_wgangp": ("--method gan", "--method sagan"),
    "mdma": ("--ema 0.9",),
    "egan": ("--selection random",),
    "pan": ("--net unet6 --size 64 --dropout 0.5",),
}
NETWORKS = tuple(f".state.{name}." for name in ("G", "D", "E", "T", "G_ema", "population"))


class Caught(Exception):
    """Carries a parser out of parse_args."""


@functools.cache
def parser_of(folder):
    """The parser of a folder's train.py, caught where it is first used."""

    def catch(parser, *args, **kwargs):
        raise Caught(parser)

    train = importlib.import_module(f"{folder}.train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", catch)
        with pytest.raises(Caught) as caught:
            train.parse_args([])
    return caught.value.args[0]


def actions(folder):
    """{dest: argparse's action}. Of a flag with two names, as --x and --no-x, one."""
    return {action.dest: action for action in parser_of(folder)._actions}


@functools.cache
def run(folder, words):
    """(args, outcome) of a run with BASE and `words`. outcome: {name: tensor or number}."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "run"
        flags = ["--log-every", 1, "--data-dir", directory, *BASE[folder].split(), *words.split()]
        checkpoint = smoke_run(folder, out, *flags)
        log = read_log(out / "log.jsonl")
    state = {k: v for k, v in checkpoint["state"].items() if not k.startswith("opt_")}
    if "population" in state:
        state["population"] = state["population"]["params"]
    log = [{k: v for k, v in line.items() if k not in ("seconds", "peak_MiB")} for line in log]
    return checkpoint["args"], flat({"state": state, "log": log})


def flat(value, name=""):
    """{name: tensor, number or text} of nested dicts and lists."""
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: value}
    return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}.{key}").items()}


def same(a, b):
    """Two outcomes have the same names and values."""
    return a.keys() == b.keys() and all(
        torch.equal(a[k], b[k]) if torch.is_tensor(a[k]) else a[k] == b[k] for k in a
    )


def other_values(folder, dest, value):
    """(how to type other values of a flag, whether each of them must matter)."""
    action, name = actions(folder)[dest], f"{folder}.{dest}"
    flag = action.option_strings[-1]
    if action.nargs == 0:
        return [flag], True
    if name in VALUES or action.choices:
        words = VALUES.get(name, action.choices)
        return [f"{flag} {word}" for word in words if word != value], True
    v = value or 0
    numbers = [2 * v, v + 1, 1, 8, 0, v / 2, 0.5]
    if action.type is not float and not isinstance(v, float):
        numbers = [number for number in numbers if number == int(number)]
    return [f"{flag} {number:g}" for number in numbers if number != value], False


TESTED = [
    (folder, dest)
    for folder in FOLDERS
    for dest in actions(folder)
    if not {dest, f"{folder}.{dest}"} & {*EXEMPT, *TRACELESS}
]


@pytest.mark.parametrize("folder, dest", TESTED)
def test_a_flag_matters(folder, dest):
    needs = NEEDS.get(f"{folder}.{dest}", "")
    args, base = run(folder, needs)
    words, each = other_values(folder, dest, args[dest])
    assert words, "no other value is known: put some into VALUES"
    without_effect, with_effect, refused = [], [], []
    for typed in words:
        try:
            other = run(folder, f"{needs} {typed}")[1]
        except (UserError, SystemExit) as e:
            refused.append(f"{typed}: {e}")
            continue
        (without_effect if same(base, other) else with_effect).append(typed)
        if with_effect and not each:
            break
    assert with_effect, f"no effect: {without_effect}; refused: {refused}"
    assert not each or not without_effect, f"no effect: {without_effect}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_same_flags_give_the_same_run(folder):
    """Else every flag would seem to matter."""
    assert same(run(folder, "")[1], run(folder, "--log-every 1")[1])


TRACED = [
    (folder, dest, words)
    for folder in FOLDERS
    for dest in sorted(TRACELESS)
    if dest in actions(folder)
    for words in ("", *STATEFUL.get(folder, ()))
]


@pytest.mark.parametrize("folder, dest, words", TRACED)
def test_looking_leaves_no_trace_in_the_weights(folder, dest, words):
    """Generators, gradients and BatchNorm's mode are left as they were found."""
    action = actions(folder)[dest]
    flag, switch = action.option_strings[-1], action.nargs == 0
    a = run(folder, f"{words} {flag}" if switch else f"{words} {flag} 1")[1]
    b = run(folder, words if switch else f"{words} {flag} 100")[1]
    weights = [name for name in a if torch.is_tensor(a[name]) and name.startswith(NETWORKS)]
    assert weights
    assert all(torch.equal(a[name], b[name]) for name in weights)


def test_lists_name_flags_that_there_are():
    there = {f"{folder}.{dest}" for folder in FOLDERS for dest in actions(folder)}
    there |= {name.partition(".")[2] for name in there}
    assert {*EXEMPT, *TRACELESS, *NEEDS, *VALUES} <= there
