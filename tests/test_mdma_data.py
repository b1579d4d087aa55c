"""mdma/jets.py and mdma/simulate.py: what is loaded, in which order, and what a bad file says."""

import re
import subprocess
import sys
import types
from pathlib import Path

import awkward
import h5py
import numpy as np
import pytest
import torch
import uproot

from common.cli import UserError, run_main
from mdma import jets as jets_module
from mdma import simulate as simulate_module
from mdma.jets import JET_TYPES, Jets, bucketed_indices, hardest_first, load_jets, read_for_scores
from mdma.simulate import isotropic_decays, jet_arrays, simulate, simulate_shard

REPO = Path(__file__).parent.parent


def made_up(jets=40, columns=150, seed=0):
    """JetNet's layout: (jets, columns, 4), relative to the jet and hardest first; (jets, 4)."""
    rng = np.random.default_rng(seed)
    n = rng.integers(1, columns + 1, jets)
    mask = np.arange(columns) < n[:, None]
    x = rng.normal(size=(jets, columns, 4)).astype(np.float32)
    x[..., 2] = -np.sort(-rng.uniform(0.001, 1, (jets, columns)), axis=1)
    x[..., :2] *= 0.1
    x[..., 3] = 1
    x *= mask[..., None]
    x[..., 2] /= x[..., 2].sum(axis=1, keepdims=True)
    return x, np.stack([np.full(jets, 1e3), np.arange(jets), np.ones(jets), n], axis=1)


