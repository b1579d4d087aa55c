"""Jets: JetNet, its PYTHIA twin, your own or toys, in one format; batches of jets of similar n.

    train = load_jets("pythia", "t", 30, "data", "train")
    batch = train[bucketed_indices(train.n, 128, seed=0, step=0)]     # of similar n, §3

Features, in this order (§2), relative to the jet's axis and pT and without units:
η_rel = η − η_jet;  φ_rel = φ − φ_jet in [−π, π);  pT_rel = pT / pT_jet.
Particles are massless and hardest first. Of every source the split is JetNet's: a permutation with
seed 42, then 70 / 15 / 15 % train / valid / test.

Places under data_dir: jetnet/<type>.hdf5 (30 particles) and <type>150.hdf5, which `jetnet`
downloads and checks against Zenodo's MD5, beside the compact <type>.npz that later loads read;
pythia/<type>150.hdf5 (`simulate.py`).
A file of your own is .hdf5, .h5 or .npz: `particles` (jets, particles, 3) and `mask` (jets,
particles), or JetNet's `particle_features` (jets, particles, 4), where the mask is the fourth
feature. Its columns must be the features above in that order; `check_order` and `check_relative`
say what of this is tested, and by which bounds.
A file .root is JetClass's (arXiv:2202.03772), of jets of the class in its name: `_read_jetclass`.
"""

import functools
import io
import os
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from textwrap import shorten

import numpy as np
import torch

from common.errors import UserError
from common.metrics.jets import jet_mass, present
from common.runs import replace_file

FEATURES = ("eta_rel", "phi_rel", "pt_rel")
JETCLASS = ("part_deta", "part_dphi", "part_px", "part_py", "jet_pt")  # branches; momenta in GeV
FILES = (".hdf5", ".h5", ".npz", ".root")
JET_TYPES = ("g", "q", "t", "w", "z")
SPLITS = ("train", "valid", "test")
MAX_PARTICLES = 150  # of JetNet and of simulate.py
ZENODO = {30: "https://zenodo.org/records/6975118", 150: "https://zenodo.org/records/6975117"}
# What jets of your own have to fulfil (PYTHIA at 1 TeV and R = 0.4 in brackets: five types, 1 to
# 150 particles each).
# median over jets of Σ pT_rel (.14, the hardest particle alone, to 1.005, all)
SUM_PT = (0.05, 1.5)
LARGEST_SUM_PT = 3.0  # Σ pT_rel of each jet (to 1.02)
LARGEST_OFFSET = 0.3  # median over jets of |pT-weighted mean η_rel|, and of φ_rel's (to .053)
LARGEST_ETA = 20.0  # |η_rel| of each particle, beyond all detectors (tops: to 1.9)
JETNET_SIZES = {
    "g": 177252,
    "q": 170679,
    "t": 177945,
    "w": 177172,
    "z": 176952,
}  # jets, stated by Zenodo's page


class Jets:
    """Particles of jets, hardest first: particles (J, N, 3) float32, 0 in the padding.

    mask: (J, N) bool, True in the first n slots, the real particles; n: (J,) int64.
    """

    def __init__(self, particles, mask):
        self.particles, self.mask, self.n = particles, mask, mask.sum(dim=1)

    def __len__(self):
        return len(self.particles)

    def __getitem__(self, index):
        """The jets of an index tensor, a slice or a bool tensor."""
        return Jets(self.particles[index], self.mask[index])


def hardest_first(particles):
    """Generated jets (J, N, 3), padding 0, in JetNet's order: by decreasing pT, padding last."""
    order = particles[..., 2].argsort(dim=1, descending=True, stable=True)
    return particles.gather(1, order[..., None].expand_as(particles))


