"""Pairs (x, y) of images: a task's on any image set, a folder's, or one of pix2pix's sets.

    pairs = load_pairs("deraining", "fashion-mnist", "data", size=64)
    x, y = pairs.batch(step, batch_size=4, seed=0, device=device)  # (4, 1, 64, 64) in [-1, 1]

A batch is a pure function of (seed, step): which pairs, their crops and flips, and their rain.
"""

import contextlib
import os
import shutil
import tarfile
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import UserError, say, say_once
from common.data import batch_indices, load_images
from common.folders import (
    BadImage,
    as_shown,
    folders_by_name,
    hash_of_names,
    image_kind,
    list_images,
    opened_image,
    say_if_deep,
    shape_as_shown,
    thread_pool,
    train_and_test,
)

from .tasks import TASKS

URL = "http://efrosgans.eecs.berkeley.edu/pix2pix/datasets/{}.tar.gz"
IN_MEMORY = 2 << 30  # bytes; larger sets are decoded a batch at a time


@dataclass(frozen=True)
class Pix2pixSet:
    """No checksum of these is published: they are checked by their numbers of images."""

    counts: dict
    direction: str


PIX2PIX_SETS = {
    "facades": Pix2pixSet({"train": 400, "val": 100, "test": 106}, "BtoA"),  # labels -> photograph
    "maps": Pix2pixSet({"train": 1096, "val": 1098}, "AtoB"),  # aerial photograph -> map
    "edges2shoes": Pix2pixSet({"train": 49825, "val": 200}, "AtoB"),
}


# --- what the scripts use


class Pairs:
    """size, channels: of x; y has as many channels. load_size: before a random crop to `size`."""

    def __init__(self, name, size, channels, load_size, flip):
        self.name = name
        self.size = size
        self.channels = channels
        self.load_size = load_size
        self.flip = flip

    def batch(self, step, batch_size, seed, device="cpu") -> tuple[Tensor, Tensor]:
        """Batch number `step`, cropped and flipped at random: x (B, C, size, size) and y."""
        indices = batch_indices(len(self), batch_size, seed, step)
        generators = [generator(0, seed, step, place) for place in range(batch_size)]
        images = self.stored(indices, device)
        return self.make(crop_and_flip(images, self.size, self.flip, generators), generators)

    def pairs_at(self, indices, device="cpu", seed=0) -> tuple[Tensor, Tensor]:
        """The pairs at `indices`, whole, not flipped; what is drawn depends on the index alone."""
        indices = torch.as_tensor(indices)
        images = self.stored(indices, device)
        if self.load_size != self.size:
            sides = (self.size, self.size)
            images = [F.interpolate(i, sides, mode="bilinear", antialias=True) for i in images]
        return self.make(images, [generator(1, seed, index) for index in indices.tolist()])


class TaskPairs(Pairs):
    """Pairs that a task of tasks.py makes of an ImageSet."""

    def __init__(self, task, images, size, flip):
        super().__init__(task, size, images.channels, images.size, flip)
        self.task = TASKS[task]
        self.images = images

    def __len__(self):
        return len(self.images)

    def identity(self):
        return self.images.identity()

    def to(self, device):
        self.images.to(device)
        return self

    def stored(self, indices, device):
        return [self.images.images_at(indices, device)]

    def make(self, images, generators):
        return self.task.make(images[0], generators)


