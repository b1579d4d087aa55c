"""Image data sets, and batches that are a pure function of (seed, step).

    train = load_images("fashion-mnist", "data", size=64)
    x, y = train.batch(step, batch_size=16, seed=0, device=device)
    # x (16, 1, 64, 64) in [-1, 1], y (16,)

Images stay uint8 at the resolution they are stored in and are resized a batch at a time, on the
device of the batch: 60,000 FashionMNIST images cost 47 MB at any training size. There is no
DataLoader, no worker process. As batch number `step` depends on nothing but the seed, resuming a
run needs no saved data order.
"""

import functools
import hashlib
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .cli import file_path, new_parser, run_main
from .download import read_cifar, read_mnist
from .errors import UserError
from .folders import (
    BadImage,
    attempt,
    celeba_files,
    decode,
    files_below,
    folder_files,
    hash_of_names,
    image_kind,
    list_images,
    channels_of,
    report_bad,
    shape_as_shown,
    thread_pool,
)

DATASETS = ("fashion-mnist", "mnist", "cifar10", "celeba", "folder")
# raise it when `decode` gives other pixels of the same file: cached features are of the old ones
DECODING = 2
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's convert("L")

CLASSES = {
    "fashion-mnist": [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ],
    "mnist": [str(digit) for digit in range(10)],
    "cifar10": [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ],
    "synthetic": [
        "disc",
        "ring",
        "square",
        "frame",
        "triangle",
        "plus",
        "cross",
        "rows",
        "columns",
        "checkers",
    ],
}


# --- what the scripts use


class ImageSet:
    """Images in memory, or decoded from files a batch at a time when they would not fit.

    images: uint8 (N, C, H0, W0) as stored, or None where decoded lazily; labels: int64 (N,) or
    None.
    size, channels: what `images_at` returns, however stored; size None: as large as stored.
    classes: the labels' names, [] without labels.
    """

    def __init__(
        self, name, split, size, channels, classes=(), images=None, labels=None, files=None
    ):
        self.name, self.split, self.size, self.channels = name, split, size, channels
        self.classes, self.images, self.labels, self.files = list(classes), images, labels, files

    def __len__(self):
        return len(self.files if self.images is None else self.images)

    def to(self, device):
        """Keep the uint8 images on `device`, up to 2 GiB, so that a batch copies nothing there."""
        if self.images is not None and self.images.nbytes <= 2 << 30:
            self.images = self.images.to(device)
        return self

    def images_at(self, indices, device="cpu"):
        """float32 (B, channels, size, size) in [-1, 1] on `device`; size None: (B, channels, H, W).

        Resizing is bilinear with antialias, as PIL does it, and so torchvision's Resize on PIL
        images: within 2/255 of them (they round to uint8). Raises UserError for a file that no
        longer decodes (lazy sets).
        """
        indices = torch.as_tensor(indices)
        if self.images is None:
            files = [self.files[i] for i in indices.tolist()]
            one = functools.partial(decode, size=self.size, channels=self.channels)
            x = torch.stack(list(thread_pool().map(one, files)))
        else:
            x = self.images[indices.to(self.images.device)]
        x = x.to(device).float()
        if x.shape[1] == 3 and self.channels == 1:
            x = luminance(x)
        if self.size is not None and x.shape[-1] != self.size:
            x = F.interpolate(
                x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False
            )
        if x.shape[1] == 1 and self.channels == 3:
            x = x.repeat(1, 3, 1, 1)
        return (x / 127.5 - 1).clamp_(-1, 1)

    def places(self, n):
        """int64 (min(n, N),): places of n images to look at or to measure, always the same.

        The first, but of image files, which are sorted by class, in a random order.
        """
        if self.files is None:
            return torch.arange(min(n, len(self)))
        return torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:n]

    def batch(self, step, batch_size, seed, device="cpu"):
        """Batch number `step` on `device`: (images as in `images_at`, labels int64 (B,)/None)."""
        indices = batch_indices(len(self), batch_size, seed, step)
        labels = None if self.labels is None else self.labels[indices].to(device)
        return self.images_at(indices, device), labels

    def identity(self):
        """What a run is known by to be trained on (see `Run`), as plain values.

        A copy of the files has the same one, and one of them can be replaced by a sound one.
        """
        known = {"images": len(self), "classes": self.classes}
        return (
            known
            if self.files is None
            else known | {"hash of file names": hash_of_names(self.files)}
        )

    def fingerprint(self):
        """A key for caches: 64 hex digits that change with any pixel, label, order or shape.

        Images in memory are hashed themselves, whole (about a second per GB), so that a slice of
        `images` is seen. Of lazily decoded ones it is each file's name below their common folder,
        its bytes and its time of change.
        """
        key = hashlib.sha256(f"{DECODING} {self.size} {self.channels} {len(self)}".encode())
        if self.images is None:
            root = os.path.commonpath([file.parent for file in self.files])
            for file in self.files:
                try:
                    status = file.stat()
                except OSError as e:
                    raise UserError(
                        f"can't read the image {file} ({e.strerror}): put it back, "
                        "or start again without it"
                    ) from None
                name = os.fsencode(os.path.relpath(file, root))
                key.update(name + f"\0{status.st_size} {status.st_mtime_ns}\0".encode())
        else:
            key.update(f"{tuple(self.images.shape)}".encode())
            key.update(self.images.cpu().contiguous().numpy())
        if self.labels is not None:
            key.update(f"{tuple(self.labels.shape)} {self.labels.dtype}".encode())
            key.update(self.labels.cpu().contiguous().numpy())
        return key.hexdigest()