def bucketed_indices(n, batch_size, seed, step, stretch=64):
    """(batch_size,) int64: the jets of training step `step`, a pure function of the arguments.

    Each epoch is a new permutation by (seed, epoch), sorted by n within stretches of so many
    batches; the batches then come in random order. A jet comes at most once an epoch; J mod
    batch_size random jets are left out of it.
    n: (J,) int64. Raises UserError if there are fewer jets than a batch takes.
    """
    batches = len(n) // batch_size
    if batches == 0:
        raise UserError(
            f"a batch of {batch_size} from {len(n)} jets: take a smaller --batch-size or more jets"
        )
    epoch, position = divmod(step, batches)
    return _epoch(n, batch_size, seed, epoch, stretch)[position]


def _epoch(n, batch_size, seed, epoch, stretch):
    """(batches, batch_size) int64. The last one is kept: training asks for it at each step."""
    key = (n._version, batch_size, seed, epoch, stretch)
    if not (_epoch.n is n and _epoch.key == key):
        rng = np.random.default_rng((seed, epoch))
        counts, batches = n.cpu().numpy(), len(n) // batch_size
        order = rng.permutation(len(n))[: batches * batch_size]
        stretches = np.split(order, range(stretch * batch_size, len(order), stretch * batch_size))
        for part in stretches:  # views of order
            part[:] = part[np.argsort(counts[part], kind="stable")]
        order = order.reshape(batches, batch_size)[rng.permutation(batches)]
        _epoch.n, _epoch.key, _epoch.order = n, key, torch.from_numpy(order)
    return _epoch.order


_epoch.n = _epoch.key = _epoch.order = None


# --- sources


def load_jets(dataset, jet_type, num_particles, data_dir, split):
    """Jets of one split, padded to (or their hardest) num_particles.

    dataset: "jetnet" (downloaded), "pythia" (from simulate.py), "synthetic" (1,000 toy jets, always
    the same), or the path of a file of your own, for which jet_type is ignored.
    split: "train", "valid" or "test".
    Raises UserError for bad arguments, missing or damaged files, jets without particles, values
    that aren't finite and particles without positive pT; and for files of your own whose jets have
    more than num_particles (all others, JetClass's too, are cut to their hardest), whose columns
    are in another order, or whose features aren't relative to the jet.
    """
    data_dir = Path(data_dir).expanduser()
    own = is_file(dataset)
    if not own and dataset not in ("jetnet", "pythia", "synthetic"):
        raise UserError(
            f"unknown data set {dataset!r}: jetnet, pythia, synthetic or a file .hdf5, .h5, .npz "
            "or .root"
        )
    if not own and jet_type not in JET_TYPES:
        raise UserError(f"unknown jet type {jet_type!r}: choose from {', '.join(JET_TYPES)}")
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
    limit = None if own else MAX_PARTICLES
    if num_particles < 1 or (limit and num_particles > limit):
        raise UserError(
            f"--num-particles {num_particles}: must be from 1 to "
            f"{limit or 'the largest number in your file'}"
        )
    if dataset == "jetnet":
        return _jetnet(jet_type, num_particles, data_dir, split)
    if dataset == "synthetic":
        return _split(*_toys(jet_type, num_particles), split, dataset)
    path = Path(dataset).expanduser() if own else data_dir / "pythia" / f"{jet_type}150.hdf5"
    if not path.exists():
        if own:
            raise UserError(f"no file {path}: if it has moved, name it with --dataset")
        where = "" if str(data_dir) == "data" else f" --data-dir {data_dir}"
        raise UserError(
            f"no PYTHIA jets in {path}: simulate them (some minutes) with "
            f'make data-jets ARGS="--type {jet_type}{where}"'
        )
    particles, mask = _read(path)
    most = int(mask.sum(1).max())
    if own and path.suffix.lower() != ".root" and most > num_particles:
        raise UserError(
            f"{path} has jets of {most} particles, {num_particles} are allowed: train with "
            f"--num-particles {most}, or cut the file to each jet's hardest"
        )
    if own:
        check_order(particles, mask, path)
    particles, mask = clean(particles, mask, path)
    if own:
        particles = check_relative(particles, mask, path)
    return _split(*_fit(particles, mask, num_particles), split, path)


