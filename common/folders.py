"""Folders of images, and CelebA: which file is of which split and class; decoding."""

import contextlib
import functools
import hashlib
import os
import re
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from .download import HOMEPAGES
from .errors import UserError, say_once


IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".bmp",
    ".webp",
    ".gif",
    ".tif",
    ".tiff",
    ".pgm",
    ".ppm",
)


# pictures of other formats, and what often holds pictures
UNREAD_SUFFIXES = (
    ".heic",
    ".heif",
    ".avif",
    ".jp2",
    ".jxl",
    ".svg",
    ".dng",
    ".nef",
    ".cr2",
    ".arw",
    ".dcm",
    ".npy",
    ".npz",
    ".mp4",
    ".mov",
    ".zip",
    ".tar",
    ".gz",
)


# pixels of an image, for microscopes and satellites; PIL refuses more than twice as many
LARGEST = 2**28


TRAIN_FOLDERS = ("train", "training")


# the first that is there is the test split
TEST_FOLDERS = (
    "test",
    "testing",
    "val",
    "valid",
    "validation",
)

# beside a split's word in a folder's name, as in test_images
SAYS_NOTHING = ("set", "images", "image", "imgs", "img", "data")


class BadImage(UserError):
    """An image file that can't be decoded, or not without loss."""

    def __init__(self, file, reason):
        super().__init__(
            f"can't decode the image {file} ({reason}): replace it and go on with "
            "--resume, or start again with --skip-bad"
        )
        self.file = file
        self.reason = reason


def folder_files(data_dir, split):
    """(files, labels or None, classes, files of the training split) of a tree, sorted by path."""
    if not data_dir.is_dir():
        raise UserError(
            f"no folder {data_dir}: give the folder that holds your images as --data-dir"
        )
    found = list_images(data_dir)
    train, test = _split_folders(data_dir, found)
    train_files = files_below(train, found)
    classes = _classes(train, train_files)
    train_files, train_labels = _labelled(train, train_files, classes, train)
    if split == "train":
        return train_files, train_labels, classes, train_files
    if test == train:
        say_once(
            f"{data_dir} is not split into train/ and test/: the test split is the training images"
        )
        return train_files, train_labels, classes, train_files
    files, labels = _labelled(test, files_below(test, found), classes, train)
    return files, labels, classes, train_files


def list_images(root):
    """The image files below root, sorted; runs of ours and hidden files are left out."""

    def fail(e):
        raise UserError(
            f"can't look into {e.filename} ({e.strerror}): make it readable or move it away"
        )

    found, runs = [], []
    for folder, folders, names in os.walk(root, onerror=fail, followlinks=True):
        if {"args.json", "env.json"} <= set(names) and Path(folder) != root:
            runs.append(folder)
            folders.clear()
            continue
        found += [Path(folder, file) for file in names]
        on_the_way = [p for p in (Path(folder), *Path(folder).parents) if p.is_relative_to(root)]
        above = {path.resolve() for path in on_the_way} | {*root.resolve().parents}
        # a link to one of these would be walked round and round
        folders[:] = [name for name in folders if Path(folder, name).resolve() not in above]
    if runs:
        counted = _count(runs, "run")
        say_once(f"{root}: pictures of {counted} are left out, for example of {min(runs)}")
    shown = [f for f in found if not any(p.startswith(".") for p in f.relative_to(root).parts)]
    unread = Counter(f.suffix.lower() for f in shown if f.suffix.lower() in UNREAD_SUFFIXES)
    if unread:
        counts = ", ".join(f"{n:,} {suffix}" for suffix, n in sorted(unread.items()))
        say_once(f"{root}: files of formats that aren't read are left out, {counts}")
    return sorted(f for f in shown if f.suffix.lower() in IMAGE_SUFFIXES)


def files_below(root, files):
    below = [file for file in files if file.is_relative_to(root)]
    if not below:
        raise UserError(f"no images under {root}: put {', '.join(IMAGE_SUFFIXES)} files there")
    return below


def hash_of_names(files):
    """16 hex digits of the files' names below their common folder, in this order."""
    root = os.path.commonpath([file.parent for file in files])
    names = "\0".join(os.path.relpath(file, root) for file in files)
    return hashlib.sha256(os.fsencode(names)).hexdigest()[:16]


