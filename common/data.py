"""Image data sets, and batches that are a pure function of (seed, step).

    train = load_images("fashion-mnist", "data", size=64)
    x, y = train.batch(step, batch_size=16, seed=0, device=device)    # (16, 1, 64, 64) in [-1, 1], (16,)

Images stay uint8 at the resolution they are stored in and are resized a batch at a time, on the device of the
batch: 60,000 FashionMNIST images cost 47 MB at any training size. There is no DataLoader, no worker process.
As batch number `step` depends on nothing but the seed, resuming a run needs no saved data order.
"""

import contextlib
import functools
import gzip
import hashlib
import io
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .cli import file_path, new_parser, run_main
from .errors import UserError
from .device import import_torchvision

DATASETS = ("fashion-mnist", "mnist", "cifar10", "celeba", "folder")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff")
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")  # the first that is there is the test split
SYSTEM_DIR = Path("/usr/share/datasets")  # where Debian's package dataset-fashion-mnist installs
CUT_OFF = (EOFError, zlib.error)
DECODING = 2  # raise it when `_decode` gives other pixels of the same file: cached features are of the old ones
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's convert("L")

# md5 sums of the unpacked contents: Debian's .gz files are torchvision's less the header's name and time.
# (Put back, those give torchvision's published sums of all four .gz: Debian's FashionMNIST is the original.)
MD5 = {
    "fashion-mnist": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "cifar10": {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
}
# Under data_dir, in the order tried; the first is torchvision's layout, where fetched files go.
PLACES = {
    "fashion-mnist": ("FashionMNIST/raw", "fashion-mnist", "."),
    "mnist": ("MNIST/raw", "mnist", "."),
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
}
HOMEPAGES = {
    "fashion-mnist": "https://github.com/zalandoresearch/fashion-mnist",
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "cifar10": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "celeba": "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
}
CLASSES = {
    "fashion-mnist": ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                      "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    "mnist": [str(digit) for digit in range(10)],
    "cifar10": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
    "synthetic": ["disc", "ring", "square", "frame", "triangle",
                  "plus", "cross", "rows", "columns", "checkers"],
}


# --- what the scripts use


class ImageSet:
    """Images in memory, or decoded from files a batch at a time when they would not fit.

    images: uint8 (N, C, H0, W0) as stored, or None where decoded lazily; labels: int64 (N,) or None.
    size, channels: what `images_at` returns, however stored. classes: the labels' names, [] without labels.
    """

    def __init__(self, name, split, size, channels, classes=(), images=None, labels=None, files=None):
        self.name, self.split, self.size, self.channels = name, split, size, channels
        self.classes, self.images, self.labels, self.files = list(classes), images, labels, files

    def __len__(self):
        return len(self.files if self.images is None else self.images)

    def to(self, device):
        """Keep the uint8 images on `device` (if <= 2 GiB), so that a batch copies nothing from the host."""
        if self.images is not None and self.images.nbytes <= 2 << 30:
            self.images = self.images.to(device)
        return self

    def images_at(self, indices, device="cpu"):
        """float32 (B, channels, size, size) in [-1, 1] on `device`.

        Resizing is bilinear with antialias, as PIL does it, and so torchvision's Resize on PIL images: within
        2/255 of them (they round to uint8). Raises UserError for a file that no longer decodes (lazy sets).
        """
        indices = torch.as_tensor(indices)
        if self.images is None:
            decode = functools.partial(_decode, size=self.size, channels=self.channels)
            x = torch.stack(list(_pool().map(decode, [self.files[i] for i in indices.tolist()])))
        else:
            x = self.images[indices.to(self.images.device)]
        x = x.to(device).float()
        if x.shape[1] == 3 and self.channels == 1:
            x = (x * x.new_tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)
        if x.shape[-1] != self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        if x.shape[1] == 1 and self.channels == 3:
            x = x.repeat(1, 3, 1, 1)
        return (x / 127.5 - 1).clamp_(-1, 1)

    def batch(self, step, batch_size, seed, device="cpu"):
        """Batch number `step`: (images as in `images_at`, labels int64 (B,) on `device` or None)."""
        indices = batch_indices(len(self), batch_size, seed, step)
        labels = None if self.labels is None else self.labels[indices].to(device)
        return self.images_at(indices, device), labels

    def fingerprint(self):
        """64 hex digits that change with any pixel, label or order, with size and with channels: a key for caches.

        Images in memory are hashed themselves, whole (about a second per GB), so that a slice of `images` is seen.
        Of lazily decoded ones it is each file's name below their common folder, its bytes and its time of change.
        """
        key = hashlib.sha256(f"{DECODING} {self.size} {self.channels} {len(self)}".encode())
        if self.images is None:
            root = os.path.commonpath([file.parent for file in self.files])
            for file in self.files:
                try:
                    status = file.stat()
                except OSError as e:
                    raise UserError(f"can't read the image {file} ({e.strerror}): put it back, "
                                    "or start again without it") from None
                name = os.fsencode(os.path.relpath(file, root))
                key.update(name + f"\0{status.st_size} {status.st_mtime_ns}\0".encode())
        else:
            key.update(f"{tuple(self.images.shape)}".encode())
            key.update(self.images.cpu().contiguous().numpy())
        if self.labels is not None:
            key.update(f"{tuple(self.labels.shape)} {self.labels.dtype}".encode())
            key.update(self.labels.cpu().contiguous().numpy())
        return key.hexdigest()


def batch_indices(n, batch_size, seed, step):
    """int64 (batch_size,): places [step·B, (step+1)·B) of one endless sequence, a fresh permutation an epoch.

    A pure function of its arguments, the same on every device. A batch may straddle epochs, so no sample is
    dropped, and may be larger than n.
    """
    if n < 1 or batch_size < 1 or step < 0:
        raise UserError(f"no batch {step} of {batch_size} from {n} images: need step >= 0, the others >= 1")
    parts, missing = [], batch_size
    while missing:
        epoch, offset = divmod((step + 1) * batch_size - missing, n)
        parts.append(_permutation(n, seed, epoch)[offset : offset + missing])
        missing -= len(parts[-1])
    return torch.cat(parts)  # a copy also of a single part: the cached permutation must not leak


@functools.lru_cache(maxsize=4)
def _permutation(n, seed, epoch):
    mixed = np.random.SeedSequence(abs(seed), spawn_key=(epoch, int(seed < 0))).generate_state(1, np.uint64)
    return torch.randperm(n, generator=torch.Generator().manual_seed(int(mixed[0])))


def load_images(name, data_dir, split="train", size=None, channels=None, download=True, limit=None,
                limit_seed=None, skip_bad=False):
    """An ImageSet of `name`: one of DATASETS, or "synthetic" (512 drawn shapes in 10 classes, for --smoke).

    split: "train" or "test". size: None is native (28, 28, 32, CelebA's centre crop of 178, synthetic 32); a
    folder has none. channels: None is native; 1 makes colour luminance; 3 repeats grey. limit: at most so
    many images (the first ones; of files, evenly spaced ones, so that no class is lost; with
    limit_seed, a random choice that it fixes).

    FashionMNIST, MNIST and CIFAR-10 are looked for in data_dir and /usr/share/datasets, then downloaded into
    data_dir unless `download` is False. CelebA must be put there by hand.

    "folder" is any tree of images under data_dir: the largest centred square of each, resized.
    - Splits: images in train/ are trained on and those in test/ (without it val/, valid/ or validation/) are
      the test split, upper or lower case. Without such folders, or with train/ alone, both splits are the same.
    - Labels: the folders below the split's are its classes, numbered as in the training split, which has them
      all. Stray images beside them are left out; without two such folders, or where the strays are the
      majority, all images are used, without labels.
    - Channels: 3 if any file of the training split is in colour, whatever `split` and `limit`; an image with a
      palette is, unless its palette is grey.
    - Pixels: upright by EXIF; transparent ones lie on white; of an animation the first frame; 16-bit grey is
      divided by 257 and rounded. 32-bit pixels have no fixed range and count as undecodable.

    Undecodable images end in one error that lists them, or with `skip_bad` are left out with a warning. Where
    the images don't fit into memory only their headers are read at first, so that a truncated file is met
    later, in `images_at`; with `skip_bad` each is decoded once to find those, too.
    Raises UserError for a wrong argument, for data that can't be had, and for images that can't be decoded.
    """
    if name not in (*DATASETS, "synthetic"):
        raise UserError(f"unknown data set {name!r}: choose one of {', '.join(DATASETS)}")
    if split not in ("train", "test"):
        raise UserError(f"unknown split {split!r} of {name}: choose train or test")
    if size is not None and (type(size) is not int or not 4 <= size <= 1024):
        raise UserError(f"image size {size!r} makes no sense: give a whole number from 4 to 1024")
    if channels not in (None, 1, 3):
        raise UserError(f"images can't have {channels!r} channels: give 1 (grey) or 3 (RGB)")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise UserError(f"can't limit {name} to {limit!r} images: give a whole number from 1")
    if name == "synthetic":
        size, channels = size or 32, channels or 1
        images, labels = _synthetic(512, size, channels, seed=("train", "test").index(split))
    else:
        data_dir = _expanded(data_dir)
        if name in ("celeba", "folder"):
            return _image_files(name, data_dir, split, size, channels, limit, limit_seed, skip_bad)
        images, labels = (_read_cifar if name == "cifar10" else _read_mnist)(name, split, data_dir, download)
    keep = slice(limit) if limit_seed is None else _chosen(len(images), limit, limit_seed)
    images, labels = torch.from_numpy(images[keep]), torch.from_numpy(labels[keep])
    size, channels = size or images.shape[-1], channels or images.shape[1]
    return ImageSet(name, split, size, channels, CLASSES[name], images, labels)


def _expanded(data_dir):
    try:
        data_dir = Path(data_dir).expanduser()
    except RuntimeError:                     # ~name of nobody
        raise UserError(f"the data directory {data_dir}: no such user's home") from None
    if data_dir.exists() and not data_dir.is_dir():
        raise UserError(f"the data directory {data_dir} is a file: give a directory")
    return data_dir


def _synthetic(n, size, channels, seed):
    """uint8 (n, channels, size, size), int64 (n,): ten shapes at random places, scales and brightnesses."""
    rng = np.random.default_rng(seed)
    x, y, r = rng.uniform((-0.2, -0.2, 0.6), (0.2, 0.2, 0.8), (n, 3)).T.astype(np.float32)[:, :, None, None]
    grid = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    u, v = (grid[None, None, :] - x) / r, (grid[None, :, None] - y) / r  # (n, 1, size), (n, size, 1)
    shapes = (
        lambda u, v: u**2 + v**2 < 1,
        lambda u, v: abs(u**2 + v**2 - 0.7) < 0.3,
        lambda u, v: np.maximum(abs(u), abs(v)) < 0.9,
        lambda u, v: abs(np.maximum(abs(u), abs(v)) - 0.8) < 0.2,
        lambda u, v: (v < 0.8) & (2 * abs(u) < v + 1),
        lambda u, v: (np.minimum(abs(u), abs(v)) < 0.25) & (np.maximum(abs(u), abs(v)) < 1),
        lambda u, v: (abs(abs(u) - abs(v)) < 0.3) & (np.maximum(abs(u), abs(v)) < 1),
        lambda u, v: (v * 1.5 % 1 < 0.5) & (abs(u) < 1) & (abs(v) < 1),
        lambda u, v: (u * 1.5 % 1 < 0.5) & (abs(u) < 1) & (abs(v) < 1),
        lambda u, v: ((u % 1 < 0.5) ^ (v % 1 < 0.5)) & (abs(u) < 1) & (abs(v) < 1),
    )
    labels = np.arange(n, dtype=np.int64) % len(shapes)
    inside = np.empty((n, 1, size, size), bool)
    for k, shape in enumerate(shapes):
        inside[labels == k, 0] = shape(u[labels == k], v[labels == k])
    colours = rng.integers((150, 0), (256, 60), (n, channels, 2), np.uint8)  # of the shape, of its ground
    return np.where(inside, *colours.transpose(2, 0, 1)[..., None, None]), labels


# --- FashionMNIST, MNIST, CIFAR-10: find the files, or fetch them


def _read_mnist(name, split, data_dir, download):
    """uint8 (N, 1, 28, 28), int64 (N,)."""
    prefix = "train" if split == "train" else "t10k"
    need = [f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"]
    files = _find_files(name, split, need, data_dir, download)
    images, labels = (_parse_idx(files[file]) for file in need)
    return images[:, None].copy(), labels.astype(np.int64)  # a copy: what np.frombuffer gives is read-only


def _read_cifar(name, split, data_dir, download):
    """uint8 (N, 3, 32, 32), int64 (N,)."""
    need = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    files = _find_files(name, split, need, data_dir, download)
    with warnings.catch_warnings():  # these pickles are older than numpy 2, which says so
        warnings.simplefilter("ignore")
        batches = [pickle.loads(files[file], encoding="latin1") for file in need]  # safe: the md5 was checked
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    return images, np.concatenate([np.array(batch["labels"], np.int64) for batch in batches])


def _parse_idx(raw):
    """uint8 array of an unpacked idx file: byte 3 is ndim, then the shape as big-endian int32."""
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def _find_files(name, split, need, data_dir, download):
    """{file name: unpacked bytes} of the files in `need` from the first place that has them whole."""
    places = [data_dir / place for place in PLACES[name]]
    files, tried, damaged = None, [], []
    for place in [*places, SYSTEM_DIR / name]:
        try:
            files = _read_place(place, need, MD5[name])
            break
        except (OSError, ValueError) as e:
            tried.append(f"{place}: {e if isinstance(e, ValueError) else e.strerror}")
            if isinstance(e, ValueError):
                damaged.append(tried[-1])
    if files is None and download:
        files = _fetch(name, need, [place for place in places if place.suffix != ".gz"], tried)
    if files is None:
        raise UserError(
            f"can't get {name} ({split}). Tried {'; '.join(tried)}{'' if download else '; downloads are off'}"
            f". By hand: put {', '.join(MD5[name])} from {HOMEPAGES[name]} into {places[0]}")
    for line in damaged:
        _say(f"warning: {line}; another copy is used")
    return files


def _read_place(place, need, md5):
    """{file name: unpacked bytes} from a folder or tar.gz. OSError: not there. ValueError: damaged, named."""
    if place.suffix != ".gz":
        return {file: _read_file(place, file, md5[file]) for file in need}
    raw = {}
    try:
        with tarfile.open(place, "r|gz") as tar:  # one pass: going back in a .gz means unpacking it again
            for member in tar:
                file = Path(member.name).name
                if file in need:
                    raw[file] = tar.extractfile(member).read()
    except (tarfile.TarError, *CUT_OFF) as e:
        raise ValueError(f"damaged or cut off ({e})") from None
    if bad := [file for file in need if _md5(raw.get(file, b"")) != md5[file]]:
        raise ValueError(f"damaged: {bad[0]} in it is missing or has the wrong md5")
    return raw


def _read_file(folder, file, md5):
    path = next((p for p in (folder / f"{file}.gz", folder / file) if p.exists()), None)
    if path is None:
        raise FileNotFoundError(2, f"no {file}")
    raw = path.read_bytes()
    try:
        unpacked = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (gzip.BadGzipFile, *CUT_OFF) as e:
        raise ValueError(f"{path.name} is damaged or cut off ({len(raw)} bytes: {e})") from None
    if _md5(unpacked) != md5:
        raise ValueError(f"{path.name} is damaged or of another data set (md5 {_md5(unpacked)}, not {md5})")
    return unpacked


def _md5(raw):
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()


def _fetch(name, need, folders, tried):
    """Download all files of `name` and keep them in the first folder where no damaged file is in the way.

    They are checked in a temporary folder beside, then renamed into place: a kill leaves no half file under a
    good name, and no file of the user's is overwritten. None if every source failed; why goes to `tried`.
    """
    target = next((folder for folder in folders if not _damaged(folder, MD5[name])), None)
    if target:
        _check_writable(target, name)
    sources = {"torchvision's download": functools.partial(_from_torchvision, name)}
    if name == "fashion-mnist":
        sources["Debian's package dataset-fashion-mnist"] = _from_debian
    for source, download in sources.items():
        _say(f"{name} is not on this machine: trying {source}")
        with tempfile.TemporaryDirectory(prefix=".download-", dir=target) as tmp:
            try:
                folder = download(Path(tmp))
                files = _read_place(folder, list(MD5[name]), MD5[name])
            except Exception as e:  # noqa: BLE001  (network, mirror, apt: whatever it is, the next source may work)
                tried.append(f"{source}: {' '.join(str(e).split())[:300] or type(e).__name__}")
                continue
            for path in [folder / f"{file}{end}" for file in files for end in (".gz", "")] if target else []:
                if path.exists() and not (target / path.name).exists():
                    os.replace(path, target / path.name)
            _say(f"{name} came from {source}, " + (f"kept in {target}" if target else "not kept"))
            return {file: files[file] for file in need}


def _check_writable(folder, name):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder):
            pass
    except OSError as e:
        raise UserError(f"{name} is not on this machine and can't be fetched into {folder} "
                        f"({e.strerror}): give a --data-dir that can be written to, or one that "
                        f"holds {name}") from None


def _damaged(folder, md5):
    for file in md5:
        try:
            _read_file(folder, file, md5[file])
        except FileNotFoundError:
            pass
        except (OSError, ValueError):
            return True
    return False


def _from_torchvision(name, tmp):
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)
    # its progress bar is for a terminal only
    noise = contextlib.redirect_stderr(sys.stderr if sys.stderr.isatty() else io.StringIO())
    try:
        with noise, contextlib.redirect_stdout(io.StringIO()):
            datasets = import_torchvision().datasets
            kind = {"fashion-mnist": "FashionMNIST", "mnist": "MNIST", "cifar10": "CIFAR10"}[name]
            getattr(datasets, kind)(str(tmp), download=True)
    finally:
        socket.setdefaulttimeout(timeout)
    return tmp / PLACES[name][0]


