"""Jets by JetNet's recipe, simulated with PYTHIA and written as JetNet's own files.

    python -m mdma.simulate --type t --jets 50000          # data/pythia/t150.hdf5; 7 CPU minutes
    python -m mdma.simulate --type g q t w z --jets 50000  # all five
    make data-jets ARGS="--type q --jets 20000"            # the same, PYTHIA installed first
    python -m mdma.simulate --part 0/4 …                   # a quarter; without --part: all, joined

The recipe (Kansal et al., arXiv:2106.11535, §2): pp at 13 TeV, Monash tune, underlying event; gg,
qq, tt, WW or ZZ with the partons' pT within 1 % of 1 TeV, t, W and Z decaying to quarks; anti-kT
jets of the visible final particles; of each event the two leading jets, where 0.8 < pT < 1.6 TeV;
their 150 hardest constituents relative to the jet. R = 0.4, constituents' pT > 0.2 GeV and Z decays
without b quarks are not in the text: of what was tried they agree best with what is known of JetNet
(numbers of particles, features at 30 particles, FPND). W and Z decay isotropically.
It is a twin of JetNet, not JetNet: the hard process is PYTHIA's, not MadGraph's, the version 8.3,
not 8.2.

A file holds `particle_features` (jets, 150, 4): eta_rel, phi_rel, pt_rel, mask; hardest first,
zero-padded; and `jet_features` (jets, 4): pT / GeV, eta, mass / GeV (these three of all
constituents), number of particles (at most 150).

Jets come in shards of 1,000, each with a seed of its own made of (--seed, type, shard number): the
number of workers or parts changes nothing, a killed run goes on where it was, and fewer jets are
the first of more. Parts may run at once on machines that share --data-dir DIR; if they don't, copy
what is in each DIR/pythia/shards into one of them. DIR/pythia/shards may be deleted once there are
enough jets.
"""

import multiprocessing
import os
import zlib
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from textwrap import shorten
from typing import Literal, NamedTuple

import h5py
import numpy as np
from tqdm import tqdm

from common import arguments
from common.arguments import FilePath, Part, part_of
from common.cli import run_main
from common.errors import UserError

JET_TYPES = ("g", "q", "t", "w", "z")
MAX_PARTICLES = 150
RADIUS = 0.4
JET_PT = (800.0, 1600.0)  # GeV, of both leading jets
MIN_PT = 0.2  # GeV, of constituents
SHARD = 1000

SETTINGS = (  # the Monash tune is PYTHIA's default
    "Print:quiet = on",
    "Check:event = off",
    "Random:setSeed = on",
    "Beams:eCM = 13000",
    "PhaseSpace:pTHatMin = 990",
    "PhaseSpace:pTHatMax = 1010",
)
W_TO_QUARKS = ("24:onMode = off", "24:onIfAny = 1 2 3 4 5")
PROCESSES = {
    "g": ("HardQCD:gg2gg = on", "HardQCD:qqbar2gg = on"),
    "q": ("HardQCD:qq2qq = on", "HardQCD:gg2qqbar = on", "HardQCD:qqbar2qqbarNew = on"),
    "t": ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", *W_TO_QUARKS),
    "w": ("WeakDoubleBoson:ffbar2WW = on", *W_TO_QUARKS),
    "z": (
        "WeakDoubleBoson:ffbar2gmZgmZ = on",
        "WeakZ0:gmZmode = 2",
        "23:onMode = off",
        "23:onIfAny = 1 2 3 4",
    ),
}


# --- one shard