def is_file(dataset):
    """Whether a data set is a file of one's own."""
    return str(dataset).lower().endswith(FILES)


def data_name(dataset, jet_type):
    """What a data set is called: a file of your own has no jet type."""
    return dataset if is_file(dataset) else f"{dataset} {jet_type}"


def _jetnet(jet_type, num_particles, data_dir, split):
    name = jet_type if num_particles <= 30 else f"{jet_type}150"
    cache = data_dir / "jetnet" / f"{name}.npz"
    if cache.exists():
        particles, mask = _read_compact(cache)
    else:
        particles, mask = _fetch(jet_type, name, cache.parent)
        # JetNet has particles of pT 0. They become padding: `clean` would refuse the file, and
        # nobody can take them out of a file whose checksum is tested
        mask = mask & (particles[..., 2] > 0)
        particles, mask = clean(particles, mask, f"JetNet's {name}")
        try:
            _write_compact(cache, particles, mask)
        except (OSError, UserError) as e:
            _say(
                f"{cache} can't be written, so the next start reads JetNet's own file again, "
                f"which is slower ({e})"
            )
    return _split(*_fit(particles, mask, num_particles), split, cache)


def _fetch(jet_type, name, folder):
    """All of JetNet's jets in their own order, by `jetnet`, or from a file put there by hand."""
    maximum = 150 if name.endswith("150") else 30
    file = folder / f"{name}.hdf5"
    by_hand = f"put {name}.hdf5 from {ZENODO[maximum]} into {folder}, or use --dataset pythia"
    try:
        import requests
        from jetnet.datasets.utils import checkDownloadZenodoDataset
    except ImportError as e:
        if not file.exists():
            raise UserError(
                f"JetNet is downloaded by jetnet, which can't be imported ({e}). "
                'pip install jetnet "numpy<2" "pandas<3" "pyarrow<22" "scipy<1.18" '
                f"(Python before 3.13), or {by_hand}"
            ) from None
    else:
        record = int(ZENODO[maximum].rpartition("/")[2])
        try:
            if file.exists():  # with download, jetnet would delete a file whose sum differs
                checkDownloadZenodoDataset(folder, name, record, file.name, download=False)
            else:
                folder.mkdir(parents=True, exist_ok=True)
                # aside, since other processes may download it, too, or this one be stopped
                with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as aside:
                    checkDownloadZenodoDataset(aside, name, record, file.name, download=True)
                    os.replace(Path(aside, file.name), file)
        except RuntimeError as e:  # jetnet's: the MD5 sum of what is there differs
            raise UserError(
                f"{file} isn't JetNet's file: its download was damaged or cut short, or it is "
                f"another. Move it away and start again, or {by_hand}"
            ) from e
        except (requests.RequestException, KeyError, StopIteration) as e:
            if not file.exists():
                raise UserError(
                    f"can't download JetNet from {ZENODO[maximum]} ({type(e).__name__}): "
                    f"try again later, or {by_hand}"
                ) from None
    particles, mask = _read(file)
    if len(particles) != JETNET_SIZES[jet_type]:
        raise UserError(
            f"{file} has {len(particles):,} jets, JetNet {JETNET_SIZES[jet_type]:,}: "
            f"delete the file and start again, or {by_hand}"
        )
    return particles, mask


# --- files of your own


