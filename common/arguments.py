"""A script's arguments as a dataclass, the paper's table of hyperparameters: one line per field.

    @dataclass
    class Args(ImageRunArgs):
        # --- paper (thesis; --arch berthelot takes arXiv:1703.10717's)
        gamma: float = 0.5  # γ, diversity ratio in [0, 1] (appendix)

    args = parse_args(Args, __doc__, argv, {"quick": {True: QUICK}, "smoke": {True: SMOKE}})

A field makes a flag: its type and default are the field's, its help is the comment, and a value
outside the range that the comment states (`in [0, 1]`, `in (0, ∞)`) is refused. Without a stated
range an int is at least 1, a float finite and at least 0. A comment on the lines just above a field
belongs to it, too. `# --- words` opens a section, which --help shows as a group. Types: bool (a
switch), int, float, str, FilePath, Part, Literal[…] (choices), list[…] and tuple[…] of these, each
also with `| None`.
"""

import argparse
import ast
import functools
import inspect
import io
import math
import os
import re
import textwrap
import tokenize
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import Literal, NewType, Union, get_args, get_origin, get_type_hints

from .cli import file_path, new_parser, parse
from .errors import UserError

# a flag that names a file or directory: ~ is the home directory
FilePath = NewType("FilePath", str)
Part = NewType("Part", tuple)  # --part i/n, a machine's share of many runs: (i, n); see part_of


def usable_cores():
    """The cores that this process may use: SLURM or taskset may allow it some of the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


@dataclass
class RunArgs:
    """What every train.py has. A folder's own defaults and their sources stand in its Args."""

    # --- run
    dataset: str = ""  # data to train on
    data_dir: FilePath = "data"  # where data sets are looked for and put
    out: FilePath | None = None  # the run directory itself; none: runs/<folder>/<time>-seed<seed>
    # go on with the run in this directory, exactly where its last.pt stands
    resume: FilePath | None = None
    steps: int = 1  # updates of the networks
    batch_size: int = 1  # samples per step
    seed: int = 0  # fixes initial weights, batches and noise; in [0, 2^63)
    device: str = "auto"  # where to compute: auto, cpu, cuda, cuda:N or mps
    # bf16 autocast: faster on GPUs and CPUs with AMX or AVX512-BF16
    amp: Literal["off", "bf16"] = "off"
    quick: bool = False  # a real result on a CPU, in three to thirty minutes by folder
    smoke: bool = False  # under 20 s, synthetic data, for tests
    log_every: int = 20  # steps between lines of log.jsonl
    sample_every: int = 500  # steps between sample grids
    save_every: int = 500  # steps between checkpoints


@dataclass
class ImageRunArgs(RunArgs):
    """Those of a folder that trains on images."""

    # --- run
    skip_bad: bool = False  # leave out images that can't be decoded


@dataclass
class EvalArgs:
    """The arguments of every eval.py that measures images."""

    # --- one checkpoint
    ckpt: FilePath | None = None  # a run directory or a checkpoint; none: the folder's newest run
    # where data sets and features are; none: where the training's were
    data_dir: FilePath | None = None
    # features for FID and KID; auto: the first that can be had, see common/metrics/extractors.py
    extractor: Literal["auto", "lenet", "inception", "efficientnet"] = "auto"
    inception_weights: FilePath | None = None  # the TF-FID port's weights; none: fetched
    n: int = 10_000  # samples for the metrics
    split: Literal["train", "test"] = "test"  # real images to compare with
    batch_size: int = 250  # samples per forward pass
    seed: int = 0  # of the samples; in [0, 2^63)
    samples: int | None = None  # only draw so many samples into --grid-out
    grid_out: FilePath = "grid.png"  # where --samples draws
    # only write --n samples into this directory: samples.npz, images as PNGs, too
    export: FilePath | None = None
    slim: FilePath | None = None  # only write what sampling needs of --ckpt into this file
    onnx: FilePath | None = None  # only write the generator as an ONNX graph into this file

    # --- run
    device: str = "auto"  # where to compute: auto, cpu, cuda, cuda:N or mps
    # bf16 autocast: faster on GPUs and CPUs with AMX or AVX512-BF16
    amp: Literal["off", "bf16"] = "off"


@dataclass
class SweepArgs:
    """The arguments of every reproduce.py that trains many runs and measures them."""

    # --- runs
    jobs: int | None = None  # runs at a time; none: one per GPU, or per core if there is no GPU
    threads: int = 1  # CPU threads of each run
    part: Part | None = None  # train only part i of n, from 0/n to n-1/n; none: all, and draw
    train_flags: str = ""  # more flags for every run, in quotes: '--steps 2000 …'

    # --- measuring
    # where data sets and features are; none: where the trainings' are
    data_dir: FilePath | None = None
    seed: int = 0  # of what is drawn to be measured; in [0, 2^63)

    # --- run
    device: str = "auto"  # where to compute: auto, cpu, cuda, cuda:N or mps