def write_hdf5(path, x, features=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as f:
        f["particle_features"] = x
        f["jet_features"] = np.zeros((len(x), 4)) if features is None else features
    return path


# --- the format


@pytest.mark.parametrize("dataset", ["synthetic", "pythia", "jetnet", "own"])
def test_jets_are_hardest_first_zero_where_masked_and_masked_by_a_prefix(
    dataset, tmp_path, monkeypatch
):
    x, _ = made_up()
    shuffled = x[:, np.random.default_rng(1).permutation(150)]
    own = tmp_path / "own.npz"
    garbage = np.where(shuffled[..., 3:] > 0, shuffled[..., :3], np.nan)
    np.savez(own, particles=garbage, mask=shuffled[..., 3] > 0)
    write_hdf5(tmp_path / "pythia/t150.hdf5", shuffled)
    monkeypatch.setattr(jets_module, "_fetch", lambda *_: (shuffled[..., :3], shuffled[..., 3] > 0))
    jets = load_jets(own if dataset == "own" else dataset, "t", 150, tmp_path, "train")
    assert jets.particles.shape == (len(jets), 150, 3) and jets.particles.dtype == torch.float32
    assert jets.mask.dtype == torch.bool and jets.n.dtype == torch.int64
    assert torch.equal(jets.mask, torch.arange(150) < jets.n[:, None]) and jets.n.min() >= 1
    assert (jets.particles[~jets.mask] == 0).all() and jets.particles.isfinite().all()
    pt = jets.particles[..., 2]
    assert (pt[:, 1:] <= pt[:, :-1]).all() and (pt[jets.mask] > 0).all()
    if dataset != "synthetic":
        assert len(jets) == 28
        perm = np.random.default_rng(42).permutation(40)[:28]
        assert np.array_equal(jets.particles.numpy(), x[perm][..., :3])


def test_hardest_first():
    """By hand: masked slots go last, the order of particles of equal pT stays."""
    jets = torch.tensor(
        [
            [[1, 1, 0.2], [0, 0, 0], [2, 2, 0.5], [3, 3, 0.2]],
            [[4, 4, 0.1], [0, 0, 0], [0, 0, 0], [5, 5, 0.3]],
        ]
    )
    sorted_by_hand = torch.tensor(
        [
            [[2, 2, 0.5], [1, 1, 0.2], [3, 3, 0.2], [0, 0, 0]],
            [[5, 5, 0.3], [4, 4, 0.1], [0, 0, 0], [0, 0, 0]],
        ]
    )
    assert torch.equal(hardest_first(jets), sorted_by_hand)


def test_indexing():
    jets = load_jets("synthetic", "g", 30, "unused", "train")
    few = jets[torch.tensor([5, 2])]
    assert (
        isinstance(few, Jets)
        and torch.equal(few.particles[1], jets.particles[2])
        and few.n[0] == jets.n[5]
    )
    small = jets[jets.n <= 10]
    assert torch.equal(small.n, jets.n[jets.n <= 10]) and len(small) == len(small.mask) < len(jets)


def test_pythia_jets_are_cut_to_their_hardest(tmp_path):
    write_hdf5(tmp_path / "pythia/q150.hdf5", made_up()[0])
    all_of_them, hardest = (load_jets("pythia", "q", n, tmp_path, "valid") for n in (150, 30))
    assert torch.equal(hardest.particles, all_of_them.particles[:, :30])
    assert torch.equal(hardest.n, all_of_them.n.clamp(max=30)) and (all_of_them.n > 30).any()


def test_types_and_splits_of_toys_differ_and_each_is_fixed():
    loaded = [
        load_jets("synthetic", t, 8, "", s).particles
        for t in JET_TYPES
        for s in ("train", "valid", "test")
    ]
    assert [len(x) for x in loaded[:3]] == [700, 150, 150]
    assert len({x[:9].numpy().tobytes() for x in loaded}) == 15
    assert torch.equal(loaded[0], load_jets("synthetic", "g", 8, "", "train").particles)


# --- JetNet


@pytest.mark.parametrize("num_particles", [30, 150])
def test_split_and_values_are_jetnets_own(num_particles, tmp_path, monkeypatch):
    """Against jetnet.datasets.JetNet on one file: same jets, same order; and jetnet reads simulate.py's layout."""
    datasets = pytest.importorskip("jetnet.datasets.jetnet", exc_type=ImportError)
    x, features = made_up(jets=67, columns=num_particles)
    name = "t" if num_particles == 30 else "t150"
    file = tmp_path / f"jetnet/{name}.hdf5"
    file.parent.mkdir()
    simulate_module._write(file, x, features, {"seed": 0})
    monkeypatch.setattr(datasets, "checkDownloadZenodoDataset", lambda *_, **__: file)
    monkeypatch.setattr("jetnet.datasets.utils.checkDownloadZenodoDataset", lambda *_, **__: file)
    monkeypatch.setitem(jets_module.JETNET_SIZES, "t", 67)
    for split, size in (("train", 46), ("valid", 10), ("test", 11)):
        theirs, jet_data = datasets.JetNet.getData(
            "t", tmp_path, num_particles=num_particles, split=split
        )
        ours = load_jets("jetnet", "t", num_particles, tmp_path, split)
        assert len(ours) == len(theirs) == size
        assert np.array_equal(ours.particles.numpy(), theirs[..., :3].astype(np.float32))
        assert np.array_equal(ours.n.numpy(), theirs[..., 3].sum(1)) and np.array_equal(
            ours.n, jet_data[:, 4]
        )


def test_the_advice_to_install_jetnet_has_the_pins_that_are_tested(tmp_path, monkeypatch, repo):
    monkeypatch.setitem(sys.modules, "requests", None)  # as where jetnet can't be imported
    with pytest.raises(UserError, match="can't be imported") as e:
        load_jets("jetnet", "t", 30, tmp_path, "train")
    advised = re.findall(r'"(\w+<[\d.]+)"', str(e.value))
    lines = (repo / "constraints.txt").read_text().splitlines()
    tested = [line.partition(";")[0].strip() for line in lines if "<" in line.partition(";")[0]]
    assert sorted(advised) == sorted(line for line in tested if not line.startswith("#"))


def test_a_download_of_jetnet_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    """As jetnet does it: straight to the file's name, which another process would take as it is."""
    utils = pytest.importorskip("jetnet.datasets.utils", exc_type=ImportError)
    file, written = tmp_path / "jetnet/t.hdf5", []

    def download(folder, name, record, key, download):
        assert download and not file.exists() and Path(folder).exists()
        Path(folder, key).write_text("half")
        written.append(key)
        if len(written) == 1:
            raise KeyboardInterrupt
        Path(folder, key).write_text("whole")

    monkeypatch.setattr(utils, "checkDownloadZenodoDataset", download)
    monkeypatch.setattr(jets_module, "_read", lambda path: pytest.fail(path.read_text()))
    with pytest.raises(KeyboardInterrupt):
        load_jets("jetnet", "t", 30, tmp_path, "train")
    assert not list(file.parent.iterdir())
    with pytest.raises(pytest.fail.Exception, match="whole"):
        load_jets("jetnet", "t", 30, tmp_path, "train")
    assert list(file.parent.iterdir()) == [file]


def test_the_cache_needs_neither_jetnet_nor_the_hdf5_file(tmp_path, monkeypatch):
    x, _ = made_up()
    fetched = []
    monkeypatch.setattr(
        jets_module, "_fetch", lambda *a: fetched.append(a) or (x[..., :3], x[..., 3] > 0)
    )
    first = load_jets("jetnet", "z", 150, tmp_path, "test")
    again = load_jets("jetnet", "z", 150, tmp_path, "test")
    assert len(fetched) == 1 and fetched[0][1] == "z150"
    assert torch.equal(first.particles, again.particles) and torch.equal(first.mask, again.mask)
    cache = tmp_path / "jetnet/z150.npz"
    cache.write_bytes(cache.read_bytes()[:-100])
    with pytest.raises(UserError, match="z150.npz.*delete it"):
        load_jets("jetnet", "z", 150, tmp_path, "test")


def test_jetnets_particles_of_no_pt_are_left_out(tmp_path, monkeypatch):
    """Its sum is checked, so nobody can mend the file; an own one is refused."""
    x, _ = made_up()
    x[:, 0, 2] = np.where(x[:, 1, 3] > 0, 0, x[:, 0, 2])
    monkeypatch.setattr(jets_module, "_fetch", lambda *a: (x[..., :3], x[..., 3] > 0))
    jets = load_jets("jetnet", "t", 150, tmp_path, "train")
    before = torch.from_numpy(x[np.random.default_rng(42).permutation(40)[:28]])
    assert (
        torch.equal(jets.n, (before[..., 2] > 0).sum(1)) and (jets.n < before[..., 3].sum(1)).any()
    )
    with pytest.raises(UserError, match="a particle without positive pT"):
        load_jets(own_file(tmp_path / "own.h5", x), "t", 150, "", "train")


def test_without_a_place_for_the_cache_jetnet_is_loaded_all_the_same(tmp_path, monkeypatch, capsys):
    x, _ = made_up()
    monkeypatch.setattr(jets_module, "_fetch", lambda *a: (x[..., :3], x[..., 3] > 0))
    right = load_jets("jetnet", "t", 150, tmp_path / "writable", "test")
    (tmp_path / "jetnet").touch()  # no directory can be made there
    jets = [load_jets("jetnet", "t", 150, tmp_path, "test") for _ in range(2)]
    assert all(torch.equal(x.particles, right.particles) for x in jets)
    (line,) = capsys.readouterr().err.splitlines()
    assert "jetnet/t150.npz can't be written" in line


def zenodo(monkeypatch, md5="0" * 32, error=None):
    utils = pytest.importorskip("jetnet.datasets.utils", exc_type=ImportError)

    def url(*_):
        if error:
            raise error
        return "https://nowhere", md5

    monkeypatch.setattr(utils, "_getZenodoFileURL", url)
    monkeypatch.setattr(
        utils, "download_progress_bar", lambda _, file: Path(file).write_bytes(b"\x89HDF cut short")
    )


def test_a_download_cut_short_says_how_to_mend_it(tmp_path, monkeypatch):
    zenodo(monkeypatch)
    with pytest.raises(
        UserError, match=r"t\.hdf5 isn't JetNet's file: .* Move it away.*6975118.*--dataset pythia"
    ):
        load_jets("jetnet", "t", 30, tmp_path, "train")
    assert not (tmp_path / "jetnet/t.npz").exists()


def test_a_file_of_ones_own_under_jetnets_name_is_kept(tmp_path, monkeypatch):
    """jetnet would delete it and download its own."""
    zenodo(monkeypatch)
    (tmp_path / "jetnet").mkdir()
    (tmp_path / "jetnet/t.hdf5").write_bytes(b"my own jets")
    with pytest.raises(UserError, match=r"t\.hdf5 isn't JetNet's file: .* Move it away"):
        load_jets("jetnet", "t", 30, tmp_path, "train")
    assert (tmp_path / "jetnet/t.hdf5").read_bytes() == b"my own jets"


def test_without_network_a_file_put_there_by_hand_is_used_if_whole(tmp_path, monkeypatch):
    pytest.importorskip("jetnet.datasets.utils", exc_type=ImportError)
    import requests  # which jetnet brings

    zenodo(monkeypatch, error=requests.ConnectionError("no route"))
    with pytest.raises(
        UserError, match="can't download JetNet.*put q150.hdf5 from.*6975117.*--dataset pythia"
    ):
        load_jets("jetnet", "q", 150, tmp_path, "train")
    file = write_hdf5(tmp_path / "jetnet/q150.hdf5", made_up()[0])
    with pytest.raises(UserError, match="has 40 jets, JetNet 170,679"):
        load_jets("jetnet", "q", 150, tmp_path, "train")
    monkeypatch.setitem(jets_module.JETNET_SIZES, "q", 40)
    assert len(load_jets("jetnet", "q", 150, tmp_path, "train")) == 28
    (tmp_path / "jetnet/q150.npz").unlink()
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(UserError, match="can't read .*q150.hdf5, it is cut short"):
        load_jets("jetnet", "q", 150, tmp_path, "train")


# --- files that can't be used


def spoilt(what):
    x, _ = made_up(columns=20)
    mask = x[..., 3] > 0
    if what == "no particle":
        mask[7] = False
    elif what == "isn't finite":
        x[7, 0, 1] = np.nan
    elif what == "without positive pT":
        x[7, 0, 2] = 0
    return {"particles": x[..., :3], "mask": mask}


def test_a_group_in_the_place_of_an_array(tmp_path):
    with h5py.File(tmp_path / "own.hdf5", "w") as f:
        f.create_group("particles")
    with pytest.raises(UserError, match="can't read .*own.hdf5"):
        load_jets(str(tmp_path / "own.hdf5"), "t", 30, "", "train")


@pytest.mark.parametrize("layout", ["particle_features", "mask"])
@pytest.mark.parametrize("value", [0.1396, np.nan])
def test_a_mask_of_more_than_two_values_is_none(layout, value, tmp_path):
    """A fourth feature in its place would drop the particles for which it is 0."""
    x, _ = made_up()
    x[3, :2, 3] = value
    if layout == "mask":
        np.savez(tmp_path / "own.npz", particles=x[..., :3], mask=x[..., 3])
    else:
        np.savez(tmp_path / "own.npz", particle_features=x)
    with pytest.raises(UserError, match=f"own.npz: its mask has more than two values, {value} am"):
        load_jets(tmp_path / "own.npz", "t", 30, "", "train")


def test_of_an_inverted_mask_the_line_says_so(tmp_path):
    x, _ = made_up(columns=20)
    np.savez(tmp_path / "own.npz", particles=x[..., :3], mask=x[..., 3] == 0)
    with pytest.raises(UserError, match="leave them out of the file, or mend the mask"):
        load_jets(tmp_path / "own.npz", "t", 30, "", "train")


@pytest.mark.parametrize("name", ["own.HDF5", "own.H5", "own.NPZ"])
def test_endings_of_own_files_may_be_in_capitals(name, tmp_path):
    x = changed(lambda *features: features)
    own_file(tmp_path / name.lower(), x).rename(tmp_path / name)
    assert len(load_jets(tmp_path / name, "t", 30, "", "train")) == 28


@pytest.mark.parametrize("what", ["no particle", "isn't finite", "without positive pT"])
def test_bad_jets_are_counted_and_the_first_is_named(what, tmp_path):
    np.savez(tmp_path / "own.npz", **spoilt(what))
    with pytest.raises(
        UserError,
        match=f"own.npz: 1 of 40 jets have .*{what}, the first is number 7: leave them out of .* file$",
    ):
        load_jets(tmp_path / "own.npz", "t", 30, "", "train")


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"particles": np.ones((9, 5, 3))}, "no mask: add an array `mask`"),
        (
            {"particles": np.ones((9, 5, 4)), "mask": np.ones((9, 5))},
            r"\(9, 5, 4\) of .*numbers \(jets, particles, 3\)",
        ),
        ({"particles": np.ones((9, 3)), "mask": np.ones(9)}, r"\(9, 3\) of .*expected"),
        (
            {"particles": np.ones((9, 5, 3)), "mask": np.ones((9, 4))},
            r"mask \(9, 4\) of float64 doesn't fit",
        ),
        (
            {"particles": np.ones((9, 5, 3)), "mask": np.arange(9)},
            r"mask \(9,\) of int64 doesn't fit .*must be \(jets, particles\), 1 where",
        ),
        (
            {"particles": np.ones((9, 5, 3)), "mask": np.full((9, 5), b"1")},
            r"mask \(9, 5\) of .S1 doesn't fit",
        ),
        ({"particles": np.ones((9, 0, 3)), "mask": np.ones((9, 0))}, r"no jets: .*\(9, 0, 3\)"),
        ({"particle_features": np.ones((9, 5, 3))}, "expected .* 4.*: the mask is missing"),
        ({"particle_features": np.float64(1)}, "an array \\(\\) of float64: expected numbers"),
        ({"particles": "none", "mask": np.ones((9, 5))}, "an array .* expected numbers"),
        ({"jets": np.ones((9, 5, 3))}, "neither `particles` and `mask` nor `particle_features`"),
        (
            {"particles": np.ones((9, 31, 3)), "mask": np.ones((9, 31))},
            "has jets of 31 particles, 30 are allowed",
        ),
        (
            {"particles": np.full((1, 5, 3), 0.2), "mask": np.ones((1, 5))},
            "has 1 jets, too few for a train split",
        ),
        ({"particles": np.ones((0, 5, 3)), "mask": np.ones((0, 5))}, "has no jets"),
        ({"particles": np.full((9, 5, 3), b"x"), "mask": np.ones((9, 5))}, "expected numbers"),
    ],
)
@pytest.mark.parametrize("suffix", ["npz", "hdf5"])
def test_files_of_another_form(arrays, message, suffix, tmp_path):
    path = tmp_path / f"own.{suffix}"
    if suffix == "npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as f:
            f.update(arrays)
    with pytest.raises(UserError, match=message):
        load_jets(str(path), "t", 30, "", "train")