def check_order(particles, mask, where):
    """Raises UserError if the columns of (J, N, 3) can't be η_rel, φ_rel, pT_rel in this order.

    η_rel has both signs: a first column without negative values is pT, as in EnergyFlow's (pT, η,
    φ). So is such a second column where the third one has both signs; else it may be φ_rel modulo
    2π. η and φ can't be told apart.
    where: what the error calls the file.
    """
    real = particles[mask]
    if len(real) < 20:  # of few particles all η_rel may have one sign
        return
    negative = (real < 0).mean(axis=0)
    third_has_both_signs = negative[2] > 0.25
    looks_like_pt = None
    if negative[0] == 0 and (real[:, 0] > 0).any():
        looks_like_pt = "first"
    elif negative[1] == 0 and third_has_both_signs:
        looks_like_pt = "second"
    if looks_like_pt:
        raise UserError(
            f"{where}: its {looks_like_pt} column is never negative, as if it were pT. "
            "Bring the columns into the order eta_rel, phi_rel, pt_rel"
        )
    if third_has_both_signs:
        raise UserError(
            f"{where}: its third column is negative for {negative[2]:.0%} of the "
            "particles, so it isn't pT. The columns must be eta_rel, phi_rel, pt_rel"
        )


def read_for_scores(path, gev=False):
    """All Jets of a file of whatever generator, hardest first, checked as those of `load_jets`.

    But particles without positive pT, as in the real JetNet and of some generators, count as
    padding, and single wild jets are kept; a line says how many. A generator without any negative
    η_rel is taken for columns in another order. gev: the pT values of each jet are divided by
    their sum, which then is 1 by construction, whatever the jet's own pT.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"no file {path}")
    particles, mask = _read(path)
    check_order(particles, mask, path)
    without_pt = mask & (particles[..., 2] <= 0)
    if without_pt.any():
        _say(
            f"{path}: {without_pt.sum():,} of {mask.sum():,} particles have no positive pT and "
            "are taken for padding"
        )
    particles, mask = clean(particles, mask & ~without_pt, path)
    if gev:
        total = particles[..., 2].sum(axis=1, dtype=np.float64)
        _say(
            f"{path}: the pT values of each jet are divided by their sum "
            f"(median {np.median(total):.4g})"
        )
        particles[..., 2] /= total[:, None]
    advice = (
        "--units gev divides the pT of both files by each jet's sum (are these GeV?); the columns "
        "must be eta_rel, phi_rel, pt_rel"
    )
    particles = check_relative(particles, mask, path, advice, wild_may_be=True)
    return Jets(torch.from_numpy(particles), torch.from_numpy(mask))


DIVIDE = (
    "Divide by the jet's pT (are these GeV?), with the columns in the order eta_rel, phi_rel, "
    "pt_rel"
)


def check_relative(particles, mask, where, advice=DIVIDE, wild_may_be=False):
    """Cleaned jets (J, N, 3) with φ_rel turned into [−π, π); UserError if they aren't relative.

    Refused are |φ_rel| above 3π, from which one turn doesn't lead back; |η_rel| above LARGEST_ETA,
    such as -999 for none; a median Σ pT_rel outside of SUM_PT, which jets cut to their hardest
    particles fulfil, too; any jet above LARGEST_SUM_PT; and η_rel or φ_rel whose mean, weighted
    with pT, is further off the axis than LARGEST_OFFSET.
    advice: what to do about that median. wild_may_be: single jets above a bound are left as they
    are, since a generator that makes some shall be scored with them; a line counts them.
    """
    phi = particles[..., 1]
    far = (np.abs(phi) > 3 * np.pi).any(axis=1)
    if far.mean() > 0.5 or (far.any() and not wild_may_be):
        raise UserError(
            f"{where}: {far.sum():,} of {len(mask):,} jets have |phi_rel| above 3π, the "
            f"first is number {far.argmax()}. It must be in radians, relative to the jet"
        )
    distant = (np.abs(particles[..., 0]) > LARGEST_ETA).any(axis=1)
    if distant.any():
        line = (
            f"{where}: {distant.sum():,} of {len(mask):,} jets have |eta_rel| above "
            f"{LARGEST_ETA:g}, the first is number {distant.argmax()}"
        )
        if distant.mean() > 0.5 or not wild_may_be:
            raise UserError(
                f"{line}. Mask the particles that have no eta (-999?), or leave their jets out of "
                "the file"
            )
        _say(line)
    outside = (phi < -np.pi) | (phi >= np.pi)
    if outside.any():
        particles = particles.copy()
        turned = (phi[outside].astype(np.float64) + np.pi) % (2 * np.pi) - np.pi
        particles[outside, 1] = turned

    total = particles[..., 2].sum(axis=1, dtype=np.float64)
    median = np.median(total)
    if not SUM_PT[0] <= median <= SUM_PT[1]:
        raise UserError(
            f"{where}: the median sum of a jet's pt_rel is {median:.4g}, relative to the "
            f"jet's pT it is about 1. {advice}"
        )
    wild = total > LARGEST_SUM_PT
    if wild.any():
        line = (
            f"{where}: {wild.sum():,} of {len(mask):,} jets have pt_rel that sum to more "
            f"than {LARGEST_SUM_PT:g}, the first is number {wild.argmax()}"
        )
        if not wild_may_be:
            raise UserError(f"{line}. Divide them by the jet's pT or leave them out of the file")
        _say(line)
    for k, name in enumerate(("eta", "phi")):
        mean = (particles[..., k] * particles[..., 2]).sum(axis=1) / total
        offset = np.median(np.abs(mean))
        if offset > LARGEST_OFFSET:
            raise UserError(
                f"{where}: the mean {name}_rel of a jet, weighted with pT, is {offset:.2f} "
                f"from 0 (median). Subtract the {name} of the jet from its particles'"
            )
    if outside.any():
        _say(
            f"{where}: phi_rel of {outside.sum():,} of {mask.sum():,} particles was outside of "
            "[-π, π) and has been turned by 2π"
        )
    return particles


@functools.cache
def _say(line):
    """On stderr, once: each split reads its file anew."""
    print(line, file=sys.stderr)


# --- files


def export(jets, jet_type, folder):
    """Generated jets, hardest particle first, as samples.npz and as samples_<type>.hdf5.

    jet_type: "own" for jets like those of a file of your own, which has no type.
    samples.npz: particles (J, N, 3) and mask (J, N). The HDF5 file has the arrays and columns of
    JetNet's files; of the jet's own features only mass / pT and n are known: pT is written as 1,
    eta as 0. Its name is none of JetNet's (t.hdf5, t150.hdf5, …): jetnet.datasets.JetNet, with
    download=True, deletes a file of such a name whose checksum isn't Zenodo's. Its metrics take
    arrays, here with as many draws as `jet_metrics` makes:

        import numpy as np, jetnet.evaluation as scores
        made, real = (np.load(file)["particles"] for file in ("DIR/samples.npz", "test.npz"))
        print(*(f(real, made, num_eval_samples=len(real)) for f in (scores.w1m, scores.w1p)))
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "samples.npz", folder / f"samples_{jet_type}.hdf5"]
    try:
        _write_jets(hardest_first(jets), *files)
    except BaseException:  # also Ctrl-C: half a file looks like a whole one
        for file in files:
            file.unlink(missing_ok=True)
        if made:
            folder.rmdir()
        raise
    print(f"{len(jets):,} jets in {files[0]} and {files[1]}")


