"""What only a CUDA GPU can show, in under nine minutes: checks, times and a training of MDMA.

  bash tests/gpu_run.sh                                  for whoever has a GPU at hand
  python -m tests.gpu_run --device cpu --rehearse        all of it in small, without a GPU

Its parts, of which each is a process with a time limit, so that none takes the others along:
  machine      device, versions, and which packages are missing
  jets         PYTHIA's top jets for the training: DATA_DIR/pythia/t150.hdf5, as
               `python -m mdma.simulate --type t --jets 50000` writes it (7 minutes of one core,
               37 MB); where it is missing it is simulated, if pythia8mc is installed
  graphs       MDMA's steps as CUDA graphs against --eager ones and against the CPU's
  smoke        every folder: train, resume, evaluate, draw, export; losses against the CPU's
  generation   µs per jet of mdma/results/t30.pt and t150.pt, TF32 off and on
  steps        ms per training step, eager and graphed, of 30 and 150 particles; larger batches
  training     t at 150 particles, --pt softplus, for what is left of --minutes, five at most
  evaluation   Table 1 of its last.pt and best.pt

Leaves in --out, of under 1 MB each: gpu_run.json, where every check is "pass", "fail" or "not run"
with its numbers; gpu_run.log; and of the training t150_gpu.pt (what sampling needs), its two
evaluations, log, curves and Fig. 2.
"""

import contextlib
import functools
import importlib
import itertools
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

from common import arguments  # nothing here imports torch: a part does
from common.arguments import FilePath
from common.cli import run_main
from common.errors import UserError

REPO = Path(__file__).resolve().parent.parent
FOLDERS = sorted(path.parent.name for path in REPO.glob("*/train.py"))
PACKAGES = ("torch", "numpy", "scipy", "tqdm", "matplotlib")  # what each part needs
PAPER_US = 9.2  # per jet, MDMA on an A100, 500,000 jets in batches of 75,000 (arXiv:2305.15254)
LIMITS = {  # seconds
    "machine": 60,
    "jets": 150,
    "graphs": 120,
    "smoke": 120,
    "generation": 70,
    "steps": 70,
    "evaluation": 60,
}
TRAINING = 300  # seconds at most
AFTER = 60  # seconds that are left for what comes after the training
VARIANTS = {  # flags beside --smoke that reach other code
    "began": [[], ["--arch", "berthelot"]],
    "bigan": [[], ["--arch", "conv"], ["--method", "ali"], ["--method", "ae-l1"]],
    "cagan": [[], ["--adv", "wgan-gp"], ["--loss", "ac", "--norm", "batch"]],
    "egan": [[], ["--mu", "2"], ["--dataset", "synthetic"], ["--gp", "1", "--d-norm", "none"]],
    "mdma": [
        [],
        ["--objective", "wgan-gp", "--g-every", "2"],
        ["--paper-code"],
        ["--pt", "softplus", "--ema", "0.9"],
    ],
    "pan": [
        [],
        ["--task", "inpainting", "--size", "64"],
        ["--task", "super-resolution", "--net", "unet6", "--size", "64"],
    ],
    "sagan_wgangp": [[], ["--method", "gan"], ["--method", "wgan"], ["--method", "sagan"]],
}
LOSS_LIMIT = 0.005  # relative difference of first losses; TF32 is off


@dataclass
class Args:
    # --- options
    device: str = "auto"  # where to compute: auto, cpu, cuda, cuda:N
    out: FilePath = "runs/gpu"  # where the results go, a new or empty directory
    data_dir: FilePath = "data"  # PYTHIA's jets are in its folder pythia
    jets: int = 50_000  # jets to simulate where there are none
    minutes: float = 8.5  # of all parts together; in (0, ∞)
    batches: list[int] = field(default_factory=lambda: [128, 512, 2048])  # sizes to try
    folders: list[str] = field(default_factory=lambda: FOLDERS)  # whose smoke is run
    commit: str = ""  # of these sources, for the JSON, where git can't tell
    rehearse: bool = False  # tiny numbers, which mean nothing; what needs a GPU is "not run"