def _from_debian(tmp):
    """Debian and Ubuntu ship FashionMNIST: fetch the package and unpack it here. Nothing is installed."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise OSError("no apt-get and dpkg here")

    def run(*command, timeout):
        done = subprocess.run(command, check=False, cwd=tmp, timeout=timeout, text=True,
                              capture_output=True, env=dict(os.environ, LC_ALL="C"))
        if done.returncode:
            raise OSError(done.stderr.strip().rpartition("\n")[2] or f"{command[0]} failed")

    apt = ("apt-get", "-q", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::Retries=0")
    try:
        run(*apt, "download", "dataset-fashion-mnist", timeout=300)
    except OSError:
        if os.geteuid() != 0:
            raise
        run(*apt, "update", timeout=120)  # a fresh container has no package lists
        run(*apt, "download", "dataset-fashion-mnist", timeout=300)
    run("dpkg", "-x", next(tmp.glob("*.deb")).name, "unpacked", timeout=60)
    return tmp / "unpacked/usr/share/datasets/fashion-mnist"


def _say(line):
    print(f"data: {line}", file=sys.stderr)


@functools.cache
def _say_once(line):
    """What holds for both splits, or for each of a script's loads of one, is said once."""
    _say(line)


# --- CelebA and folders: files to decode


class BadImage(UserError):
    """An image file that can't be decoded, or not without loss."""

    def __init__(self, file, reason):
        super().__init__(f"can't decode the image {file} ({reason}): replace it and go on with "
                         "--resume, or start again with --skip-bad")
        self.file = file
        self.reason = reason


