"""No network, one thread, and the ways to start a script that several tests share."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))
torch.set_num_threads(1)  # two busy cores: and the same sums, in the same order, as the subprocesses below
LOCAL = ("localhost", "127.0.0.1", "::1", "", None)


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Any host but this one is as unreachable as on a machine without network."""
    def guard(function, host_of):
        def guarded(*args, **kwargs):
            host = host_of(*args)
            if host not in LOCAL:
                raise OSError(f"tests have no network: {host}")
            return function(*args, **kwargs)
        return guarded

    with pytest.MonkeyPatch.context() as patch:
        def peer(sock, address):
            return address[0] if isinstance(address, tuple) else None  # a str is a Unix socket's path

        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, guard(getattr(socket.socket, name), peer))
        for name in ("getaddrinfo", "gethostbyname"):
            patch.setattr(socket, name, guard(getattr(socket, name), lambda host, *rest: host))
        yield


@pytest.fixture
def watch_steps(monkeypatch):
    """watch_steps(module, name, look): look(optimiser) runs just before each step of what module.name makes.

    There a gradient is what it will be: averaged, and with whatever a later backward has added to it.
    """
    def watch(module, name, look):
        make = getattr(module, name)

        def make_watched(*args, **kwargs):
            optimiser = make(*args, **kwargs)
            step = optimiser.step

            def watched_step():
                look(optimiser)
                step()

            optimiser.step = watched_step
            return optimiser

        monkeypatch.setattr(module, name, make_watched)
    return watch


@pytest.fixture(scope="session")
def repo():
    return REPO


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def env(tmp_path_factory):
    """For subprocesses: `python` is this interpreter, one thread, the repository's modules found from anywhere."""
    bin_dir = tmp_path_factory.mktemp("bin")
    (bin_dir / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (bin_dir / "python").chmod(0o755)
    return os.environ | {"PATH": f"{bin_dir}:{os.environ['PATH']}", "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1",
                         "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def python(here, env):
    """python("-m", "began.train", …) in the empty current directory -> CompletedProcess with text."""
    return lambda *words: subprocess.run([sys.executable, *map(str, words)], cwd=here, env=env, capture_output=True,
                                         text=True, timeout=300)