def parse_args(table, doc, argv=None, presets=None, retired=None):
    """An instance of the dataclass `table` from the command line.

    doc: the script's docstring; presets, retired: see `parse`.
    """
    parser = new_parser(doc)
    add_flags(parser, table)
    args = parse(parser, argv, presets, retired)
    refuse_out_of_range(args, table)
    if hasattr(args, "sample_every"):  # what is measured at sample steps needs a log line there
        args.log_every = math.gcd(args.log_every, args.sample_every)
    return table(**vars(args))


def add_flags(parser, table):
    """A flag for each field of the dataclass `table`, grouped by section, the folder's first."""
    comments, sections = comments_and_sections(table)
    types = get_type_hints(table)
    groups = {title: parser.add_argument_group(title) for title in dict.fromkeys(sections.values())}
    for field in fields(table):
        default = field.default if field.default is not MISSING else field.default_factory()
        groups[sections[field.name]].add_argument(
            "--" + field.name.replace("_", "-"),
            default=default,
            help=comments[field.name].replace("%", "%%"),
            **flag_options(types[field.name]),
        )


def flag_options(kind):
    """What argparse needs to know of a field's type."""
    if get_origin(kind) in (Union, UnionType):
        (kind,) = set(get_args(kind)) - {NoneType}
    if kind is bool:
        return {"action": "store_true"}
    if kind is FilePath:
        return {"type": file_path, "metavar": "PATH"}
    if kind is Part:
        return {"type": read_part, "metavar": "I/N"}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind), "type": type(get_args(kind)[0])}
    if get_origin(kind) is list:
        return flag_options(get_args(kind)[0]) | {"nargs": "+"}
    if get_origin(kind) is tuple:
        return flag_options(get_args(kind)[0]) | {"nargs": len(get_args(kind))}
    return {"type": kind}


def read_part(text):
    """(i, n) of what --part is given, counted from 0 as SLURM and HTCondor count their tasks."""
    found = re.fullmatch("([0-9]+)/([0-9]+)", text)
    i, n = map(int, found.groups()) if found else (0, 0)
    if i >= n:
        raise argparse.ArgumentTypeError(
            f"{text} is no part: give i/n with i from 0 to n - 1, such as 0/2 and 1/2"
        )
    return i, n


def part_of(things, part):
    """The share of a list that part (i, n) has: each n-th from the i-th on; all without a part."""
    i, n = part or (0, 1)
    return things[i::n]


def comments_and_sections(table):
    """{field: comment} and {field: section} of a dataclass and its bases, its sections first."""
    comments, sections = {}, {}
    for cls in table.__mro__[:-1]:
        for name, comment, section in _commented_fields(cls):
            comments[name] = comments.get(name) or comment
            sections.setdefault(name, section)
    return comments, sections


@functools.cache
def _commented_fields(cls):
    """[(field, its comment, the section it stands in), …] from the class's source."""
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    comments = {
        token.start[0]: token.string.lstrip("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    rows, section, above = [], "options", []
    statements = {node.lineno: node for node in ast.parse(source).body[0].body}
    number = 1
    while number < len(lines):
        number += 1
        node, comment = statements.get(number), comments.get(number)
        if isinstance(node, ast.AnnAssign):
            behind = [
                comments[line] for line in range(number, node.end_lineno + 1) if line in comments
            ]
            rows.append((node.target.id, " ".join(above + behind), section))
            above = []
            number = node.end_lineno
        elif comment is None:
            above = []
        elif comment.startswith("--- "):
            section, above = comment.removeprefix("--- "), []
        else:
            above.append(comment)
    return rows


RANGE = re.compile(r"\bin ([\[(])([^\s,\]]+), ([^\s,)\]]+)([\])])")


def stated_range(comment, kind):
    """(low, high, low is left out, high is left out), from a field's comment."""
    stated = RANGE.search(comment)
    if stated is None:
        return (1 if kind is int else 0), math.inf, False, True
    left, low, high, right = stated.groups()
    return _number(low), _number(high), left == "(", right == ")"


def _number(text):
    """0.5, ∞ or 2^63."""
    base, _, power = text.partition("^")
    return math.inf if text == "∞" else float(base) ** float(power or 1)


def refuse_out_of_range(args, table):
    """Refuse numbers outside of the range that their field's comment states, and NaN."""
    comments, _ = comments_and_sections(table)
    for name, kind in get_type_hints(table).items():
        kind = flag_options(kind).get("type")
        if kind not in (int, float) or getattr(args, name) is None:
            continue
        low, high, above_low, below_high = stated_range(comments[name], kind)
        values = getattr(args, name)
        for value in values if isinstance(values, (list, tuple)) else [values]:
            inside = low <= value <= high
            if not inside or (above_low and value == low) or (below_high and value == high):
                bounds = f"{'above' if above_low else 'at least'} {low:g}"
                if high < math.inf:
                    bounds += f" and {'below' if below_high else 'at most'} {high:g}"
                elif kind is float:
                    bounds += " and finite"
                raise UserError(f"--{name.replace('_', '-')} {value}: must be {bounds}")