class NotRun(Exception):
    """A part that can't be run here, and why."""


class Report:
    """What a part found, written at once to `path`."""

    def __init__(self, path):
        self.path, self.result = path, {"checks": {}, "numbers": {}}

    def check(self, name, value, limit, why_not=None):
        """value <= limit passes, NaN doesn't; with why_not the value says nothing: "not run"."""
        passed = "pass" if value <= limit else "fail"
        found = {"status": "not run" if why_not else passed, "value": value, "limit": limit}
        self.result["checks"][name] = found | ({"why": why_not} if why_not else {})
        self.write()

    def note(self, **numbers):
        self.result["numbers"] |= numbers
        self.write()

    def write(self):
        write_json(self.path, self.result)


def write_json(path, value):
    """As strict JSON: infinities and NaN as text."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(finite(value), indent=1, allow_nan=False) + "\n")
    os.replace(temporary, path)


def finite(value):
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


# --- machine and data


def machine(args, report):
    """Device, versions; a GPU's properties."""
    import torch

    from common.device import choose_device
    from common.runs import environment

    device = choose_device(args.device)
    report.note(**environment(device) | {"device_type": device.type, "cpus": os.cpu_count()})
    report.note(cuda=torch.version.cuda, packages=args.packages)
    if args.commit:
        report.note(commit=args.commit)
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        report.note(memory_GiB=found.total_memory / 2**30, capability=[found.major, found.minor])
        report.note(multiprocessors=found.multi_processor_count)


def jets(args, report):
    """PYTHIA's top jets, simulated where they are missing."""
    if args.rehearse:
        raise NotRun("a rehearsal trains on toys")
    path = Path(args.data_dir, "pythia", "t150.hdf5")
    if find_spec("h5py") is None:
        raise NotRun(f"h5py is missing, which reads and writes {path}")
    if not path.exists():
        if find_spec("pythia8mc") is None:
            raise NotRun(
                f"no {path}, and no pythia8mc to simulate jets: python -m mdma.simulate --type t "
                f"--jets {args.jets} makes it (mdma/requirements-pythia.txt)"
            )
        from mdma import simulate

        simulate.main(["--type", "t", "--jets", str(args.jets), "--data-dir", str(args.data_dir)])
    import h5py

    with h5py.File(path) as f:
        report.note(jets=len(f["particle_features"]), MB=path.stat().st_size / 1e6)


# --- MDMA's steps as CUDA graphs

# Flags, and how far weights may be apart after 24 steps, as a share of the way that they went. That
# the weights begin 1e-7 apart makes 2e-5 of it with lsgan and 4e-3 with wgan-gp; that the noise or
# the jets stay those of the third step, as with a graph that forgets its arguments, makes 9e-3 to
# 0.3 and 0.2 to 0.4.
SCHEDULES = {
    "lsgan": (["--matching", "10", "--ema", "0.9"], 2e-3),  # recorded with matching, and without
    "wgan-gp": (["--objective", "wgan-gp", "--g-every", "2", "--pt", "softplus"], 0.05),
}


def schedule_flags(name, rehearse=False):
    """(flags of mdma.train but --steps, steps)."""
    steps = 6 if rehearse else 24
    size = ["--smoke"] if rehearse else ["--num-particles", "30", "--batch-size", "64"]
    size += ["--dataset", "synthetic", "--bucket", "1", "--warmup", "1", "--log-every", "100"]
    size += ["--sample-every", "100", "--save-every", "100", "--valid-batches", "1"]
    return [*size, *SCHEDULES[name][0], "--lr-total", str(steps)], steps


