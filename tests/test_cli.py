"""What is typed, what presets and a resumed run's arguments make of it, and what a mistake gets."""

import errno
import importlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch

import began.train
from common.cli import (
    CHANGEABLE,
    Parser,
    UserError,
    file_path,
    run_main,
)
from common.arguments import (
    EvalArgs,
    FilePath,
    ImageRunArgs,
    Part,
    comments_and_sections,
    parse_args,
    part_of,
    refuse_out_of_range,
    usable_cores,
)
from common.data import DATASETS

REPO = Path(__file__).resolve().parent.parent
FOLDERS = sorted(p.parent.name for p in REPO.glob("*/train.py"))
PRESETS = {
    "arch": {"b": dict(width=20, lr=0.2, depth=2)},
    "quick": {True: dict(width=30, steps=5)},
    "smoke": {True: dict(width=40, dataset="toy")},
}


@dataclass
class Table(ImageRunArgs):
    # --- paper
    arch: Literal["a", "b"] = "a"
    width: int = 10  # units per layer
    depth: int = 1
    # how fast it learns,
    # a float
    lr: float = 0.1  # (§2)
    beta: float = 0.5  # in [0, 1)
    patience: int = 0  # 0: never; in [0, ∞)
    pair: tuple[int, int] | None = None
    names: list[str] | None = None
    part: Part | None = None
    weights: FilePath | None = None

    # --- run
    dataset: Literal["real", "toy"] = "real"
    steps: int = 100  # updates
    batch_size: int = 8


def flags(*argv, presets=PRESETS):
    return parse_args(Table, "doc", list(argv), presets)


# --- a dataclass as the table of arguments


def test_a_field_gives_its_flag_type_default_and_help(capsys):
    args = flags("--pair", "3", "4", "--names", "x", "y", "--lr", "1", "--quick", presets=None)
    assert (args.pair, args.names, args.lr, args.quick) == ([3, 4], ["x", "y"], 1.0, True)
    assert isinstance(args, Table) and flags().lr == 0.1 and flags().names is None
    with pytest.raises(SystemExit) as e:
        flags("--help")
    page = " ".join(capsys.readouterr().out.split())
    assert e.value.code == 0 and "how fast it learns, a float (§2) (default: 0.1)" in page
    assert (
        page.index("paper: --arch")
        < page.index("--width WIDTH units per layer")
        < page.index("run:")
    )
    assert page.index("run:") < page.index("--steps STEPS updates (default: 100)")


@pytest.mark.parametrize(
    "words, message",
    [
        (["--width", "0"], "--width 0: must be at least 1"),
        (["--lr", "-1"], "--lr -1.0: must be at least 0 and finite"),
        (["--lr", "nan"], "--lr nan: must be at least 0 and finite"),
        (["--lr", "inf"], "--lr inf: must be at least 0 and finite"),
        (["--beta", "1"], "--beta 1.0: must be at least 0 and below 1"),
        (["--patience", "-1"], "--patience -1: must be at least 0"),
        (["--pair", "3", "0"], "--pair 0: must be at least 1"),
        (["--seed", "-1"], "--seed -1: must be at least 0 and below 9.22337e+18"),
    ],
)
def test_a_value_outside_of_the_stated_range_is_refused(words, message):
    with pytest.raises(UserError) as e:
        flags(*words)
    assert str(e.value) == message


@pytest.mark.parametrize("text", ["3/2", "2/2", "0/0", "x", "1", "-1/2", "0/2/3", "1/2 ", "½/2"])
def test_a_bad_part_ends_in_one_line(text, capsys):
    with pytest.raises(SystemExit) as e:
        flags(f"--part={text}")
    assert e.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: argument --part: {text} is no part: give i/n with i from 0 to n"
    )