def _folder(data_dir, split):
    """(files, labels or None, classes, files of the training split) of a tree, sorted by path."""
    if not data_dir.is_dir():
        raise UserError(f"no folder {data_dir}: give the folder that holds your images as --data-dir")
    found = _list_images(data_dir)
    train, test = _split_folders(data_dir, found)
    train_files = _files_below(train, found)
    classes = _classes(train, train_files)
    train_files, train_labels = _labelled(train, train_files, classes, train)
    if split == "train":
        return train_files, train_labels, classes, train_files
    if test == train:
        _say_once(f"no test/ or val/ in {data_dir}: the test split is the training images")
        return train_files, train_labels, classes, train_files
    files, labels = _labelled(test, _files_below(test, found), classes, train)
    return files, labels, classes, train_files


def _list_images(root):
    def fail(e):
        raise UserError(f"can't look into {e.filename} ({e.strerror}): make it readable or move it away")

    walk = os.walk(root, onerror=fail, followlinks=True)
    found = [Path(folder, file) for folder, _, names in walk for file in names]
    return sorted(f for f in found if f.suffix.lower() in IMAGE_SUFFIXES
                  and not any(part.startswith(".") for part in f.relative_to(root).parts))


def _files_below(root, files):
    below = [file for file in files if file.is_relative_to(root)]
    if not below:
        raise UserError(f"no images under {root}: put {', '.join(IMAGE_SUFFIXES)} files there")
    return below


