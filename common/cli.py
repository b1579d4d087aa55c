"""The command line that every script shares: parsing, presets, --resume, one-line errors."""

import argparse
import difflib
import functools
import json
import os
import re
import signal
import sys
import warnings
from pathlib import Path

from .errors import ADVICE, UserError


def _fail(message):
    print(f"error: {message}", file=sys.stderr)
    return 2


def run_main(main):
    """Run `main()`; what the user can mend becomes one line on stderr and exit code 2."""
    python = warnings.formatwarning
    warnings.formatwarning = functools.partial(_one_line, python)
    if hasattr(sys.stdout, "reconfigure"):  # --help has γ and λ, which not every terminal has
        sys.stdout.reconfigure(errors="replace")  # stderr escapes what it lacks
    try:
        main()
    except UserError as e:
        sys.exit(_fail(e))
    except KeyboardInterrupt as e:
        print(". ".join(["stopped by Ctrl-C", *map(str, e.args)]), file=sys.stderr)
        _end_by_ctrl_c()
    except SystemExit as e:
        if e.code == 128 + signal.SIGINT:  # stopped in its loop, and has saved
            _end_by_ctrl_c()
        raise
    except OSError as e:
        if e.errno not in ADVICE:
            raise
        where = f"{e.filename}: " if e.filename else ""
        sys.exit(_fail(f"{where}{os.strerror(e.errno)}. {ADVICE[e.errno]}"))
    except Exception as e:
        if type(e).__name__ != "OutOfMemoryError":  # torch's, which not every script imports
            raise
        sys.exit(
            _fail(
                "the GPU's memory is full: give a smaller --batch-size, --size or --width; of a "
                "sweep, fewer --jobs"
            )
        )
    finally:
        warnings.formatwarning = python


def _end_by_ctrl_c():
    """End by the signal itself: only then a shell ends the loop or script that this stands in."""
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def _one_line(python, message, category, *where):
    """A warning of ours without the line of code that it comes from, others as Python does it."""
    ours = category is UserWarning and "site-packages" not in where[0]
    return f"warning: {message}\n" if ours else python(message, category, *where)


# --- flags