def _write_jets(jets, npz, hdf5):
    import h5py

    mask = present(jets)
    n = mask.sum(1)
    written = io.BytesIO()  # on a full disk, np.savez and h5py would print tracebacks
    np.savez_compressed(written, particles=jets.numpy(), mask=mask.numpy())
    replace_file(npz, written.getbuffer())
    features = torch.stack([torch.ones(len(n)), torch.zeros(len(n)), jet_mass(jets), n], 1)
    written = io.BytesIO()
    with h5py.File(written, "w") as f:
        f["particle_features"] = torch.cat([jets, mask[..., None]], -1).numpy()
        f["jet_features"] = features.float().numpy()
    replace_file(hdf5, written.getbuffer())


def _read(path):
    """(particles (J, N, 3), mask (J, N)) of a file, as they stand there."""
    if path.is_dir():
        raise UserError(f"{path} is a directory, not a file of jets")
    if path.suffix.lower() == ".root":
        return _read_jetclass(path)
    keys = ("particle_features", "particles", "mask")
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path) as f:
                arrays = {key: f[key] for key in keys if key in f}
        else:
            import h5py

            with h5py.File(path) as f:
                arrays = {key: np.asarray(f[key][()]) for key in keys if key in f}
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as e:
        raise UserError(
            f"can't read {path}, it is cut short, damaged or of another format "
            f"({shorten(str(e), 100)}): get it again"
        ) from None
    if "particle_features" in arrays:
        x, features = arrays["particle_features"], (*FEATURES, "mask")
    elif "particles" in arrays:
        x, features = arrays["particles"], FEATURES
        if "mask" not in arrays:
            raise UserError(
                f"{path} has particles but no mask: "
                "add an array `mask` (jets, particles), true where "
                "a particle is real"
            )
    else:
        raise UserError(
            f"{path} has neither `particles` and `mask` nor `particle_features`: "
            "see mdma/jets.py's head"
        )
    if x.dtype.kind not in "fiub" or x.ndim != 3 or x.shape[2] != len(features):
        hint = ": the mask is missing" if len(features) == 4 and x.shape[-1:] == (3,) else ""
        raise UserError(
            f"{path} holds an array {x.shape} of {x.dtype}: expected numbers (jets, particles, "
            f"{len(features)}) with {', '.join(features)}{hint}"
        )
    mask = arrays["mask"] if features == FEATURES else x[..., 3]
    if mask.shape != x.shape[:2] or mask.dtype.kind not in "fiub":
        raise UserError(
            f"{path}: mask {mask.shape} of {mask.dtype} doesn't fit particles {x.shape}: it must "
            "be (jets, particles), 1 where a particle is real, else 0"
        )
    if not mask.size:
        raise UserError(f"{path} has no jets: its array is {x.shape}")
    low, high = mask.min(), mask.max()  # NaN if one is
    other = mask[(mask != low) & (mask != high)]
    if other.size:
        example = high if np.isnan(high) else other[0]
        raise UserError(
            f"{path}: its mask has more than two values, {example:.4g} among them: it must be 1 "
            "where a particle is real, else 0"
        )
    return x[..., :3], mask > 0