@pytest.mark.parametrize(
    "name, content",
    [("own.npz", b"PK\x03\x04 not a zip"), ("own.h5", b"not HDF5"), ("own.npz", b"")],
)
def test_files_that_are_damaged(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"can't read .*{name}"):
        load_jets(tmp_path / name, "t", 30, "", "train")


# --- files of your own


def own_file(path, x):
    """JetNet's layout (J, N, 4) as a user's file, in the format that the name says."""
    if path.suffix == ".npz":
        np.savez(path, particles=x[..., :3], mask=x[..., 3] > 0)
    else:
        write_hdf5(path, x)
    return path


def changed(change, columns=20, jets=40):
    """made_up's jets after `change`, which gets (η_rel, φ_rel, pT_rel) and returns three such arrays."""
    x, _ = made_up(jets, columns)
    mask = x[..., 3:] > 0
    features = np.stack(change(x[..., 0], x[..., 1], x[..., 2]), axis=-1)
    return np.concatenate([features, mask], axis=-1).astype(np.float32) * mask


ABSOLUTE = np.random.default_rng(5).uniform(-1, 1, (40, 1))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda eta, phi, pt: (eta, phi, 1000 * pt),
            "median sum of a jet's pt_rel is 1000, .*are these GeV",
        ),
        (lambda eta, phi, pt: (eta, phi, 1.6 * pt), "median sum of a jet's pt_rel is 1.6, "),
        (lambda eta, phi, pt: (eta, phi, pt / 25), "median sum of a jet's pt_rel is 0.04, "),
        (
            lambda eta, phi, pt: (eta, phi, pt * np.where(np.arange(40) == 7, 3.1, 1)[:, None]),
            "1 of 40 jets have pt_rel that sum to more than 3, the first is number 7",
        ),
        (
            lambda eta, phi, pt: (eta, phi, pt * np.where(np.arange(40) == 7, 1000, 1)[:, None]),
            "1 of 40 jets have pt_rel that sum to more than 3, the first is number 7",
        ),
        (
            lambda eta, phi, pt: (pt, eta, phi),
            "first column is never negative.*order eta_rel, phi_rel, pt_rel",
        ),
        (lambda eta, phi, pt: (500 * pt, eta, phi % (2 * np.pi)), "first column is never negative"),
        (lambda eta, phi, pt: (eta, pt, phi), "second column is never negative"),
        (
            lambda eta, phi, pt: (pt * np.cos(phi) - 0.1, pt * np.sin(phi), eta),
            "third column is negative for ..%",
        ),
        (
            lambda eta, phi, pt: (eta + 2.5 * ABSOLUTE, phi, pt),
            r"mean eta_rel of a jet, weighted with pT, is 1\.\d\d",
        ),
        (
            lambda eta, phi, pt: (eta, phi + np.pi * ABSOLUTE, pt),
            r"mean phi_rel of a jet.*Subtract the phi of the jet",
        ),
        (
            lambda eta, phi, pt: (eta, np.degrees(phi), pt),
            r"of 40 jets have \|phi_rel\| above 3π.*in radians",
        ),
        (
            lambda eta, phi, pt: (np.where(np.arange(40)[:, None] == 7, -999, eta), phi, pt),
            r"1 of 40 jets have \|eta_rel\| above 20, the first is number 7. Mask the particles",
        ),
        (
            lambda eta, phi, pt: (np.where(np.arange(40)[:, None] == 7, 20.1, eta), phi, pt),
            r"1 of 40 jets have \|eta_rel\| above 20",
        ),
    ],
)
@pytest.mark.parametrize("suffix", ["npz", "h5"])
def test_own_jets_that_are_misread_are_refused(change, message, suffix, tmp_path):
    path = own_file(tmp_path / f"own.{suffix}", changed(change))
    with pytest.raises(UserError, match=f"own.{suffix}: .*{message}"):
        load_jets(path, "t", 20, "", "train")