def folders_by_name(root):
    """{name in lower case: folder} of the folders in root, if there is a root."""
    paths = sorted(root.iterdir()) if root.is_dir() else []
    return {path.name.lower(): path for path in paths if path.is_dir()}


def train_and_test(root):
    """The folders of the two splits in root, None for one that is not there."""
    by_name = folders_by_name(root)
    train = next((by_name[name] for name in TRAIN_FOLDERS if name in by_name), None)
    test = next((by_name[name] for name in TEST_FOLDERS if name in by_name), None)
    return train, test


def _split_folders(data_dir, found):
    """The folders of the training and the test split: twice data_dir where it is not split."""
    train, test = train_and_test(data_dir)
    used = {_class_of(data_dir, file) for file in found} - {None}  # first-level folders with images
    if train and test:
        line = f"{data_dir}: training images from {train.name}/, test images from {test.name}/"
        unused = [f for f in found if not f.is_relative_to(train) and not f.is_relative_to(test)]
        if unused:
            example = unused[0].relative_to(data_dir)
            line += f". Not used: {_count(unused, 'image')} elsewhere, for example {example}"
        say_once(line)
        return train, test
    if train and used == {train.name}:
        return train, train
    if used and all(name.lower() in TEST_FOLDERS for name in used):
        raise UserError(
            f"{data_dir} has {', '.join(sorted(used))} but no train: put the training images "
            f"into {data_dir / 'train'}, or give {data_dir / min(used)} as --data-dir"
        )
    _refuse_inner_splits(data_dir, found)
    _refuse_split_names(data_dir, used)
    if train:
        say_once(f"no test/ or val/ in {data_dir}: {train.name}/ is one of its classes")
    if test and test.name in used:
        say_once(f"no train/ in {data_dir}: {test.name}/ is one of its classes")
    return data_dir, data_dir


def _refuse_split_names(data_dir, names):
    """Else seg_train/ and seg_test/, or train/ and test_set/, would be two classes."""
    kinds = {"train": TRAIN_FOLDERS, "test": TEST_FOLDERS}
    word_and_set = rf"({'|'.join(TRAIN_FOLDERS + TEST_FOLDERS)})set"
    rests = {kind: {} for kind in kinds}  # what is left of a name without its word for the split
    for name in sorted(names):
        parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])", " ", name)  # trainA
        words = re.split(r"[\W_]+", re.sub(word_and_set, r"\1 set", parted.lower()))
        for kind, splits in kinds.items():
            for word in set(words).intersection(splits):
                rest = tuple(w for w in words if w not in (word, *SAYS_NOTHING))
                rests[kind][rest] = name
    for rest in sorted(rests["train"].keys() & rests["test"].keys()):
        train, test = rests["train"][rest], rests["test"][rest]
        raise UserError(
            f"{data_dir} has {train} and {test}, which look like splits, not classes: rename them "
            f"to train and test, or give --data-dir {data_dir / train}. If they are classes, "
            "rename one of them"
        )


def _refuse_inner_splits(data_dir, found):
    """Else a tree one level too high, data_dir/NAME/{train,test}, would train on test images."""
    inner = {}
    for file in found:
        parts = file.relative_to(data_dir).parts
        if len(parts) > 2:
            inner.setdefault(parts[0], set()).add(parts[1])
    for name, names in sorted(inner.items()):
        lower = {each.lower() for each in names}
        if lower.intersection(TRAIN_FOLDERS) and lower.intersection(TEST_FOLDERS):
            raise UserError(
                f"{data_dir / name} is split into {', '.join(sorted(names))}: "
                f"give --data-dir {data_dir / name}, or move them up into {data_dir}"
            )
        _refuse_split_names(data_dir / name, names)


def _class_of(root, file):
    """Name of the folder in root that holds the file, None if root itself does."""
    parts = file.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def _classes(root, files):
    """Names of the classes of a training split, [] if it has no labels."""
    names = [_class_of(root, file) for file in files]
    classes = sorted(set(names) - {None})
    strays = names.count(None)
    if len(classes) == 1 and not strays:
        say_once(f"{root} has one class folder, {classes[0]}: its images are used without labels")
        return []
    if classes and strays and (len(classes) == 1 or 2 * strays > len(files)):
        say_once(
            f"{_count(files, 'image')} in {root}, {strays} of them in no class folder: all are "
            "used, without labels"
        )
        return []
    if classes:
        shown = [f"{name} ({names.count(name):,})" for name in classes[:6]]
        more = ", …" if len(classes) > len(shown) else ""
        say_once(f"{root}: {len(classes):,} classes, {', '.join(shown)}{more}")
    return classes