def test_the_parts_of_a_list_are_disjoint_and_all_of_it():
    assert flags("--part", "0/1").part == (0, 1) and flags("--part", "3/10").part == (3, 10)
    assert [part_of(list(range(7)), (i, 3)) for i in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert part_of([5, 6], None) == [5, 6] and part_of([5], (1, 2)) == []


def test_values_at_the_ends_of_a_range_are_taken():
    args = flags("--beta", "0", "--lr", "0", "--patience", "0", "--seed", str(2**62))
    assert (args.beta, args.lr, args.patience, args.seed) == (0, 0, 0, 2**62)


@pytest.mark.parametrize("script", ["train", "eval", "reproduce"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_every_default_lies_in_its_own_range_and_every_flag_is_explained(folder, script):
    """A comment that only mentions an interval would be taken for the field's range."""
    if not (Path(began.__file__).parent.parent / folder / f"{script}.py").exists():
        return
    module = importlib.import_module(f"{folder}.{script}")
    table = getattr(module, "Args", EvalArgs)
    refuse_out_of_range(table(), table)
    comments, sections = comments_and_sections(table)
    unexplained = {name for name, comment in comments.items() if not comment}
    assert not unexplained, unexplained
    assert "options" not in sections.values()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_as_many_workers_as_the_cores_that_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    assert usable_cores() == 3
    defaults = runpy.run_module("mdma.simulate", run_name="again")["Args"]()
    assert defaults.workers == 3
    monkeypatch.delattr(os, "sched_getaffinity")  # macOS, Windows
    assert usable_cores() == 64


def test_presets_may_depend_on_what_was_typed():
    def presets(args):
        return {"quick": {True: dict(width=30 if args.dataset == "toy" else 31)}}

    assert flags("--quick", "--dataset", "toy", presets=presets).width == 30
    assert flags("--quick", presets=presets).width == 31


def test_a_preset_may_depend_on_the_device():
    presets = {"quick": {True: dict(dataset=lambda device: "toy" if device == "cpu" else "real")}}
    assert flags("--quick", "--device", "cpu", presets=presets).dataset == "toy"
    assert flags("--quick", presets=presets).dataset == "real"
    presets = {"quick": {True: dict(steps=lambda device: pytest.fail("what was typed is taken"))}}
    assert flags("--quick", "--steps", "3", presets=presets).steps == 3


def saved_run(directory, *argv):
    directory.mkdir()
    (directory / "args.json").write_text(json.dumps(vars(flags(*argv))))
    return str(directory)


# --- defaults < presets < typed


def test_defaults_without_presets():
    args = flags()
    assert (args.width, args.depth, args.lr, args.steps, args.dataset) == (10, 1, 0.1, 100, "real")
    assert (args.quick, args.smoke, args.resume, args.out) == (False, False, None, None)


def test_presets_are_chained_in_order():
    args = flags("--arch", "b")
    assert (args.width, args.depth, args.lr, args.steps) == (20, 2, 0.2, 100)
    args = flags("--quick", "--arch", "b")  # the order of PRESETS counts, not the typed one
    assert (args.width, args.depth, args.lr, args.steps) == (30, 2, 0.2, 5)
    args = flags("--smoke", "--quick", "--arch", "b")
    assert (args.width, args.depth, args.lr, args.steps, args.dataset) == (40, 2, 0.2, 5, "toy")


def test_typed_beats_presets_also_where_it_is_the_default():
    args = flags(
        "--smoke", "--quick", "--arch", "b", "--width", "10", "--lr", "0.1", "--steps", "7"
    )
    assert (args.width, args.depth, args.lr, args.steps, args.dataset) == (10, 2, 0.1, 7, "toy")


def test_quick_says_what_it_changes_and_nothing_else(capsys):
    flags("--quick", "--steps", "7")
    err = capsys.readouterr().err
    assert "--quick changes the paper's settings: width 10 -> 30" in err and "steps" not in err
    flags("--arch", "b")
    assert capsys.readouterr().err == ""  # another paper's settings, not a departure


def test_no_abbreviations(capsys):
    with pytest.raises(SystemExit) as e:
        flags("--wid", "3")
    assert e.value.code == 2 and "--wid" in capsys.readouterr().err


def test_each_sample_step_is_a_log_step():
    """What a script measures at --sample-every is written at log steps only."""
    assert flags("--log-every", "10", "--sample-every", "25").log_every == 5
    assert flags("--log-every", "10", "--sample-every", "30").log_every == 10


@pytest.mark.parametrize("steps", ["0", "-20"])
def test_a_log_interval_below_one_is_refused(steps):
    with pytest.raises(UserError, match="--log-every .* at least 1"):
        flags(f"--log-every={steps}")


# --- --resume


def test_resume_takes_the_saved_arguments(tmp_path):
    run = saved_run(
        tmp_path / "run",
        "--arch",
        "b",
        "--quick",
        "--lr",
        "0.7",
        "--seed",
        "3",
        "--out",
        "somewhere",
    )
    args = flags("--resume", run)
    assert (args.arch, args.width, args.depth, args.lr, args.steps, args.seed, args.quick) == (
        "b",
        30,
        2,
        0.7,
        5,
        3,
        True,
    )
    assert args.resume == run and args.out is None


def test_resume_takes_a_file_that_has_moved(tmp_path):
    run = saved_run(tmp_path / "run", "--weights", "there/w.pt")
    assert flags("--resume", run, "--weights", "here/w.pt").weights == "here/w.pt"
    with pytest.raises(UserError, match="--weights here/v.pt: .* was started with there/w.pt"):
        flags("--resume", run, "--weights", "here/v.pt")


def test_resume_takes_no_presets_again(tmp_path):
    run = saved_run(tmp_path / "run", "--quick", "--width", "11")
    assert flags("--resume", run, "--quick").width == 11


@pytest.mark.parametrize(
    "flag, value, saved",
    [
        ("--width", "21", "20"),
        ("--lr", "0.3", "0.2"),
        ("--batch-size", "9", "8"),
        ("--seed", "1", "0"),
        ("--amp", "bf16", "off"),
        ("--dataset", "toy", "real"),
    ],
)
def test_resume_refuses_a_changed_flag_by_name(tmp_path, flag, value, saved, capsys):
    run = saved_run(tmp_path / "run", "--arch", "b")
    with pytest.raises(SystemExit) as e:
        run_main(lambda: flags("--resume", run, flag, value))
    lines = capsys.readouterr().err.splitlines()
    assert e.value.code == 2 and len(lines) == 1
    assert lines[0].startswith(f"error: {flag} {value}: ") and f"started with {saved}." in lines[0]


def test_resume_allows_run_flags_to_change_and_paper_flags_to_be_repeated(tmp_path):
    run = saved_run(tmp_path / "run", "--arch", "b")
    args = flags(
        "--resume",
        run,
        "--steps",
        "200",
        "--save-every",
        "7",
        "--log-every",
        "3",
        "--sample-every",
        "9",
        "--device",
        "cpu",
        "--data-dir",
        "elsewhere",
        "--width",
        "20",
        "--lr",
        "0.20",
    )
    assert (args.steps, args.save_every, args.log_every, args.sample_every) == (200, 7, 3, 9)
    assert (args.device, args.data_dir, args.width) == ("cpu", "elsewhere", 20)


@pytest.mark.parametrize(
    "folder, words, saved",
    [
        ("sagan_wgangp", "--method gan --attention auto", ("attention", "16")),
        ("pan", "--task deraining --net auto", ("net", "deraining")),
        ("egan", "--mutations minimax heuristic", ("mutations", ["heuristic", "minimax"])),
    ],
)
def test_the_command_of_a_run_resumes_it(tmp_path, folder, words, saved):
    """Also where the script saves what it made of a flag: a side for auto, mutations in their order."""
    parse = importlib.import_module(f"{folder}.train").parse_args
    words = ["--quick", *words.split()]
    if folder == "egan":
        words += ["--dataset", "8gaussians"]
    started = json.loads(json.dumps(vars(parse(words))))
    assert started[saved[0]] == saved[1]
    (tmp_path / "args.json").write_text(json.dumps(started))
    again = vars(parse([*words, "--resume", str(tmp_path)]))
    assert json.loads(json.dumps(again)) == started | {"resume": str(tmp_path)}


def test_auto_resumes_whatever_the_data_set_was(tmp_path):
    """cagan saves the one that it found."""
    parse = importlib.import_module("cagan.train").parse_args
    (tmp_path / "args.json").write_text(json.dumps(vars(parse(["--dataset", "fashion-mnist"]))))
    resume = ["--resume", str(tmp_path), "--dataset"]
    assert parse([*resume, "auto"]).dataset == "fashion-mnist"
    with pytest.raises(UserError, match="--dataset mnist: .* started with fashion-mnist"):
        parse([*resume, "mnist"])


def test_other_mutations_are_another_run(tmp_path):
    parse = importlib.import_module("egan.train").parse_args
    (tmp_path / "args.json").write_text(json.dumps(vars(parse(["--mutations", "minimax"]))))
    with pytest.raises(UserError, match="--mutations"):
        parse(["--resume", str(tmp_path), "--mutations", "minimax", "heuristic"])


def test_only_flags_that_leave_the_mathematics_alone_may_change():
    assert CHANGEABLE == {
        "steps",
        "data_dir",
        "resume",
        "device",
        "log_every",
        "sample_every",
        "save_every",
    }


def test_resume_names_flags_of_another_version(tmp_path):
    run = saved_run(tmp_path / "run")
    saved = json.loads((tmp_path / "run/args.json").read_text())
    (tmp_path / "run/args.json").write_text(json.dumps(saved | {"kappa": 1}))
    with pytest.raises(UserError, match="kappa"):
        flags("--resume", run)


def test_resume_takes_a_checkpoint_for_its_directory(tmp_path):
    run = saved_run(tmp_path / "run", "--width", "11")
    for name in ("last.pt", "best.pt"):
        (tmp_path / "run" / name).touch()
    args = flags("--resume", f"{run}/last.pt")
    assert args.resume == run and args.width == 11
    with pytest.raises(
        UserError, match="--resume .*best.pt: a run goes on from the last.pt in its directory"
    ):
        flags("--resume", f"{run}/best.pt")


# --- paths


SCRIPTS = [
    *(
        f"{path.parent.name}.{path.stem}"
        for name in ("train", "eval", "reproduce")
        for path in sorted(REPO.glob(f"*/{name}.py"))
    ),
    "cagan.toy",
    "mdma.simulate",
    "sagan_wgangp.surfaces",
    "mdma.twin",
    "common.data",
    "common.metrics.__main__",
    "common.metrics.lenet",
]
PLACES = re.compile("DIR|FILE|PATH|PNG|GLOB")
PLACE_FLAGS = ("data_dir", "out", "resume", "ckpt", "grid_out", "export", "runs")
PLACE_FLAGS += ("inception_weights", "encoder_weights", "generated", "reference", "score")


class Stop(Exception):
    """Raised as soon as a script has made its parser."""


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_that_names_a_place_expands_the_home_directory(script, monkeypatch):
    module, parsers = importlib.import_module(script), []

    def parse_known_args(self, *args):
        parsers.append(self)
        raise Stop

    monkeypatch.setattr(Parser, "parse_known_args", parse_known_args)
    with pytest.raises(Stop):
        (module.parse_args if hasattr(module, "parse_args") else module.main)()
    places = {
        action.dest: action.type
        for action in parsers[0]._actions
        if PLACES.search(str(action.metavar)) or action.dest in PLACE_FLAGS
    }
    assert places and set(places.values()) == {file_path}, places


def test_the_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    args = flags("--data-dir=~/data", "--out", "~/run")
    assert (args.data_dir, args.out) == ("/home/someone/data", "/home/someone/run")
    assert (
        began.train.parse_args(["--encoder-weights=~/w.pth"]).encoder_weights
        == "/home/someone/w.pth"
    )
    mdma = importlib.import_module("mdma.train")
    assert mdma.parse_args(["--dataset", "~/jets.h5"]).dataset == "/home/someone/jets.h5"
    assert mdma.parse_args([]).dataset == "jetnet"


def test_a_run_of_before_goes_on_with_the_home_directory_that_it_was_given(tmp_path, monkeypatch):
    """Its args.json holds the ~ that was typed."""
    monkeypatch.setenv("HOME", "/home/someone")
    run = saved_run(tmp_path / "run")
    saved = json.loads((tmp_path / "run/args.json").read_text())
    (tmp_path / "run/args.json").write_text(json.dumps(saved | {"data_dir": "~/data"}))
    assert flags("--resume", run).data_dir == "/home/someone/data"
    assert flags("--resume", run, "--data-dir", "other").data_dir == "other"


# --- mistakes


def refused(capsys, *argv):
    """The one line on stderr that began.train gives these flags."""
    with pytest.raises(SystemExit) as e:
        run_main(lambda: began.train.main(list(argv)))
    assert e.value.code == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("--smoke changes")]
    assert captured.out == "" and "Traceback" not in captured.err
    return lines


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--gamma", "2"),
        ("--gamma", "-0.1"),
        ("--gamma", "nan"),
        ("--lr-g", "-1"),
        ("--lambda-k", "nan"),
        ("--beta1", "1"),
        ("--size", "50"),
        ("--size", "2"),
        ("--size", "4"),
        ("--device", "tpu"),
    ],
)
def test_bad_values_get_one_line(here, capsys, flag, value):
    lines = refused(capsys, "--smoke", flag, value)
    assert len(lines) == 1 and lines[0].startswith("error: ") and value in lines[0]
    assert not list(here.iterdir())  # refused before a run directory was made


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--steps", "0"),
        ("--steps", "-3"),
        ("--steps", "many"),
        ("--batch-size", "0"),
        ("--save-every", "0"),
        ("--width", "0"),
        ("--z-dim", "0"),
        ("--code-dim", "-1"),
        ("--lr-halve-patience", "-1"),
        ("--dataset", "imagenet"),
        ("--amp", "fp8"),
    ],
)
def test_argparse_refuses(here, capsys, flag, value):
    lines = refused(capsys, "--smoke", flag, value)
    assert flag in lines[-1] and value.lstrip("-") in lines[-1]
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    "words, line",
    [
        (["--gama", "0.7"], "unknown flag --gama: did you mean --gamma?"),
        (["--batch_size=3"], "unknown flag --batch_size: did you mean --batch-size?"),
        (["-gamma", "0.7"], "unknown flag -gamma: did you mean --gamma?"),
        (
            ["--lr", "1e-4"],
            "unknown flag --lr: did you mean --lr-g or --lr-d or --lr-halve-patience?",
        ),
        (["--qqq"], "unknown flag --qqq"),
        (
            ["--gama", "1", "--stps", "3"],
            "unknown flag --gama: did you mean --gamma?; unknown flag --stps: did you mean --steps?",
        ),
        (["fashion-mnist"], "no flag takes fashion-mnist"),
        (
            ["--out", "--quick"],
            "argument --out: expected one argument; one that begins with a dash: --out=VALUE",
        ),
    ],
)
def test_an_unknown_flag_is_told_its_nearest_neighbour(here, capsys, words, line):
    assert refused(capsys, "--smoke", *words) == [f"error: {line} (--help explains the flags)"]
    assert not list(here.iterdir())