def test_absolute_phi_without_negative_values_gets_one_line(tmp_path, capsys):
    x = changed(lambda eta, phi, pt: (eta, (phi + np.pi * ABSOLUTE) % (2 * np.pi), pt))
    path = own_file(tmp_path / "own.h5", x)
    with pytest.raises(UserError, match="Subtract the phi of the jet"):
        load_jets(path, "t", 20, "", "train")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda eta, phi, pt: (eta, phi, 1.4 * pt),  # wide jets
        lambda eta, phi, pt: (eta, phi, 0.06 * pt),  # the hardest particles of hundreds
        lambda eta, phi, pt: (eta, phi, pt * np.where(np.arange(40) == 7, 2.9, 1)[:, None]),
        lambda eta, phi, pt: (eta + 0.25, phi - 0.25, pt),  # cut jets aren't centred
        lambda eta, phi, pt: (10 * eta, 8 * phi, pt),
        lambda eta, phi, pt: (0 * eta, phi, pt),
        lambda eta, phi, pt: (np.where(np.arange(40)[:, None] == 7, 19.9, eta), phi, pt),
    ],
)
def test_own_jets_that_are_odd_but_right_are_taken_as_they_are(change, tmp_path, capsys):
    x = changed(change)
    jets = load_jets(own_file(tmp_path / "own.npz", x), "t", 20, "", "train")
    assert np.array_equal(
        jets.particles.numpy(), x[np.random.default_rng(42).permutation(40)[:28]][..., :3]
    )
    assert capsys.readouterr().err == ""


def test_own_jets_may_have_more_particles_than_jetnets(tmp_path):
    x, _ = made_up(columns=170)
    jets = load_jets(own_file(tmp_path / "own.h5", x), "t", 170, "", "train")
    assert jets.particles.shape == (28, 170, 3) and jets.n.max() > 150


def test_of_few_particles_no_order_is_concluded(tmp_path):
    """Six jets of three particles, which happen to have η_rel > 0."""
    x, _ = made_up(jets=6, columns=3)
    x[..., 0] = np.abs(x[..., 0])
    assert len(load_jets(own_file(tmp_path / "own.h5", x), "t", 3, "", "train")) == 4


