"""The command line that every script shares: run flags, and errors a user can act on."""

import argparse
import difflib
import json
import math
import os
import sys
from pathlib import Path

from .errors import ADVICE, UserError        # scripts take UserError from here


def _fail(message):
    print(f"error: {message}", file=sys.stderr)
    return 2


def run_main(main):
    """Run `main()`; a UserError becomes one line on stderr and exit code 2, without a traceback."""
    try:
        main()
    except UserError as e:
        sys.exit(_fail(e))
    except OSError as e:
        if e.errno not in ADVICE:
            raise
        sys.exit(_fail(f"{e.filename or 'the run directory'}: {os.strerror(e.errno)}. {ADVICE[e.errno]}"))


# --- flags --------------------------------------------------------------------------------------------------

# Flags that may differ between a run and its resumption; every other one would make it a different run.
CHANGEABLE = {"steps", "data_dir", "resume", "device", "log_every", "sample_every", "save_every"}


class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The script's docstring as it stands, and every default."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        """One line, not argparse's page of usage."""
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
        near = [flag for flag in flags if flag.startswith(name)] or difflib.get_close_matches(name, flags, 1)
        return f"unknown flag {word.partition('=')[0]}" + (f": did you mean {' or '.join(near)}?" if near else "")


def new_parser(doc):
    return Parser(description=doc, formatter_class=Formatter, allow_abbrev=False)


def add_run_args(parser, *, steps, batch_size, datasets, dataset, steps_help, batch_help):
    """The run flags, the same words in every folder. Folder-specific defaults are passed in."""
    run = parser.add_argument_group("run")
    kind = file_path if datasets is None else str             # without a list of names, a file is one
    run.add_argument("--dataset", type=kind, choices=datasets, default=dataset, help="data to train on")
    run.add_argument("--data-dir", type=file_path, default="data", help="where data sets are looked for and put")
    if datasets:                             # of images; mdma's are jets
        run.add_argument("--skip-bad", action="store_true", help="leave out images that can't be decoded")
    run.add_argument("--out", type=file_path, metavar="DIR",
                     help="the run directory itself; none: runs/<folder>/<time>-seed<seed>")
    run.add_argument("--resume", type=file_path, metavar="DIR",
                     help="go on with the run in DIR, exactly where its last.pt stands")
    run.add_argument("--steps", type=positive_int, default=steps, help=steps_help)
    run.add_argument("--batch-size", type=positive_int, default=batch_size, help=batch_help)
    run.add_argument("--seed", type=seed, default=0, help="fixes initial weights, batches and noise")
    add_device_args(run)
    run.add_argument("--quick", action="store_true", help="a real result on two CPU cores in about ten minutes")
    run.add_argument("--smoke", action="store_true", help="under 20 s, synthetic data, for tests")
    run.add_argument("--log-every", type=positive_int, default=20, help="steps between lines of log.jsonl")
    run.add_argument("--sample-every", type=positive_int, default=500, help="steps between sample grids")
    run.add_argument("--save-every", type=positive_int, default=500, help="steps between checkpoints")


def add_device_args(group):
    group.add_argument("--device", default="auto", metavar="{auto,cpu,cuda,cuda:N,mps}", help="where to compute")
    group.add_argument("--amp", choices=("off", "bf16"), default="off",
                       help="bf16 autocast: faster on GPUs and on CPUs with AMX or AVX512-BF16")


def add_eval_args(parser, paper, *, n=10_000, n_help="samples for the metrics", split=True):
    """What every eval.py for images has: the checkpoint, how to measure it, and to only draw or write samples."""
    parser.add_argument("--ckpt", type=file_path, metavar="PATH",
                        help=f"a run directory or a checkpoint; none: the newest run under runs/{paper}")
    parser.add_argument("--data-dir", type=file_path, metavar="DIR",
                        help="where data sets and cached statistics are; none: where the training's were")
    parser.add_argument("--extractor", choices=("auto", "lenet", "inception", "efficientnet"), default="auto",
                        help="features for FID and KID; auto: the first that can be had, see common/metrics/images.py")
    parser.add_argument("--inception-weights", type=file_path, metavar="FILE",
                        help="the TF-FID port's weights; none: fetched")
    parser.add_argument("--n", type=positive_int, default=n, help=n_help)
    if split:
        parser.add_argument("--split", choices=("train", "test"), default="test", help="real images to compare with")
    parser.add_argument("--batch-size", type=positive_int, default=250, help="samples per forward pass")
    parser.add_argument("--seed", type=seed, default=0, help="of the samples")
    parser.add_argument("--samples", type=positive_int, metavar="N", help="only draw N samples into --grid-out")
    parser.add_argument("--grid-out", type=file_path, default="grid.png", metavar="PNG",
                        help="where --samples draws")
    parser.add_argument("--export", type=file_path, metavar="DIR",
                        help="only write --n samples: DIR/samples.npz, images as PNGs, too")


def file_path(text):
    """The type of every flag that names a file or directory: ~ is the home directory, also in --out=~/x."""
    return os.path.expanduser(text)


def positive_int(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def seed(text):
    value = int(text)
    if not 0 <= value < 2**63:               # what torch's and numpy's generators take
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 2^63, not {value}")
    return value


def fid_samples(text):
    value = int(text)
    if value and value < 4:                  # precision and recall need more than k = 3, a covariance two
        raise argparse.ArgumentTypeError(f"must be 0 or at least 4, not {value}")
    return value


def check_ranges(args, **ranges):
    """Refuse values outside of [low, high], and NaN. ranges: flag=(low, high), with underscores; high None: finite."""
    for name, (low, high) in ranges.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= (sys.float_info.max if high is None else high):
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {low:g}"
                            + (" and finite" if high is None else f" and at most {high:g}"))


def parse(parser, argv=None, presets=None):
    """Parse; then fill in presets: defaults < presets in order < what was typed.

    presets: {flag: {value: {flag: value, …}}}, e.g. {"quick": {True: {"steps": 1000}}}: used where the flag has
    that value. With --resume the saved run's args take the place of defaults and presets, and a typed flag that
    contradicts them is refused unless it is in CHANGEABLE. Returns a Namespace.
    """
    unset = object()
    typed = vars(parser.parse_args(argv, argparse.Namespace(**{a.dest: unset for a in parser._actions})))
    typed = {k: v for k, v in typed.items() if v is not unset}
    values = {a.dest: a.default for a in parser._actions if a.dest != "help"}
    paths = [a.dest for a in parser._actions if a.type is file_path]
    if typed.get("resume"):
        typed["resume"] = run_directory(typed["resume"])
        if typed.get("out"):
            raise UserError(f"--out {typed['out']} with --resume {typed['resume']}: a run goes on in its own directory")
        saved = read_args(typed["resume"])
        saved |= {name: file_path(saved[name]) for name in paths if isinstance(saved.get(name), str)}
        if unknown := sorted(set(saved) - set(values)):
            raise UserError(f"{typed['resume']}/args.json has flags that this script lacks: {', '.join(unknown)}")
        for name, value in typed.items():
            if name not in CHANGEABLE and value != saved.get(name, value):
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} {value}: the run in {typed['resume']} was started with {saved[name]}. "
                                f"Leave {flag} out to resume, or start a new run with --out")
        values |= saved | {"out": None}
    else:
        for flag, choices in (presets or {}).items():
            preset = choices.get(typed.get(flag, values[flag]), {})
            changed = {k: v for k, v in preset.items() if k not in typed and values[k] != v}
            if changed and flag in ("quick", "smoke"):
                changes = ", ".join(f"{k.replace('_', '-')} {values[k]} -> {v}" for k, v in changed.items())
                print(f"--{flag} changes the paper's settings: {changes}", file=sys.stderr)
            values |= changed
    values |= typed
    if "sample_every" in values:             # what is measured at sample steps needs a line of the log there
        values["log_every"] = math.gcd(values["log_every"], values["sample_every"])
    return argparse.Namespace(**values)


def run_directory(place):
    """The directory of a run, also where its last.pt is named."""
    place = Path(place)
    if place.name == "last.pt" and place.is_file():
        return str(place.parent)
    if place.is_file():
        raise UserError(f"--resume {place}: a run goes on from the last.pt in its directory. Give the directory")
    return str(place)


def read_args(directory):
    """The arguments in args.json of a run's directory."""
    file = Path(directory) / "args.json"
    try:
        args = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"--resume {directory}: no args.json there. Give the directory of a run") from None
    except ValueError:                       # also a UnicodeDecodeError
        args = None
    if not isinstance(args, dict):
        raise UserError(f"{file} is damaged: not the arguments of a run")
    return args