def _split_folders(data_dir, found):
    """(folder of the training split, folder of the test split): twice data_dir where it is not split."""
    by_name = {path.name.lower(): path for path in sorted(data_dir.iterdir()) if path.is_dir()}
    train = next((by_name[name] for name in TRAIN_FOLDERS if name in by_name), None)
    test = next((by_name[name] for name in TEST_FOLDERS if name in by_name), None)
    used = {_class_of(data_dir, file) for file in found} - {None}  # first-level folders with images
    if train and test:
        line = f"{data_dir}: training images from {train.name}/, test images from {test.name}/"
        unused = [f for f in found if not f.is_relative_to(train) and not f.is_relative_to(test)]
        if unused:
            line += f". Not used: {_count(unused, 'image')} elsewhere, for example {unused[0].relative_to(data_dir)}"
        _say_once(line)
        return train, test
    if train and used == {train.name}:
        return train, train
    if train:
        _say_once(f"no test/ or val/ in {data_dir}: {train.name}/ is one of its classes")
    if used and all(name.lower() in TEST_FOLDERS for name in used):
        raise UserError(f"{data_dir} has {', '.join(sorted(used))} but no train: put the training images "
                        f"into {data_dir / 'train'}, or give {data_dir / min(used)} as --data-dir")
    _refuse_inner_splits(data_dir, found)
    return data_dir, data_dir


