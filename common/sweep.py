"""Many runs for one table or figure: train and measure each, several at a time, going on where it
was stopped.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shlex
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from tqdm import tqdm

from .cli import file_path, positive_int
from .device import choose_device
from .errors import UserError
from .runs import environment, load_checkpoint, read_log, replace_file, write_json


def add_sweep_args(group, *, seeds, out):
    """The flags that every table of many runs has. seeds: runs a cell; out: what the help says of
    --out.
    """
    group.add_argument("--seeds", type=positive_int, default=seeds, help="runs a cell")
    group.add_argument("--jobs", type=positive_int, default=os.cpu_count(), help="runs at a time")
    group.add_argument("--threads", type=positive_int, default=1, help="of each run")
    group.add_argument(
        "--train-flags", default="", metavar="'--steps 2000 …'", help="more flags for every run"
    )
    group.add_argument("--out", type=file_path, metavar="DIR", help=out)


def add_only_arg(group):
    group.add_argument("--only", nargs="+", metavar="ROW", help="only these rows of the table")


def only(rows, names):
    """The part of `rows` ({name: flags}) that --only asks for; all, if `names` is empty or None."""
    if unknown := [name for name in names or () if name not in rows]:
        raise UserError(f"--only {', '.join(unknown)}: the rows are {', '.join(rows)}")
    return {name: flags for name, flags in rows.items() if not names or name in names}


MEASURING = (
    "n",
    "extractor",
    "inception_weights",
    "split",
    "seed",
    "amp",
    "bank",
    "bn_batches",
)  # flags of eval.py


def sweep(cells, train, measure, args, folder, shared=()):
    """Train and measure every cell that results.jsonl in `folder` lacks. Returns the results of
    `cells` as a list.

    cells: dicts with name (the run's directory in `folder`, its identity), seed, flags, and what
    else the table needs.
    train: a folder's train.main. measure(where, cell, args) -> dict, called when the run in `where`
    is through; both defined at a module's top level, since they run in other processes. args: has
    jobs, threads, device, data_dir.
    shared: flags of every run. Neither they nor args' MEASURING flags may change in a folder. A
    result is its cell with step, metrics, env and seconds, or with error, a UserError's line; such
    a run is tried again next time.
    """
    folder, shared = Path(folder), list(shared)
    folder.mkdir(parents=True, exist_ok=True)
    table, settings = folder / "results.jsonl", folder / "settings.json"
    flags = {
        "train": shared,
        "measure": {name: getattr(args, name) for name in MEASURING if hasattr(args, name)},
    }
    held = flags
    if settings.exists():
        try:
            held = json.loads(settings.read_text())
        except ValueError:  # also a UnicodeDecodeError
            raise UserError(
                f"{settings} is damaged: it can't be said what the runs beside it were started "
                "with. "
                "Delete it if you know, or choose another --out"
            ) from None
    if held != flags:
        raise UserError(
            f"{folder} holds runs with other flags ({held}, not {flags}). Choose another --out"
        )
    write_json(settings, flags)
    if table.exists():  # what a kill or a full disk cut short
        replace_file(
            table, "".join(json.dumps(result) + "\n" for result in read_log(table)).encode()
        )
    wanted = {cell["name"] for cell in cells}
    done = [
        result for result in read_log(table) if result["name"] in wanted and "error" not in result
    ]
    there = {result["name"] for result in done}
    missing = [cell for cell in cells if cell["name"] not in there]
    print(
        f"{folder}: {len(done)} of {len(cells)} runs are there, {len(missing)} to do, {args.jobs} "
        "at a time, each "
        f"with: {shlex.join(shared) or 'the default flags'}",
        file=sys.stderr,
    )
    results = _in_parallel(missing, train, measure, args, folder, shared)
    for result in tqdm(results, total=len(missing), unit="run", disable=None):
        done.append(result)
        with open(table, "a") as f:
            f.write(json.dumps(result) + "\n")
        if not sys.stderr.isatty():
            end = (
                f"FAILED: {result['error']}" if "error" in result else f"{result['seconds']:.0f} s"
            )
            print(f"{len(done)}/{len(cells)} {result['name']}: {end}", file=sys.stderr)
    return done


def _in_parallel(cells, train, measure, args, folder, shared):
    """Yield the results of `_run_cell` as they come, from --jobs processes (1: from this one)."""
    if args.jobs == 1:
        yield from (_run_cell(cell, train, measure, vars(args), folder, shared) for cell in cells)
        return
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        waiting = [
            pool.submit(_run_cell, cell, train, measure, vars(args), folder, shared)
            for cell in cells
        ]
        try:
            yield from (future.result() for future in as_completed(waiting))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_cell(cell, train, measure, args, folder, shared):
    """One run in this process: train (or go on), then measure. What it prints goes to NAME.log."""
    args = argparse.Namespace(**args)
    torch.set_num_threads(args.threads)
    where, started, result = folder / cell["name"], time.time(), dict(cell)
    flags = ["--seed", str(cell["seed"]), "--device", args.device]
    if args.data_dir is not None:
        flags += ["--data-dir", args.data_dir]
    flags += [*shared, *cell["flags"]]
    place = ["--resume" if (where / "last.pt").exists() else "--out", str(where)]
    if place[0] == "--out" and where.exists():  # stopped before its first checkpoint
        where.rename(where.with_name(f"{where.name}.stopped-{time.time_ns()}"))
    with (
        open(f"{where}.log", "a") as log,
        contextlib.redirect_stderr(log),
        contextlib.redirect_stdout(log),
    ):
        try:
            if not _finished(where):
                train([*flags, *place])
            result |= {
                "step": _checkpoint(where)["step"],
                "metrics": measure(where, cell, args),
                "env": environment(choose_device(args.device)),
            }
        except UserError as e:
            result["error"] = str(e)
    return result | {"seconds": round(time.time() - started, 1)}


def _checkpoint(where):
    return load_checkpoint(where / "last.pt")


def _finished(where):
    """Whether the run in `where` has done all its steps (but was stopped before it was measured)."""
    if not (where / "last.pt").exists():
        return False
    checkpoint = _checkpoint(where)
    return checkpoint["step"] >= checkpoint["args"]["steps"]