def _read_jetclass(path):
    """(particles (J, N, 3), mask (J, N)) of all jets in a ROOT file of JetClass.

    η_rel is part_deta, which JetClass mirrors where η_jet < 0, and φ_rel part_dphi. pT_rel is
    √(part_px² + part_py²) / jet_pt. N is the largest number of particles of a jet in the file.
    """
    try:
        import awkward
        import uproot
    except ImportError as e:
        raise UserError(f"{path} is read by uproot ({e}): pip install uproot awkward") from None
    try:
        with uproot.open(path) as f:
            branches = f["tree"].keys() if "tree" in f else []
            missing = [name for name in JETCLASS if name not in branches]
            jets = None if missing else f["tree"].arrays(JETCLASS)
    except Exception as e:  # uproot's errors for damaged files have no class in common
        raise UserError(
            f"can't read {path}, it is cut short, damaged or of another format "
            f"({shorten(str(e), 100)}): get it again"
        ) from None
    if missing:
        raise UserError(
            f"{path} has no branches {', '.join(missing)} in a TTree `tree`: only JetClass's ROOT "
            "files can be read, write others as HDF5 (see mdma/jets.py's head)"
        )
    n = awkward.num(jets["part_deta"]).to_numpy()
    if not len(n):
        raise UserError(f"{path} has no jets")
    pt = np.hypot(jets["part_px"], jets["part_py"]) / jets["jet_pt"]
    mask = np.arange(n.max()) < n[:, None]
    particles = np.zeros((*mask.shape, 3), np.float32)
    for k, values in enumerate((jets["part_deta"], jets["part_dphi"], pt)):
        particles[mask, k] = awkward.flatten(values).to_numpy()
    return particles, mask