class FilePairs(Pairs):
    """Pairs of files: (A, B), or (file, None) where A and B stand side by side."""

    def __init__(self, name, files, size, channels, load_size, flip, direction):
        super().__init__(name, size, channels, load_size, flip)
        self.files = files
        self.direction = direction
        self.images = None  # uint8 (N, 2, C, load_size, load_size)
        if len(files) * 2 * channels * load_size**2 <= IN_MEMORY:
            self.images = self.decoded(range(len(files)))

    def __len__(self):
        return len(self.files)

    def identity(self):
        files = [file for pair in self.files for file in pair if file is not None]
        return {"pairs": len(self), "hash of file names": hash_of_names(files)}

    def to(self, device):
        if self.images is not None:
            self.images = self.images.to(device)
        return self

    def decoded(self, indices):
        return torch.stack(list(thread_pool().map(self.decode, indices)))

    def decode(self, index):
        """uint8 (2, C, load_size, load_size): A and B."""
        a, b = self.files[index]
        if b is None:
            both = open_image(a)
            middle = both.width // 2
            halves = (
                both.crop((0, 0, middle, both.height)),
                both.crop((middle, 0, both.width, both.height)),
            )
        else:
            halves = open_image(a), open_image(b)
        return torch.stack([to_tensor(half, self.channels, self.load_size) for half in halves])

    def stored(self, indices, device):
        if self.images is None:
            both = self.decoded(indices.tolist())
        else:
            both = self.images[indices.to(self.images.device)]
        both = both.to(device).float() / 127.5 - 1
        return [both[:, 0], both[:, 1]]

    def make(self, images, generators):
        a, b = images
        return (a, b) if self.direction == "AtoB" else (b, a)


def load_pairs(
    task,
    dataset,
    data_dir,
    split="train",
    size=256,
    channels=None,
    jitter=True,
    flip=True,
    direction=None,
    download=True,
    limit=None,
    skip_bad=False,
):
    """Pairs of `task`: one of TASKS on an image set of common.data, or "pairs" that exist as files.

    dataset: for "pairs" one of PIX2PIX_SETS, or "folder": files side by side (A left, B right), or
    folders A and B with the same names. Held out is test/ or val/ beside train/, else every tenth
    pair; other folders of images beside each other are refused. channels: None is the files' own,
    1 luminance, 3 repeats grey. jitter, flip: the training split's random crops from 286/256 of the
    size (the authors') and mirroring. direction: AtoB, BtoA or None, the set's own. limit: at most
    so many pairs. skip_bad: a task leaves images out that can't be decoded. Raises UserError, which
    names a file at fault.
    """
    train = split == "train"
    load_size = round(size * 286 / 256) if jitter and train else size
    flip = flip and train  # departure 8
    if task in TASKS:
        if dataset in PIX2PIX_SETS:
            raise UserError(
                f"{dataset} holds pairs, but --task {task} makes pairs of single images: "
                "give --task pairs, or another --dataset"
            )
        if size % TASKS[task].multiple:
            raise UserError(
                f"{task} can't take {size} pixels: give a multiple of {TASKS[task].multiple}"
            )
        if size <= 1024 < load_size:
            raise UserError(
                f"--size {size}: random crops need images of {load_size}, 1024 is the most. "
                "Give --no-jitter, or a smaller size"
            )
        images = load_images(
            dataset, data_dir, split, load_size, channels, download, limit, skip_bad=skip_bad
        )
        if TASKS[task].colour and images.channels != 3:
            raise UserError(
                f"{task} needs colour images: {dataset} is grey, or --channels 1 made it so"
            )
        return TaskPairs(task, images, size, flip)
    if task != "pairs":
        raise UserError(f"unknown task {task!r}: choose one of {', '.join([*TASKS, 'pairs'])}")
    if dataset not in (*PIX2PIX_SETS, "folder"):
        raise UserError(
            f"{dataset} has no pairs: choose {', '.join(PIX2PIX_SETS)}, folder, or another task"
        )
    root = Path(data_dir).expanduser()
    if dataset in PIX2PIX_SETS:
        root = root / dataset
        if not root.is_dir():
            if not download:
                raise UserError(f"no {root}, and downloads are off. {by_hand(dataset, root)}")
            fetch(dataset, root)
        if wrong := wrong_count(dataset, root):
            raise UserError(
                f"{root}: {wrong}. Move it away to fetch it anew. {by_hand(dataset, root)}"
            )
        direction = direction or PIX2PIX_SETS[dataset].direction
    splits = find_pairs(root)
    if dataset == "folder" and splits["train"][0][1] is None:
        say_once(
            f"{root}: each file is cut into A, its left half, and B, its right half. Single images "
            f"need a --task of their own: {', '.join(TASKS)}"
        )
    channels = check_pairs(splits["train"] + splits["test"], channels)
    files = splits["train" if train else "test"][:limit]
    return FilePairs(dataset, files, size, channels, load_size, flip, direction or "AtoB")


