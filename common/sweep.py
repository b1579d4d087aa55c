"""Many runs for one table or figure: train and measure each, resumably, several at a time."""

import argparse
import contextlib
import json
import multiprocessing
import os
import shlex
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from tqdm import tqdm

from .arguments import part_of, usable_cores
from .device import choose_device
from .errors import UserError
from .runs import (
    append_line,
    environment,
    load_checkpoint,
    lock_path,
    read_log,
    replace_file,
    write_json,
)


def select_rows(rows, names):
    """The part of `rows` ({name: flags}) that --only asks for; all, if `names` is empty or None."""
    if unknown := [name for name in names or () if name not in rows]:
        raise UserError(f"--only {', '.join(unknown)}: the rows are {', '.join(rows)}")
    return {name: flags for name, flags in rows.items() if not names or name in names}


# arguments of a reproduce.py that change what is measured
MEASURING = (
    "n",
    "extractor",
    "inception_weights",
    "split",
    "seed",
    "amp",
    "bank",
    "bn_batches",
)


def sweep(cells, train, measure, args, folder, shared=()):
    """Train and measure every cell that `folder` has no result of. Returns all, in their order.

    cells: dicts with name (the run's directory in `folder`, its identity), seed, flags, and what
    else the table needs.
    train: a folder's train.main. measure(where, cell, args) -> dict, called when the run in `where`
    is through; both defined at a module's top level, since they run in other processes. args: has
    jobs, threads, device, data_dir, and maybe part (i, n): only every n-th cell, from the i-th on,
    is then trained and returned. A part writes files of its own, results-0of4.jsonl for 0/4, and
    each call reads all, so parts may run on several machines at once if they share `folder`.
    shared: flags of every run; before them args' train_amp, where it has one, puts --amp, since
    what --quick takes by itself depends on the machine. Neither they nor args' MEASURING flags may
    change in a folder. A result is its cell with step, metrics, env and seconds, or with error, a
    line; such a run is tried again next time.
    """
    folder, shared, part = Path(folder), list(shared), getattr(args, "part", None)
    folder.mkdir(parents=True, exist_ok=True)
    cells, ending = part_of(cells, part), "-{}of{}".format(*part) if part else ""
    table, settings = folder / f"results{ending}.jsonl", folder / f"settings{ending}.json"
    measuring = {name: getattr(args, name) for name in MEASURING if hasattr(args, name)}
    earlier = {"train": shared, "measure": measuring}  # as written before there was train_amp
    if hasattr(args, "train_amp"):
        shared = ["--amp", args.train_amp, *shared]
    flags = {"train": shared, "measure": measuring}
    for path in sorted(folder.glob("settings*.json")):
        try:
            held = json.loads(path.read_text())
        except ValueError:  # also a UnicodeDecodeError
            raise UserError(
                f"{path} is damaged: it can't be said what the runs beside it were started with. "
                "Delete it if you know, or choose another --out"
            ) from None
        if held not in (flags, earlier):
            raise UserError(
                f"{folder} holds runs with other flags ({held}, not {flags}). Choose another --out"
            )
    write_json(settings, flags)
    if table.exists():  # what a kill or a full disk cut short
        replace_file(
            table, "".join(json.dumps(result) + "\n" for result in read_log(table)).encode()
        )
    order = {cell["name"]: i for i, cell in enumerate(cells)}
    there = {
        result["name"]: result
        for path in sorted(folder.glob("results*.jsonl"))
        for result in read_log(path)
        if result["name"] in order and "error" not in result
    }
    done = list(there.values())
    missing = [cell for cell in cells if cell["name"] not in there]
    gpus = gpus_of(args.device)
    jobs = args.jobs or len(gpus) or usable_cores()
    print(
        f"{folder}: {len(done)} of {len(cells)} runs are there, {len(missing)} to do, "
        f"{jobs} at a time, each with: {shlex.join(shared) or 'the default flags'}",
        file=sys.stderr,
    )
    if jobs == 1:
        results = (_run_cell(cell, train, measure, vars(args), folder, shared) for cell in missing)
    else:
        tasks = [(cell, train, measure, vars(args), folder, shared) for cell in missing]
        results = _in_parallel(tasks, jobs, gpus)
    with contextlib.closing(results):
        for result in tqdm(results, total=len(missing), unit="run", disable=None):
            if "env" in result:  # a process of --jobs knows only how it was started itself
                result["env"]["command"] = shlex.join(sys.orig_argv)
            done.append(result)
            append_line(table, json.dumps(result))
            if not sys.stderr.isatty():
                end = (
                    f"FAILED: {result['error']}"
                    if "error" in result
                    else f"{result['seconds']:.0f} s"
                )
                print(f"{len(done)}/{len(cells)} {result['name']}: {end}", file=sys.stderr)
    return sorted(done, key=lambda result: order[result["name"]])


def by_row(results, rows):
    """{row: its results that came through, one per seed}, in the order of `rows`; no empty ones."""
    found = {row: [] for row in rows}
    for result in results:
        if "metrics" in result:
            found[result["row"]].append(result)
    return {row: mine for row, mine in found.items() if mine}