def clean(particles, mask, where):
    """(J, N, 3) float32 and (J, N) bool arrays: checked, padding zeroed, hardest first.

    Errors name `where`.
    """
    particles = np.where(mask[..., None], particles, 0).astype(np.float32)
    for problem, bad in (
        ("a value that isn't finite", ~np.isfinite(particles).all(axis=(1, 2))),
        ("a particle without positive pT", (mask & (particles[..., 2] <= 0)).any(axis=1)),
        ("no particle", ~mask.any(axis=1)),
    ):
        if bad.any():
            advice = "leave them out of the file"
            if 2 * bad.sum() > len(bad):
                advice += ", or mend the mask if it is inverted or marks padding as real"
            raise UserError(
                f"{where}: {bad.sum():,} of {len(bad):,} jets have {problem}, the first is number "
                f"{bad.argmax()}: {advice}"
            )
    pt = particles[..., 2]  # 0 where masked
    if (pt[:, 1:] > pt[:, :-1]).any():
        order = np.argsort(-pt, axis=1, kind="stable")
        particles = np.take_along_axis(particles, order[..., None], axis=1)
    return particles, particles[..., 2] > 0


def _fit(particles, mask, num_particles):
    """The num_particles hardest, padded if there are fewer columns."""
    if num_particles > mask.shape[1]:
        more = num_particles - mask.shape[1]
        return np.pad(particles, ((0, 0), (0, more), (0, 0))), np.pad(mask, ((0, 0), (0, more)))
    return particles[:, :num_particles], mask[:, :num_particles]


def _split(particles, mask, split, where):
    """JetNet's split: cuts of a permutation with seed 42, as jetnet.datasets.JetNet makes them."""
    cuts = (np.cumsum([0, 0.7, 0.15, 0.15]) * len(mask)).astype(int)
    k = SPLITS.index(split)
    chosen = np.random.default_rng(42).permutation(len(mask))[cuts[k] : cuts[k + 1]]
    if len(chosen) == 0:
        raise UserError(f"{where} has {len(mask)} jets, too few for a {split} split")
    return Jets(torch.from_numpy(particles[chosen]), torch.from_numpy(mask[chosen]))


def _write_compact(path, particles, mask):
    """Real particles only, one after the other, and n: less than half of the padded file."""
    buffer = io.BytesIO()
    np.savez(buffer, particles=particles[mask], n=mask.sum(axis=1), columns=mask.shape[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, buffer.getbuffer(), shared=True)


def _read_compact(path):
    try:
        with np.load(path) as f:
            real, n, columns = f["particles"], f["n"], int(f["columns"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as e:
        raise UserError(
            f"can't read {path} ({shorten(str(e), 100)}): delete it, it is made again"
        ) from None
    mask = np.arange(columns) < n[:, None]
    particles = np.zeros((*mask.shape, 3), np.float32)
    particles[mask] = real
    return particles, mask


def _toys(jet_type, num_particles, jets=1000):
    """Jets of two prongs, for tests and --smoke only; their distance depends on the type."""
    rng = np.random.default_rng(JET_TYPES.index(jet_type))
    n = np.clip(rng.normal(0.6, 0.2, jets) * num_particles, 1, num_particles).astype(int)
    mask = np.arange(num_particles) < n[:, None]
    pt = np.where(mask, rng.exponential(size=mask.shape) ** 2, 0) + 1e-3 * mask
    prong = rng.choice([-1, 1], mask.shape) * 0.03 * (1 + JET_TYPES.index(jet_type))
    angles = 0.05 * rng.normal(size=(*mask.shape, 2)) + np.stack(
        [prong, np.zeros_like(prong)], axis=-1
    )
    particles = np.concatenate([angles, (pt / pt.sum(axis=1, keepdims=True))[..., None]], axis=-1)
    return clean(particles, mask, "synthetic")