def _labelled(root, files, classes, train):
    """(files, labels or None) of a split in root, by the training split's classes."""
    names = [_class_of(root, file) for file in files]
    if not classes:
        return files, None
    if unknown := sorted(set(names) - {None, *classes}):
        raise UserError(
            f"{root} has the class {unknown[0]}, which {train} lacks: it has "
            f"{', '.join(classes)}. Rename or remove {root / unknown[0]}"
        )
    kept = [file for file, name in zip(files, names) if name is not None]
    if not kept:
        say_once(f"no class folders in {root}: its images have no labels")
        return files, None
    if strays := [file for file, name in zip(files, names) if name is None]:
        say_once(
            f"warning: {_count(strays, 'image')} beside the class folders of {root} left out, "
            f"for example {strays[0].name}: only images in class folders have a label"
        )
    number = {name: i for i, name in enumerate(classes)}
    return kept, torch.tensor([number[name] for name in names if name is not None])


def _count(things, word):
    return f"{len(things):,} {word}" + "s" * (len(things) != 1)


def celeba_files(data_dir, split):
    """(files, None, [], files) of list_eval_partition.txt's split or, without it, by position."""
    roots = [data_dir / "celeba/img_align_celeba", data_dir / "img_align_celeba"]
    root = next((r for r in roots if r.is_dir()), None)
    if root is None:
        raise UserError(
            f"no CelebA in {roots[0]} or {roots[1]}. It can't be downloaded by a script: get "
            f"img_align_celeba.zip from {HOMEPAGES['celeba']} and unpack it to {roots[0]}/*.jpg"
        )
    names = sorted(
        name
        for name in os.listdir(root)
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    )
    partition = root.parent / "list_eval_partition.txt"
    if partition.exists():
        wanted = {"train": "0", "test": "2"}[split]
        rows = map(str.split, partition.read_text().splitlines())
        listed = {row[0] for row in rows if row[1:] == [wanted]}
        if missing := sorted(listed.difference(names)):
            say_once(
                f"warning: {len(missing):,} of the {len(listed):,} {split} images that {partition} "
                f"lists are no image files in {root}, for example {missing[0]}. They are left out"
            )
        names = sorted(listed.intersection(names))
    else:
        names = names[:162770] if split == "train" else names[182637:]
    files = [root / name for name in names]
    if not files:
        raise UserError(
            f"no images of CelebA's {split} split in {root}: "
            "unpack all 202,599 of img_align_celeba.zip there"
        )
    return files, None, [], files


def attempt(function, things, title):
    """[what function(thing) returns, or the BadImage that it raises], by the pool's threads."""

    def result_of(thing):
        try:
            return function(thing)
        except BadImage as e:
            return e

    done = thread_pool().map(result_of, things)
    if len(things) > 2000:
        from tqdm import tqdm

        done = tqdm(done, total=len(things), desc=title, unit="image", disable=None)
    return list(done)


def report_bad(bad, n, data_dir, skip_bad):
    """One line for all: an error, or with skip_bad a warning if any image is left.

    skip_bad None: where there is no such flag.
    """
    listed = ", ".join(f"{e.file.relative_to(data_dir)} ({e.reason})" for e in bad[:5])
    listed += f" and {len(bad) - 5:,} more" * (len(bad) > 5)
    line = f"{len(bad):,} of {n:,} images in {data_dir} can't be decoded: {listed}"
    if len(bad) == n:
        raise UserError(f"{line}. None is left: put images there that open in a viewer")
    if not skip_bad:
        flag = "" if skip_bad is None else ", or leave them out with --skip-bad"
        raise UserError(f"{line}. Replace or remove them{flag}")
    say_once(f"warning: {line}. They are left out")