@pytest.mark.parametrize("kept", [1, 2, 5, 30])
def test_jets_cut_to_few_particles_pass(kept, tmp_path, repo):
    with np.load(repo / "tests/data/pythia_top30_test_2000.npz") as f:
        x = f["particles"].astype(np.float32)[:, :kept]
    np.savez(tmp_path / "own.npz", particles=x, mask=x[..., 2] > 0)
    assert len(load_jets(tmp_path / "own.npz", "t", kept, "", "train")) == 1400


def test_the_toys_pass_as_own_jets(tmp_path):
    for jet_type in JET_TYPES:
        for n in (1, 8, 150):
            particles, mask = jets_module._toys(jet_type, n)
            np.savez(tmp_path / f"{jet_type}{n}.npz", particles=particles, mask=mask)
            assert len(load_jets(tmp_path / f"{jet_type}{n}.npz", "t", n, "", "test")) == 150


def test_phi_is_turned_into_its_range_and_it_is_said_once(tmp_path, capsys):
    """Seven particles by one turn, up or down; phi modulo 2π, as the paper has it, is the same jets."""
    x, _ = made_up(columns=20)
    off, modulo = x.copy(), x.copy()
    first_jets = np.arange(7)
    off[first_jets, 0, 1] += 2 * np.pi * np.array([1, -1, 1, -1, 1, -1, 1])
    modulo[..., 1] = np.where(modulo[..., 3] > 0, modulo[..., 1] % (2 * np.pi), 0)
    right = load_jets(own_file(tmp_path / "right.npz", x), "t", 20, "", "train")
    assert capsys.readouterr().err == ""
    for name, y in (("off", off), ("modulo", modulo)):
        path = own_file(tmp_path / f"{name}.h5", y)
        jets, _ = (load_jets(path, "t", 20, "", split) for split in ("train", "valid"))
        torch.testing.assert_close(jets.particles, right.particles, rtol=0, atol=2e-6)
        untouched = jets.particles[..., 1] == right.particles[..., 1]
        assert untouched[right.particles[..., 1] > 0].float().mean() > 0.9
        lines = capsys.readouterr().err.splitlines()
        count = 7 if name == "off" else (x[..., 1] < 0).sum()
        assert lines == [
            f"{path}: phi_rel of {count} of {int(x[..., 3].sum())} particles was outside of [-π, π) and "
            "has been turned by 2π"
        ]


def test_a_tilde_is_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    own_file(tmp_path / "own.npz", made_up(columns=20)[0])
    assert len(load_jets("~/own.npz", "t", 20, "data", "train")) == 28
    write_hdf5(tmp_path / "jets/pythia/t150.hdf5", made_up()[0])
    assert len(load_jets("pythia", "t", 30, "~/jets", "train")) == 28


def test_a_directory_in_the_place_of_a_file(tmp_path):
    (tmp_path / "own.h5").mkdir()
    with pytest.raises(UserError, match="own.h5 is a directory"):
        load_jets(tmp_path / "own.h5", "t", 20, "", "train")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("imagenet", "t", 30, "", "train"), "unknown data set 'imagenet'"),
        (("synthetic", "h", 30, "", "train"), "unknown jet type 'h': choose from g, q, t, w, z"),
        (("synthetic", "t", 30, "", "dev"), "unknown split 'dev'"),
        (("synthetic", "t", 151, "", "train"), "--num-particles 151: must be from 1 to 150"),
        (("synthetic", "t", 0, "", "train"), "--num-particles 0: must be"),
        (("pythia", "w", 30, "there", "train"), r'make data-jets ARGS="--type w --data-dir there"'),
        (("mine.hdf5", "t", 30, "", "train"), "no file mine.hdf5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        load_jets(*arguments)


# --- batches


def epoch_of(n, batch_size, seed, epoch):
    batches = len(n) // batch_size
    return [bucketed_indices(n, batch_size, seed, epoch * batches + k) for k in range(batches)]


def test_each_jet_comes_at_most_once_an_epoch():
    n = torch.randint(1, 151, (1003,), generator=torch.Generator().manual_seed(0))
    for epoch in range(3):
        batches = epoch_of(n, 10, seed=4, epoch=epoch)
        assert all(b.shape == (10,) and b.dtype == torch.int64 for b in batches)
        seen = torch.cat(batches)
        assert len(seen) == len(seen.unique()) == 1000


def test_left_out_jets_are_not_always_the_same_nor_the_longest():
    n = torch.arange(1, 16)
    left = [
        set(range(15)) - set(torch.cat(epoch_of(n, 8, 0, epoch)).tolist()) for epoch in range(40)
    ]
    assert set.union(*left) == set(range(15))


def test_batches_hold_jets_of_similar_n_and_are_composed_anew_each_epoch():
    n = torch.randint(1, 151, (6400,), generator=torch.Generator().manual_seed(0))
    first, second = (epoch_of(n, 64, 0, epoch) for epoch in (0, 1))
    spread = torch.stack([n[b].max() - n[b].min() for b in first]).double().mean()
    assert spread < 10  # unsorted: about 145
    mixed = torch.stack(
        [n[b].max() - n[b].min() for b in (bucketed_indices(n, 64, 0, k, 1) for k in range(100))]
    )
    assert mixed.double().mean() > 130
    assert not {frozenset(b.tolist()) for b in first} & {frozenset(b.tolist()) for b in second}


def test_short_and_long_batches_are_mixed_in_time():
    n = torch.randint(1, 151, (3840,), generator=torch.Generator().manual_seed(0))
    largest = torch.stack([n[b].max() for b in epoch_of(n, 64, 0, 0)]).double()
    assert abs(largest[:30].mean() - largest[30:].mean()) < 40  # in the order of n: 75


def test_a_batch_is_a_pure_function_of_its_arguments():
    n = torch.randint(1, 31, (500,), generator=torch.Generator().manual_seed(0))
    assert not torch.equal(bucketed_indices(n, 8, 1, 0), bucketed_indices(n, 8, 1, 0, 1))
    there = [bucketed_indices(n, 8, 1, step) for step in range(130)]
    back = [bucketed_indices(n.clone(), 8, 1, step) for step in reversed(range(130))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(there, back))
    assert not torch.equal(there[0], bucketed_indices(n, 8, 2, 0))
    assert not torch.equal(there[0], there[62])  # the next epoch's first
    before = bucketed_indices(n, 8, 1, 0)
    n.copy_(n.flip(0))
    assert torch.equal(bucketed_indices(n, 8, 1, 0), bucketed_indices(n.clone(), 8, 1, 0))
    assert not torch.equal(bucketed_indices(n, 8, 1, 0), before)


def test_fewer_jets_than_a_batch():
    with pytest.raises(UserError, match="a batch of 8 from 5 jets"):
        bucketed_indices(torch.ones(5, dtype=torch.long), 8, 0, 0)


# --- simulate.py


def test_a_jets_row_by_hand():
    """Two massless particles at eta 0, phi = pi -+ 0.1, pT 3 and 1, and one of pT 0.1 that is too soft."""

    def massless(pt, eta, phi):
        return [pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)]

    momenta = np.array(
        [massless(1, 0, -np.pi + 0.1), massless(0.1, 0, np.pi), massless(3, 0, np.pi - 0.1)]
    )
    particles, (pt, eta, mass, n) = jet_arrays(momenta)
    assert n == 2 and particles.shape == (150, 4) and (particles[2:] == 0).all() and eta == 0
    axis = np.arctan2(
        -2 * np.sin(0.1), 4 * np.cos(0.1) + 0.1
    )  # of all three, from -pi: -x and y mirrored
    assert pt == pytest.approx(np.hypot(4 * np.cos(0.1) + 0.1, 2 * np.sin(0.1)), rel=1e-12)
    assert mass**2 == pytest.approx(4.1**2 - pt**2, rel=1e-9)
    assert particles[0] == pytest.approx([0, -0.1 - axis, 3 / pt, 1])
    assert particles[1] == pytest.approx([0, 0.1 - axis, 1 / pt, 1])


