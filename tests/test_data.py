"""Data sets: batches from (seed, step), resizing, where files are looked for, what is said of bad ones."""

import errno
import gzip
import importlib
import io
import os
import pickle
import shutil
import socket
import struct
import sys
import tarfile
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from cagan.conditions import set_conditions
from common import data, download, folders
from common.cli import UserError
from common.data import ImageSet, batch_indices, images_below, load_images
from common.errors import say_once

REAL = np.load(Path(__file__).parent / "data/fashion_mnist_test_1000.npz")


def fashion(size, channels=1):
    images = torch.from_numpy(REAL["images"])[:, None]
    labels = torch.from_numpy(REAL["labels"])
    return ImageSet("fashion-mnist", "test", size, channels, images=images, labels=labels)


# --- batches


def test_every_epoch_is_a_fresh_permutation_and_batches_straddle_epochs():
    sequence = torch.cat(
        [batch_indices(10, 4, seed=1, step=step) for step in range(15)]
    )  # 6 epochs, 4 ∤ 10
    epochs = sequence.view(6, 10)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 6


def test_batches_are_a_pure_function_of_seed_and_step():
    first = [batch_indices(50, 8, seed=3, step=step).clone() for step in range(20)]
    batch_indices(
        50, 8, seed=3, step=0
    ).zero_()  # what the caller does to its batch is its own affair
    torch.manual_seed(99)
    again = [batch_indices(50, 8, seed=3, step=step) for step in reversed(range(20))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    data._permutation.cache_clear()  # as in a resumed process
    assert torch.equal(batch_indices(50, 8, seed=3, step=11), first[11])


def test_seeds_and_epochs_do_not_share_permutations():
    seen = {
        tuple(batch_indices(20, 20, seed, e).tolist()) for seed in range(-5, 30) for e in range(30)
    }
    seen |= {tuple(batch_indices(20, 20, 2**32 * k, 0).tolist()) for k in range(1, 5)}
    assert len(seen) == 35 * 30 + 4


def test_batch_larger_than_the_set():
    indices = batch_indices(
        3, 10, seed=0, step=2
    )  # places 20..29 of the sequence: epochs 6 (half) to 9
    assert len(indices) == 10
    assert torch.equal(
        indices, torch.cat([batch_indices(3, 1, 0, place) for place in range(20, 30)])
    )
    with pytest.raises(UserError):
        batch_indices(0, 4, 0, 0)


# --- pixels


def test_images_at_is_exact_at_the_stored_size():
    x = fashion(28).images_at([5, 0, 999])
    assert x.dtype == torch.float32 and x.shape == (3, 1, 28, 28)
    assert np.abs(x[:, 0].numpy() - (REAL["images"][[5, 0, 999]] / 127.5 - 1)).max() < 1e-6
    assert x.min() == -1 and x.max() <= 1


@pytest.mark.parametrize("size", [14, 20, 32, 64])
def test_resizing_agrees_with_pil(size):
    data_set = fashion(size)
    assert data_set.images.dtype == torch.uint8 and data_set.images.shape == (1000, 1, 28, 28)
    x = data_set.images_at(torch.arange(50))
    assert x.shape == (50, 1, size, size) and x.min() >= -1 and x.max() <= 1
    pil = [
        Image.fromarray(im).resize((size, size), Image.Resampling.BILINEAR)
        for im in REAL["images"][:50]
    ]
    assert np.abs((x[:, 0].numpy() + 1) * 127.5 - np.array(pil, np.float32)).max() <= 2


def test_channels_repeat_grey_and_take_luminance():
    grey, rgb = fashion(32).images_at([1]), fashion(32, channels=3).images_at([1])
    assert rgb.shape == (1, 3, 32, 32) and all(torch.equal(rgb[:, c], grey[:, 0]) for c in range(3))
    colour = load_images("synthetic", None, size=32, channels=3)
    x = ImageSet("s", "train", 32, 1, images=colour.images).images_at([0, 7])
    for got, image in zip(x, colour.images[[0, 7]], strict=True):
        wanted = np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"), np.float32)
        assert np.abs((got[0].numpy() + 1) * 127.5 - wanted).max() < 1


def test_batch_pairs_images_with_their_labels():
    data_set = fashion(28).to("cpu")
    x, y = data_set.batch(step=7, batch_size=16, seed=2)
    indices = batch_indices(1000, 16, 2, 7)
    assert torch.equal(x, data_set.images_at(indices))
    assert y.tolist() == REAL["labels"][indices.numpy()].tolist()


def test_synthetic_is_deterministic_fast_and_has_ten_classes_that_can_be_told_apart():
    load_images("synthetic", None)
    start = time.perf_counter()
    train = load_images("synthetic", None, size=28)
    assert time.perf_counter() - start < 0.5  # 0.2 s promised, the rest is for a busy machine
    assert torch.equal(train.images, load_images("synthetic", None, size=28).images)
    test = load_images("synthetic", None, "test", size=28)
    assert len(train) == 512 and train.images.dtype == torch.uint8
    assert not torch.equal(train.images, test.images)
    assert train.labels.unique().tolist() == list(range(10)) and len(set(train.classes)) == 10
    x = train.images_at(range(512)).flatten(1)
    mean = torch.stack([x[train.labels == k].mean(0) for k in range(10)])
    nearest = torch.cdist(test.images_at(range(512)).flatten(1), mean).argmin(1)
    assert (nearest == test.labels).float().mean() > 0.6
    assert load_images("synthetic", None, size=16, channels=3, limit=7).images.shape == (
        7,
        3,
        16,
        16,
    )


# --- the fingerprint, which names cached features


def test_any_pixel_label_order_slice_size_or_channel_changes_the_fingerprint():
    first = fashion(28)
    seen = {first.fingerprint(), fashion(32).fingerprint(), fashion(28, channels=3).fingerprint()}
    for change in ("pixel", "label", "order", "slice", "no labels"):
        other = fashion(28)
        other.images, other.labels = other.images.clone(), other.labels.clone()
        if change == "pixel":
            other.images[777, 0, 13, 14] ^= 1
        elif change == "label":
            other.labels[777] += 1
        elif change == "order":
            other.images = other.images.flip(0)
        elif change == "slice":  # bigan's --hold-out
            other.images, other.labels = other.images[1:], other.labels[1:]
        else:
            other.labels = None
        seen.add(other.fingerprint())
    assert len(seen) == 8 and first.fingerprint() == fashion(28).fingerprint()


@pytest.mark.parametrize("lazy", [False, True])
def test_a_replaced_image_anywhere_in_a_folder_changes_the_fingerprint(tmp_path, monkeypatch, lazy):
    if lazy:
        monkeypatch.setattr(data, "_memory_budget", lambda: 0)
    for i in range(40):
        photo(tmp_path / f"{i % 2}/{i:02d}.bmp", 16, 16, seed=i)

    def fingerprint(root=tmp_path, **how):
        return load_images("folder", root, size=8, **how).fingerprint()

    before = fingerprint()
    photo(tmp_path / "1/21.bmp", 16, 16, seed=99)  # as many bytes as before
    assert len({before, fingerprint(), fingerprint(limit=7), fingerprint(channels=1)}) == 4
    photo(tmp_path / "1/21.bmp", 16, 16, seed=21)
    os.utime(tmp_path / "1/21.bmp", ns=(10**18, 10**18))
    assert (fingerprint() == before) is not lazy  # in memory the pixels decide, not the time
    before = fingerprint()
    shutil.move(tmp_path / "0", tmp_path / "moved/0")
    shutil.move(tmp_path / "1", tmp_path / "moved/1")
    assert fingerprint(tmp_path / "moved") == before
    if lazy:
        files = load_images("folder", tmp_path / "moved", size=8)
        files.files[3].unlink()
        with pytest.raises(UserError, match=r"can't read the image .*06\.bmp"):
            files.fingerprint()


# --- finding files


def idx(array):
    array = np.asarray(array, np.uint8)
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


TINY = {}  # a data set of 6 training and 3 test images in FashionMNIST's format
for _part, _n in (("train", 6), ("t10k", 3)):
    TINY[f"{_part}-images-idx3-ubyte"] = idx(np.arange(_n * 784).reshape(_n, 28, 28) % 251)
    TINY[f"{_part}-labels-idx1-ubyte"] = idx(np.arange(_n))
IMAGES = "train-images-idx3-ubyte.gz"


def put(folder, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for file, raw in TINY.items():
        (folder / (file + ".gz" * packed)).write_bytes(gzip.compress(raw) if packed else raw)
    return folder


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """FashionMNIST is TINY, no network, no system copy. Gives the data directory and the sources asked."""
    asked = []

    def unreachable(source):
        def download(*_):
            asked.append(source)
            raise OSError(f"{source} is unreachable")

        return download

    for name in ("fashion-mnist", "mnist"):
        monkeypatch.setitem(
            download.MD5, name, {file: download._md5(raw) for file, raw in TINY.items()}
        )
    monkeypatch.setattr(download, "SYSTEM_DIR", tmp_path / "system")
    monkeypatch.setattr(download, "_from_torchvision", unreachable("torchvision"))
    monkeypatch.setattr(download, "_from_debian", unreachable("debian"))
    return tmp_path / "data", asked


@pytest.mark.parametrize(
    "place", ["FashionMNIST/raw", "fashion-mnist", ".", "../system/fashion-mnist"]
)
@pytest.mark.parametrize("packed", [True, False])
def test_local_copies_are_found_without_asking_anyone(tiny, place, packed, capsys):
    data_dir, asked = tiny
    put(data_dir / place, packed)
    train, test = (load_images("fashion-mnist", data_dir, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (6, 3) and not asked and capsys.readouterr().err == ""
    assert train.images.flatten().tolist() == [i % 251 for i in range(6 * 784)]
    assert train.labels.dtype == torch.int64 and train.labels.tolist() == list(range(6))
    assert (train.size, train.channels, train.classes[9]) == (28, 1, "Ankle boot")
    assert len(load_images("fashion-mnist", data_dir, limit=2)) == 2


def test_downloads_are_tried_in_order_kept_and_not_repeated(tiny, monkeypatch, capsys):
    data_dir, asked = tiny
    monkeypatch.setattr(
        download, "_from_debian", lambda tmp: asked.append("debian") or put(tmp / "unpacked")
    )
    assert len(load_images("fashion-mnist", data_dir)) == 6
    assert asked == ["torchvision", "debian"]
    assert "came from Debian's package" in capsys.readouterr().err
    raw = data_dir / "FashionMNIST/raw"
    assert sorted(os.listdir(raw)) == sorted(
        f"{file}.gz" for file in TINY
    )  # and no temporary folder
    load_images("fashion-mnist", data_dir, "test")
    assert asked == ["torchvision", "debian"]


def test_a_download_completes_a_folder_without_touching_what_is_there(tiny, monkeypatch):
    data_dir, _ = tiny
    raw = put(data_dir / "FashionMNIST/raw")
    (raw / IMAGES).unlink()
    before = {file: (raw / file).stat().st_ino for file in os.listdir(raw)}
    monkeypatch.setattr(download, "_from_debian", put)
    assert len(load_images("fashion-mnist", data_dir)) == 6
    assert len(before) == 3 and all(
        (raw / file).stat().st_ino == inode for file, inode in before.items()
    )
    assert (raw / IMAGES).exists()


def test_a_killed_download_leaves_no_file_under_a_good_name(tiny, monkeypatch):
    data_dir, _ = tiny

    def killed(tmp):
        put(tmp / "unpacked")
        (tmp / "unpacked" / IMAGES).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_from_debian", killed)
    with pytest.raises(KeyboardInterrupt):
        load_images("fashion-mnist", data_dir)
    assert [path for path in data_dir.rglob("*") if path.is_file()] == []


def test_a_download_with_wrong_contents_is_refused(tiny, monkeypatch):
    data_dir, _ = tiny

    def wrong(tmp):
        put(tmp)
        (tmp / IMAGES).write_bytes(gzip.compress(b"<html>not found</html>"))
        return tmp

    monkeypatch.setattr(download, "_from_debian", wrong)
    with pytest.raises(
        UserError, match="dataset-fashion-mnist: train-images-idx3-ubyte.gz is damaged"
    ):
        load_images("fashion-mnist", data_dir)
    assert [path for path in data_dir.rglob("*") if path.is_file()] == []


def damage(kind):
    whole = gzip.compress(TINY[IMAGES[:-3]], mtime=0)  # else the second stands in it
    flipped = bytearray(TINY[IMAGES[:-3]])
    flipped[100] ^= 1
    kinds = {
        "truncated": whole[:-20],
        "flipped": gzip.compress(flipped, mtime=0),
        "empty": b"",
        "text": b"<html>",
    }
    return kinds[kind]


@pytest.mark.parametrize("kind", ["truncated", "flipped", "empty", "text"])
def test_a_damaged_file_is_named_and_left_alone(tiny, kind):
    data_dir, asked = tiny
    bad = put(data_dir / "FashionMNIST/raw") / IMAGES
    bad.write_bytes(damage(kind))
    with pytest.raises(UserError, match="train-images-idx3-ubyte.gz is damaged") as error:
        load_images("fashion-mnist", data_dir)
    assert str(bad.parent) in str(error.value) and bad.read_bytes() == damage(kind)
    assert asked == ["torchvision", "debian"]
    assert len(load_images("fashion-mnist", data_dir, "test")) == 3  # the other split is whole


def test_a_good_copy_is_used_beside_a_damaged_one_with_a_warning(tiny, monkeypatch, capsys):
    data_dir, _ = tiny
    bad = put(data_dir / "FashionMNIST/raw") / IMAGES
    bad.write_bytes(damage("truncated"))
    monkeypatch.setattr(download, "_from_debian", put)
    for _ in range(2):  # downloaded, then found where it was kept
        assert len(load_images("fashion-mnist", data_dir)) == 6
        warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
        assert (
            len(warnings) == 1 and IMAGES in warnings[0] and "another copy is used" in warnings[0]
        )
        monkeypatch.setattr(download, "_from_debian", None)
    assert bad.read_bytes() == damage("truncated")
    assert (data_dir / "fashion-mnist" / IMAGES).exists()


def test_when_all_fails_the_message_names_every_place_on_one_line(tiny):
    data_dir, _ = tiny
    with pytest.raises(UserError) as error:
        load_images("fashion-mnist", data_dir)
    message = str(error.value)
    for place in (
        data_dir / "FashionMNIST/raw",
        data_dir / "fashion-mnist",
        f"{data_dir}: no",
        download.SYSTEM_DIR / "fashion-mnist",
        "torchvision is unreachable",
        "debian is unreachable",
        "By hand: put train-images-idx3-ubyte",
    ):
        assert str(place) in message
    assert "\n" not in message


def test_download_false_asks_nobody_and_writes_nothing(tiny):
    data_dir, asked = tiny
    with pytest.raises(UserError, match="downloads are off"):
        load_images("fashion-mnist", data_dir, download=False)
    assert not asked and not data_dir.exists()


@pytest.mark.parametrize("step", ["mkdir", "write"])
def test_a_data_directory_that_cannot_be_written_to_is_named_before_anything_is_fetched(
    tiny, monkeypatch, step
):
    data_dir, asked = tiny
    raw = data_dir / "FashionMNIST/raw"
    mkdir = os.mkdir

    def read_only(path, *args, **kwargs):
        if step == "mkdir" or ".download-" in os.fspath(path):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(os, "mkdir", read_only)  # root may write everywhere
    with pytest.raises(
        UserError, match=f"can't be fetched into {raw} .Read-only.*give a --data-dir"
    ):
        load_images("fashion-mnist", data_dir)
    assert not asked


def test_the_home_directory_is_expanded(tiny, monkeypatch):
    put(tiny[0])
    monkeypatch.setenv("HOME", str(tiny[0].parent))
    assert len(load_images("fashion-mnist", "~/data")) == 6
    photo(tiny[0] / "pictures/a.png", 8, 8)
    assert len(load_images("folder", "~/data/pictures", size=8)) == 1
    with pytest.raises(UserError, match="~nobody-of-that-name/x: no such user"):
        load_images("folder", "~nobody-of-that-name/x", size=8)


def test_mnist_does_not_come_from_debian(tiny):
    data_dir, asked = tiny
    with pytest.raises(UserError, match=r"can't get mnist \(train\)"):
        load_images("mnist", data_dir)
    assert asked == ["torchvision"]


def test_torchvision_s_download_fails_within_its_timeout_and_quietly(tiny, monkeypatch, capfd):
    monkeypatch.undo()
    timeouts = []

    class Datasets:
        def MNIST(root, download):
            timeouts.append(socket.getdefaulttimeout())
            print("Downloading http://…")
            raise RuntimeError("several\nlines")

    monkeypatch.setattr(
        download, "import_torchvision", lambda: type("torchvision", (), {"datasets": Datasets})
    )
    with pytest.raises(UserError, match="torchvision's download: several lines"):
        load_images("mnist", tiny[0])
    assert timeouts == [10] and socket.getdefaulttimeout() is None and capfd.readouterr().out == ""


@pytest.mark.parametrize("tar", [False, True])
def test_cifar10_from_its_folder_or_its_archive(tmp_path, monkeypatch, tar):
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    rows = np.arange(6 * 2 * 3072).reshape(6, 2, 3072).astype(np.uint8) ** 2
    raw = {n: pickle.dumps({"data": rows[i], "labels": [i, 9 - i]}) for i, n in enumerate(names)}
    monkeypatch.setitem(download.MD5, "cifar10", {n: download._md5(r) for n, r in raw.items()})
    archive = tmp_path / "cifar-10-python.tar.gz"
    if tar:
        with tarfile.open(archive, "w:gz") as out:
            for n in reversed(names):
                member = tarfile.TarInfo(f"cifar-10-batches-py/{n}")
                member.size = len(raw[n])
                out.addfile(member, io.BytesIO(raw[n]))
    else:
        (tmp_path / "cifar-10-batches-py").mkdir()
        for n in names:
            (tmp_path / "cifar-10-batches-py" / n).write_bytes(raw[n])
    train, test = (
        load_images("cifar10", tmp_path, split, download=False) for split in ("train", "test")
    )
    assert torch.equal(train.images, torch.from_numpy(rows[:5].reshape(10, 3, 32, 32)))
    assert train.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5] and test.labels.tolist() == [
        5,
        4,
    ]
    if tar:
        monkeypatch.setitem(download.MD5["cifar10"], "test_batch", "0" * 32)
        with pytest.raises(UserError, match="test_batch in it is missing or has the wrong md5"):
            load_images("cifar10", tmp_path, "test", download=False)
        archive.write_bytes(archive.read_bytes()[:-200])
        with pytest.raises(UserError, match="cifar-10-python.tar.gz: damaged"):
            load_images("cifar10", tmp_path, download=False)


def test_cifar10_sums_and_layouts_are_torchvision_s():
    datasets = download.import_torchvision().datasets
    assert download.MD5["cifar10"] == dict(datasets.CIFAR10.train_list + datasets.CIFAR10.test_list)
    assert download.PLACES["cifar10"] == (datasets.CIFAR10.base_folder, datasets.CIFAR10.filename)
    for name, kind in (("fashion-mnist", datasets.FashionMNIST), ("mnist", datasets.MNIST)):
        assert list(download.MD5[name]) == [file[:-3] for file, _ in kind.resources]
    assert data.CLASSES["fashion-mnist"] == datasets.FashionMNIST.classes


# --- folders of images


def photo(path, width, height, mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    image = Image.fromarray(pixels).resize((width, height)).convert(mode)
    image.save(path)
    return image


def test_a_folder_is_cropped_resized_sorted_and_labelled(tmp_path):
    wide = photo(tmp_path / "cats/b.png", 60, 40)
    tall = photo(tmp_path / "cats/deep/a.bmp", 30, 50, seed=1)
    photo(tmp_path / "dogs/c.JPG", 32, 32, seed=2)
    photo(tmp_path / "dogs/d.webp", 32, 32, seed=3)
    photo(tmp_path / "dogs/._c.jpg", 32, 32)  # macOS leaves such beside each file
    (tmp_path / "notes.txt").write_text("not an image")
    images = load_images("folder", tmp_path, size=20)
    assert images.classes == ["cats", "dogs"] and images.labels.tolist() == [0, 0, 1, 1]
    assert images.images.shape == (4, 3, 20, 20) and images.images.dtype == torch.uint8
    for i, square in ((0, wide.crop((10, 0, 50, 40))), (1, tall.crop((0, 10, 30, 40)))):
        wanted = np.array(square.resize((20, 20), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        assert np.array_equal(images.images[i].numpy(), wanted)
    assert load_images("folder", tmp_path, size=20, limit=2).labels.tolist() == [0, 1]


def both_splits(root, **how):
    return [load_images("folder", root, split, size=8, **how) for split in ("train", "test")]


def names(image_set):
    return [f"{file.parent.name}/{file.name}" for file in image_set.files]


def test_a_folder_has_splits_only_if_it_says_so(tmp_path, capsys):
    photo(tmp_path / "train/a.png", 8, 8)
    photo(tmp_path / "trams/a.png", 8, 8)
    assert [len(images) for images in both_splits(tmp_path)] == [2, 2]
    assert "train/ is one of its classes" in capsys.readouterr().err
    photo(tmp_path / "test/b.png", 8, 8)
    photo(tmp_path / "test/c.png", 8, 8)
    assert [len(images) for images in both_splits(tmp_path)] == [1, 2]
    assert "Not used: 1 image elsewhere, for example trams/a.png" in capsys.readouterr().err


@pytest.mark.parametrize("held_out", ["test", "val", "valid", "validation", "Testing", "VAL"])
def test_held_out_images_are_never_trained_on(tmp_path, held_out, capsys):
    for folder, n in (("Train", 3), (held_out, 2)):
        for i in range(n):
            for name in ("ant", "bee"):
                photo(tmp_path / folder / name / f"{i}.png", 8, 8)
    train, test = both_splits(tmp_path)
    assert (len(train), len(test)) == (6, 4) and train.classes == test.classes == ["ant", "bee"]
    assert all(file.is_relative_to(tmp_path / "Train") for file in train.files)
    assert all(file.is_relative_to(tmp_path / held_out) for file in test.files)
    splits, classes = capsys.readouterr().err.splitlines()
    assert f"images from Train/, test images from {held_out}/" in splits
    assert classes.endswith("Train: 2 classes, ant (3), bee (3)")


def test_val_is_not_used_beside_test_and_the_line_says_so(tmp_path, capsys):
    for folder in ("train", "val", "test"):
        photo(tmp_path / folder / "a.png", 8, 8)
    assert [names(images) for images in both_splits(tmp_path)] == [["train/a.png"], ["test/a.png"]]
    assert "Not used: 1 image elsewhere, for example val/a.png" in capsys.readouterr().err


def test_train_alone_is_both_splits(tmp_path, capsys):
    for name in ("ant", "bee"):
        photo(tmp_path / "train" / name / "a.png", 8, 8)
    photo(tmp_path / "overview.png", 8, 8)
    (tmp_path / "features").mkdir()
    train, test = both_splits(tmp_path)
    assert names(train) == names(test) == ["ant/a.png", "bee/a.png"] and test.classes == [
        "ant",
        "bee",
    ]
    assert "is not split into train/ and test/" in capsys.readouterr().err


@pytest.mark.parametrize(
    "folders, advice",
    [
        (
            ("birds/train", "birds/val"),
            "birds is split into train, val: give --data-dir .*birds, or move",
        ),
        (
            ("bottle/train", "bottle/test", "cable/train", "cable/test"),
            "bottle is split into test, train",
        ),
        (
            ("birds/seg_train", "birds/seg_test"),
            "birds has seg_train and seg_test, which look like",
        ),
        (("Val", "test"), "has Val, test but no train: .*or give .*Val as --data-dir"),
        (("train/a", "test"), r"no images under .*train"),
    ],
)
def test_a_split_that_would_be_trained_on_is_refused(tmp_path, folders, advice):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        if folder != "train/a":  # it stays empty
            photo(tmp_path / folder / "0/1.png", 8, 8)
    for split in ("train", "test"):
        with pytest.raises(UserError, match=advice):
            load_images("folder", tmp_path, split, size=8)


@pytest.mark.parametrize(
    "train, test",
    [
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("train-images", "val-images"),
        ("trainA", "testA"),
        ("train2017", "val2017"),
        ("TRAIN2017", "VAL2017"),
        ("My Train", "My Validation"),
        ("trainset", "testset"),
        ("train", "test_images"),
        ("training", "validation_set"),
        ("train-images", "test"),
    ],
)
def test_folders_that_are_called_like_splits_are_no_classes(tmp_path, train, test, capsys):
    for folder in (train, test, "other"):
        photo(tmp_path / folder / "a.png", 8, 8)
    with pytest.raises(UserError, match=f"has {train} and {test}, which look like splits"):
        load_images("folder", tmp_path, size=8)
    assert "is one of its classes" not in capsys.readouterr().err


def test_classes_may_have_words_of_splits_in_their_names(tmp_path):
    for folder in ("freight train", "train", "test tube", "crash test", "retrained", "contest"):
        photo(tmp_path / folder / "a.png", 8, 8)
    assert len(load_images("folder", tmp_path, size=8).classes) == 6


def test_a_test_folder_without_train_is_a_class_and_the_line_says_so(tmp_path, capsys):
    for folder in ("cat", "dog", "test"):
        photo(tmp_path / folder / "a.png", 8, 8)
    assert load_images("folder", tmp_path, size=8).classes == ["cat", "dog", "test"]
    assert "no train/ in" in capsys.readouterr().err


def test_where_there_is_no_test_split_scores_say_train(tmp_path):
    photo(tmp_path / "a.png", 8, 8)
    assert [images.split for images in both_splits(tmp_path)] == ["train", "train"]
    for split in ("train", "test"):
        photo(tmp_path / split / "a.png", 8, 8)
    assert [images.split for images in both_splits(tmp_path)] == ["train", "test"]


def test_pictures_of_a_run_are_no_data(tmp_path, capsys):
    """But those of a run that is asked for itself are."""
    photo(tmp_path / "a.png", 8, 8)
    run = tmp_path / "runs/began/1"
    photo(run / "curves.png", 8, 8)
    photo(run / "samples/b.png", 8, 8)
    for name in ("args.json", "env.json"):
        (run / name).write_text("{}")
    assert [file.name for file in load_images("folder", tmp_path, size=8).files] == ["a.png"]
    assert f"pictures of 1 run are left out, for example of {run}" in capsys.readouterr().err
    assert len(load_images("folder", run, size=8)) == 2


def test_pictures_of_unread_formats_are_counted(tmp_path, capsys):
    photo(tmp_path / "a.png", 8, 8)
    photo(tmp_path / "b.jpg", 8, 8)
    (tmp_path / "b.jpg").rename(tmp_path / "b.JFIF")
    for name in ("c.heic", "d.HEIC", "e.avif", "labels.csv", ".f.heic"):
        (tmp_path / name).touch()
    assert len(load_images("folder", tmp_path, size=8)) == 2
    assert "left out, 1 .avif, 2 .heic\n" in capsys.readouterr().err


def test_the_images_of_the_folder_above_are_all_found(tmp_path, monkeypatch):
    for name in ("a.png", "samples/b.png", "samples/deep/c.png"):
        photo(tmp_path / name, 8, 8)
    monkeypatch.chdir(tmp_path / "samples")
    assert len(load_images("folder", "..", size=8)) == 3


def test_of_many_classes_six_are_named(tmp_path, capsys):
    for name in "abcdefg":
        photo(tmp_path / name / "0.png", 8, 8)
    load_images("folder", tmp_path, size=8)
    assert "7 classes, a (1), b (1), c (1), d (1), e (1), f (1), …\n" in capsys.readouterr().err


def header_of(width, height):
    """A PNG that says this size, and has no pixels."""

    def chunk(kind, body):
        parts = struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(kind + body))
        return b"".join(parts)

    shape = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", shape) + chunk(b"IDAT", b"")


def test_an_image_may_have_half_a_billion_pixels(tmp_path):
    (tmp_path / "a.png").write_bytes(header_of(20_000, 10_000))
    assert folders.image_kind(tmp_path / "a.png") == "grey"
    (tmp_path / "a.png").write_bytes(header_of(60_000, 10_000))
    with pytest.raises(UserError, match="more than 536 million pixels: cut it into tiles"):
        folders.image_kind(tmp_path / "a.png")


def test_a_test_split_has_the_training_split_s_class_numbers(tmp_path):
    for i, name in enumerate(("ant", "bee", "cat")):
        photo(tmp_path / f"train/{name}/0.png", 8, 8)
        if i:
            photo(tmp_path / f"test/{name}/0.png", 8, 8)
    train, test = both_splits(tmp_path)
    assert train.classes == test.classes == ["ant", "bee", "cat"]
    assert train.labels.tolist() == [0, 1, 2] and test.labels.tolist() == [1, 2]
    photo(tmp_path / "test/cow/0.png", 8, 8)
    with pytest.raises(
        UserError, match="test has the class cow, which .*train lacks.* ant, bee, cat"
    ):
        load_images("folder", tmp_path, "test", size=8)


def test_a_split_without_class_folders_has_no_labels(tmp_path, capsys):
    photo(tmp_path / "train/ant/0.png", 8, 8)
    photo(tmp_path / "train/bee/0.png", 8, 8)
    photo(tmp_path / "test/0.png", 8, 8)
    train, test = both_splits(tmp_path)
    assert train.labels.tolist() == [0, 1] and test.labels is None
    assert "no class folders in" in capsys.readouterr().err
    shutil.move(tmp_path / "train", tmp_path / "aside")
    shutil.move(tmp_path / "test", tmp_path / "train")
    shutil.move(tmp_path / "aside", tmp_path / "test")
    train, test = both_splits(tmp_path)
    assert (
        train.labels is test.labels is None
        and train.classes == test.classes == []
        and len(test) == 2
    )


def test_stray_images_beside_class_folders_are_left_out_with_a_line(tmp_path, capsys):
    for name in ("ant", "bee"):
        photo(tmp_path / name / "0.png", 8, 8)
    photo(tmp_path / "logo.png", 8, 8)
    photo(tmp_path / "thumbs.png", 8, 8)
    images = load_images("folder", tmp_path, size=8)
    assert names(images) == ["ant/0.png", "bee/0.png"]
    assert images.labels.tolist() == [0, 1] and images.classes == ["ant", "bee"]
    classes, line = capsys.readouterr().err.splitlines()
    assert "2 classes" in classes
    assert "2 images beside the class folders" in line and "logo.png" in line
    photo(tmp_path / "more.png", 8, 8)  # 3 strays, 2 images with a class
    images = load_images("folder", tmp_path, size=8)
    assert len(images) == 5 and images.labels is None and images.classes == []
    assert "3 of them in no class folder: all are used, without labels" in capsys.readouterr().err


def test_one_folder_beside_images_is_no_class(tmp_path, capsys):
    photo(tmp_path / "0.png", 8, 8)
    photo(tmp_path / "more/0.png", 8, 8)
    assert len(load_images("folder", tmp_path, size=8)) == 2
    assert "all are used, without labels" in capsys.readouterr().err


@pytest.mark.parametrize("root", ["", "train"])
def test_one_class_folder_is_no_label(tmp_path, capsys, root):
    """All images would have the label 0, and whatever is classified would be right."""
    photo(tmp_path / root / "all/0.png", 8, 8)
    if root:
        photo(tmp_path / "test/all/0.png", 8, 8)
        photo(tmp_path / "test/more/0.png", 8, 8)
    train, test = both_splits(tmp_path)
    assert train.labels is test.labels is None and train.classes == test.classes == []
    assert (len(train), len(test)) == (1, 2 if root else 1)
    assert capsys.readouterr().err.count("has one class folder, all: its images are used") == 1
    with pytest.raises(UserError, match="folder has no classes to condition on: choose a labelled"):
        set_conditions(train)


def test_any_image_in_colour_makes_a_folder_colour_whatever_limit_and_split(tmp_path, capsys):
    for i in range(12):
        photo(tmp_path / f"train/{i:02d}.png", 8, 8, "RGB" if i == 7 else "L")
    photo(tmp_path / "test/0.png", 8, 8, "L")
    seen = {
        load_images("folder", tmp_path, split, size=8, limit=3, limit_seed=seed).channels
        for split in ("train", "test")
        for seed in range(8)
    }
    assert seen == {3}
    assert "11 of 12; all are taken as colour (--channels 1: as grey)" in capsys.readouterr().err
    assert load_images("folder", tmp_path, size=8, channels=1).images.shape == (12, 1, 8, 8)
    photo(tmp_path / "train/07.png", 8, 8, "L")
    photo(tmp_path / "test/1.png", 8, 8, "RGB")  # the training split decides
    assert [images.channels for images in both_splits(tmp_path)] == [1, 1]


@pytest.mark.parametrize(
    "mode, channels",
    [
        ("1", 1),
        ("L", 1),
        ("LA", 1),
        ("grey palette", 1),
        ("P", 3),
        ("RGB", 3),
        ("RGBA", 3),
        ("CMYK", 3),
    ],
)
def test_which_modes_are_in_colour(tmp_path, mode, channels):
    if mode == "grey palette":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([0, 0, 0, 90, 90, 90, 200, 200, 200])
        image.save(tmp_path / "a.png")
    else:
        photo(tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"), 8, 8, mode)
    assert load_images("folder", tmp_path, size=8).channels == channels


def test_the_channels_are_found_without_decoding(tmp_path, monkeypatch):
    photo(tmp_path / "grey.jpg", 8, 8, "L")
    photo(tmp_path / "colour.png", 8, 8)

    def load(image):
        raise AssertionError(f"{image} is decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    assert folders.channels_of(tmp_path, [tmp_path / "grey.jpg"]) == 1
    assert folders.channels_of(tmp_path, [tmp_path / "grey.jpg", tmp_path / "colour.png"]) == 3


def test_lazy_decoding_gives_the_same_bits(tmp_path, monkeypatch):
    for i in range(12):
        photo(tmp_path / f"{i % 3}/{i}.jpg", 20 + i, 40 - i, seed=i)
    held = load_images("folder", tmp_path, size=16)
    monkeypatch.setattr(data, "_memory_budget", lambda: 12 * 3 * 16 * 16 - 1)
    lazy = load_images("folder", tmp_path, size=16)
    assert held.images is not None and lazy.images is None and len(lazy) == len(held) == 12
    for step in range(4):
        (x, y), (x_lazy, y_lazy) = (s.batch(step, 5, seed=0) for s in (held, lazy))
        assert torch.equal(x, x_lazy) and torch.equal(y, y_lazy)


def test_half_of_the_available_memory_is_the_budget():
    assert (
        0 < data._memory_budget() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    )


GIB = 1 << 30


@pytest.mark.parametrize(
    "own, limits, expected",
    [
        ("0::/job/step", {}, 16),
        ("0::/job/step", {"job/step": ("max", 15)}, 16),
        ("0::/job/step", {"job/step": (8 * GIB, 3)}, 6),  # 1 GiB of the 3 is a cache
        ("0::/job/step", {"job": (8 * GIB, 7), "job/step": (12 * GIB, 7)}, 2),
        ("0::/job/step", {"": (4 * GIB, 2)}, 3),  # as a container sees its own
        ("0::/", {"": (4 * GIB, 2)}, 3),
        ("0::/job", {"job": (4 * GIB, 7)}, 0),  # over its limit
        ("0::/job", {"other": (4 * GIB, 2)}, 16),
        ("5:memory:/job", {"job": (4 * GIB, 2)}, 16),  # v1
        (None, {"": (4 * GIB, 2)}, 16),
    ],
)
def test_limits_of_a_container_count(tmp_path, own, limits, expected):
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {16 << 20} kB\n")
    if own is not None:
        (proc / "self/cgroup").write_text(f"{own}\n")
    for name, (limit, used) in limits.items():
        (cgroups / name).mkdir(parents=True, exist_ok=True)
        (cgroups / name / "memory.max").write_text(f"{limit}\n")
        (cgroups / name / "memory.current").write_text(f"{used * GIB}\n")
        (cgroups / name / "memory.stat").write_text(f"anon 1\ninactive_file {GIB}\n")
    assert data.available_memory(proc, cgroups) == expected * GIB


def test_processes_of_torchrun_share_the_memory(monkeypatch):
    monkeypatch.setattr(data, "available_memory", lambda: 12 * GIB)
    assert data._memory_budget() == 6 * GIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert data._memory_budget() == 2 * GIB


def folder_with_bad_images(root):
    """Ten images, five of them bad: the places of the good ones."""
    for i in range(10):
        photo(root / f"{i % 2}/{i}.jpg", 64, 64, seed=i)
    for i in (1, 4):
        cut = root / f"{i % 2}/{i}.jpg"
        cut.write_bytes(cut.read_bytes()[:-300])
    (root / "0/2.jpg").write_bytes(b"")
    (root / "1/5.jpg").write_text("<html>Quota exceeded</html>")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(root / "1/7.jpg", "TIFF")
    return ["0/0.jpg", "0/6.jpg", "0/8.jpg", "1/3.jpg", "1/9.jpg"]


def test_all_bad_images_are_listed_in_one_error(tmp_path):
    folder_with_bad_images(tmp_path)
    with pytest.raises(UserError, match="5 of 10 images in .* can't be decoded: ") as error:
        load_images("folder", tmp_path, size=16)
    for words in (
        "0/2.jpg (empty)",
        "0/4.jpg (image file is truncated",
        "1/1.jpg (image file is truncated",
        "1/5.jpg (not an image)",
        "1/7.jpg (32 bits a pixel",
        "--skip-bad",
    ):
        assert words in str(error.value)
    assert "\n" not in str(error.value)
    for i in range(10, 14):
        (tmp_path / f"0/{i}.png").write_bytes(b"")
    with pytest.raises(UserError, match="9 of 14 images .* and 4 more. Replace") as error:
        load_images("folder", tmp_path, size=16)
    assert str(error.value).count(" (") == 5


@pytest.mark.parametrize("lazy", [False, True])
def test_skip_bad_leaves_bad_images_and_their_labels_out(tmp_path, monkeypatch, capsys, lazy):
    good = folder_with_bad_images(tmp_path)
    if lazy:
        monkeypatch.setattr(data, "_memory_budget", lambda: 0)
    images = load_images("folder", tmp_path, size=16, skip_bad=True)
    assert (
        names(images) == good
        and images.labels.tolist() == [0, 0, 0, 1, 1]
        and (images.images is None) == lazy
    )
    classes, line = capsys.readouterr().err.splitlines()
    assert "2 classes" in classes
    assert "warning: 5 of 10 images" in line and "They are left out" in line
    x = images.images_at(range(5))
    for got, name in zip(x, good, strict=True):
        assert torch.equal(got, folders.decode(tmp_path / name, 16, 3).float() / 127.5 - 1)
    for name in good:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match="10 of 10 images .* None is left"):
        load_images("folder", tmp_path, size=16, skip_bad=True)


def test_common_data_says_what_is_in_a_folder(tmp_path, monkeypatch, capsys):
    folder_with_bad_images(tmp_path / "train")
    photo(tmp_path / "val/0/0.png", 8, 8)
    monkeypatch.setattr(sys, "argv", ["data", "folder", "--data-dir", str(tmp_path)])
    with pytest.raises(UserError, match="5 of 10 images"):
        data.main()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--skip-bad"])
    data.main()
    assert capsys.readouterr().out.splitlines() == [
        "folder train: 5 images of 64x64x3",
        "folder test: 1 images of 64x64x3",
    ]
    photo(tmp_path / "whole/a.png", 8, 8)
    monkeypatch.setattr(sys, "argv", ["data", "folder", "--data-dir", str(tmp_path / "whole")])
    data.main()
    assert capsys.readouterr().out.splitlines() == [
        "folder train: 1 images of 64x64x3",
        "no test split: scores will be of the training images",
    ]


def test_lazily_decoded_images_are_looked_at_first_and_named_when_they_fail_later(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(data, "_memory_budget", lambda: 0)
    for i in range(3):
        photo(tmp_path / f"{i}.jpg", 64, 64, seed=i)
    cut = (tmp_path / "1.jpg").read_bytes()[:-300]
    (tmp_path / "1.jpg").write_text("<html>")
    with pytest.raises(UserError, match=r"1 of 3 images .*1\.jpg \(not an image\)"):
        load_images("folder", tmp_path, size=16, channels=3)
    (tmp_path / "1.jpg").write_bytes(cut)
    images = load_images("folder", tmp_path, size=16)
    with pytest.raises(
        UserError, match=r"can't decode the image .*1\.jpg \(image file is truncated"
    ):
        images.images_at([0, 1, 2])


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path, monkeypatch):
    photo(tmp_path / "a/0.png", 8, 8)
    photo(tmp_path / "b/0.png", 8, 8)
    scandir = os.scandir

    def locked(folder):
        if os.fspath(folder).endswith("/b"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", locked)  # root may look into everything
    with pytest.raises(UserError, match="can't look into .*b .Permission denied"):
        load_images("folder", tmp_path, size=8)


def test_photographs_are_turned_upright(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down
    black_white = np.repeat(np.array([[0] * 4 + [255] * 4], np.uint8), 8, 0)
    Image.fromarray(black_white).save(tmp_path / "a.png", exif=turned)
    image = load_images("folder", tmp_path, size=8).images[0, 0]
    assert image[0, 0] > 200 and image[0, -1] < 50


@pytest.mark.parametrize("file", ["deep.png", "little.tif", "big.tif"])
def test_sixteen_bit_grey_is_scaled_to_eight_bits(tmp_path, file, capsys):
    deep = (
        np.array([[0, 65535], [257 * 100 + 128, 257 * 100 + 129]], np.uint16)
        .repeat(4, 0)
        .repeat(4, 1)
    )
    if file == "big.tif":  # a header that says big-endian grey of 16 bits, 8x8, then the pixels
        tags = ((256, 8), (257, 8), (258, 16), (259, 1), (262, 1), (273, 134), (278, 8), (279, 128))
        entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
        header = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries
        (tmp_path / file).write_bytes(header.ljust(134, b"\0") + deep.astype(">u2").tobytes())
    else:
        Image.fromarray(deep).save(tmp_path / file)
    images = load_images("folder", tmp_path, size=8)
    assert images.channels == 1 and "16-bit grey images" in capsys.readouterr().err
    assert images.images[0, 0, ::4, ::4].tolist() == [[0, 255], [100, 101]]
    assert images.images_at([0])[0, 0, 0, ::4].tolist() == [-1, 1]
    say_once.cache_clear()
    colour = load_images("folder", tmp_path, size=8, channels=3)
    assert "16-bit grey images" in capsys.readouterr().err
    assert colour.images[0, :, 4, 4].tolist() == [101, 101, 101]
    say_once.cache_clear()
    images_below(tmp_path, 8, channels=1)
    assert "16-bit grey images" in capsys.readouterr().err


def test_portable_grey_and_colour_maps_are_images(tmp_path):
    photo(tmp_path / "a.pgm", 8, 8, "L")
    photo(tmp_path / "b.ppm", 8, 8)
    assert len(load_images("folder", tmp_path, size=8)) == 2


@pytest.mark.parametrize(
    ("links", "more"),
    [
        ({"a/up": ".", "b/beside": "../beside"}, ["b/beside/3.png"]),
        ({"a/itself": "a"}, []),
        ({"a/other": "b", "b/back": "a"}, ["a/other/2.png", "b/back/1.png"]),
    ],
)
def test_links_that_lead_upwards_are_not_followed_round_and_round(tmp_path, links, more):
    root = tmp_path / "data"
    for name in ("a/1.png", "b/2.png", "../beside/3.png"):
        photo(root / name, 8, 8)
    for link, target in links.items():
        (root / link).symlink_to(root / target)
    found = [str(file.relative_to(root)) for file in folders.list_images(root)]
    assert found == sorted(["a/1.png", "b/2.png", *more])


def test_thirty_two_bit_images_are_refused_not_clipped(tmp_path):
    for i, kind in enumerate((np.int32, np.float32)):
        Image.fromarray(np.full((8, 8), 40000, kind)).save(tmp_path / f"{i}.tiff")
    photo(tmp_path / "2.png", 8, 8)
    with pytest.raises(UserError, match=r"2 of 3 .* 0\.tiff \(32 bits.*1\.tiff \(32 bits"):
        load_images("folder", tmp_path, size=8)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB with a transparent colour"])
def test_transparent_images_lie_on_white(tmp_path, mode):
    red, black = (200, 0, 0, 255), (0, 0, 0, 0)  # what is under full transparency is often black
    image = Image.new("RGBA", (8, 8), red)
    image.paste(black, (4, 0, 8, 8))
    seen = [200, 0, 0]
    if mode == "RGBA":
        image.paste((0, 0, 0, 51), (0, 4, 4, 8))  # a fifth of black: 255·0.8 of white is left
    elif mode == "LA":
        image = image.convert("LA")
        seen = [60, 60, 60]  # 0.299 · 200
    elif mode == "P":
        image = image.convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE, colors=4)
        image.info["transparency"] = image.getpixel((7, 0))
    else:
        image = image.convert("RGB")
        image.info["transparency"] = (0, 0, 0)
    image.save(tmp_path / "a.png")
    x = load_images("folder", tmp_path, size=8, channels=3).images[0]
    assert x[:, 0, 0].tolist() == seen and x[:, 0, 7].tolist() == [255, 255, 255]
    if mode == "RGBA":
        assert x[:, 7, 0].tolist() == [204, 204, 204]


def test_a_transparent_value_of_16_bits_is_white(tmp_path):
    deep = np.full((8, 8), 20000, np.uint16)
    deep[:, 4:] = 20001
    Image.fromarray(deep).save(tmp_path / "a.png", transparency=20001)
    x = load_images("folder", tmp_path, size=8).images[0, 0]
    assert x[0, 0] == 78 and x[0, 7] == 255  # 20000 / 257


def test_cmyk_animations_one_pixel_unicode_and_nested_images_work(tmp_path):
    Image.new("CMYK", (9, 9), (0, 0, 0, 0)).save(tmp_path / "cmyk.jpg")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("blue", "red", "lime")]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    nested = tmp_path / "größe 日本/deep/deeper"
    nested.mkdir(parents=True)
    Image.new("RGB", (1, 1), (10, 20, 30)).save(nested / "π 😀.png")
    Image.new("RGB", (500, 2), (7, 8, 9)).save(tmp_path / "wide.PNG")
    images = load_images("folder", tmp_path, size=16)
    by_name = {
        file.name: x[:, 8, 8].tolist() for file, x in zip(images.files, images.images, strict=True)
    }
    assert by_name == {
        "cmyk.jpg": [255, 255, 255],
        "moves.gif": [0, 0, 255],
        "π 😀.png": [10, 20, 30],
        "wide.PNG": [7, 8, 9],
    }


def odd_folder(root):
    """Own images as people have them: train/ with two classes, val/ with one of them; half a PNG among them."""
    modes = ("RGB", "RGBA", "P", "L", "LA", "1")
    for i in range(12):
        photo(
            root / f"train/{('äpfel', 'birnen 日本')[i % 2]}/{i}.png",
            10 + i,
            30 - i,
            modes[i % 6],
            seed=i,
        )
    for i in range(4):
        photo(root / f"val/birnen 日本/{i}.png", 20, 20, modes[i])
    Image.fromarray(np.full((20, 20), 40000, np.uint16)).save(root / "train/äpfel/deep.png")
    photo(root / "train/birnen 日本/nested/cmyk.jpg", 20, 20, "CMYK")
    Image.new("RGB", (1, 1)).save(root / "train/äpfel/tiny.bmp")
    frames = [Image.new("L", (16, 16), i) for i in (0, 255)]
    frames[0].save(root / "train/äpfel/moves.gif", save_all=True, append_images=frames[1:])
    photo(root / "train/contact sheet.png", 20, 20)
    cut = root / "train/äpfel/0.png"
    cut.write_bytes(cut.read_bytes()[:-60])


@pytest.mark.parametrize("folder", ["began", "bigan", "cagan", "egan", "sagan_wgangp"])
def test_every_image_folder_trains_on_odd_own_images(tmp_path, folder, capsys):
    odd_folder(tmp_path / "own")
    train = importlib.import_module(f"{folder}.train")
    argv = [
        "--smoke",
        "--dataset",
        "folder",
        "--data-dir",
        str(tmp_path / "own"),
        "--size",
        "16",
        "--steps",
        "1",
        "--device",
        "cpu",
    ]
    with pytest.raises(UserError, match=r"1 of 16 images .*äpfel/0\.png .*--skip-bad"):
        train.main([*argv, "--out", str(tmp_path / "stops")])
    assert not (tmp_path / "stops").exists()
    train.main([*argv, "--out", str(tmp_path / "runs"), "--skip-bad"])
    checkpoint = torch.load(tmp_path / "runs/last.pt", weights_only=True)
    assert checkpoint["args"]["channels"] == 3 and checkpoint["args"]["skip_bad"]
    assert "1 of 16 images" in capsys.readouterr().err
    trained = SimpleNamespace(**checkpoint["args"])
    load_data = importlib.import_module(f"{folder}.eval").load_data
    assert [len(load_data(trained, split)) for split in ("train", "test")] == [15, 4]


def test_celeba_crops_178_and_takes_the_official_split(tmp_path):
    with pytest.raises(UserError, match="celeba/img_align_celeba.*img_align_celeba.zip"):
        load_images("celeba", tmp_path)
    faces = [
        photo(tmp_path / f"celeba/img_align_celeba/{i:06d}.jpg", 178, 218, seed=i)
        for i in range(1, 5)
    ]
    assert (
        len(load_images("celeba", tmp_path)) == 4
    )  # without the list all these are in the training range
    with pytest.raises(UserError, match="no images of CelebA's test split"):
        load_images("celeba", tmp_path, "test")
    partition = "".join(f"{i:06d}.jpg {i - 1}\n" for i in range(1, 5))
    (tmp_path / "celeba/list_eval_partition.txt").write_text(partition)
    train, test = load_images("celeba", tmp_path), load_images("celeba", tmp_path, "test", size=64)
    assert train.images.shape == (1, 3, 178, 178) and test.images.shape == (1, 3, 64, 64)
    for got, face in ((train, faces[0]), (test, faces[2])):
        wanted = face.crop((0, 20, 178, 198)).resize(
            (got.size, got.size), Image.Resampling.BILINEAR
        )
        error = np.abs(got.images[0].numpy() - np.array(wanted, np.float32).transpose(2, 0, 1))
        assert error.mean() < 4  # JPEG's own loss; another crop or face is off by far more


def test_own_pictures_as_celeba_have_any_suffix_and_missing_ones_are_counted(tmp_path, capsys):
    for name in ("d.jpg", "b.JPG", "c.jpeg", "a.png", ".x.jpg"):
        photo(tmp_path / "celeba/img_align_celeba" / name, 20, 20)
    (tmp_path / "celeba/img_align_celeba/notes.txt").touch()
    lines = ["a.png 0", "b.JPG 0", "c.jpeg 2", "d.jpg 0", "gone.jpg 0", "b.jpg 0", "notes.txt 2"]
    (tmp_path / "celeba/list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    for _ in range(2):  # both lines are said once
        train, test = (load_images("celeba", tmp_path, split) for split in ("train", "test"))
    assert [file.name for file in train.files] == ["a.png", "b.JPG", "d.jpg"]
    assert [file.name for file in test.files] == ["c.jpeg"]
    err = capsys.readouterr().err
    assert err.count("warning") == 2
    assert "2 of the 5 train images that" in err and "example b.jpg" in err
    assert "1 of the 2 test images that" in err and "example notes.txt" in err


# --- wrong arguments


@pytest.mark.parametrize(
    "wrong, words",
    [
        (
            {"name": "imagenet"},
            "unknown data set 'imagenet'.*fashion-mnist, mnist, cifar10, celeba, folder",
        ),
        ({"split": "valid"}, "unknown split 'valid'"),
        ({"size": 3}, "image size 3"),
        ({"size": 1025}, "image size 1025"),
        ({"size": 32.0}, "image size 32.0"),
        ({"size": True}, "image size True"),
        ({"channels": 2}, "2 channels"),
        ({"limit": 0}, "limit synthetic to 0"),
        ({"name": "folder"}, "no folder .*nowhere.*--data-dir"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(tmp_path, wrong, words):
    with pytest.raises(UserError, match=words) as error:
        load_images(**({"name": "synthetic", "data_dir": tmp_path / "nowhere"} | wrong))
    assert "\n" not in str(error.value)


def test_empty_folder_no_size_and_a_file_as_data_dir(tmp_path):
    with pytest.raises(UserError, match=f"no images under {tmp_path}"):
        load_images("folder", tmp_path, size=8)
    photo(tmp_path / "a.png", 8, 8)
    with pytest.raises(UserError, match="give one, for example --size 64"):
        load_images("folder", tmp_path)
    with pytest.raises(UserError, match="is a file"):
        load_images("fashion-mnist", tmp_path / "a.png")
