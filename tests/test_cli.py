"""What is typed, what presets and a resumed run's arguments make of it, and what a mistake gets."""

import errno
import importlib
import json

import pytest

import began.train
from common.cli import CHANGEABLE, UserError, add_run_args, new_parser, parse, run_main

PRESETS = {"arch": {"b": dict(width=20, lr=0.2, depth=2)},
           "quick": {True: dict(width=30, steps=5)},
           "smoke": {True: dict(width=40, dataset="toy")}}


def flags(*argv, presets=PRESETS):
    parser = new_parser("doc")
    paper = parser.add_argument_group("paper")
    paper.add_argument("--arch", choices=("a", "b"), default="a")
    paper.add_argument("--width", type=int, default=10)
    paper.add_argument("--depth", type=int, default=1)
    paper.add_argument("--lr", type=float, default=0.1)
    add_run_args(parser, steps=100, batch_size=8, datasets=("real", "toy"), dataset="real", steps_help="steps",
                 batch_help="batch")
    return parse(parser, list(argv), presets)


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
    args = flags("--quick", "--arch", "b")                       # the order of PRESETS counts, not the typed one
    assert (args.width, args.depth, args.lr, args.steps) == (30, 2, 0.2, 5)
    args = flags("--smoke", "--quick", "--arch", "b")
    assert (args.width, args.depth, args.lr, args.steps, args.dataset) == (40, 2, 0.2, 5, "toy")


def test_typed_beats_presets_also_where_it_is_the_default():
    args = flags("--smoke", "--quick", "--arch", "b", "--width", "10", "--lr", "0.1", "--steps", "7")
    assert (args.width, args.depth, args.lr, args.steps, args.dataset) == (10, 2, 0.1, 7, "toy")


def test_quick_says_what_it_changes_and_nothing_else(capsys):
    flags("--quick", "--steps", "7")
    err = capsys.readouterr().err
    assert "--quick changes the paper's settings: width 10 -> 30" in err and "steps" not in err
    flags("--arch", "b")
    assert capsys.readouterr().err == ""                         # another paper's settings, not a departure


def test_no_abbreviations(capsys):
    with pytest.raises(SystemExit) as e:
        flags("--wid", "3")
    assert e.value.code == 2 and "--wid" in capsys.readouterr().err


def test_each_sample_step_is_a_log_step():
    """What a script measures at --sample-every is written at log steps only."""
    assert flags("--log-every", "10", "--sample-every", "25").log_every == 5
    assert flags("--log-every", "10", "--sample-every", "30").log_every == 10


# --- --resume


def test_resume_takes_the_saved_arguments(tmp_path):
    run = saved_run(tmp_path / "run", "--arch", "b", "--quick", "--lr", "0.7", "--seed", "3", "--out", "somewhere")
    args = flags("--resume", run)
    assert (args.arch, args.width, args.depth, args.lr, args.steps, args.seed, args.quick) == \
        ("b", 30, 2, 0.7, 5, 3, True)
    assert args.resume == run and args.out is None


def test_resume_takes_no_presets_again(tmp_path):
    run = saved_run(tmp_path / "run", "--quick", "--width", "11")
    assert flags("--resume", run, "--quick").width == 11


@pytest.mark.parametrize("flag, value, saved", [("--width", "21", "20"), ("--lr", "0.3", "0.2"),
                                                ("--batch-size", "9", "8"), ("--seed", "1", "0"),
                                                ("--amp", "bf16", "off"), ("--dataset", "toy", "real")])
def test_resume_refuses_a_changed_flag_by_name(tmp_path, flag, value, saved, capsys):
    run = saved_run(tmp_path / "run", "--arch", "b")
    with pytest.raises(SystemExit) as e:
        run_main(lambda: flags("--resume", run, flag, value))
    lines = capsys.readouterr().err.splitlines()
    assert e.value.code == 2 and len(lines) == 1
    assert lines[0].startswith(f"error: {flag} {value}: ") and f"started with {saved}." in lines[0]


def test_resume_allows_run_flags_to_change_and_paper_flags_to_be_repeated(tmp_path):
    run = saved_run(tmp_path / "run", "--arch", "b")
    args = flags("--resume", run, "--steps", "200", "--save-every", "7", "--log-every", "3", "--sample-every", "9",
                 "--device", "cpu", "--data-dir", "elsewhere", "--width", "20", "--lr", "0.20")
    assert (args.steps, args.save_every, args.log_every, args.sample_every) == (200, 7, 3, 9)
    assert (args.device, args.data_dir, args.width) == ("cpu", "elsewhere", 20)