def _refuse_inner_splits(data_dir, found):
    """Else a tree one level too high, data_dir/NAME/{train,test}, would be trained on with its test images."""
    inner = {}
    for file in found:
        parts = file.relative_to(data_dir).parts
        if len(parts) > 2:
            inner.setdefault(parts[0], set()).add(parts[1].lower())
    for name, names in sorted(inner.items()):
        if names.intersection(TRAIN_FOLDERS) and names.intersection(TEST_FOLDERS):
            raise UserError(f"{data_dir / name} is split into {', '.join(sorted(names))}: "
                            f"give --data-dir {data_dir / name}, or move them up into {data_dir}")


def _class_of(root, file):
    """Name of the folder in root that holds the file, None if root itself does."""
    parts = file.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def _classes(root, files):
    """Names of the classes of a training split, [] if it has no labels."""
    names = [_class_of(root, file) for file in files]
    classes = sorted(set(names) - {None})
    strays = names.count(None)
    if classes and strays and (len(classes) == 1 or 2 * strays > len(files)):
        _say_once(f"{_count(files, 'image')} in {root}, {strays} of them in no class folder: all are "
                  "used, without labels")
        return []
    return classes


def _labelled(root, files, classes, train):
    """(files, labels or None) of a split in root, by the training split's classes."""
    names = [_class_of(root, file) for file in files]
    if not classes:
        return files, None
    if unknown := sorted(set(names) - {None, *classes}):
        raise UserError(f"{root} has the class {unknown[0]}, which {train} lacks: it has "
                        f"{', '.join(classes)}. Rename or remove {root / unknown[0]}")
    kept = [file for file, name in zip(files, names) if name is not None]
    if not kept:
        _say_once(f"no class folders in {root}: its images have no labels")
        return files, None
    if strays := [file for file, name in zip(files, names) if name is None]:
        _say_once(f"warning: {_count(strays, 'image')} beside the class folders of {root} left out, "
                  f"for example {strays[0].name}: only images in class folders have a label")
    number = {name: i for i, name in enumerate(classes)}
    return kept, torch.tensor([number[name] for name in names if name is not None])