def simulate_shard(jet_type, jets, seed, shard):
    """The first `jets` jets of a shard: (jets, 150, 4) and (jets, 4) float32, as in the file."""
    import pythia8mc

    words = np.random.SeedSequence([seed, JET_TYPES.index(jet_type), shard]).generate_state(2)
    pythia = pythia8mc.Pythia("", False)
    for line in (*SETTINGS, *PROCESSES[jet_type], f"Random:seed = {1 + words[0] % 900_000_000}"):
        if not pythia.readString(line):
            raise RuntimeError(f"PYTHIA doesn't know the setting {line!r}")
    # a name for it: PYTHIA doesn't keep it alive
    hook = isotropic_decays(np.random.default_rng(words[1]))
    if jet_type in "wz":
        pythia.setUserHooksPtr(hook)
    if not pythia.init():
        raise RuntimeError("PYTHIA can't be initialised")
    # power -1: anti-kT; 25: no cut in eta; 2: visible particles only; 2: their own masses.
    # FastJet's core, in C++.
    finder = pythia8mc.SlowJet(-1, RADIUS, JET_PT[0], 25.0, 2, 2)
    particles = np.zeros((jets, MAX_PARTICLES, 4), np.float32)
    features = np.zeros((jets, 4), np.float32)
    done = failures = 0
    while done < jets:
        if not pythia.next():
            failures += 1
            if failures > 10 + done:
                raise RuntimeError(f"PYTHIA gave up on {failures} events")
            continue
        event = pythia.event
        finder.analyze(event)
        for k in range(min(2, finder.sizeJet())):
            if finder.pT(k) < JET_PT[1] and done < jets:
                constituents = (event[i] for i in finder.constituents(k))
                momenta = np.array([(p.px(), p.py(), p.pz(), p.e()) for p in constituents])
                particles[done], features[done] = jet_arrays(momenta)
                done += 1
    return particles, features


def isotropic_decays(rng):
    """W and Z decay evenly in all directions, as those that MadGraph hands to PYTHIA undecayed.

    PYTHIA's own WW and ZZ are polarised: <cos²θ*> = 0.36 and 0.39 instead of 1/3, with more
    lopsided prongs.
    """
    import pythia8mc

    class IsotropicDecays(pythia8mc.UserHooks):
        def canVetoResonanceDecays(self):
            return True

        def doVetoResonanceDecays(self, process):
            for boson in process:
                if abs(boson.id()) in (23, 24) and boson.daughter2() > boson.daughter1() > 0:
                    theta = np.arccos(rng.uniform(-1, 1))
                    phi, spin = rng.uniform(0, 2 * np.pi, 2)
                    for i in (boson.daughter1(), boson.daughter2()):
                        p = pythia8mc.Vec4(process[i].p())
                        p.bstback(boson.p())
                        p.rot(0, spin)
                        p.rot(theta, phi)
                        p.bst(boson.p())
                        process[i].p(p)
            return False

    return IsotropicDecays()


def jet_arrays(momenta):
    """A jet's row in the file, (150, 4) and (4,), from constituents' (px, py, pz, E) / GeV."""
    total = momenta.sum(axis=0)
    pt, eta, phi = _pt_eta_phi(total)
    mass = np.sqrt(max(total[3] ** 2 - (total[:3] ** 2).sum(), 0))
    pts, etas, phis = _pt_eta_phi(momenta)
    hardest = np.argsort(-pts, kind="stable")[:MAX_PARTICLES]
    hardest = hardest[pts[hardest] > MIN_PT]
    n = len(hardest)
    particles = np.zeros((MAX_PARTICLES, 4))
    particles[:n, 0] = etas[hardest] - eta
    particles[:n, 1] = (phis[hardest] - phi + np.pi) % (2 * np.pi) - np.pi
    particles[:n, 2] = pts[hardest] / pt
    particles[:n, 3] = 1
    return particles, (pt, eta, mass, n)


def _pt_eta_phi(p):
    pt = np.hypot(p[..., 0], p[..., 1])
    return pt, np.arcsinh(p[..., 2] / pt), np.arctan2(p[..., 1], p[..., 0])


# --- shards to a file


class Task(NamedTuple):
    """A shard to simulate: simulate_shard's arguments, the shard's file and its attributes."""

    jet_type: str
    jets: int
    seed: int
    shard: int
    path: Path
    attributes: dict