def channels_of(root, files, channels=None):
    """`channels`; none: 3 if any of the files in root is in colour, else 1.

    Says so where not all are alike, and where some have 16 bits.
    """
    kinds = attempt(image_kind, files, "looking at headers")
    say_if_deep(root, kinds)
    if channels is not None:
        return channels
    coloured = kinds.count("colour")
    grey = kinds.count("grey") + kinds.count("grey, 16 bits")
    if coloured and grey:
        say_once(
            f"grey images among colour ones in {root}: {grey:,} of {len(kinds):,}; all are taken "
            "as colour (--channels 1: as grey)"
        )
    return 1 if grey and not coloured else 3


def say_if_deep(data_dir, kinds):
    """Say that images whose `image_kind` is 16-bit grey lose depth."""
    if deep := kinds.count("grey, 16 bits"):
        say_once(
            f"16-bit grey images in {data_dir}: {deep:,} of {len(kinds):,}, rounded to 8 bits "
            "(0 is black, 65535 white)"
        )


def image_kind(file):
    """ "grey", "grey, 16 bits" or "colour" from a file's header (and palette). Raises BadImage."""
    with opened_image(file) as image:
        if image.mode in ("P", "PA"):
            palette = image.getpalette() or []
            return "grey" if palette[0::3] == palette[1::3] == palette[2::3] else "colour"
        if image.mode.startswith("I;16"):
            return "grey, 16 bits"
        return "grey" if image.mode in ("1", "L", "LA") else "colour"


def shape_as_shown(file):
    """(height, width) of an image as `as_shown` has it, from its header. Raises BadImage."""
    with opened_image(file) as image:
        # without the condition PNGs would be decoded to look for it
        exif = image.getexif() if "exif" in image.info else {}
        lies = exif.get(0x0112, 1) >= 5  # an orientation that turns by a quarter
        return image.size if lies else image.size[::-1]


@contextlib.contextmanager
def opened_image(file):
    """A PIL image of which only the header has been read. BadImage if it or decoding fails."""
    from PIL import Image, UnidentifiedImageError

    if Image.MAX_IMAGE_PIXELS != LARGEST:
        Image.MAX_IMAGE_PIXELS = LARGEST
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    try:
        with Image.open(file) as image:
            if image.mode in ("I", "F"):  # of no fixed range: convert() would clip it to white
                raise BadImage(file, "32 bits a pixel, or a PGM of 16: make a PNG of 8 or 16")
            yield image
    except BadImage:
        raise
    except Image.DecompressionBombError:
        raise BadImage(file, "more than 536 million pixels: cut it into tiles") from None
    except UnidentifiedImageError:  # its words are the path again
        raise BadImage(file, "not an image" if file.stat().st_size else "empty") from None
    except Exception as e:  # PIL raises OSError, SyntaxError, ValueError, struct.error, …
        reason = getattr(e, "strerror", None) or " ".join(str(e).split()) or type(e).__name__
        raise BadImage(file, reason) from None


def as_shown(image):
    """A copy of a PIL image, upright, on white where it is transparent, 16-bit grey as 8 bits."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)  # photographs from telephones lie on their side
    if image.mode.startswith("I;16"):
        deep = np.asarray(image, np.uint32)
        grey = ((deep + 128) // 257).astype(np.uint8)
        if "transparency" in image.info:  # the grey value that is transparent
            grey[deep == image.info["transparency"]] = 255
        return Image.fromarray(grey)
    if image.has_transparency_data:  # what is under it may be anything, often black
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def decode(file, size, channels):
    """uint8 (channels, size, size): the largest centred square of the image as it is shown.

    Resized bilinearly with antialias. size None: (channels, H, W), the whole image as it is.
    Raises BadImage.
    """
    from PIL import Image

    with opened_image(file) as image:
        image = as_shown(image)
        if size is None:
            image = image.convert("L" if channels == 1 else "RGB")
            pixels = np.array(image).reshape(image.height, image.width, channels)
            return torch.from_numpy(pixels).permute(2, 0, 1)
        side = min(image.size)
        left = (image.width - side) // 2
        top = (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        image = image.convert("L" if channels == 1 else "RGB")
        image = image.resize((size, size), resample=Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image).reshape(size, size, channels)).permute(2, 0, 1)


@functools.lru_cache(maxsize=1)
def thread_pool():
    return ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1))