def test_more_than_150_particles_leave_the_hardest():
    momenta = np.array([[pt, 0, 0, pt] for pt in np.linspace(1, 2, 160)])
    particles, features = jet_arrays(momenta)
    assert (
        features[3] == 150
        and particles[:, 3].all()
        and particles[149, 2] * momenta[:, 0].sum() > 1.06
    )


def test_without_pythia_the_command_is_named(monkeypatch, tmp_path):
    from importlib import metadata

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(UserError, match="requirements-pythia.txt, or use make data-jets"):
        simulate("t", 10, tmp_path)


def test_jets_are_simulated_into_the_home_directory_if_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    monkeypatch.setattr(simulate_module, "simulate_shard", lambda *a: made_up(jets=3))
    assert simulate("t", 3, "~/jets") == tmp_path / "jets/pythia/t150.hdf5"
    assert np.array_equal(contents(tmp_path / "jets/pythia/t150.hdf5")[0], made_up(jets=3)[0])


def test_training_code_imports_no_pythia():
    code = (
        "import sys, mdma.jets; "
        "sys.exit(any(m in sys.modules for m in ('pythia8mc', 'jetnet', 'h5py', 'mdma.simulate')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, timeout=120).returncode == 0


def test_make_data_jets_is_not_taken_for_an_image_data_set():
    done = subprocess.run(
        ["make", "-n", "data-jets", "VENV=/nowhere"], cwd=REPO, capture_output=True, text=True
    )
    assert "mdma/requirements-pythia.txt" in done.stdout and "-m mdma.simulate" in done.stdout
    assert "common.data" not in done.stdout


def contents(path):
    with h5py.File(path) as f:
        return f["particle_features"][()], f["jet_features"][()]


def test_same_jets_whatever_the_workers_and_after_a_kill(tmp_path, monkeypatch):
    pytest.importorskip("pythia8mc")
    monkeypatch.setattr(simulate_module, "SHARD", 5)
    one = contents(simulate("t", 8, tmp_path / "one", workers=1))
    assert one[0].shape == (8, 150, 4) and one[1].shape == (8, 4)
    n = one[0][..., 3].sum(1)
    assert np.array_equal(n, one[1][:, 3]) and (n > 10).all()
    assert (one[1][:, 0] > 800).all() and (one[1][:, 0] < 1600).all()
    assert (np.abs(one[0][..., 2].sum(1) - 1) < 0.1).all()  # pT_rel of all particles
    assert len({x.tobytes() for x in one[0]}) == 8
    path = simulate("t", 8, tmp_path / "two", workers=2)
    assert all(np.array_equal(a, b) for a, b in zip(one, contents(path)))

    lost = sorted((tmp_path / "two/pythia/shards").glob("*/*.hdf5"))[
        1
    ]  # as if killed before the second was there
    path.unlink(), lost.unlink()
    made = []
    monkeypatch.setattr(
        simulate_module, "simulate_shard", lambda *a: made.append(a) or simulate_shard(*a)
    )
    assert all(
        np.array_equal(a, b) for a, b in zip(one, contents(simulate("t", 8, tmp_path / "two")))
    )
    assert made == [("t", 3, 0, 1)]
    assert simulate("t", 6, tmp_path / "two") == path and len(made) == 1  # enough are there
    more = contents(simulate("t", 10, tmp_path / "two"))
    assert np.array_equal(more[0][:8], one[0]) and made[1:] == [
        ("t", 5, 0, 1)
    ]  # the last shard was too short
    with pytest.raises(UserError, match="another seed, PYTHIA or recipe"):
        simulate("t", 8, tmp_path / "two", seed=1)


def test_the_parts_joined_are_the_same_jets(tmp_path, monkeypatch):
    """Each shard is simulated by one part, and none by the call that joins them."""
    made = []

    def fake_shard(jet_type, jets, seed, shard):
        made.append(shard)
        return tuple(x[:jets] for x in made_up(jets=5, seed=shard))

    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    monkeypatch.setattr(simulate_module, "simulate_shard", fake_shard)
    monkeypatch.setattr(simulate_module, "SHARD", 5)
    whole = contents(simulate("q", 23, tmp_path / "whole"))
    assert whole[0].shape == (23, 150, 4) and made == [0, 1, 2, 3, 4]
    made.clear()
    for i, mine in ((1, [1, 3]), (0, [0, 2, 4])):
        there = simulate("q", 23, tmp_path / "parts", part=(i, 2))
        assert there.is_dir() and not list((tmp_path / "parts/pythia").glob("*.hdf5"))
        assert made == mine
        made.clear()
    joined = contents(simulate("q", 23, tmp_path / "parts"))
    assert not made and all(np.array_equal(a, b) for a, b in zip(joined, whole))


def test_parts_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    monkeypatch.setattr(simulate_module, "simulate_shard", lambda *a: made_up(jets=a[1]))
    words = ["--type", "g", "--jets", "7", "--workers", "1", "--data-dir", str(tmp_path)]
    simulate_module.main([*words, "--part", "0/2"])
    assert "the shards of part 0/2 are there" in capsys.readouterr().out
    simulate_module.main(words)
    assert "g150.hdf5: 7 jets" in capsys.readouterr().out


def test_the_recipe_makes_the_same_jets_as_ever(repo):
    """Jets 0 and 23 of the 50,000 of seed 0, which the shipped checkpoints learnt from, are among tests/data's.

    Those are the first 2,000 of JetNet's test split of them, 30 particles, float16.
    """
    pytest.importorskip("pythia8mc")
    test_split = np.random.default_rng(42).permutation(50_000)[42_500:44_500].tolist()
    with np.load(repo / "tests/data/pythia_top30_test_2000.npz") as f:
        kept = f["particles"][[test_split.index(0), test_split.index(23)]]
    x, features = simulate_shard("t", 24, seed=0, shard=0)
    np.testing.assert_allclose(x[[0, 23], :30, :3], kept, rtol=1e-3, atol=1e-5)
    softest = np.where(x[..., 3] > 0, x[..., 2], 1).min(axis=1) * features[:, 0]
    assert 0.2 < softest.min() < 0.22  # GeV


@pytest.mark.parametrize(
    "jet_type, lightest, heaviest",
    [("g", 10, 120), ("q", 10, 120), ("t", 140, 190), ("w", 70, 95), ("z", 80, 105)],
)
def test_simulated_jets_are_what_own_jets_must_be(jet_type, lightest, heaviest, capsys):
    """Of each type, whole and cut to few particles; and they are jets of their type: by pT, and mass in GeV."""
    pytest.importorskip("pythia8mc")
    x, features = simulate_shard(jet_type, 4, seed=0, shard=0)
    pt, _, mass, _ = features.T
    assert (800 < pt).all() and (pt < 1600).all()
    assert lightest < np.median(mass) < heaviest
    capsys.readouterr()
    for kept in (150, 30, 1):
        cut = x[:, :kept]
        mask = cut[..., 3] > 0
        assert np.array_equal(
            jets_module.check_relative(cut[..., :3], mask, "PYTHIA"), cut[..., :3]
        )
        jets_module.check_order(cut[..., :3], mask, "PYTHIA")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("jet_type, boson, heaviest", [("w", 24, 5), ("z", 23, 4)])
def test_bosons_decay_isotropically(jet_type, boson, heaviest):
    """<cos²θ*> = 1/3 with a standard deviation of 0.3 a decay; PYTHIA's own: 0.36 and 0.39. Momentum is conserved."""
    pythia8mc = pytest.importorskip("pythia8mc")
    pythia = pythia8mc.Pythia("", False)
    for line in (
        *simulate_module.SETTINGS,
        *simulate_module.PROCESSES[jet_type],
        "Random:seed = 3",
        "PartonLevel:all = off",
    ):
        assert pythia.readString(line)
    hook = isotropic_decays(np.random.default_rng(0))
    pythia.setUserHooksPtr(hook)
    assert pythia.init()
    cosines = []
    while len(cosines) < 3000:
        assert pythia.next()
        process = pythia.process
        for p in process:
            if abs(p.id()) == boson and p.daughter2() > p.daughter1() > 0:
                quark, other = process[p.daughter1()], process[p.daughter2()]
                assert (
                    abs((quark.p() + other.p() - p.p()).pAbs()) < 1e-6
                    and abs(quark.id()) <= heaviest
                )
                v = pythia8mc.Vec4(quark.p())
                v.bstback(p.p())
                cosines.append(
                    (v.px() * p.px() + v.py() * p.py() + v.pz() * p.pz()) / v.pAbs() / p.pAbs()
                )
    assert abs(np.square(cosines).mean() - 1 / 3) < 4 * 0.3 / 3000**0.5


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 0, 1)])
def test_decays_are_turned_evenly_whatever_their_direction_was(axis):
    """A W at rest whose quarks always fly along one axis: afterwards <x²> = <y²> = <z²> = 1/3."""
    pythia8mc = pytest.importorskip("pythia8mc")
    hook = isotropic_decays(np.random.default_rng(0))
    boson, quark, other = (pythia8mc.Particle(kind) for kind in (24, 2, -1))
    boson.p(pythia8mc.Vec4(0, 0, 0, 80))
    boson.daughters(1, 2)
    directions = []
    for _ in range(3000):
        for particle, sign in ((quark, 40), (other, -40)):
            particle.p(pythia8mc.Vec4(*(sign * x for x in axis), 40))
        assert not hook.doVetoResonanceDecays([boson, quark, other])
        directions.append((quark.px() / 40, quark.py() / 40, quark.pz() / 40))
        assert abs((quark.p() + other.p() - boson.p()).pAbs()) < 1e-9
    assert np.abs(np.square(directions).mean(axis=0) - 1 / 3).max() < 4 * 0.3 / 3000**0.5
    assert np.abs(np.mean(directions, axis=0)).max() < 4 * 0.58 / 3000**0.5


