"""What the eval.py of every folder does with one checkpoint around its paper's own measurements.

As an eval.py uses it:

    path = checkpoint_path(args.ckpt, "began")
    … = load(path, device)  # the folder's own
    where = output_dir(path, "began")
    real_set, extractor = reference(load_data, trained, args, device)
    metrics = image_scores(extractor, real_set, batches, args.n, device, trained.data_dir)[0]
    write_eval(where, path, checkpoint, metrics, device)
"""

import contextlib
import hashlib
import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .errors import UserError
from .metrics import count_tag
from .metrics.distances import class_histogram
from .metrics.images import collect, image_metrics, real_features
from .metrics.extractors import load_extractor
from .runs import environment, newest_checkpoint, save_atomic, write_json

REPOSITORY = Path(__file__).resolve().parent.parent


# --- where from, where to


def checkpoint_path(given, paper, prefer=("last.pt",)):
    """The checkpoint file that --ckpt names.

    given: what was typed: a file, or a run directory, of which the first of `prefer` is taken;
    None for the newest run under runs/<paper>.
    """
    path = Path(given).expanduser() if given else newest_checkpoint(paper).parent
    if not path.is_dir():
        return path
    for name in prefer:
        if (path / name).is_file():
            return path / name
    raise UserError(
        f"--ckpt {path}: no {' or '.join(prefer)} in this directory. "
        "Give a run directory or a checkpoint file"
    )


def output_dir(path, paper):
    """Where results of the checkpoint `path` go: beside it, as in a run directory.

    Those of a shipped checkpoint (in a folder's results/ of this repository) go to
    runs/<paper>/<its name>. Those of one that lies where nothing can be written go to
    runs/<paper>/<its run's name>-<digits of where that is>, since runs may have one name.
    """
    folder = Path(path).resolve().parent
    shipped = folder.name == "results" and folder.parent.parent == REPOSITORY
    if not shipped and os.access(folder, os.W_OK):
        return Path(path).parent
    digits = hashlib.sha256(os.fsencode(folder)).hexdigest()[:6]
    where = Path("runs", paper, Path(path).stem if shipped else f"{folder.name}-{digits}")
    where.mkdir(parents=True, exist_ok=True)
    return where


def set_data_dir(trained, args):
    """Let trained.data_dir be --data-dir; without it the training's own, if it is still there."""
    if args.data_dir is not None:
        trained.data_dir = args.data_dir
        return
    by_hand = trained.dataset in ("folder", "celeba")  # the others are looked for, or fetched
    if by_hand and not Path(trained.data_dir).expanduser().exists():
        raise UserError(
            f"{args.ckpt or 'this checkpoint'} was trained on images in {trained.data_dir}, "
            "which is not there: name their directory with --data-dir"
        )


@contextlib.contextmanager
def named_outputs(where):
    """Say on stderr which files in `where` the block wrote, also if it fails."""

    def state():
        return {p.name: p.stat().st_mtime_ns for p in where.iterdir() if p.is_file()}

    before = state()
    try:
        yield
    finally:
        written = sorted(name for name, time in state().items() if before.get(name) != time)
        if written:
            say_written(f"{', '.join(written)} in {where}")


def say_written(what):
    print(f"eval: wrote {what}", file=sys.stderr)


def refuse_existing(flag, *files):
    """UserError where a file that is to be written is there already; before anything is measured.

    flag: what names another place.
    """
    for file in files:
        if os.path.lexists(file):
            raise UserError(f"{file} exists already: name another place with {flag}, or move it")


# --- scores of images


def reference(load_data, trained, args, device):
    """(real images to compare with, extractor or None), loaded first so that errors come first.

    load_data: the folder's, (training args, split) -> ImageSet. args: of arguments.EvalArgs;
    without --split it is "test".
    """
    set_data_dir(trained, args)
    real_set = load_data(trained, getattr(args, "split", "test"))
    extractor = load_extractor(
        args.extractor,
        trained.dataset,
        device,
        trained.data_dir,
        args.inception_weights,
        labelled=real_set.labels is not None,
    )
    return real_set, extractor