def test_make_names_the_folders_that_there_are(repo):
    # `make test` hands its own flags on, and a make below it names its directory
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}

    def make(*goals):
        return subprocess.run(
            ["make", "-n", *goals], cwd=repo, env=env, capture_output=True, text=True, timeout=60
        )

    for verb in ("train", "quick", "eval", "smoke"):
        done = make(f"{verb}-foo")
        assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1
        assert f"there is no {verb}-foo: choose one of" in done.stderr
        assert all(f"{verb}-{folder}" in done.stderr for folder in FOLDERS)
    done = make("data-foo")
    assert done.returncode == 2 and all(
        f"data-{name}" in done.stderr for name in (*DATASETS, "jets")
    )
    for flags, words in (
        ("--out X", "leave --out out"),
        ("--jet-type g", "as JET=g"),
        ("--dataset my.h5", "make train-mdma"),
        ("--data-dir X", "as DATA=DIR"),
    ):
        done = make("quick-mdma", f"ARGS={flags}")
        assert done.returncode == 2 and words in done.stderr and done.stdout == ""
    for goal in (
        "train-began",
        "quick-mdma",
        "data-jets",
        "data-mnist",
        "smoke",
        "compare-sagan_wgangp",
    ):
        assert make(goal).returncode == 0, goal


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_number_flag_of_every_folder_refuses_nonsense(folder, capsys):
    """NaN, infinity and a negative value, for each flag that takes a fraction; seeds that no generator takes."""
    parse_args = importlib.import_module(f"{folder}.train").parse_args
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    help_text = capsys.readouterr().out
    fractions = [
        f
        for f in (
            "--lr",
            "--lr-g",
            "--lr-d",
            "--beta1",
            "--beta2",
            "--beta1-d",
            "--gamma",
            "--gp",
            "--lambda-k",
            "--lambda-cls",
            "--lambda-gp",
            "--clip",
            "--cycle",
            "--lr-weight",
            "--lr-ratio",
            "--weight-decay",
            "--ema",
            "--jitter",
            "--m",
            "--dropout",
            "--lambda-gan",
            "--lambda-pixel",
            "--lr-factor",
        )
        if f"{f} " in help_text
    ]
    assert len(fractions) >= 3
    for flag in fractions:
        for value in ("nan", "inf", "-1"):
            with pytest.raises(UserError, match=f"{flag} {float(value)}: must be at least 0"):
                parse_args([flag, value])
    for value in ("-1", "99999999999999999999999"):
        with pytest.raises(SystemExit) as e:
            run_main(lambda value=value: parse_args(["--seed", value]))
        assert e.value.code == 2 and "--seed" in capsys.readouterr().err


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 / 0)
    with pytest.raises(ConnectionError):
        run_main(lambda: (_ for _ in ()).throw(ConnectionError(errno.ECONNRESET, "reset")))