@pytest.mark.parametrize("jet_type, turned", [("w", True), ("z", True), ("t", False)])
def test_only_bosons_are_made_to_decay_evenly(jet_type, turned, monkeypatch):
    pythia8mc = pytest.importorskip("pythia8mc")
    calls = []

    class Hook(pythia8mc.UserHooks):
        def canVetoResonanceDecays(self):
            return True

        def doVetoResonanceDecays(self, process):
            calls.append(process)
            return False

    hook = Hook()
    monkeypatch.setattr(simulate_module, "isotropic_decays", lambda rng: hook)
    simulate_shard(jet_type, 1, seed=0, shard=0)
    assert bool(calls) == turned


class FakeParticle:
    def __init__(self, px, py, pz, e):
        self.px = lambda: px
        self.py = lambda: py
        self.pz = lambda: pz
        self.e = lambda: e


def fake_pythia(monkeypatch, jets, good):
    """A pythia8mc whose events hold `jets`, {pT: momenta of constituents}; every `good`-th event succeeds.

    Returns a list that grows by one with each event that is asked for.
    """
    asked = []
    momenta = [p for constituents in jets.values() for p in constituents]
    ends = np.cumsum([0, *map(len, jets.values())])

    class Pythia:
        event = [FakeParticle(*p) for p in momenta]

        def __init__(self, *a):
            pass

        def readString(self, line):
            return True

        def init(self):
            return True

        def next(self):
            asked.append(1)
            assert len(asked) < 1000, "would never end"
            return bool(good) and len(asked) % good == 0

    class SlowJet:
        def __init__(self, *a):
            pass

        def analyze(self, event):
            pass

        def sizeJet(self):
            return len(jets)

        def pT(self, k):
            return list(jets)[k]

        def constituents(self, k):
            return range(ends[k], ends[k + 1])

    module = types.SimpleNamespace(Pythia=Pythia, SlowJet=SlowJet, UserHooks=object)
    monkeypatch.setitem(sys.modules, "pythia8mc", module)
    return asked