def _count(things, word):
    return f"{len(things):,} {word}" + "s" * (len(things) != 1)


def _celeba(data_dir, split):
    """(files, None, [], files) of the official split, from list_eval_partition.txt or, without it, by position."""
    roots = [data_dir / "celeba/img_align_celeba", data_dir / "img_align_celeba"]
    root = next((r for r in roots if r.is_dir()), None)
    if root is None:
        raise UserError(f"no CelebA in {roots[0]} or {roots[1]}. It can't be downloaded by a script: get "
                        f"img_align_celeba.zip from {HOMEPAGES['celeba']} and unpack it to {roots[0]}/*.jpg")
    files, partition = sorted(root.glob("*.jpg")), root.parent / "list_eval_partition.txt"
    if partition.exists():
        wanted = {"train": "0", "test": "2"}[split]
        names = {row[0] for row in map(str.split, partition.read_text().splitlines()) if row[1:] == [wanted]}
        files = [file for file in files if file.name in names]
    else:
        files = files[:162770] if split == "train" else files[182637:]
    if not files:
        raise UserError(f"no images of CelebA's {split} split in {root}: "
                        "unpack all 202,599 of img_align_celeba.zip there")
    return files, None, [], files


def _chosen(n, limit, seed):
    """`limit` of n places (all without it), in order."""
    return np.sort(np.random.default_rng(seed % 2**64).permutation(n)[:limit])