def test_a_warning_is_one_line_without_code(repo):
    script = """
import warnings
from common.cli import run_main
run_main(lambda: [warnings.warn("few"), warnings.warn("old", FutureWarning)])"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=repo, capture_output=True, text=True, check=True
    )
    ours, *other = done.stderr.splitlines()
    assert ours == "warning: few" and "FutureWarning: old" in other[0]


def test_a_full_gpu_gets_one_line_and_what_helps(capsys):
    def main():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has …")

    with pytest.raises(SystemExit) as e:
        run_main(main)
    lines = capsys.readouterr().err.splitlines()
    assert e.value.code == 2 and len(lines) == 1
    assert lines[0].startswith("error: the GPU's memory is full: give a smaller --batch-size, ")


@pytest.mark.parametrize(
    "stop, said",
    [
        ("raise KeyboardInterrupt", "stopped by Ctrl-C\n"),
        ("raise KeyboardInterrupt('It is at step 4')", "stopped by Ctrl-C. It is at step 4\n"),
        ("sys.exit(130)", ""),  # what the loop of a training has said itself
    ],
)
def test_ctrl_c_gets_one_line_and_ends_a_shells_loop(python, stop, said):
    script = f"import sys\nfrom common.cli import run_main\ndef main():\n    {stop}\nrun_main(main)"
    done = python("-c", script)
    # not an exit status of 130, after which a shell starts the next one of a loop
    assert done.returncode == -signal.SIGINT and done.stderr == said


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.ENOSPC, "No space left on device. Make room, or choose another place with the flag"),
        (errno.EDQUOT, "Disk quota exceeded. Make room, or choose another place with the flag"),
        (
            errno.EACCES,
            "Permission denied. Ask its owner for permission, or choose another place with the flag",
        ),
        (
            errno.EROFS,
            "Read-only file system. Nothing can be written there: choose another place with the flag",
        ),
        (
            errno.ENOTDIR,
            "Not a directory. A part of this path is a file: choose another place with the flag",
        ),
        (
            errno.EEXIST,
            "File exists. There is a file where a directory is to be made: choose another place",
        ),
        (
            errno.EISDIR,
            "Is a directory. It is a directory where a file is asked for: name a file in it",
        ),
    ],
)
def test_what_the_disk_refuses_gets_one_line_and_what_helps(capsys, number, words):
    with pytest.raises(SystemExit) as e:
        run_main(lambda: (_ for _ in ()).throw(OSError(number, "words", "runs/x/log.jsonl")))
    lines = capsys.readouterr().err.splitlines()
    assert e.value.code == 2 and len(lines) == 1
    assert lines[0].startswith(f"error: runs/x/log.jsonl: {words}")


def test_a_place_below_a_file_gets_one_line(here, capsys):
    Path("file").write_text("kept")
    (line,) = refused(capsys, "--smoke", "--size", "8", "--width", "4", "--out", "file/x")
    assert line.startswith("error: file/x") and "Not a directory" in line
    assert Path("file").read_text() == "kept"


def test_started_as_a_file_it_says_how_to_start_it(repo, python, env, monkeypatch):
    monkeypatch.delitem(env, "PYTHONPATH")
    done = python(repo / "began/eval.py")  # train.py: test_layout
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "python -m began.eval" in done.stderr


def test_help_is_shown_by_a_terminal_that_lacks_greek_letters(python, env, monkeypatch):
    monkeypatch.setitem(env, "PYTHONIOENCODING", "ascii")
    done = python("-m", "began.train", "--help")
    assert (done.returncode, done.stderr) == (0, "") and "?, diversity ratio" in done.stdout


def test_help_shows_the_docstring_and_defaults(capsys):
    with pytest.raises(SystemExit) as e:
        began.train.parse_args(["--help"])
    out = capsys.readouterr().out
    assert (
        e.value.code == 0
        and "  python -m began.train --resume DIR" in out
        and "(default: 48)" in out
    )