def graphs(args, report):
    """Weights after some steps: graphed, --eager, on the CPU, and graphed with a resume between."""
    import torch

    from common.device import choose_device

    gpu = choose_device(args.device).type == "cuda"
    why_not = None if gpu else "no CUDA, no graphs: every step was eager, on one device"
    for name, (_, limit) in SCHEDULES.items():
        flags, steps = schedule_flags(name, args.rehearse)
        to_end = [*flags, "--steps", str(steps)]
        place = args.work / name
        started = time.time()
        graphed, count = weights(to_end, args.device, place / "graphed")
        report.note(**{f"{name}: graphs": count, f"{name}: seconds": time.time() - started})
        eager, _ = weights([*to_end, "--eager"], args.device, place / "eager")
        cpu, _ = weights(to_end, "cpu", place / "cpu")
        weights([*flags, "--steps", str(steps // 2)], args.device, place / "resumed")
        again = ["--resume", "PLACE", "--steps", str(steps)]
        resumed, _ = weights(again, args.device, place / "resumed")
        start = initial_weights(to_end)
        for net in eager:
            for what, a, b, why in (
                ("graphed against eager", graphed, eager, why_not),
                ("graphed against the CPU", graphed, cpu, why_not),
                ("resumed against unbroken", resumed, graphed, None),
            ):
                value = difference(a[net], b[net], start[net])
                report.check(f"{name}: {net} {what}", value, limit, why)
        report.check(f"{name}: no graph was recorded", float(count == 0), 0, why_not)
    if gpu:
        report.note(peak_MiB=torch.cuda.max_memory_allocated() / 2**20)


def weights(flags, device, place):
    """({network: its weights}, how many graphs were recorded) after mdma.train with these flags."""
    from common.runs import load_checkpoint
    from mdma import train

    where = ["--out", str(place)]
    if "PLACE" in flags:
        flags, where = [str(place) if flag == "PLACE" else flag for flag in flags], []
    with watched_graphs() as found, no_pictures():
        train.main([*flags, *where, "--device", device])
    state = load_checkpoint(place / "last.pt", "mdma")["state"]
    return {net: state[net] for net in ("G", "D", "G_ema")}, found["graphs"]


@contextlib.contextmanager
def watched_graphs():
    """Within it mdma.train counts its graphs, and the seconds that recording them takes.

    They are in what is yielded: {"graphs": …, "recording_seconds": …}.
    """
    from mdma import train

    kept = train.GraphedStep
    found = {"graphs": 0, "recording_seconds": 0.0}

    class Watched(kept):
        def __call__(self, *arguments):
            before, started = self.known(), time.perf_counter()
            results = super().__call__(*arguments)
            if self.known() != before:  # a shape's first call, or its second, which records
                found["recording_seconds"] += time.perf_counter() - started
                found["graphs"] = self.known()[1]
            return results

        def known(self):
            return len(self.recorded), sum(g is not None for g in self.recorded.values())

    train.GraphedStep = Watched
    try:
        yield found
    finally:
        train.GraphedStep = kept


@contextlib.contextmanager
def no_pictures():
    """Within it mdma.train draws nothing, which takes seconds."""
    from mdma import train

    kept = train.draw_features, train.curves
    train.draw_features = train.curves = lambda *args, **kwargs: None
    try:
        yield
    finally:
        train.draw_features, train.curves = kept


def initial_weights(flags):
    """{network: its weights} before the first step."""
    from common.rng import seed_all
    from mdma import train

    args = train.parse_args(flags)
    seed_all(args.seed)
    G, D = (net.state_dict() for net in train.build(args))
    return {"G": G, "D": D, "G_ema": G}


def difference(a, b, start):
    """‖a − b‖ / ‖b − start‖ of {name: tensor}: 1 is as far as training came. NaN stays NaN."""
    apart = sum((a[name] - b[name]).double().square().sum() for name in b)
    moved = sum((b[name] - start[name]).double().square().sum() for name in b)
    return float((apart / moved).sqrt()) if apart else 0.0


# --- smoke


def smoke(args, report, folder, amp):
    """A folder as its README starts it; then its VARIANTS, whose first losses are the CPU's."""
    import torch

    from common.device import choose_device, without_bf16

    if amp == "bf16" and without_bf16(choose_device(args.device)):
        raise NotRun("this GPU has no bf16")
    torch.backends.cudnn.allow_tf32 = False  # or losses differ from the CPU's by 1e-3
    train, evaluation = (importlib.import_module(f"{folder}.{name}") for name in ("train", "eval"))
    device = str(choose_device(args.device))
    data = ["--data-dir", str(args.work / "data")]
    there = [*data, "--device", device, "--amp", amp]
    place = args.work / "run"

    train.main(["--smoke", "--steps", "6", "--out", str(place), *there])
    train.main(["--resume", str(place), "--steps", "12", "--device", device])
    done = [line["step"] for line in log_of(place)]
    report.check("train, resume", float(done != [2, 4, 6, 8, 10, 12]), 0)
    if folder == "bigan":  # which measures in fp32
        there = [*data, "--device", device]
    drawn = ["--samples", "4", "--grid-out"]
    ways = {
        "evaluate": [*there, "--n", "64"],
        "draw": [*there, *drawn, str(args.work / "drawn.png")],
        "export": [*there, "--n", "5", "--export", str(args.work / "exported")],
        "draw on the CPU": [*data, "--device", "cpu", *drawn, str(args.work / "drawn_cpu.png")],
    }
    for what, flags in ways.items():
        evaluation.main(["--ckpt", str(place / "last.pt"), *flags])
        report.check(what, 0.0, 0)

    for i, flags in enumerate(VARIANTS[folder][: 1 if args.rehearse else None]):
        name = " ".join(["losses", *flags])
        short = [
            "--smoke",
            "--steps",
            "2",
            "--log-every",
            "1",
            "--sample-every",
            "2",
            *flags,
            *data,
        ]
        places = [args.work / f"{i}-{where}" for where in ("device", "cpu")]
        train.main([*short, "--out", str(places[0]), "--device", device, "--amp", amp])
        if amp == "off":
            train.main([*short, "--out", str(places[1]), "--device", "cpu"])
            ours, cpu = (log_of(place)[0] for place in places)
            why_not = "both ran on the CPU" if device == "cpu" else None
            report.check(
                f"{name} against the CPU's", loss_difference(ours, cpu), LOSS_LIMIT, why_not
            )
        else:
            report.check(f"{name} are finite", 0.0, 0)  # a run stops where they are not


def log_of(place):
    from common.runs import read_log

    return read_log(Path(place) / "log.jsonl")


def loss_difference(ours, theirs):
    """The largest |a − b| / (|b| + 0.01) of two lines of a log, but for E-GAN's survivors.

    After Adam's first step, nearly sign(g), children tie, and rounding chooses among them.
    """
    keys = theirs.keys() - {"step", "seconds", "peak_MiB"}
    keys = {key for key in keys if not key.startswith("selected_")}
    return max(abs(ours[key] - theirs[key]) / (abs(theirs[key]) + 0.01) for key in keys)


# --- times


def generation(args, report):
    """µs per jet of the shipped generators, with numbers of particles as in the data."""
    import torch

    from common.device import choose_device
    from mdma import eval as evaluation
    from mdma.features import generate, sample_jets

    device = choose_device(args.device)
    gpu = device.type == "cuda"
    count, batch, repeats = (200, 100, 1) if args.rehearse else (500_000, 75_000, 3)
    for name in ("t30", "t150"):
        path = REPO / f"mdma/results/{name}.pt"
        G, trained, stats, _ = evaluation.load(path, device)
        N = trained.num_particles
        rng = torch.Generator().manual_seed(0)
        n = torch.multinomial(stats["counts"].double(), count, replacement=True, generator=rng)

        G_cpu = evaluation.load(path, torch.device("cpu"))[0]
        few = n[:1000]
        z = torch.randn(len(few), N, 3, generator=rng)
        mask = torch.arange(N) < few[:, None]
        on_cpu = G_cpu(z, mask)

        def apart(G=G, z=z, mask=mask, on_cpu=on_cpu):
            jets = G(z.to(device), mask.to(device)).cpu()
            return float((jets - on_cpu).double().norm() / on_cpu.double().norm())

        why_not = None if gpu else "both ran on the CPU"
        report.check(f"{name}: jets against the CPU's", apart(), 1e-4, why_not)
        jets = generate(G, min(count, 10_000), stats, N, rng, batch)
        report.check(f"{name}: jets that aren't finite", float((~jets.isfinite()).sum()), 0)
        for tf32 in (False, True):
            key = f"{name}, TF32 {'on' if tf32 else 'off'}"
            if tf32 and not gpu:
                report.note(**{key: "not run: a GPU's"})
                continue
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            sample_jets(G, n[:batch], N, chunk_size=batch)  # warms up
            us = []
            for _ in range(repeats):
                wait(device)
                started = time.perf_counter()
                sample_jets(G, n, N, chunk_size=batch)
                wait(device)
                us.append(1e6 * (time.perf_counter() - started) / count)
            row = {"us_per_jet": statistics.median(us), "each": us, "jets": count, "batch": batch}
            row |= {"difference_from_cpu": apart(), "paper_us_per_jet_A100": PAPER_US}
            report.note(**{key: row})
        torch.set_float32_matmul_precision("highest")
    if gpu:
        report.note(peak_MiB=torch.cuda.max_memory_allocated(device) / 2**20)


def wait(device):
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def steps(args, report):
    """ms per training step of jets that all have N particles, so that one graph serves all."""
    from common.device import choose_device
    from mdma import train

    gpu = choose_device(args.device).type == "cuda"
    rows = [(N, 128, mode) for N in (30, 150) for mode in ("eager", "graphed")]
    rows += [(150, batch, "graphed") for batch in args.batches if batch != 128]
    for N, batch, mode in rows:
        key = f"{N} particles, batch {batch}, {mode}"
        if mode == "graphed" and not gpu:
            report.note(**{key: "not run: no CUDA, no graphs"})
            continue
        total, every = (1000, 250) if mode == "graphed" else (200, 50)
        if args.rehearse:
            total, every, batch = 4, 1, 16
        jets = toys(args.work / f"toys-{N}-{batch}.npz", 3 * batch, N)
        flags = ["--smoke"] if args.rehearse else ["--quick"]
        flags += ["--dataset", str(jets), "--num-particles", str(N), "--batch-size", str(batch)]
        flags += ["--steps", str(total), "--log-every", str(every), "--matching", "0"]
        flags += ["--sample-every", str(10 * total), "--valid-batches", "1"]
        flags += ["--eager"] * (mode == "eager")
        place = args.work / key.replace(", ", "-").replace(" ", "")
        with no_pictures():
            train.main([*flags, "--out", str(place), "--device", args.device])
        seconds = [line["seconds"] for line in log_of(place)]
        # the first stretch has the recording, the last one the validation
        each = [1000 * (b - a) / every for a, b in itertools.pairwise(seconds[:-1])]
        host = host_ms(batch, N, 3 if args.rehearse else 20)
        report.note(**{key: {"ms": statistics.median(each), "each": each, "of_it_host_ms": host}})


def toys(path, count, N):
    """A file of `count` jets of just N particles, for times only. 70 % of it is trained on."""
    import numpy as np

    if not path.exists():
        rng = np.random.default_rng(0)
        pt = -np.sort(-rng.exponential(size=(count, N)), axis=1)
        angles = 0.1 * rng.normal(size=(count, N, 2))
        jets = np.concatenate([angles, (pt / pt.sum(1, keepdims=True))[..., None]], axis=2)
        np.savez(path, particles=jets.astype(np.float32), mask=np.ones((count, N), bool))
    return path


def host_ms(batch, N, repeats):
    """ms in which the CPU draws a step's noise: while it does, the GPU waits."""
    import torch

    from common.rng import step_rng

    times = []
    for step in range(repeats):
        started = time.perf_counter()
        torch.randn(batch, N, 3, generator=step_rng(0, step))
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def best_batch(ms, batches):
    """The largest batch that pays: it trains 1.5 times as many jets per second as the one below.

    ms: {"150 particles, batch B, graphed": {"ms": …}}, with gaps where nothing was measured.
    Returns (batch, ms of a step), (128, None) without any.
    """
    times = {}
    for batch in sorted(batches):
        row = ms.get(f"150 particles, batch {batch}, graphed")
        if isinstance(row, dict):
            times[batch] = row["ms"]
    if not times:
        return 128, None
    chosen, *larger = times
    for batch in larger:
        if batch / times[batch] < 1.5 * chosen / times[chosen]:
            break
        chosen = batch
    return chosen, times[chosen]


# --- a training


def training(args, report):
    """MDMA on PYTHIA's tops of 150 particles until it is through, or `seconds` are over."""
    from common.device import choose_device
    from mdma import train

    data = Path(args.data_dir, "pythia", "t150.hdf5")
    if not args.rehearse and not data.exists():
        raise NotRun(f"there is no {data}: see the part jets")
    if not args.rehearse and choose_device(args.device).type != "cuda":
        raise NotRun("no CUDA")
    batch, ms = best_batch(args.measured, args.batches)
    total = 20_000
    if ms:  # steps in 4/5 of the time: recording and validation take some, too
        total = max(500, int(0.8 * 1000 * args.seconds / ms) // 500 * 500)
    flags = ["--quick", "--num-particles", "150", "--batch-size", str(batch)]
    if args.rehearse:
        total, flags = 10, ["--smoke"]
    every = str(total // (2 if args.rehearse else 10))
    flags += ["--pt", "softplus", "--steps", str(total), "--lr-total", str(total)]
    flags += ["--sample-every", every, "--save-every", every, "--data-dir", str(args.data_dir)]
    place = args.shared / "run"
    report.note(command=f"python -m mdma.train {' '.join(flags)}", batch=batch, steps_planned=total)
    stop = threading.Timer(args.seconds, os.kill, (os.getpid(), signal.SIGTERM))
    stop.daemon = True
    stop.start()
    started = time.time()
    try:
        with watched_graphs() as found:
            train.main([*flags, "--out", str(place), "--device", args.device])
    except SystemExit:  # it has finished the step, and saved
        pass
    finally:
        stop.cancel()
    seconds = time.time() - started
    done = log_of(place)[-1]
    report.note(steps=done["step"], seconds=seconds, last_line=done, **found)
    report.note(jets_per_second=batch * done["step"] / seconds)
    report.check("a checkpoint is there", float(not (place / "last.pt").exists()), 0)


def evaluation(args, report, which):
    """Table 1 of a checkpoint of the training; of last.pt also what is shipped."""
    from mdma import eval as evaluate

    path = args.shared / "run" / f"{which}.pt"
    if not path.exists():
        raise NotRun(f"the training left no {which}.pt")
    place = args.work / which  # each of the two writes a fig2.png beside its checkpoint
    place.mkdir()
    copy = shutil.copy(path, place / path.name)
    shutil.copy(path.with_name("log.jsonl"), place)
    data = ["--data-dir", str(args.data_dir), "--device", args.device]
    started = time.time()
    metrics = evaluate.main(["--ckpt", str(copy), *data] + ["--n", "200"] * args.rehearse)
    report.note(metrics=metrics, evaluation_seconds=time.time() - started)
    step = max(place.glob("eval_*.json")).stem.removeprefix("eval_")
    report.note(step=int(step))
    keep = {f"eval_{step}.json": f"t150_gpu_{which}_eval.json"}
    if which == "last":
        evaluate.main(["--ckpt", str(copy), "--slim", str(place / "slim.pt")])
        keep |= {"slim.pt": "t150_gpu.pt", "log.jsonl": "t150_gpu_log.jsonl"}
        keep |= {"curves.png": "t150_gpu_curves.png", "fig2.png": "t150_gpu_fig2.png"}
    for name, kept in keep.items():
        shutil.copy(place / name, Path(args.out) / kept)


PARTS = {
    function.__name__: function
    for function in (machine, jets, graphs, smoke, generation, steps, training, evaluation)
}


# --- the parts, one after the other


def run_here(settings):
    """A part in this process. settings: as of `settings_of`. Its result is in settings["result"]."""
    import argparse

    args = argparse.Namespace(**settings)
    args.work, args.shared = Path(args.work), Path(args.shared)
    report = Report(Path(args.result))
    report.write()
    name, *options = args.part.split()
    try:
        PARTS[name](args, report, *options)
        report.result["finished"] = True
    except NotRun as why:
        report.result["not_run"] = str(why)
    except BaseException as e:  # also SystemExit
        traceback.print_exc()
        report.result["error"] = f"{type(e).__name__}: {e}"[:2000]
    report.write()


RUNNING = set()  # processes


def run_apart(settings, limit):
    """A part in a process of its own, which is killed after `limit` seconds with what it started."""
    file = Path(settings["work"]) / "settings.json"
    write_json(file, settings)
    command = [sys.executable, "-m", "tests.gpu_run", "--part", str(file)]
    alone = not settings["rehearse"] and not settings["part"].startswith("smoke")
    threads = min(4, os.cpu_count() or 1) if alone else 1
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    with open(settings["log"], "w") as log:
        process = subprocess.Popen(
            command, cwd=REPO, env=env, stdout=log, stderr=log, start_new_session=True
        )
        RUNNING.add(process)
        try:
            process.wait(limit)
        except BaseException as e:  # also Ctrl-C
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(e, subprocess.TimeoutExpired):
                raise
            return f"was stopped at its limit of {limit:.0f} s"
        finally:
            RUNNING.discard(process)
    return f"ended with exit status {process.returncode}" if process.returncode else None


def settings_of(part, args, work, **more):
    """All that a part's process needs to know."""
    name = part.replace(" ", "-")
    (work / name).mkdir(parents=True)
    places = {"work": str(work / name), "shared": str(work), "log": str(work / f"{name}.log")}
    return {"part": part, "result": str(work / f"{name}.json"), **places, **asdict(args), **more}


def run_part(part, args, work, left, run, **more):
    """{"status", "seconds", "checks", "numbers", …} of a part. left(): seconds for all that comes."""
    limit = more.get("limit") or LIMITS[part.split()[0]]
    limit = min(limit, left())
    if limit < 5 and not args.rehearse:
        return {"status": "not run", "why": "no time was left"}
    settings = settings_of(part, args, work, **more)
    started = time.time()
    trouble = run(settings, limit)
    result = {"checks": {}, "numbers": {}}
    if Path(settings["result"]).exists():
        result = json.loads(Path(settings["result"]).read_text())
    if "not_run" not in result and not result.pop("finished", False):
        result.setdefault("error", trouble or "ended early")
    return {"status": status(result), "seconds": round(time.time() - started, 1), **result}


def status(result):
    """Of a part: one failure fails it, and it passes if anything passed, or was measured."""
    found = [check["status"] for check in result["checks"].values()]
    if "error" in result or "fail" in found:
        return "fail"
    measured = [
        value for value in result["numbers"].values() if not str(value).startswith("not run")
    ]
    return "pass" if "not_run" not in result and ("pass" in found or measured) else "not run"


def main(argv=None, run=run_apart):
    """The result, as in gpu_run.json. run: of a part's settings and limit."""
    args = arguments.parse_args(Args, __doc__, argv)
    if unknown := set(args.folders) - set(FOLDERS):
        raise UserError(f"--folders {', '.join(sorted(unknown))}: there are {', '.join(FOLDERS)}")
    out = Path(args.out).resolve()
    if out.is_file() or (out.exists() and any(out.iterdir())):
        raise UserError(f"--out {args.out} is not empty: give another")
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"{sys.executable} lacks {', '.join(missing)}: pip install them there")
    out.mkdir(parents=True, exist_ok=True)
    args.out, args.data_dir = str(out), str(Path(args.data_dir).resolve())
    started = time.time()

    def left(reserve=0):
        return started + 60 * args.minutes - time.time() - reserve

    result = {"arguments": asdict(args), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "parts": {}}
    with tempfile.TemporaryDirectory(prefix="gpu_run-") as work:
        work = Path(work)

        def do(*parts, side_by_side=1, **more):
            one = functools.partial(run_part, args=args, work=work, left=left, run=run, **more)
            with ThreadPoolExecutor(side_by_side) as pool:
                results = map(one, parts) if side_by_side == 1 else pool.map(one, parts)
                try:
                    for part, found in zip(parts, results):
                        result["parts"][part] = found
                        say(part, found, time.time() - started)
                except BaseException:  # Ctrl-C, which parts don't feel
                    pool.shutdown(wait=False, cancel_futures=True)
                    for process in list(RUNNING):
                        os.killpg(process.pid, signal.SIGKILL)
                    raise
            result["seconds"] = round(time.time() - started, 1)
            write_json(out / "gpu_run.json", result)
            write_log(work, out / "gpu_run.log")

        packages = {name: find_spec(name) is not None for name in (*PACKAGES, "h5py", "pythia8mc")}
        do("machine", packages=packages)
        found = result["parts"]["machine"].get("numbers", {})
        if found.get("device_type") != "cuda" and not args.rehearse:
            why = f"torch sees {found['device']} only" if found else "the part machine failed"
            raise UserError(f"no CUDA GPU ({why}). Rehearse: --device cpu --rehearse")
        smokes = [f"smoke {folder} off" for folder in args.folders]
        smokes += [f"smoke {folder} bf16" for folder in args.folders if folder != "mdma"]
        if args.rehearse:
            smokes = smokes[: len(args.folders)]
        at_once = max(2, os.cpu_count() or 2) if run is run_apart else 1
        do("jets", "graphs", *smokes, side_by_side=at_once)
        do("generation")
        do("steps")
        seconds = 60 if args.rehearse else min(TRAINING, left(AFTER))
        measured = result["parts"]["steps"].get("numbers", {})
        do("training", limit=seconds + 20, seconds=seconds, measured=measured)
        do("evaluation last", "evaluation best", side_by_side=2 if run is run_apart else 1)
        result["files"] = sorted({path.name for path in out.iterdir()})
        write_json(out / "gpu_run.json", result)
    print(f"in {out}: {', '.join(result['files'])}")
    return result


def say(part, result, seconds):
    """A line on a part that is through, and one on each check that failed."""
    checks = [check["status"] for check in result["checks"].values()] if "checks" in result else []
    counted = ", ".join(
        f"{checks.count(s)} {s}" for s in ("pass", "fail", "not run") if s in checks
    )
    why = result.get("error") or result.get("not_run") or result.get("why", "")
    print(f"{seconds:5.0f} s  {part:26} {result['status']:8} {counted} {why}".rstrip(), flush=True)
    for name, check in result.get("checks", {}).items():
        if check["status"] == "fail":
            print(f"         {name}: {check['value']}, limit {check['limit']}", flush=True)
    for name, row in result.get("numbers", {}).items():
        if part in ("generation", "steps") and isinstance(row, dict):
            unit, value = next(iter(row.items()))
            print(f"         {name}: {value:.3g} {unit}", flush=True)


def write_log(work, path, most=40_000):
    """The ends of what the parts printed."""
    texts = [(file.stem, file.read_text(errors="replace")) for file in sorted(work.glob("*.log"))]
    path.write_text("".join(f"=== {name}\n{text[-most:]}\n" for name, text in texts))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:  # the script starts its parts like this
        run_here(json.loads(Path(sys.argv[2]).read_text()))
    else:
        run_main(main)
