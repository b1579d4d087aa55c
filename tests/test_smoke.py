"""Every folder, as its README starts it: train, save, resume, evaluate, draw, export. Found by its train.py."""

import importlib
import json
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPO = Path(__file__).resolve().parent.parent
FOLDERS = sorted(path.parent.name for path in REPO.glob("*/train.py"))


def files(directory):
    return {
        str(p.relative_to(directory))
        for p in Path(directory).rglob("*")
        if "__pycache__" not in p.parts
    }


def test_tests_have_no_network():
    for address in (("192.0.2.1", 80), ("example.org", 80)):
        with pytest.raises(OSError, match="tests have no network"):
            socket.create_connection(address, timeout=1)
    with pytest.raises(ConnectionRefusedError):  # this machine is there
        socket.create_connection(("127.0.0.1", 1), timeout=1)


def test_folders_are_found():
    assert "began" in FOLDERS


@pytest.mark.parametrize("folder", FOLDERS)
def test_smoke(folder, python, here, monkeypatch):
    def succeeds(*words):
        done = python("-m", *words)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        return done

    source = files(REPO / folder) | files(REPO / "common")
    err = succeeds(f"{folder}.train", "--smoke", "--steps", 6, "--out", "X").stderr
    assert "run directory: X\n" in err
    after_six = files("X")
    assert {"args.json", "env.json", "log.jsonl", "curves.png", "last.pt"} <= after_six

    succeeds(f"{folder}.train", "--resume", "X", "--steps", 12)
    steps = [json.loads(line)["step"] for line in Path("X/log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 12
    assert {path.name for path in Path("X/samples").iterdir()} == {
        "step_00000006.png",
        "step_00000012.png",
    }

    succeeds(f"{folder}.eval", "--ckpt", "X/last.pt", "--n", 64)
    result = json.loads(Path("X/eval_12.json").read_text())
    assert result["step"] == 12 and result["metrics"] and result["train_args"]["smoke"] is True
    for path in Path("X").rglob("*.png"):
        with Image.open(path) as image:
            assert np.asarray(image).std() > 0, f"{path} is blank"
    assert not list(Path("X").rglob("*.tmp"))

    eval_main = importlib.import_module(
        f"{folder}.eval"
    ).main  # the rest here: a process costs seconds
    before = files("X")
    eval_main(["--ckpt", "X/last.pt", "--samples", "4", "--grid-out", "new/g.png"])
    with Image.open("new/g.png") as image:
        assert image.width > 8 and image.height > 8
    eval_main(["--ckpt", "X/last.pt", "--n", "5", "--export", "samples"])
    exported = files("samples")
    assert any(name.endswith(".npz") for name in exported)
    for name in exported:
        if name.endswith(".npz"):
            with np.load(f"samples/{name}") as arrays:
                assert all(len(array) == 5 for array in arrays.values())
    assert files("X") == before

    assert {p.name for p in here.iterdir()} <= {"X", "data", "new", "samples"}
    assert files(REPO / folder) | files(REPO / "common") == source