def image_scores(extractor, real_set, batches, n, device, data_dir, keep=None, split=None):
    """({key: value}, features of real images, features of generated ones).

    The scores of image_metrics; with a LeNet also how many samples it sees in each class. Without
    an extractor: ({}, None, None). batches: n images in [-1, 1]. keep: which real images count
    (mask, none: all); split: what keys call them then.
    """
    if extractor is None:
        return {}, None, None
    real = real_features(extractor, real_set, device=device, cache_dir=Path(data_dir) / "cache")
    if keep is not None:
        real = tuple(part[keep] for part in real)
    fake = collect(extractor, progress(batches, n), n)
    metrics = image_metrics(real, fake, extractor.name, split or real_set.split)
    if extractor.kind == "lenet":
        tag = f"{extractor.name}_{count_tag(n)}"
        metrics |= {f"class_{key}_{tag}": value for key, value in class_histogram(fake[1]).items()}
    return metrics, real[0], fake[0]


def progress(batches, n):
    """The batches, with a bar that counts their samples up to n."""
    with tqdm(total=n, disable=None, desc="samples", unit="sample") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


# --- the result


def write_eval(where, path, checkpoint, metrics, device, part="", **more):
    """Write eval_<step>.json: as soon as something is measured, and again with all of it.

    What the file has under other keys stays, with its env in "earlier". part: of what the metrics
    are, where their keys don't say it: eval_<step>_<part>.json. more: further entries. Returns
    the file.
    """
    step = checkpoint["step"]
    file = where / (f"eval_{step}_{part}.json" if part else f"eval_{step}.json")
    kept, envs = _earlier(file, checkpoint["args"], metrics)
    result = {
        "checkpoint": str(path),
        "step": step,
        "metrics": metrics | kept,
        **more,
        "train_args": checkpoint["args"],
        "env": environment(device),
    }
    if envs:
        result["earlier"] = envs
    write_json(file, result)
    return file


def _earlier(file, train_args, metrics):
    """({key: value}, {key: env}) of what an earlier eval of this training has besides `metrics`."""
    try:
        found = json.loads(file.read_text())
        if found["train_args"] != json.loads(json.dumps(train_args, default=str)):
            return {}, {}
        kept = {key: value for key, value in found["metrics"].items() if key not in metrics}
        envs = found.get("earlier", {})
        return kept, {key: envs.get(key, found["env"]) for key in kept}
    except (OSError, ValueError, LookupError):  # none, or not one of ours
        return {}, {}


def print_metrics(metrics):
    """A line for each; tables (lists of lists) stand in the JSON only."""
    width = max(map(len, metrics), default=0)
    for key, value in metrics.items():
        if isinstance(value, list):
            if value and isinstance(value[0], list):
                continue
            print(f"{key:{width}} [{', '.join(map(rounded, value))}]")
        else:
            print(f"{key:{width}} {rounded(value)}")


def rounded(value):
    """As text, with four digits after the point of a float."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


# --- a small checkpoint


def write_slim(out, checkpoint, dtype=torch.float16, args=None, **state):
    """Write a checkpoint that can be sampled but not resumed.

    state: what its state is: networks, of which the weights are kept in dtype, and plain values.
    args: training arguments that differ from the checkpoint's. Its run directory is forgotten.
    """
    out = Path(out)
    refuse_existing("--slim", out)
    out.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: _weights(value, dtype) for name, value in state.items()}
    trained = checkpoint["args"] | {"out": None, "resume": None} | (args or {})
    changed = {"args": trained, "rng": {}, "state": kept}
    save_atomic(checkpoint | changed, out)
    say_written(f"{out}, {out.stat().st_size / 1e6:.2f} MB")


def _weights(value, dtype):
    if isinstance(value, torch.nn.Module):
        value = value.state_dict()
    if isinstance(value, dict):
        return {name: _weights(part, dtype) for name, part in value.items()}
    if torch.is_tensor(value) and value.is_floating_point():
        return value.detach().cpu().to(dtype)
    return value


# --- tables of many runs


def format_mean_sd(values, digits=".3g", scale=1):
    """ "mean ± standard deviation" of values that are numbers, e.g. of seeds; "–" if there is none.

    digits: a format, ".3g" or ".2f". One value has no deviation.
    """
    values = scale * np.array([value for value in values if not math.isnan(value)])
    if not len(values):
        return "–"
    mean = f"{values.mean():{digits}}"
    return f"{mean} ± {values.std(ddof=1):{digits}}" if len(values) > 1 else mean


def markdown_table(columns, rows):
    """A table in Markdown. columns: headings; rows: lists of cells, as many each."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"