# Flags that may differ between a run and its resumption; every other one would make it a different
# run.
CHANGEABLE = {"steps", "data_dir", "resume", "device", "log_every", "sample_every", "save_every"}


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The script's docstring as it stands, and every default."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line, not argparse's page of usage."""
        flag = re.fullmatch(r"argument (--[\w-]+): expected one argument", message)
        if flag:  # also where the value is itself a flag, as in --train-flags --smoke
            message += f"; one that begins with a dash: {flag[1]}=VALUE"
        sys.exit(_fail(f"{message} (--help explains the flags)"))

    def parse_args(self, args=None, namespace=None):
        """As argparse does it, but an unknown flag is told its nearest neighbour."""
        args, unknown = self.parse_known_args(args, namespace)
        if unknown:
            named = [self._unknown(word) for word in unknown if word.startswith("-")]
            self.error("; ".join(named) or f"no flag takes {' '.join(unknown)}")
        return args

    def _unknown(self, word):
        name = "--" + word.partition("=")[0].lstrip("-")
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        near = [flag for flag in flags if flag.startswith(name)] or difflib.get_close_matches(
            name, flags, 1
        )
        return f"unknown flag {word.partition('=')[0]}" + (
            f": did you mean {' or '.join(near)}?" if near else ""
        )


def new_parser(doc):
    return Parser(description=doc, formatter_class=Formatter, allow_abbrev=False)


def file_path(text):
    """The type of every flag that names a file or directory: ~ is home, also in --out=~/x."""
    return os.path.expanduser(text)


def parse(parser, argv=None, presets=None, retired=None):
    """Parse; then fill in presets: defaults < presets in order < what was typed.

    presets: {flag: {value: {flag: value, …}}}, e.g. {"quick": {True: {"steps": 1000}}}: used where
    the flag has that value; or a function from the Namespace of what was typed, with defaults, to
    such a dict. A function in the place of a value is called with --device. With --resume the saved
    run's args take the place of defaults and presets, and a typed flag that contradicts them is
    refused unless it is in CHANGEABLE or names a file that has moved. Returns a Namespace.
    retired: {flag that there was: its value that changed nothing}; a saved run that has it with
    another value is refused.
    """
    unset = object()
    typed = vars(
        parser.parse_args(argv, argparse.Namespace(**{a.dest: unset for a in parser._actions}))
    )
    typed = {k: v for k, v in typed.items() if v is not unset}
    values = {a.dest: a.default for a in parser._actions if a.dest != "help"}
    paths = [a.dest for a in parser._actions if a.type is file_path]
    actions = {a.dest: a for a in parser._actions}
    if typed.get("resume"):
        typed["resume"] = run_directory(typed["resume"])
        if typed.get("out"):
            raise UserError(
                f"--out {typed['out']} with --resume {typed['resume']}: a run goes on in its own "
                "directory"
            )
        saved = read_args(typed["resume"])
        for name, value in (retired or {}).items():
            if saved.get(name) == value:
                del saved[name]
        saved |= {
            name: file_path(saved[name]) for name in paths if isinstance(saved.get(name), str)
        }
        if unknown := sorted(set(saved) - set(values)):
            raise UserError(
                f"{typed['resume']}/args.json has flags that this script lacks: "
                f"{', '.join(unknown)}"
            )
        for name, value in typed.items():
            if name in CHANGEABLE or name not in saved or _moved(value, saved[name]):
                continue
            if not _repeats(value, saved[name], actions[name]):
                flag = "--" + name.replace("_", "-")
                raise UserError(
                    f"{flag} {value}: the run in {typed['resume']} was started with {saved[name]}. "
                    f"Leave {flag} out to resume, or start a new run with --out"
                )
            typed[name] = saved[name]
        values |= saved | {"out": None}
    else:
        if callable(presets):
            presets = presets(argparse.Namespace(**(values | typed)))
        for flag, choices in (presets or {}).items():
            preset = choices.get(typed.get(flag, values[flag]), {})
            preset = {k: v for k, v in preset.items() if k not in typed}
            device = typed.get("device", values.get("device"))
            preset = {k: v(device) if callable(v) else v for k, v in preset.items()}
            changed = {k: v for k, v in preset.items() if values[k] != v}
            if changed and flag in ("quick", "smoke"):
                changes = ", ".join(
                    f"{k.replace('_', '-')} {'default' if values[k] is None else values[k]} -> {v}"
                    for k, v in changed.items()
                )
                print(f"--{flag} changes the paper's settings: {changes}", file=sys.stderr)
            values |= changed
    values |= typed
    if values.get("amp") == "bf16":
        from .device import check_bf16  # torch, which not every script needs

        instead = "Give --amp off"
        if typed.get("resume"):
            instead = "Go on with a GPU that has them, or with --device cpu"
        check_bf16(values["device"], instead)
    return argparse.Namespace(**values)


def _repeats(typed, saved, action):
    """Whether a typed value is what a run was started with.

    A train.py saves what it made of it: it puts a value in the place of auto, and names that are
    chosen from a list in the list's order.
    """
    if action.choices and action.nargs == "+":
        return set(typed) == set(saved or ())
    return typed in ("auto", saved)


def _moved(typed, saved):
    """Whether two values name a file of the same name, which may have moved since.

    What data hold is compared with what the run was trained on (see `Run`). Weights are not, and
    only a run without a last.pt reads them.
    """
    both = isinstance(typed, str) and isinstance(saved, str)
    return both and Path(typed).suffix != "" and Path(typed).name == Path(saved).name


def run_directory(place):
    """The directory of a run, also where its last.pt is named."""
    place = Path(place)
    if place.name == "last.pt" and place.is_file():
        return str(place.parent)
    if place.is_file():
        raise UserError(
            f"--resume {place}: a run goes on from the last.pt in its directory. Give the directory"
        )
    return str(place)


def read_args(directory):
    """The arguments in args.json of a run's directory."""
    file = Path(directory) / "args.json"
    try:
        args = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(
            f"--resume {directory}: no args.json there. Give the directory of a run"
        ) from None
    except ValueError:  # also a UnicodeDecodeError
        args = None
    if not isinstance(args, dict):
        raise UserError(f"{file} is damaged: not the arguments of a run")
    return args
