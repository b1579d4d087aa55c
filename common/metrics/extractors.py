"""Feature extractors for FID and its like: Inception, a LeNet of the data set, EfficientNet-Lite0.

Inception's FID compares with published ones. A LeNet's (lenet.py) and EfficientNet's
(efficientnet.py) compare only with themselves.
"""

import contextlib
import hashlib
import http.client
import math
import shlex
import socket
import sys
import threading
import urllib.parse
import urllib.request
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from ..errors import UserError
from ..runs import save_atomic
from . import efficientnet, inception, lenet
from .inception import InceptionTF
from .lenet import LeNet
from .scripted import Scripted

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = (
    f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"
)
# The full sum as torch-fidelity pins it; its first digits are in the file's name.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"

KINDS = ("auto", "lenet", "inception", "efficientnet")


def load_extractor(
    kind: str,
    dataset: str,
    device="cpu",
    data_dir="data",
    inception_weights=None,
    download: bool = True,
    labelled: bool = True,
) -> nn.Module | None:
    """The frozen feature extractor `kind`, one of KINDS or a file (scripted.py), in eval mode.

    It has `.kind` and `.name` (for metric keys), and maps images (B, 1 or 3, H, W) in [-1, 1]
    to features (B, D) and logits (B, classes). A LeNet belongs to a data set;
    `dataset="synthetic"` gives one of fixed random weights, for smoke tests. Draws nothing from the
    global random generators. Raises UserError if the weights are missing or damaged, or a LeNet is
    too inaccurate to be trusted.

    "auto" takes the first that can be had: a LeNet of this data set at hand; one trained at once,
    if the data set is `labelled`; Inception; EfficientNet. Where there is none it says so in a line
    and returns None.
    """
    data_dir = Path(data_dir).expanduser()
    if kind == "auto" and inception_weights is not None:
        kind = "inception"
    if kind == "auto":
        net = _first_at_hand(dataset, data_dir, download, labelled)
    elif kind == "lenet":
        net = _random_lenet() if dataset == "synthetic" else _trained_lenet(dataset, data_dir)
    elif kind == "inception":
        net = _inception(data_dir, inception_weights, download)
    elif kind == "efficientnet":
        net = _efficientnet()
    elif Path(kind).is_file():
        net = Scripted(kind)
    else:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    return None if net is None else net.eval().requires_grad_(False).to(device)


def _first_at_hand(dataset, data_dir, download, labelled):
    """What "auto" finds. A damaged file is an error all the same: it can be deleted, or named."""
    if dataset == "synthetic":
        return _random_lenet()
    missing = []
    try:
        if labelled and _lenet_file(dataset, data_dir) is None:
            return _lenet_trained_now(dataset, data_dir)
        if labelled:
            return _trained_lenet(dataset, data_dir)
        missing.append(f"{dataset} has no class labels in the split that is compared with")
    except lenet.Unfit as e:
        missing.append(str(e))
    if find_spec("pytorch_fid") is None:
        missing.append(f"Inception needs {inception.INSTALL}")
    elif (data_dir / INCEPTION_FILE).is_file():
        return _inception(data_dir, None, download)
    else:
        try:
            return _inception(data_dir, None, download and _answers(INCEPTION_URL))
        except UserError:
            missing.append("Inception's weights can't be downloaded")
    try:
        net = _efficientnet()
    except UserError:
        print(
            f"warning: no feature extractor: {'; '.join(missing)}. Only what needs none is "
            f"measured. For FID and its like: {efficientnet.INSTALL}; or --inception-weights "
            f"FILE, the file from {INCEPTION_URL}",
            file=sys.stderr,
        )
        return None
    print(f"features are {net.name}'s: {'; '.join(missing)}", file=sys.stderr)
    return net


def _build(make, state_dict=None, path=None):
    """A module without the initialisation, which would draw from the run's random generator."""
    with torch.device("meta"):
        net = make()
    net.to_empty(device="cpu")
    if state_dict is not None:
        try:
            net.load_state_dict(state_dict)
        except (RuntimeError, AttributeError, TypeError) as e:
            raise UserError(
                f"{path} holds no weights of {type(net).__name__}. Delete it or name another file"
            ) from e
    return net


def _random_lenet():
    net = _build(lambda: LeNet(name="lenet_random"))
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_in), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def _lenet_file(dataset, data_dir):
    """A data set's LeNet: the shipped weights, else those in the data directory, else None."""
    shipped = Path(__file__).parent / "weights" / f"lenet_{dataset}.pt"
    places = [shipped, lenet.weights_file(dataset, data_dir)]
    return next((place for place in places if place.is_file()), None)