def luminance(images):
    """(B, 1 or 3, H, W) -> (B, 1, H, W), in any range of values."""
    if images.shape[1] == 1:
        return images
    weights = images.new_tensor(LUMINANCE).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def batch_indices(n, batch_size, seed, step):
    """int64 (batch_size,): the places of step's batch in a sequence of permutations, one per epoch.

    A pure function of its arguments, the same on every device. A batch may straddle epochs, so no
    sample is dropped, and may be larger than n.
    """
    if n < 1 or batch_size < 1 or step < 0:
        raise UserError(
            f"no batch {step} of {batch_size} from {n} images: need step >= 0, the others >= 1"
        )
    parts, missing = [], batch_size
    while missing:
        epoch, offset = divmod((step + 1) * batch_size - missing, n)
        parts.append(_permutation(n, seed, epoch)[offset : offset + missing])
        missing -= len(parts[-1])
    return torch.cat(parts)  # a copy also of a single part: the cached permutation must not leak


@functools.lru_cache(maxsize=4)
def _permutation(n, seed, epoch):
    mixed = np.random.SeedSequence(abs(seed), spawn_key=(epoch, int(seed < 0))).generate_state(
        1, np.uint64
    )
    return torch.randperm(n, generator=torch.Generator().manual_seed(int(mixed[0])))