def generator(*key) -> torch.Generator:
    """A CPU generator that is a function of whole numbers; negative ones differ from positive."""
    words = [word for number in key for word in (abs(number), int(number < 0))]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def crop_and_flip(images: list[Tensor], size, flip, generators) -> list[Tensor]:
    """The same random crop to size x size and mirroring of image i in every set of `images`."""
    room = images[0].shape[-1] - size
    results = [[] for _ in images]
    for i, g in enumerate(generators):
        top, left = torch.randint(room + 1, (2,), generator=g).tolist()
        mirrored = flip and torch.rand((), generator=g).item() < 0.5
        for result, image in zip(results, images):
            crop = image[i, :, top : top + size, left : left + size]
            result.append(crop.flip(-1) if mirrored else crop)
    return [torch.stack(result) for result in results]


# --- files


def find_pairs(root):
    """{"train": pairs, "test": pairs}, a pair being (A, B) or (file, None).

    Folders are found by name, in upper or lower case; test/ may be named as in common.folders.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}: give the folder that holds your pairs as --data-dir")
    sides = sides_in(root)
    splits = [split_in(side) for side in sides]
    if len(sides) == 2 and any(splits):  # A/train, B/train
        named = [(side / "train", side / "test") for side in sides]
        train, test = zip(*(split or names for split, names in zip(splits, named)))
    elif split := split_in(root):  # train/A, train/B, or train
        train, test = map(sides_in, split)
        if len(train) != len(test):
            raise UserError(f"{split[0]} and {split[1]}: A/ and B/ are needed in both, or in none")
    else:
        return held_out(root, sides)
    return {"train": pairs_in(*train), "test": pairs_in(*test)}


def sides_in(root):
    """[A, B], or [root] if it has neither of them: pairs then stand side by side in one file."""
    named = folders_by_name(root)
    if "a" in named or "b" in named:
        return [named.get("a", root / "A"), named.get("b", root / "B")]
    return [root]


def split_in(root):
    """The folders (train, test) in root, None if it has neither of them."""
    train, test = train_and_test(root)
    if train and not test:
        raise UserError(f"{train} has no test/ or val/ beside it: hold some pairs out")
    if test and not train:
        raise UserError(f"{test} has no train/ beside it: put the pairs to train on there")
    return (train, test) if train else None


def held_out(root, sides):
    """As find_pairs, of pairs that no folder splits: every tenth is for testing."""
    pairs = pairs_in(*sides)
    refuse_several_folders([a for a, _ in pairs])  # those of B have the same names
    if len(pairs) < 2:
        raise UserError(f"{root} holds a single pair: at least two are needed, one to test on")
    tests = set(range(9, len(pairs), 10)) or {len(pairs) - 1}
    train = [pair for i, pair in enumerate(pairs) if i not in tests]
    return {"train": train, "test": [pairs[i] for i in sorted(tests)]}


def pairs_in(a, b=None):
    """Pairs of one folder, side by side, or of two, of the same names but for the suffix."""
    return side_by_side(a) if b is None else partners(a, b)


def side_by_side(root):
    files = list_images(root)
    if not files:
        raise UserError(
            f"no images under {root}: put pairs there, A and B side by side or in A/ and B/"
        )
    refuse_several_folders(files)
    return [(file, None) for file in files]


def refuse_several_folders(files):
    """Else input/ beside target/ would be cut in half, and learn/ beside exam/ be trained on."""
    folders = sorted({file.parent for file in files})
    if len(folders) > 1:
        raise UserError(
            f"images in {folders[0]} and in {folders[1]}: can't tell which are pairs. Put them "
            "side by side into one folder, or into A/ and B/, with train/ and test/ above or below"
        )


def partners(a, b):
    """Files of the same name, but for the suffix, in two folders."""
    in_a = by_name(a)
    in_b = by_name(b)
    for mine, theirs, folder in ((in_a, in_b, b), (in_b, in_a, a)):
        alone = [file for name, file in mine.items() if name not in theirs]
        if alone:
            raise UserError(f"{alone[0]} has no partner in {folder}: add it, or move the file away")
    return [(file, in_b[name]) for name, file in in_a.items()]


def by_name(folder):
    """{path below the folder, without suffix: file} of its images."""
    files = list_images(folder) if folder.is_dir() else []
    if not files:
        raise UserError(f"no images under {folder}: folders A and B need files of the same names")
    found = {}
    for file in files:
        name = file.relative_to(folder).with_suffix("")
        if name in found:
            raise UserError(f"{file} and {found[name]} have one name: move one of them away")
        found[name] = file
    return found


def check_pairs(files, channels):
    """Channels of all pairs; a pair that does not fit is a UserError. Reads headers only."""
    kinds = {}
    for a, b in files:
        width, height, kinds[a] = header(a)
        if b is None:
            if width % 2:
                raise UserError(f"{a} is {width}x{height}: a pair side by side has an even width")
        else:
            *other, kinds[b] = header(b)
            if other != [width, height]:
                sizes = f"{width}x{height} and {other[0]}x{other[1]}"
                raise UserError(f"{a} and {b} are {sizes}: a pair has one size")
    say_if_deep(files[0][0].parent, list(kinds.values()))
    coloured = [file for file, kind in kinds.items() if kind == "colour"]
    grey = [file for file, kind in kinds.items() if kind != "colour"]
    if channels is None and coloured and grey:
        raise UserError(
            f"{grey[0]} is grey and {coloured[0]} is coloured: "
            "give --channels 3 to take grey as colour, 1 to take all as luminance"
        )
    return channels or (1 if grey else 3)


def header(file):
    """(width, height, `image_kind`) of an image as it is shown."""
    with without_skip_bad():
        height, width = shape_as_shown(file)
        return width, height, image_kind(file)


def open_image(file):
    """A decoded PIL image, as it is shown."""
    with without_skip_bad(), opened_image(file) as image:
        return as_shown(image)


@contextlib.contextmanager
def without_skip_bad():
    """A BadImage without its advice to give --skip-bad."""
    try:
        yield
    except BadImage as e:
        raise UserError(
            f"can't decode the image {e.file} ({e.reason}): replace it, or move it away"
        ) from None


def to_tensor(image, channels, size=None):
    """uint8 (C, H, W); with a size stretched to (C, size, size), bilinear with antialias."""
    from PIL import Image

    image = image.convert("L" if channels == 1 else "RGB")
    if size is not None:
        image = image.resize((size, size), resample=Image.Resampling.BILINEAR)
    pixels = np.array(image).reshape(image.height, image.width, channels)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def read_image(file, channels) -> Tensor:
    """(C, H, W) in [-1, 1] at its own size."""
    return to_tensor(open_image(file), channels).float() / 127.5 - 1


# --- pix2pix's sets


def by_hand(name, root):
    return f"By hand: unpack {URL.format(name)} so that {root}/train/*.jpg is there"


def wrong_count(name, root):
    """What is wrong with the numbers of images under `root`; an empty text if nothing is."""
    for split, count in PIX2PIX_SETS[name].counts.items():
        found = len(list_images(root / split)) if (root / split).is_dir() else 0
        if found != count:
            return f"{split}/ holds {found} images, not {count}"
    return ""


def fetch(name, root):
    """Download, unpack and count in a temporary folder beside, then rename: no half set is left."""
    url = URL.format(name)
    say(f"{name} is not in {root.parent}: fetching {url}")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root.parent) as tmp:
            archive = Path(tmp, f"{name}.tar.gz")
            with urllib.request.urlopen(url, timeout=10) as answer, archive.open("wb") as file:
                shutil.copyfileobj(answer, file)
            with tarfile.open(archive) as tar:
                tar.extractall(tmp, filter="data")
            if wrong := wrong_count(name, Path(tmp, name)):
                raise ValueError(wrong)
            try:
                os.replace(Path(tmp, name), root)
            except OSError:
                if not root.is_dir():  # else another process was faster
                    raise
    except Exception as e:  # noqa: BLE001  (network, proxy, disk, archive: the way out is the same)
        reason = " ".join(str(e).split()) or type(e).__name__
        raise UserError(f"can't get {name} from {url} ({reason}). {by_hand(name, root)}") from None
