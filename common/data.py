"""Image data sets, and batches that are a pure function of (seed, step).

    train = load_images("fashion-mnist", "data", size=64)
    x, y = train.batch(step, batch_size=16, seed=0, device=device)    # (16, 1, 64, 64) in [-1, 1], (16,)

Images stay uint8 at the resolution they are stored in and are resized a batch at a time, on the device of the
batch: 60,000 FashionMNIST images cost 47 MB at any training size. There is no DataLoader, no worker process.
As batch number `step` depends on nothing but the seed, resuming a run needs no saved data order.
"""

import argparse
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

from .cli import run_main
from .errors import UserError
from .device import import_torchvision

DATASETS = ("fashion-mnist", "mnist", "cifar10", "celeba", "folder")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif")
SYSTEM_DIR = Path("/usr/share/datasets")  # where Debian's package dataset-fashion-mnist installs
CUT_OFF = (EOFError, zlib.error)
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


def load_images(name, data_dir, split="train", size=None, channels=None, download=True, limit=None, limit_seed=None):
    """An ImageSet of `name`: one of DATASETS, or "synthetic" (512 drawn shapes in 10 classes, for --smoke).

    split: "train" or "test". size: None is native (28, 28, 32, CelebA's centre crop of 178, synthetic 32); a
    folder has none. channels: None is native; 1 makes colour luminance; 3 repeats grey. limit: at most so
    many images (the first ones; of files, evenly spaced ones, so that no class is lost; with
    limit_seed, a random choice that it fixes).

    FashionMNIST, MNIST and CIFAR-10 are looked for in data_dir and /usr/share/datasets, then downloaded into
    data_dir unless `download` is False. CelebA must be put there by hand. "folder" is any tree of images
    under data_dir: the largest centred square of each, resized; the first-level folders, if all images lie in
    such, are the labels; both splits are all images unless data_dir has the folders train/ and test/.
    Raises UserError for a wrong argument, for data that can't be had, and for an image that can't be decoded.
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
        data_dir = Path(data_dir).expanduser()
        if data_dir.exists() and not data_dir.is_dir():
            raise UserError(f"the data directory {data_dir} is a file: give a directory")
        if name in ("celeba", "folder"):
            files, labels, classes = (_celeba if name == "celeba" else _folder)(data_dir, split)
            return _image_files(name, split, size, channels, files, labels, classes, limit, limit_seed)
        images, labels = (_read_cifar if name == "cifar10" else _read_mnist)(name, split, data_dir, download)
    keep = slice(limit) if limit_seed is None else _chosen(len(images), limit, limit_seed)
    images, labels = torch.from_numpy(images[keep]), torch.from_numpy(labels[keep])
    size, channels = size or images.shape[-1], channels or images.shape[1]
    return ImageSet(name, split, size, channels, CLASSES[name], images, labels)


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
        target.mkdir(parents=True, exist_ok=True)
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


# --- CelebA and folders: files to decode


def _folder(data_dir, split):
    """(files, labels or None, classes) of a tree of images, sorted by path."""
    if not data_dir.is_dir():
        raise UserError(f"no folder {data_dir}: give the folder that holds your images as --data-dir")
    root = data_dir / split if all((data_dir / s).is_dir() for s in ("train", "test")) else data_dir
    files = _list_images(root)
    if not files:
        raise UserError(f"no images under {root}: put {', '.join(IMAGE_SUFFIXES)} files there")
    parts = [file.relative_to(root).parts for file in files]
    if any(len(p) == 1 for p in parts):  # an image without a class
        return files, None, []
    classes = sorted({p[0] for p in parts})
    return files, torch.tensor([classes.index(p[0]) for p in parts]), classes


def _list_images(root):
    found = [Path(folder, file) for folder, _, names in os.walk(root, followlinks=True) for file in names]
    return sorted(f for f in found if f.suffix.lower() in IMAGE_SUFFIXES
                  and not any(part.startswith(".") for part in f.relative_to(root).parts))


def _celeba(data_dir, split):
    """(files, None, []) of the official split, from list_eval_partition.txt or, without it, by position."""
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
    return files, None, []


def _chosen(n, limit, seed):
    """`limit` of n places (all without it), in order."""
    return np.sort(np.random.default_rng(seed % 2**64).permutation(n)[:limit])


def _image_files(name, split, size, channels, files, labels, classes, limit, limit_seed=None):
    if limit and limit < len(files):
        evenly = [i * len(files) // limit for i in range(limit)]
        keep = evenly if limit_seed is None else _chosen(len(files), limit, limit_seed)
        files, labels = [files[i] for i in keep], None if labels is None else labels[keep]
    size = size or (178 if name == "celeba" else None)
    if size is None:
        raise UserError("a folder of images has no size of its own: give one, for example --image-size 64")
    if channels is None:
        channels = 1 if name == "folder" and _open(files[0]).mode in ("1", "L", "LA") else 3
    images = None
    if len(files) * channels * size * size <= _memory_budget():
        images = torch.empty(len(files), channels, size, size, dtype=torch.uint8)

        def decode_into(i):
            images[i] = _decode(files[i], size, channels)

        done = _pool().map(decode_into, range(len(files)))
        if len(files) > 2000:
            from tqdm import tqdm
            done = tqdm(done, total=len(files), desc=f"decoding {name}", unit="image", disable=None)
        for _ in done:
            pass
    return ImageSet(name, split, size, channels, classes, images, labels, files)


def _decode(file, size, channels):
    """uint8 (channels, size, size): the largest centred square, resized (bilinear with antialias)."""
    image = _open(file).convert("L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((size, size), resample=2)  # 2: bilinear
    return torch.from_numpy(np.array(image).reshape(size, size, channels)).permute(2, 0, 1)


def _open(file):
    """A decoded PIL image, upright. UserError if it can't be decoded, or not without loss."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            image = ImageOps.exif_transpose(image)  # photographs from telephones lie on their side otherwise
    except Exception as e:  # noqa: BLE001  (PIL raises OSError, SyntaxError, ValueError, struct.error, ...)
        raise UserError(f"can't decode the image {file} ({' '.join(str(e).split())}): "
                        "replace it, or move it away") from None
    if image.mode[0] in "IF":  # convert() would clip it to white
        raise UserError(f"{file} has more than 8 bits a channel: convert it to 8 bits, or move it away")
    return image


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
    parser = argparse.ArgumentParser(description="Fetch a data set, check it, say what is there.")
    parser.add_argument("name", choices=DATASETS)
    parser.add_argument("--data-dir", default="data")
    args = parser.parse_args()
    for split in ("train", "test"):
        found = load_images(args.name, args.data_dir, split, size=None if args.name != "folder" else 64)
        print(f"{args.name} {split}: {len(found):,} images of {found.size}x{found.size}x{found.channels}")


if __name__ == "__main__":
    run_main(main)