def load_images(
    name,
    data_dir,
    split="train",
    size=None,
    channels=None,
    download=True,
    limit=None,
    limit_seed=None,
    skip_bad=False,
):
    """The ImageSet `name`: of DATASETS, or "synthetic" (512 drawn shapes of 10 classes).

    split: "train" or "test". size: None is native (28, 28, 32, CelebA's centre crop of 178,
    synthetic 32); a folder has none. channels: None is native; 1 makes colour luminance; 3 repeats
    grey. limit: at most so many images (the first ones; of files, evenly spaced ones, so that no
    class is lost; with limit_seed, a random choice that it fixes).

    FashionMNIST, MNIST and CIFAR-10 are looked for in data_dir and /usr/share/datasets, then
    downloaded into data_dir unless `download` is False. CelebA must be put there by hand.

    "folder" is any tree of images under data_dir: the largest centred square of each, resized.
    Splits: images in train/ (or training/) are trained on, and those in test/ (without it testing/,
    val/, valid/ or validation/) are the test split, in upper or lower case. Without such folders,
    or with train/ alone, both splits are the same, and .split is "train". Folders called like
    seg_train and seg_test are refused, and directories of runs are left out.
    Labels: the folders below the split's are its classes, numbered as in the training split, which
    has them all. Stray images beside them are left out. Without two such folders, or where the
    strays are the majority, all images are used, without labels, and a line says so.
    Channels: 3 if any file of the training split is in colour, whatever `split` and `limit`; an
    image with a palette is, unless its palette is grey.
    Pixels: upright by EXIF; transparent ones lie on white; of an animation the first frame; 16-bit
    grey is divided by 257 and rounded. 32-bit pixels have no fixed range and are undecodable.

    Undecodable images end in one error that lists them, or with `skip_bad` are left out with a
    warning. Where the images don't fit into memory only their headers are read at first, so that a
    truncated file is met later, in `images_at`; with `skip_bad` each is decoded once to find those,
    too. Raises UserError for a wrong argument, for data that can't be had, and for images that
    can't be decoded.
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
        images, labels = (read_cifar if name == "cifar10" else read_mnist)(
            name, split, data_dir, download
        )
    keep = slice(limit) if limit_seed is None else _chosen(len(images), limit, limit_seed)
    images, labels = torch.from_numpy(images[keep]), torch.from_numpy(labels[keep])
    size, channels = size or images.shape[-1], channels or images.shape[1]
    return ImageSet(name, split, size, channels, CLASSES[name], images, labels)


def _expanded(data_dir):
    try:
        data_dir = Path(data_dir).expanduser()
    except RuntimeError:  # ~name of nobody
        raise UserError(f"the data directory {data_dir}: no such user's home") from None
    if data_dir.exists() and not data_dir.is_dir():
        raise UserError(f"the data directory {data_dir} is a file: give a directory")
    return data_dir


def _synthetic(n, size, channels, seed):
    """Ten shapes at random places, scales and brightnesses.

    uint8 (n, channels, size, size), int64 (n,).
    """
    rng = np.random.default_rng(seed)
    x, y, r = rng.uniform((-0.2, -0.2, 0.6), (0.2, 0.2, 0.8), (n, 3)).T.astype(np.float32)[
        :, :, None, None
    ]
    grid = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    u = (grid[None, None, :] - x) / r  # (n, 1, size)
    v = (grid[None, :, None] - y) / r  # (n, size, 1)
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
    # of each channel: the shape's brightness, 150 to 255, and the ground's, 0 to 59
    colours = rng.integers((150, 0), (256, 60), (n, channels, 2), np.uint8)
    return np.where(inside, *colours.transpose(2, 0, 1)[..., None, None]), labels


# --- images in files


def _chosen(n, limit, seed):
    """`limit` of n places (all without it), in order."""
    return np.sort(np.random.default_rng(seed % 2**64).permutation(n)[:limit])


def _image_files(name, data_dir, split, size, channels, limit, limit_seed, skip_bad):
    """An ImageSet of files: decoded now where they fit into memory, else a batch at a time."""
    list_files = celeba_files if name == "celeba" else folder_files
    files, labels, classes, train_files = list_files(data_dir, split)
    if name == "folder" and files == train_files:
        split = "train"  # also of a test split that isn't there: scores' names then say so
    size = size or (178 if name == "celeba" else None)
    if size is None:
        raise UserError(
            "a folder of images has no size of its own: give one, for example --size 64"
        )
    if name == "celeba":
        channels = channels or 3
    else:
        channels = channels_of(data_dir, train_files, channels)
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
            images[i] = decode(files[i], size, channels)
        elif skip_bad:
            decode(files[i], size, channels)
        else:
            image_kind(files[i])

    results = attempt(check, range(len(files)), f"decoding {name}")
    if bad := [result for result in results if result is not None]:
        report_bad(bad, len(files), data_dir, skip_bad)
        keep = torch.tensor([i for i, result in enumerate(results) if result is None])
        files = [files[i] for i in keep.tolist()]
        labels = None if labels is None else labels[keep]
        images = None if images is None else images[keep]
    return ImageSet(name, split, size, channels, classes, images, labels, files)


def images_below(root, size=None, channels=None):
    """An ImageSet of all images below a folder, sorted by path, decoded a batch at a time.

    size: as in `load_images`; None: all as they are, and they must be of one size. channels: as in
    `load_images`. No splits, no labels. Raises UserError for files that don't begin as an image;
    one that is damaged further on is met in `images_at`, as a BadImage.
    """
    root = _expanded(root)
    files = files_below(root, list_images(root))
    shapes = attempt(shape_as_shown, files, "looking at headers")
    if bad := [shape for shape in shapes if isinstance(shape, BadImage)]:
        report_bad(bad, len(files), root, None)
    if size is None and len(set(shapes)) > 1:
        other = next(i for i, shape in enumerate(shapes) if shape != shapes[0])
        (h, w), (h2, w2) = shapes[0], shapes[other]
        raise UserError(
            f"{root} has images of different sizes: {files[0].relative_to(root)} is {w} x {h}, "
            f"{files[other].relative_to(root)} {w2} x {h2}. --size {min(h, w)} takes the centred "
            "square of each and resizes it"
        )
    channels = channels_of(root, files, channels)
    return ImageSet(root.name, "all", size, channels, files=files)


def _memory_budget():
    """Bytes that decoded images of one of torchrun's processes may take: half of what is there."""
    return available_memory() // 2 // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def available_memory(proc=Path("/proc"), cgroups=Path("/sys/fs/cgroup")):
    """Bytes that Linux and the limits of this process' cgroups (v2) leave; elsewhere 8 GiB.

    A container or a SLURM job has such limits. Cached files that aren't in use count as free.
    """
    try:
        rows = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
        least = int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 8 << 30
    for folder in _own_cgroups(proc, cgroups):
        try:
            limit = int((folder / "memory.max").read_text())
            used = int((folder / "memory.current").read_text())
            rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            least = min(least, max(0, limit - used + int(rows["inactive_file"])))
        except (OSError, KeyError, ValueError):  # no limit: "max", or no such files
            continue
    return least


def _own_cgroups(proc, cgroups):
    """The folders of this process' cgroup and of its parents."""
    try:
        lines = (proc / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    names = [line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    return [cgroups / part for name in names for part in (name, *Path(name).parents)]


def main():
    parser = new_parser("Fetch a data set, check it, say what is there.")
    parser.add_argument("name", choices=DATASETS)
    parser.add_argument("--data-dir", type=file_path, default="data")
    parser.add_argument(
        "--skip-bad", action="store_true", help="leave out images that can't be decoded"
    )
    args = parser.parse_args()
    size = 64 if args.name == "folder" else None
    for split in ("train", "test"):
        found = load_images(args.name, args.data_dir, split, size, skip_bad=args.skip_bad)
        if found.split != split:
            print("no test split: scores will be of the training images")
            break
        print(
            f"{args.name} {found.split}: {len(found):,} images of "
            f"{found.size}x{found.size}x{found.channels}"
        )


if __name__ == "__main__":
    run_main(main)