def _trained_lenet(dataset, data_dir):
    train_it = f"python -m {__package__}.lenet --dataset {dataset} "
    train_it += f"--data-dir {shlex.quote(str(data_dir))}"
    path = _lenet_file(dataset, data_dir)
    if path is None:
        path = lenet.weights_file(dataset, data_dir)
        raise UserError(
            f"no LeNet weights for {dataset}: looked for {path}. Train it with: {train_it}"
        )
    saved = _load(path)
    try:
        state_dict, meta = saved["state_dict"], saved["meta"]
        shipped = path.parent == Path(__file__).parent / "weights"
        name = "lenet" if shipped else f"lenet_{_sha256(path)[:8]}"  # two networks, two keys
        shape = {key: meta[key] for key in ("channels", "size", "classes")} | {"name": name}
        accuracy = meta["accuracy"]
    except (KeyError, TypeError) as e:
        raise UserError(
            f"{path} is not a weights file of this LeNet. Delete it. Train it with: {train_it}"
        ) from e
    lenet.check_accuracy(
        accuracy,
        meta["classes"],
        f"the LeNet in {path}",
        f"Train it longer: {train_it} --epochs {2 * meta.get('epochs', 7)}",
    )
    return _build(lambda: LeNet(**shape), state_dict, path)


def _lenet_trained_now(dataset, data_dir):
    """A LeNet of a labelled data set that has none, kept in the data directory if it can be."""
    path = lenet.weights_file(dataset, data_dir)
    net, meta = lenet.fit(dataset, data_dir, why=f"there is no {path} yet: ")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_atomic({"state_dict": net.state_dict(), "meta": meta}, path, shared=True)
    except (OSError, UserError) as e:
        print(
            f"warning: the LeNet of {dataset} can't be kept ({cause(e)}) "
            "and is trained anew each time",
            file=sys.stderr,
        )
        lenet.check_accuracy(meta["accuracy"], meta["classes"], f"the LeNet of {dataset}")
        weights = b"".join(value.numpy().tobytes() for value in net.state_dict().values())
        net.name = f"lenet_{hashlib.sha256(weights).hexdigest()[:8]}"
        return net
    return _trained_lenet(dataset, data_dir)


def _efficientnet():
    state_dict, path = efficientnet.load_weights()
    return _build(efficientnet.EfficientNetLite0, state_dict, path)


def cause(error):
    return getattr(error, "strerror", None) or str(error)


def _inception(data_dir, weights, download):
    name = "inception_tf"
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(
                f"--inception-weights {path}: no such file. It can be had from {INCEPTION_URL}"
            )
        digest = _sha256(path)
        if digest != INCEPTION_SHA256:
            name = f"inception_{digest[:8]}"
            warnings.warn(
                f"{path} is not the FID weights file ({INCEPTION_FILE}): its numbers compare with "
                f"no published FID, and their keys say {name}",
                stacklevel=3,
            )
    else:
        path = data_dir / INCEPTION_FILE
        if not path.is_file():
            _download_inception(path, download)
        elif _sha256(path) != INCEPTION_SHA256:
            raise UserError(
                f"{path} is damaged (its sha256 is not {INCEPTION_SHA256[:8]}…). Delete it, then "
                f"run again or put the file from {INCEPTION_URL} there"
            )
    weights = _load(path)
    if not isinstance(weights, dict):
        raise UserError(f"{path} holds no weights of Inception. Delete it or name another file")
    return _build(lambda: InceptionTF(name), inception.rename(weights), path)


def _answers(url, seconds=5):
    """Whether a server can be reached in so many seconds, even if its name's look-up hangs."""
    if urllib.request.getproxies():  # the way there isn't a direct one
        return True
    connected = []

    def connect():
        with contextlib.suppress(OSError):
            host = urllib.parse.urlsplit(url).hostname
            socket.create_connection((host, 443), timeout=seconds).close()
            connected.append(host)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(connected)


def _download_inception(path, download):
    """Fetch the weights, checked, to `path`. Without a network it fails within seconds."""
    by_hand = (
        f"Download {INCEPTION_URL} by hand and put it at {path}, or name it with "
        "--inception-weights FILE; --extractor auto goes on without it"
    )
    if not download:
        raise UserError(f"no Inception weights at {path}. {by_hand}")
    try:
        if not _answers(INCEPTION_URL):
            raise OSError("the server does not answer")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            INCEPTION_URL, path, hash_prefix=INCEPTION_SHA256, progress=sys.stderr.isatty()
        )
    except (OSError, http.client.HTTPException, RuntimeError) as e:  # RuntimeError: another hash
        raise UserError(f"the Inception weights could not be downloaded ({e}). {by_hand}") from e


def _load(path):
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch.load has no common error class for damaged files
        raise UserError(
            f"{path} cannot be read as weights ({type(e).__name__}): it is damaged or foreign. "
            "Delete it or name another file"
        ) from e


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
