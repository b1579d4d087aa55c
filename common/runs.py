"""Run directory, log.jsonl, atomic checkpoints, exact resume.

runs/<folder>/<time>-seed<seed>/ holds args.json, env.json, log.jsonl, samples/, curves.png,
last.pt, eval_*.json.
A checkpoint is one dict of tensors and plain Python: format, paper, step, args, data, state, rng.
"""

import contextlib
import io
import json
import math
import os
import pickle
import platform
import secrets
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from importlib import metadata
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from .device import device_name
from .distributed import refuse_different
from .rng import rng_state, set_rng_state
from .errors import ADVICE, UserError, first_difference

FORMAT = 1
LOCAL = {"device", "data_dir", "out", "resume"}  # may differ between the processes of a run


class Run:
    """One training run on disk. With several processes only rank 0 writes.

    data: {name: plain value}, what the training data are known by; a run goes on with no others.
    """

    def __init__(self, paper, args, device, rank=0, data=None):
        self.paper, self.args, self.device, self.rank = paper, args, device, rank
        self.data = data or {}
        self.resumed = bool(args.resume)
        flags = {f"--{k.replace('_', '-')}": v for k, v in vars(args).items() if k not in LOCAL}
        refuse_different(flags | {"--resume": self.resumed} | self.data)
        self.stop = None  # the signal that makes this step the last one
        self._asked = 0  # the number of a signal that came
        self.saved_step = 0
        self.metrics = {}  # the last logged ones
        self.started = time.time()
        self._bar = None
        self._lock = None  # while it trains, of its directory
        if self.resumed:
            self.dir = Path(args.resume)
            return
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-seed{args.seed}"
        self.dir = Path(args.out or f"runs/{paper}/{name}")
        if rank:
            return
        if not args.out:
            while self.dir.exists():
                self.dir = self.dir.with_name(f"{self.dir.name}b")
        if self.dir.is_file():
            raise UserError(f"--out {self.dir} is a file: give a directory, new or empty")
        if self.dir.is_dir() and any(self.dir.iterdir()):
            raise UserError(
                f"--out {self.dir} is not empty. Go on in it with --resume {self.dir}, or choose "
                "another"
            )
        (self.dir / "samples").mkdir(parents=True, exist_ok=True)
        write_json(self.dir / "args.json", vars(args))
        write_json(self.dir / "env.json", environment(device))

    def announce(self, what):
        """The first lines of a run: where it goes, what it trains on what, how many steps."""
        refuse_different({"steps done": self.saved_step})
        if dist.is_initialized():
            what += f" over {dist.get_world_size()} processes"
        if self.rank == 0:
            print(f"run directory: {self.dir}\n{what}", file=sys.stderr)

    # --- checkpoints

    def resume(self, **state):
        """Restore the objects given by name and random states. Returns (step, other values).

        Without --resume, and for a run that was killed before its first checkpoint: (0, {}).
        """
        if not self.resumed:
            return 0, {}
        if not (self.dir / "last.pt").exists():
            if self.rank == 0:
                self._go_on_after(0)
                print(f"{self.dir} has no last.pt yet: starting from step 0", file=sys.stderr)
            return 0, {}
        last = self.dir / "last.pt"
        checkpoint = load_checkpoint(last, self.paper)
        # older checkpoints don't say what they were trained on, but where it was
        then = checkpoint.get("data") or {"--dataset": _place(checkpoint["args"])}
        now = self.data | {"--dataset": _place(vars(self.args))}
        if other := first_difference(then, now):
            name, then, now = other
            raise UserError(
                f"the run in {self.dir} was trained on other data: {name} {then}, here {now}. "
                "Bring it back, or start anew with --out"
            )
        values = dict(checkpoint["state"])
        if missing := [name for name in state if name not in values]:
            raise UserError(f"{last} has no {missing[0]}: it can be sampled, not resumed")
        for name, target in state.items():
            load_state(target, values.pop(name), f"{name} in {last}")
        set_rng_state(checkpoint["rng"])
        self.saved_step = checkpoint["step"]
        if self.saved_step >= self.args.steps:
            raise UserError(
                f"the run in {self.dir} has done {self.saved_step} steps already. "
                "Ask for more with --steps, or start a new run with --out"
            )
        if self.rank == 0:
            self._go_on_after(self.saved_step)
        return self.saved_step, values

    def save(self, step, name="last.pt", **state):
        """Write last.pt so that a kill at any moment leaves the old or the new one, whole."""
        state = {k: v.state_dict() if hasattr(v, "state_dict") else v for k, v in state.items()}
        if bad := first_nonfinite(state):
            raise UserError(f"step {step}: {bad} is not finite. {self.last_good()}")
        if self.rank == 0:
            save_atomic(
                {
                    "format": FORMAT,
                    "paper": self.paper,
                    "step": step,
                    "args": vars(self.args),
                    "data": self.data,
                    "state": state,
                    "rng": rng_state(),
                },
                self.dir / name,
            )
        if name == "last.pt":  # what a run goes on from; others, as best.pt, are only kept
            self.saved_step = step

    def last_good(self):
        """A sentence on the checkpoint that is left, for a message that stops the run."""
        where = self.dir / "last.pt"
        return (
            f"The last good checkpoint is {where} at step {self.saved_step}"
            if self.saved_step
            else f"No checkpoint had been saved in {self.dir}"
        )

    # --- the loop

    def steps(self, start, total):
        """Yield start+1 … total, with a progress bar. A signal ends it once its step is saved."""
        self._take_directory()
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        self._bar = tqdm(
            total=total, initial=start, disable=True if self.rank else None, unit="step"
        )
        self.total = total
        try:
            for step in range(start + 1, total + 1):
                if step == start + 4:  # the first steps warm caches up
                    warm = time.time()
                if step == start + 14:
                    self._say_eta(step, (time.time() - warm) / 10)
                if dist.is_initialized():
                    self.stop = self._agree_on_stop(step)
                yield step
                self._bar.update()
                # else the signal came after `due` said no, and the next step is saved
                if self.stop and self.saved_step == step < total:
                    self._bar.close()
                    if self.rank == 0:
                        print(
                            f"stopped by {self.stop.name} after step {step}, saved. Go on with:\n"
                            f"  {self.resume_command()}",
                            file=sys.stderr,
                        )
                    sys.exit(128 + self.stop)
        finally:
            self._bar.close()
            for s, handler in previous.items():
                signal.signal(s, handler)
            self._leave_directory()

    def _take_directory(self):
        if self.rank == 0 and self._lock is None:
            self._lock = lock_path(self.dir)

    def _leave_directory(self):
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def due(self, step, every):
        """True each `every` steps, at the last step, and at the one after which a signal stops."""
        return step % every == 0 or step == self.total or self.stop is not None

    def check(self, step, **values):
        """Stop the run if a value isn't finite.

        Call it with the losses before anything is drawn or measured, then with what is drawn:
        samples=(B, …). On a CPU values are read at each step; elsewhere, where reading waits for
        the device, at log steps only (each sample step is one). Returns the scalars as floats, {}
        where none was read.
        """
        found = {}
        if self.device.type != "cpu" and not self.due(step, self.args.log_every):
            return found
        for name, value in values.items():
            if torch.is_tensor(value) and value.dim():
                if not bool(value.isfinite().all()):
                    raise UserError(f"step {step}: the {name} are not finite. {self.last_good()}")
                continue
            found[name] = float(value)
            if not math.isfinite(found[name]):
                raise UserError(f"step {step}: {name} is {found[name]}. {self.last_good()}")
        return found

    def checked(self, step, batches):
        """The batches of samples as they come, each of them checked."""
        for samples in batches:
            self.check(step, samples=samples)
            yield samples

    def log(self, step, **values):
        """Check scalars (see `check`); at log steps write them to log.jsonl and into the bar."""
        values = self.check(step, **values)
        # without values they were not read, and a signal has come since
        if self.rank or not values or not self.due(step, self.args.log_every):
            return
        self.metrics = {"step": step, **values}
        self._bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()}, refresh=False)
        seconds = round(time.time() - self.started, 2)
        append_line(self.dir / "log.jsonl", json.dumps({**self.metrics, "seconds": seconds}))
        if self._bar.disable and self.due(step, self.args.save_every):
            print(
                f"step {step}/{self.total} " + " ".join(f"{k} {v:.4g}" for k, v in values.items()),
                file=sys.stderr,
            )

    def resume_command(self):
        started = getattr(getattr(sys.modules["__main__"], "__spec__", None), "name", "")
        module = started if started.endswith(".train") else f"{self.paper}.train"
        python = os.path.relpath(sys.executable)  # .venv/bin/python, which `make` takes
        python = "python" if python.startswith("..") else shlex.quote(python)
        return (
            f"{python} -m {module} --resume {shlex.quote(str(self.dir))} --steps {self.args.steps}"
        )

    def _on_signal(self, number, frame):
        if self._asked and number == signal.SIGINT:  # SIGTERM may come from two senders
            raise KeyboardInterrupt(self.last_good())
        self._asked = number
        if not dist.is_initialized():
            self.stop = signal.Signals(number)

    def _agree_on_stop(self, step):
        """Processes must stop at one step, so under torchrun they ask each other, at log steps."""
        if step % self.args.log_every:
            return None
        asked = torch.tensor(self._asked, device=self.device)
        dist.all_reduce(asked, dist.ReduceOp.MAX)
        return signal.Signals(int(asked)) if asked else None

    def _say_eta(self, step, seconds):
        if self.rank == 0:
            left = (self.total - step) * seconds
            time_left = f"{left / 3600:.1f} h" if left > 5400 else f"{left / 60:.0f} min"
            tqdm.write(f"{seconds:.3g} s per step: about {time_left} to go", file=sys.stderr)

    def _go_on_after(self, step):
        """Drop what a killed run logged past its checkpoint: those steps will be done again."""
        self._take_directory()  # before the log of a process that trains there loses lines
        path = self.dir / "log.jsonl"
        kept = [line for line in read_log(path) if line["step"] <= step]
        if kept:
            self.started -= kept[-1]["seconds"]  # "seconds" counts training time, over all parts
        try:
            # --steps, --device, … may have changed
            write_json(self.dir / "args.json", vars(self.args))
            if path.exists():
                replace_file(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        except Exception:
            self._leave_directory()
            raise


def _place(args):
    """Where a run's --dataset is, if it is a file."""
    return os.path.realpath(args.get("dataset", ""))


# --- files


def lock_path(path):
    """Keep other processes out of a run's path. Returns what os.close unlocks, or None."""
    try:
        import fcntl

        lock = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):  # Windows
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UserError(
            f"{path}: another process trains there. Wait for it, or choose another --out"
        ) from None
    except OSError:  # a file system without locks
        os.close(lock)
        return None
    return lock