def test_the_two_leading_jets_are_taken_below_1600_gev(monkeypatch):
    jets = {
        1700.0: [(1700, 0, 0, 1700)],
        900.0: [(0, 600, 0, 600), (0, 300, 0, 300)],
        850.0: [(0, 0.5, 850, 850)],
    }
    asked = fake_pythia(monkeypatch, jets, good=3)  # two of three events fail
    particles, features = simulate_shard("t", 4, seed=0, shard=0)
    assert (
        len(asked) == 12
        and features[:, 0].tolist() == [900.0] * 4
        and features[:, 3].tolist() == [2] * 4
    )
    np.testing.assert_allclose(particles[:, :2, 2], [[2 / 3, 1 / 3]] * 4, rtol=1e-6)
    assert not particles[:, 2:].any()


def test_pythia_giving_up_ends_the_simulation(monkeypatch):
    fake_pythia(monkeypatch, {900.0: [(900, 0, 0, 900)]}, good=0)
    with pytest.raises(RuntimeError, match="gave up on 11 events"):
        simulate_shard("t", 1, seed=0, shard=0)


def test_a_negative_seed_is_refused(here):
    with pytest.raises((UserError, SystemExit)):
        simulate_module.main(["--seed", "-1", "--jets", "1"])
    assert not list(here.iterdir())


# --- JetClass's ROOT files

JETCLASS = dict(
    part_deta=[[0.1, -0.2], [0.05], [-0.3, 0.2, 0.1]],
    part_dphi=[[0.0, 0.3], [-0.1], [0.2, -0.1, 0.0]],
    part_px=[[30.0, -400.0], [3.0], [0.0, 100.0, 60.0]],
    part_py=[[40.0, 300.0], [-4.0], [-50.0, 0.0, 80.0]],
    jet_pt=[500.0, 5.0, 200.0],
    label_QCD=[False, True, False],
)


def write_root(path, repeat=1, tree="tree", **changed):
    """A ROOT file with JetClass's branches, each jet `repeat` times; a branch of None is left out."""
    arrays = {
        name: awkward.Array(values)[list(range(len(values))) * repeat]
        for name, values in (JETCLASS | changed).items()
        if values is not None
    }
    with uproot.recreate(path) as f:
        f.mktree(tree, {name: array.type.content for name, array in arrays.items()})
        f[tree].extend(arrays)
    return path


def test_jetclass_by_hand(tmp_path):
    """pT of 50 and 500 of 500 GeV, 5 of 5, and 50, 100, 100 of 200, hardest first."""
    jets = read_for_scores(write_root(tmp_path / "TTBar.root"))
    assert jets.n.tolist() == [2, 1, 3] and jets.particles.dtype == torch.float32
    expected = [
        [[-0.2, 0.3, 1], [0.1, 0, 0.1], [0, 0, 0]],
        [[0.05, -0.1, 1], [0, 0, 0], [0, 0, 0]],
        [[0.2, -0.1, 0.5], [0.1, 0, 0.5], [-0.3, 0.2, 0.25]],
    ]
    torch.testing.assert_close(jets.particles, torch.tensor(expected))


def test_jetclass_is_cut_to_the_hardest_and_split(tmp_path):
    path = write_root(tmp_path / "TTBar.root", repeat=20)
    parts = [load_jets(path, "t", 2, "", split) for split in ("train", "valid", "test")]
    assert [len(part) for part in parts] == [42, 9, 9]
    assert parts[0].n.unique().tolist() == [1, 2]
    assert -0.3 not in parts[0].particles[..., 0].round(decimals=4).tolist()
    assert load_jets(path, "t", 5, "", "train").particles.shape == (42, 5, 3)


def test_a_root_file_that_is_none_of_jetclass(tmp_path):
    for name, changed, message in (
        ("a", dict(part_px=None, jet_pt=None), "no branches part_px, jet_pt in a TTree `tree`"),
        ("b", dict(tree="Events"), "no branches part_deta, part_dphi, part_px, part_py, jet_pt"),
        ("c", dict(repeat=0), "c.root has no jets"),
        ("d", dict(jet_pt=[0.5, 0.005, 0.2]), "median sum of a jet's pt_rel is 1[01]"),
    ):
        path = write_root(tmp_path / f"{name}.root", **changed)
        with pytest.raises(UserError, match=message):
            read_for_scores(path)
    whole = write_root(tmp_path / "e.root", repeat=300).read_bytes()
    for content in (b"", b"not ROOT", whole[: len(whole) // 2]):
        (tmp_path / "e.root").write_bytes(content)
        with pytest.raises(UserError, match="can't read .*e.root, it is cut short, damaged"):
            load_jets(tmp_path / "e.root", "t", 30, "", "train")


@pytest.mark.parametrize("package", ["uproot", "awkward"])
def test_jetclass_without_uproot(package, tmp_path, monkeypatch, capsys):
    path = write_root(tmp_path / "TTBar.root")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as e:
        run_main(lambda: load_jets(path, "t", 30, "", "train"))
    (line,) = capsys.readouterr().err.splitlines()
    assert e.value.code == 2 and "TTBar.root is read by uproot" in line
    assert line.endswith("pip install uproot awkward")
