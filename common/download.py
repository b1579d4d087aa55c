"""FashionMNIST, MNIST, CIFAR-10: find their files on this machine, or fetch them.

Every file is held to its published checksum before it is read, so that a damaged one, or another
data set's in its place, can't be taken silently. Copies that can't be written to are read where
they are.
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
from pathlib import Path

import numpy as np

from .errors import UserError, say
from .torchvision_cpu import import_torchvision


SYSTEM_DIR = Path("/usr/share/datasets")  # where Debian's package dataset-fashion-mnist installs


CUT_OFF = (EOFError, zlib.error)


# md5 sums of the unpacked files. The .gz files differ: Debian's leave name and time out of their
# headers. With these put back all four have torchvision's published sums: the same FashionMNIST.
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


def read_mnist(name, split, data_dir, download):
    """uint8 (N, 1, 28, 28), int64 (N,)."""
    prefix = "train" if split == "train" else "t10k"
    need = [f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"]
    files = _find_files(name, split, need, data_dir, download)
    images, labels = (_parse_idx(files[file]) for file in need)
    # a copy, since np.frombuffer's array is read-only
    return images[:, None].copy(), labels.astype(np.int64)


def read_cifar(name, split, data_dir, download):
    """uint8 (N, 3, 32, 32), int64 (N,)."""
    need = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    files = _find_files(name, split, need, data_dir, download)
    with warnings.catch_warnings():  # these pickles are older than numpy 2, which says so
        warnings.simplefilter("ignore")
        # safe: the md5 was checked
        batches = [pickle.loads(files[file], encoding="latin1") for file in need]
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    return images, np.concatenate([np.array(batch["labels"], np.int64) for batch in batches])


def _parse_idx(raw):
    """uint8 array of an unpacked idx file: byte 3 is ndim, then the shape as big-endian int32."""
    shape = np.frombuffer(raw, ">i4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def _find_files(name, split, need, data_dir, download):
    """{file name: unpacked bytes} of `need` from the first place that has all of them whole."""
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
            f"can't get {name} ({split}). Tried "
            f"{'; '.join(tried)}{'' if download else '; downloads are off'}"
            f". By hand: put {', '.join(MD5[name])} from {HOMEPAGES[name]} into {places[0]}"
        )
    for line in damaged:
        say(f"warning: {line}; another copy is used")
    return files


def _read_place(place, need, md5):
    """{file name: unpacked bytes} from a folder or tar.gz.

    OSError: it is not there. ValueError: it is damaged, and named.
    """
    if place.suffix != ".gz":
        return {file: _read_file(place, file, md5[file]) for file in need}
    raw = {}
    try:
        # one pass: going back in a .gz means unpacking it again
        with tarfile.open(place, "r|gz") as tar:
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
        raise ValueError(
            f"{path.name} is damaged or of another data set (md5 {_md5(unpacked)}, not {md5})"
        )
    return unpacked


def _md5(raw):
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()


def _fetch(name, need, folders, tried):
    """Download all files of `name` into the first folder where no damaged file is in the way.

    They are checked in a temporary folder beside, then renamed into place: a kill leaves no half
    file under a good name, and no file of the user's is overwritten. None if every source failed;
    why goes to `tried`.
    """
    target = next((folder for folder in folders if not _damaged(folder, MD5[name])), None)
    if target:
        _check_writable(target, name)
    sources = {"torchvision's download": functools.partial(_from_torchvision, name)}
    if name == "fashion-mnist":
        sources["Debian's package dataset-fashion-mnist"] = _from_debian
    for source, download in sources.items():
        say(f"{name} is not on this machine: trying {source}")
        with tempfile.TemporaryDirectory(prefix=".download-", dir=target) as tmp:
            try:
                folder = download(Path(tmp))
                files = _read_place(folder, list(MD5[name]), MD5[name])
            except Exception as e:  # network, mirror, apt: the next source may work
                tried.append(f"{source}: {' '.join(str(e).split())[:300] or type(e).__name__}")
                continue
            for file in files if target else ():
                for path in (folder / f"{file}.gz", folder / file):
                    if path.exists() and not (target / path.name).exists():
                        os.replace(path, target / path.name)
            say(f"{name} came from {source}, " + (f"kept in {target}" if target else "not kept"))
            return {file: files[file] for file in need}


def _check_writable(folder, name):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder):
            pass
    except OSError as e:
        raise UserError(
            f"{name} is not on this machine and can't be fetched into {folder} "
            f"({e.strerror}): give a --data-dir that can be written to, or one that "
            f"holds {name}"
        ) from None


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
    """Fetch FashionMNIST's package of Debian and Ubuntu, and unpack it; nothing is installed."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise OSError("no apt-get and dpkg here")

    def run(*command, timeout):
        done = subprocess.run(
            command,
            check=False,
            cwd=tmp,
            timeout=timeout,
            text=True,
            capture_output=True,
            env=dict(os.environ, LC_ALL="C"),
        )
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