def replace_file(path, data, shared=False):
    """Write bytes. After a kill or on a full disk `path` holds its old content or the new one.

    shared: other processes may write it at the same time.
    """
    path = Path(path)
    # else one name: what a kill leaves, the next save overwrites
    own = f".{secrets.token_hex(4)}" if shared else ""
    temporary = path.with_name(f".{path.name}{own}.tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _unwritten(path, e, "What was there before is untouched. ") from e


def append_line(path, line):
    """Append a line of text to a file, below one that a full disk has cut short."""
    try:
        with open(path, "ab+") as f:
            if f.tell():
                f.seek(-1, os.SEEK_END)
                if f.read() != b"\n":
                    f.write(b"\n")
            f.write(line.encode() + b"\n")
    except OSError as e:
        raise _unwritten(path, e) from e


def _unwritten(path, error, more=""):
    advice = ADVICE.get(error.errno, "Choose another place with --out")
    return UserError(f"can't write {path}: {error.strerror}. {more}{advice}")


def write_json(path, value):
    """Write JSON; a number that isn't finite is written as null, since JSON has none."""
    text = json.dumps(_json_numbers(value), indent=1, default=str, allow_nan=False)
    replace_file(path, (text + "\n").encode())


def _json_numbers(value):
    if isinstance(value, dict):
        return {key: _json_numbers(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_numbers(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_atomic(value, path, shared=False):
    buffer = io.BytesIO()  # torch.save to a full disk raises a RuntimeError that names nothing
    torch.save(value, buffer)
    replace_file(path, buffer.getbuffer(), shared)


def read_log(path):
    """The lines of a log.jsonl as dicts, but one cut short by a kill. [] without a file."""
    lines = []
    for line in Path(path).read_text().splitlines() if Path(path).exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines


def last_tenth(log, steps):
    """The lines of `log` in the last tenth of `steps`; if none is there, its last line."""
    return [line for line in log if line["step"] > 0.9 * steps] or log[-1:]


def load_checkpoint(path, paper=None):
    """The checkpoint's dict, on the CPU. UserError if it is damaged, or of another paper."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except IsADirectoryError:
        raise UserError(
            f"{path} is a directory: name the checkpoint in it, such as {Path(path) / 'last.pt'}"
        ) from None
    except PermissionError:
        raise
    except pickle.UnpicklingError:  # torch's words are a page on weights_only
        raise UserError(
            f"{path} is damaged or not a checkpoint: not only tensors and plain values"
        ) from None
    except Exception as e:  # damaged bytes make torch.load raise nearly anything
        raise UserError(
            f"{path} is damaged or not a checkpoint ({summary(e)}): take another one, or train anew"
        ) from None
    if not isinstance(checkpoint, dict) or "paper" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of this repository")
    if paper is not None and checkpoint["paper"] != paper:
        raise UserError(f"{path} is a checkpoint of {checkpoint['paper']}, not of {paper}")
    if checkpoint.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {checkpoint.get('format')}; this code reads format {FORMAT}"
        )
    return checkpoint


def load_state(target, state, what):
    """target.load_state_dict(state); one line, not torch's page, when names or shapes differ."""
    try:
        target.load_state_dict(state)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as e:
        why = differences(target.state_dict(), state) or summary(e)
        raise UserError(
            f"{what} doesn't fit the networks that this code builds, so another version of it has "
            f"saved it: {why}"
        ) from None
    if isinstance(target, torch.optim.Optimizer):
        lay_out_as_weights(target)


def lay_out_as_weights(optimiser):
    """Give the moments their weights' memory format, which an earlier version may not have had.

    Fused Adam pairs numbers by their place in memory.
    """
    for p, values in optimiser.state.items():
        for name, value in values.items():
            if torch.is_tensor(value) and value.shape == p.shape:
                values[name] = torch.empty_like(p, dtype=value.dtype).copy_(value).detach()


def differences(here, there):
    """The first difference of two dicts of tensors in words, and how many more; "" if none."""
    if not (isinstance(here, dict) and isinstance(there, dict)):
        return ""
    ours, theirs = (
        {name: tuple(x.shape) for name, x in state.items() if torch.is_tensor(x)}
        for state in (here, there)
    )
    found = [
        f"{name} has the shape {theirs[name]} there and {ours[name]} here"
        for name in ours
        if name in theirs and theirs[name] != ours[name]
    ]
    found += [f"{name} is missing there" for name in ours if name not in theirs]
    found += [f"{name} is missing here" for name in theirs if name not in ours]
    return "" if not found else found[0] + (f", and {len(found) - 1} more" if found[1:] else "")


def summary(error):
    """An exception in a few whole words: its name and the beginning of what it says."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 160, placeholder=" …")


def newest_checkpoint(paper):
    """last.pt of the run under runs/<paper>/ that was saved last."""
    found = sorted(Path("runs", paper).glob("*/last.pt"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UserError(f"no checkpoint under runs/{paper}/. Train first, or name one with --ckpt")
    return found[-1]


def first_nonfinite(value, name="state"):
    """The name of the first non-finite number or tensor in nested dicts and lists, or None."""
    if isinstance(value, float):
        return None if math.isfinite(value) else name
    if torch.is_tensor(value):
        return name if value.is_floating_point() and not bool(value.isfinite().all()) else None
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, part in value.items():
            if bad := first_nonfinite(part, f"{name}.{key}"):
                return bad
    return None


def environment(device):
    """What a result depends on besides the arguments: commit, versions, device, command."""

    def git(*words):
        try:
            return subprocess.run(
                ["git", *words],
                cwd=Path(__file__).parent,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    def version(package):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    commit = git("rev-parse", "HEAD")
    return {
        "commit": commit,
        "uncommitted_changes": bool(git("status", "--porcelain")) if commit else None,
        "command": shlex.join(sys.orig_argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(device),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **{
            p: version(p)
            for p in ("torch", "torchvision", "numpy", "scipy", "jetnet", "matplotlib")
        },
    }