def test_only_flags_that_leave_the_mathematics_alone_may_change():
    assert CHANGEABLE == {"steps", "data_dir", "resume", "device", "log_every", "sample_every", "save_every"}


def test_resume_names_flags_of_another_version(tmp_path):
    run = saved_run(tmp_path / "run")
    saved = json.loads((tmp_path / "run/args.json").read_text())
    (tmp_path / "run/args.json").write_text(json.dumps(saved | {"kappa": 1}))
    with pytest.raises(UserError, match="kappa"):
        flags("--resume", run)


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


@pytest.mark.parametrize("flag, value", [("--gamma", "2"), ("--gamma", "-0.1"), ("--gamma", "nan"), ("--lr-g", "-1"),
                                         ("--lambda-k", "nan"), ("--beta1", "1"), ("--size", "50"), ("--size", "2"),
                                         ("--size", "4"), ("--device", "tpu")])
def test_bad_values_get_one_line(here, capsys, flag, value):
    lines = refused(capsys, "--smoke", flag, value)
    assert len(lines) == 1 and lines[0].startswith("error: ") and value in lines[0]
    assert not list(here.iterdir())                              # refused before a run directory was made


@pytest.mark.parametrize("flag, value", [("--steps", "0"), ("--steps", "-3"), ("--steps", "many"),
                                         ("--batch-size", "0"), ("--save-every", "0"), ("--width", "0"),
                                         ("--z-dim", "0"), ("--code-dim", "-1"), ("--lr-halve-patience", "-1"),
                                         ("--dataset", "imagenet"), ("--amp", "fp8")])
def test_argparse_refuses(here, capsys, flag, value):
    lines = refused(capsys, "--smoke", flag, value)
    assert flag in lines[-1] and value.lstrip("-") in lines[-1]
    assert not list(here.iterdir())


FOLDERS = ("began", "bigan", "cagan", "egan", "mdma", "sagan_wgangp")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_number_flag_of_every_folder_refuses_nonsense(folder, capsys):
    """NaN, infinity and a negative value, for each flag that takes a fraction; seeds that no generator takes."""
    parse_args = importlib.import_module(f"{folder}.train").parse_args
    with pytest.raises(SystemExit):
        parse_args(["--help"])
    help_text = capsys.readouterr().out
    fractions = [f for f in ("--lr", "--lr-g", "--lr-d", "--beta1", "--beta2", "--beta1-d", "--gamma", "--gp",
                             "--lambda-k", "--lambda-cls", "--lambda-gp", "--clip", "--cycle", "--lr-weight",
                             "--lr-ratio", "--weight-decay", "--ema", "--jitter") if f"{f} " in help_text]
    assert len(fractions) >= 3
    for flag in fractions:
        for value in ("nan", "inf", "-1"):
            with pytest.raises(UserError, match=f"{flag} {float(value)}: must be at least 0"):
                parse_args([flag, value])
    for value in ("-1", "99999999999999999999999"):
        with pytest.raises(SystemExit) as e:
            parse_args(["--seed", value])
        assert e.value.code == 2 and "--seed" in capsys.readouterr().err


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda: 1 / 0)
    with pytest.raises(ConnectionError):
        run_main(lambda: (_ for _ in ()).throw(ConnectionError(errno.ECONNRESET, "reset")))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_a_full_or_read_only_disk_gets_one_line(capsys, number):
    with pytest.raises(SystemExit) as e:
        run_main(lambda: (_ for _ in ()).throw(OSError(number, "words", "runs/x/log.jsonl")))
    lines = capsys.readouterr().err.splitlines()
    assert e.value.code == 2 and len(lines) == 1 and "runs/x/log.jsonl" in lines[0] and "--out" in lines[0]


def test_started_as_a_file_it_says_how_to_start_it(repo, python, env, monkeypatch):
    monkeypatch.delitem(env, "PYTHONPATH")
    done = python(repo / "began/eval.py")                        # train.py: test_layout
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "python -m began.eval" in done.stderr


def test_help_shows_the_docstring_and_defaults(capsys):
    with pytest.raises(SystemExit) as e:
        began.train.parse_args(["--help"])
    out = capsys.readouterr().out
    assert e.value.code == 0 and "  python -m began.train --resume DIR" in out and "(default: 48)" in out