def runs_with(file, found, folder):
    """Those of `by_row`'s results whose runs still have `file` in `folder`, to draw from it.

    A result outlives its run's directory, which may be deleted, or left on another machine.
    """
    there = {
        row: [result for result in results if (folder / result["name"] / file).exists()]
        for row, results in found.items()
    }
    return {row: mine for row, mine in there.items() if mine}


def at_shared_steps(logs):
    """Of each log, a list of lines, those at the steps that all logs have; empty logs don't count.

    A run that was stopped and resumed has also measured where it stopped.
    """
    steps = [{line["step"] for line in log} for log in logs if log]
    shared = set.intersection(*steps) if steps else set()
    return [[line for line in log if line["step"] in shared] for log in logs]


def failures(results):
    """["name: error", …] of the runs that failed."""
    return [f"{result['name']}: {result['error']}" for result in results if "error" in result]


def end_sweep(part, results):
    """End a script that was started for a part (i, n) of its runs: the call without --part draws.

    part: None for all runs. results: of `sweep`. UserError if no run, or not all of a part, came
    through.
    """
    failed = failures(results)
    if part is None:
        if failed and len(failed) == len(results):
            raise UserError(f"no run came through: {'; '.join(failed)}")
        return
    name = "part {}/{}".format(*part)
    if failed:
        raise UserError(
            f"{len(failed)} of {len(results)} runs of {name} failed, and are tried again if you "
            f"give the command again: {'; '.join(failed)}"
        )
    print(
        f"{name} is through, {len(results)} runs. When all parts are, the same command without "
        "--part draws what they found",
        file=sys.stderr,
    )
    sys.exit()


def gpus_of(device):
    """The GPUs that the runs of a sweep with --device are spread over, as CUDA_VISIBLE_DEVICES has
    them; one without a name if --device names one, or on a Mac; [] on a CPU.
    """
    chosen = choose_device(device)
    if chosen.type == "cpu":
        return []
    if chosen.type == "mps" or ":" in device:
        return [None]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible or ",".join(map(str, range(torch.cuda.device_count())))).split(",")


def _take_gpu(turn, gpus):
    """Let this new process of a pool see one of `gpus` only, the next in turn."""
    with turn:
        gpu = gpus[turn.value % len(gpus)]
        turn.value += 1
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


def _in_parallel(tasks, jobs, gpus):
    """Yield `_run_cell`'s results, called with each task's arguments, as they come from processes.

    They end with this process: a training then finishes its step and saves, as after SIGTERM.
    """
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    spawn = multiprocessing.get_context("spawn")
    spread = dict(initializer=_take_gpu, initargs=(spawn.Value("i"), gpus)) if gpus else {}
    pool = ProcessPoolExecutor(jobs, spawn, **spread)
    try:
        waiting = [pool.submit(_run_in_worker, *task) for task in tasks]
        yield from (future.result() for future in as_completed(waiting))
    except BrokenProcessPool:  # it ends the others, too
        raise UserError(
            "a process of --jobs was ended, or had no memory. Give the command again to go on, or "
            "fewer --jobs"
        ) from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        signal.signal(signal.SIGTERM, before)


def _run_in_worker(*args):
    """`_run_cell`; where a signal ends it, the process ends, which would take up another cell."""
    try:
        return _run_cell(*args)
    except (KeyboardInterrupt, SystemExit) as e:
        os._exit(getattr(e, "code", 128 + signal.SIGINT))


def _run_cell(cell, train, measure, args, folder, shared):
    """One run in this process: train (or go on), then measure. What it prints goes to NAME.log."""
    args = argparse.Namespace(**args)
    torch.set_num_threads(args.threads)
    where, started, result = folder / cell["name"], time.time(), dict(cell)
    flags = ["--seed", str(cell["seed"]), "--device", args.device]
    if args.data_dir is not None:
        flags += ["--data-dir", args.data_dir]
    flags += [*shared, *cell["flags"]]
    lock = None
    with (
        open(f"{where}.log", "a") as log,
        contextlib.redirect_stderr(log),
        contextlib.redirect_stdout(log),
    ):
        try:
            lock = lock_path(log.name)  # from another sweep in this folder
            if not (where / "last.pt").exists() and where.exists():  # stopped before it
                where.rename(where.with_name(f"{where.name}.stopped-{time.time_ns()}"))
            if not _finished(where):
                train([*flags, "--resume" if where.exists() else "--out", str(where)])
            result |= {
                "step": _checkpoint(where)["step"],
                "metrics": measure(where, cell, args),
                "env": environment(choose_device(args.device)),
            }
        except UserError as e:
            result["error"] = str(e)
        except SystemExit as e:
            if e.code != 2:  # a signal, and the training has saved
                raise
            log.flush()
            line = Path(log.name).read_text().splitlines()[-1]
            result["error"] = f"its flags are refused: {line.removeprefix('error: ')}"
        finally:
            if lock is not None:
                os.close(lock)
    return result | {"seconds": round(time.time() - started, 1)}


def _checkpoint(where):
    return load_checkpoint(where / "last.pt")


def _finished(where):
    """Whether the run in `where` has done all its steps, measured or not."""
    if not (where / "last.pt").exists():
        return False
    checkpoint = _checkpoint(where)
    return checkpoint["step"] >= checkpoint["args"]["steps"]