def simulate(jet_type, jets, data_dir="data", seed=0, workers=1, part=None):
    """Write (or extend to `jets`) data_dir/pythia/<type>150.hdf5 and return its path.

    part: (i, n), to simulate only every n-th shard, from the i-th on, and return their directory.

    Raises UserError without PYTHIA, and if the file there was made with another seed, version or
    recipe.
    """
    try:
        version = metadata.version("pythia8mc")
    except metadata.PackageNotFoundError:
        raise UserError(
            "PYTHIA isn't installed: pip install -r mdma/requirements-pythia.txt, "
            "or use make data-jets"
        ) from None
    recipe = "\n".join(
        (
            f"PYTHIA {version}",
            *SETTINGS,
            *PROCESSES[jet_type],
            f"anti-kT R = {RADIUS}, {JET_PT[0]} < pT < {JET_PT[1]}, constituents' pT > {MIN_PT}",
            *(["isotropic decays"] if jet_type in "wz" else []),
        )
    )
    attributes = {"type": jet_type, "seed": seed, "recipe": recipe, "shard": SHARD}
    path = Path(data_dir).expanduser() / "pythia" / f"{jet_type}150.hdf5"
    shards = path.parent / "shards" / f"{jet_type}-seed{seed}-{zlib.crc32(recipe.encode()):08x}"
    if path.exists():
        count, saved_attributes = _look(path)
        if {key: saved_attributes.get(key) for key in attributes} != attributes:
            raise UserError(
                f"{path} was made with another seed, PYTHIA or recipe: move it away or choose "
                "another --data-dir"
            )
        if count >= jets:
            print(f"{path}: {count:,} jets are there already")
            return path
    shards.mkdir(parents=True, exist_ok=True)
    tasks = [
        Task(
            jet_type,
            jets=min(SHARD, jets - first),
            seed=seed,
            shard=shard,
            path=shards / f"{shard:05d}.hdf5",
            attributes=attributes,
        )
        for shard, first in enumerate(range(0, jets, SHARD))
    ]
    tasks = part_of(tasks, part)

    def done(task):
        return task.path.exists() and _look(task.path)[0] >= task.jets

    missing = [task for task in tasks if not done(task)]
    total = sum(task.jets for task in tasks)
    with tqdm(
        total=total,
        initial=total - sum(task.jets for task in missing),
        desc=f"{jet_type} jets",
        unit="jet",
        disable=None,
    ) as bar:
        if workers == 1:
            for n in map(_make_shard, missing):
                bar.update(n)
        else:  # spawn: PYTHIA and numpy begin anew in each process
            with multiprocessing.get_context("spawn").Pool(
                min(workers, max(len(missing), 1))
            ) as pool:
                for n in pool.imap_unordered(_make_shard, missing):
                    bar.update(n)
    if part:
        return shards
    particles, features = (
        np.concatenate(arrays) for arrays in zip(*(_read(task.path, task.jets) for task in tasks))
    )
    _write(path, particles, features, attributes)
    return path


def _make_shard(task):
    particles, features = simulate_shard(task.jet_type, task.jets, task.seed, task.shard)
    _write(task.path, particles, features, task.attributes)
    return task.jets


def _look(path):
    try:
        with h5py.File(path) as f:
            return len(f["jet_features"]), dict(f.attrs)
    except (OSError, KeyError) as e:
        raise UserError(
            f"{path} is damaged ({shorten(str(e), 80)}): delete it, it is made again"
        ) from None


def _read(path, jets):
    with h5py.File(path) as f:
        return f["particle_features"][:jets], f["jet_features"][:jets]


def _write(path, particles, features, attributes):
    """The file is there whole or not at all, also after a kill."""
    temporary = path.with_name(f".{path.name}.tmp")
    with h5py.File(temporary, "w") as f:
        f.create_dataset(
            "particle_features",
            data=particles,
            compression="gzip",
            compression_opts=1,
            shuffle=True,
        )
        f.create_dataset("jet_features", data=features)
        f.attrs.update(attributes)
    with open(temporary, "rb") as f:
        os.fsync(f.fileno())
    os.replace(temporary, path)


@dataclass
class Args:
    # --- options
    type: list[Literal[*JET_TYPES]] = field(default_factory=lambda: ["t"])  # one or more types
    jets: int = 50_000  # jets of each type
    data_dir: FilePath = "data"  # files go to its folder pythia
    seed: int = 0  # other seeds, other jets; in [0, ∞)
    workers: int = arguments.usable_cores()  # processes; changes no jet
    part: Part | None = None  # simulate only part i of n, from 0/n to n-1/n; none: all, and join


def parse_args(argv=None):
    return arguments.parse_args(Args, __doc__, argv)


def main(argv=None):
    args = parse_args(argv)
    for jet_type in args.type:
        path = simulate(jet_type, args.jets, args.data_dir, args.seed, args.workers, args.part)
        if path.is_dir():
            print(f"{path}: the shards of part {args.part[0]}/{args.part[1]} are there")
        else:
            print(f"{path}: {_look(path)[0]:,} jets")


if __name__ == "__main__":
    run_main(main)