def _image_files(name, data_dir, split, size, channels, limit, limit_seed, skip_bad):
    """An ImageSet of files: decoded now where they fit into memory, else a batch at a time."""
    list_files = _celeba if name == "celeba" else _folder
    files, labels, classes, train_files = list_files(data_dir, split)
    size = size or (178 if name == "celeba" else None)
    if size is None:
        raise UserError("a folder of images has no size of its own: give one, for example --size 64")
    if channels is None:
        channels = 3 if name == "celeba" else _native_channels(data_dir, train_files)
    if limit and limit < len(files):
        evenly = [i * len(files) // limit for i in range(limit)]
        keep = evenly if limit_seed is None else _chosen(len(files), limit, limit_seed)
        files = [files[i] for i in keep]
        labels = None if labels is None else labels[keep]
    images = None
    if len(files) * channels * size * size <= _memory_budget():
        images = torch.empty(len(files), channels, size, size, dtype=torch.uint8)

    def check(i):
        if images is not None:
            images[i] = _decode(files[i], size, channels)
        elif skip_bad:
            _decode(files[i], size, channels)
        else:
            _kind(files[i])

    results = _attempt(check, range(len(files)), f"decoding {name}")
    if bad := [result for result in results if result is not None]:
        _report_bad(bad, len(files), data_dir, skip_bad)
        keep = torch.tensor([i for i, result in enumerate(results) if result is None])
        files = [files[i] for i in keep.tolist()]
        labels = None if labels is None else labels[keep]
        images = None if images is None else images[keep]
    return ImageSet(name, split, size, channels, classes, images, labels, files)


def _attempt(function, things, title):
    """[what function(thing) returns, or the BadImage that it raises], over the threads of the pool."""
    def attempt(thing):
        try:
            return function(thing)
        except BadImage as e:
            return e

    done = _pool().map(attempt, things)
    if len(things) > 2000:
        from tqdm import tqdm
        done = tqdm(done, total=len(things), desc=title, unit="image", disable=None)
    return list(done)


def _report_bad(bad, n, data_dir, skip_bad):
    """One line for all: an error, or with skip_bad a warning if any image is left."""
    listed = ", ".join(f"{e.file.relative_to(data_dir)} ({e.reason})" for e in bad[:5])
    listed += f" and {len(bad) - 5:,} more" * (len(bad) > 5)
    line = f"{len(bad):,} of {n:,} images in {data_dir} can't be decoded: {listed}"
    if len(bad) == n:
        raise UserError(f"{line}. None is left: put images there that open in a viewer")
    if not skip_bad:
        raise UserError(f"{line}. Replace or remove them, or leave them out with --skip-bad")
    _say_once(f"warning: {line}. They are left out")


def _native_channels(data_dir, train_files):
    """3 if any file is in colour, else 1; says so where not all are alike, or have 16 bits."""
    kinds = _attempt(_kind, train_files, "looking at headers")
    colour = kinds.count("colour")
    deep = kinds.count("grey, 16 bits")
    grey = kinds.count("grey") + deep
    if colour and grey:
        _say_once(f"grey images among colour ones in {data_dir}: {grey:,} of {len(kinds):,}; all are "
                  "taken as colour (--channels 1: as grey)")
    if deep:
        _say_once(f"16-bit grey images in {data_dir}: {deep:,} of {len(kinds):,}, rounded to 8 bits "
                  "(0 is black, 65535 white)")
    return 1 if grey and not colour else 3


def _kind(file):
    """"grey", "grey, 16 bits" or "colour" from a file's header (and palette). Raises BadImage."""
    with _opened(file) as image:
        if image.mode in ("P", "PA"):
            palette = image.getpalette() or []
            return "grey" if palette[0::3] == palette[1::3] == palette[2::3] else "colour"
        if image.mode.startswith("I;16"):
            return "grey, 16 bits"
        return "grey" if image.mode in ("1", "L", "LA") else "colour"


@contextlib.contextmanager
def _opened(file):
    """A PIL image of which only the header has been read. BadImage for this and for what goes wrong later."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            if image.mode in ("I", "F"):     # of no fixed range: convert() would clip it to white
                raise BadImage(file, "32 bits a pixel: convert it to 8 or 16")
            yield image
    except BadImage:
        raise
    except UnidentifiedImageError:           # its words are the path again
        raise BadImage(file, "not an image" if file.stat().st_size else "empty") from None
    except Exception as e:  # noqa: BLE001  (PIL raises OSError, SyntaxError, ValueError, struct.error, ...)
        reason = getattr(e, "strerror", None) or " ".join(str(e).split()) or type(e).__name__
        raise BadImage(file, reason) from None


def _decode(file, size, channels):
    """uint8 (channels, size, size): the largest centred square, resized (bilinear with antialias).

    Upright, on white where it is transparent, 16-bit grey as 8 bits.
    """
    from PIL import Image, ImageOps

    with _opened(file) as image:
        image = ImageOps.exif_transpose(image)  # photographs from telephones lie on their side otherwise
        side = min(image.size)
        left = (image.width - side) // 2
        top = (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        if image.mode.startswith("I;16"):
            image = Image.fromarray(((np.asarray(image, np.uint32) + 128) // 257).astype(np.uint8))
        elif image.has_transparency_data:    # what is under it may be anything, often black
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("L" if channels == 1 else "RGB")
        image = image.resize((size, size), resample=Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image).reshape(size, size, channels)).permute(2, 0, 1)


@functools.lru_cache(maxsize=1)
def _pool():
    return ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))


def _memory_budget():
    """Bytes that decoded images may take: half of what Linux says is available, elsewhere 4 GiB."""
    try:
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(rows["MemAvailable"].split()[0]) * 1024 // 2
    except (OSError, KeyError, ValueError):
        return 4 << 30


def main():
    parser = new_parser("Fetch a data set, check it, say what is there.")
    parser.add_argument("name", choices=DATASETS)
    parser.add_argument("--data-dir", type=file_path, default="data")
    parser.add_argument("--skip-bad", action="store_true", help="leave out images that can't be decoded")
    args = parser.parse_args()
    size = 64 if args.name == "folder" else None
    for split in ("train", "test"):
        found = load_images(args.name, args.data_dir, split, size, skip_bad=args.skip_bad)
        print(f"{args.name} {split}: {len(found):,} images of {found.size}x{found.size}x{found.channels}")


if __name__ == "__main__":
    run_main(main)
