"""No network, one thread, no test lost, and the ways to start a script that several tests share."""

import os
import platform
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parent.parent
FOLDERS = {path.parent.name for path in REPO.glob("*/__init__.py")}
sys.path.insert(0, str(REPO))

from common.errors import say_once  # noqa: E402

torch.set_num_threads(
    1
)  # two busy cores: and the same sums, in the same order, as the subprocesses below
LOCAL = ("localhost", "127.0.0.1", "::1", "", None)

# As the markers in requirements.txt and requirements-dev.txt
NO_JETNET = sys.version_info >= (3, 13) or platform.machine() == "aarch64"
NO_PYTHIA = sys.version_info >= (3, 14) or (sys.platform, platform.machine()) != ("linux", "x86_64")
# A skipped test fails the session, so that none is lost in silence, but for these reasons.
NO_KATEX = not (REPO / "docs" / "node_modules").is_dir()  # `make read` installs it
MAY_SKIP = (
    ["CUDA|GPU"]
    + ["KaTeX"] * NO_KATEX
    + ["jetnet|numba|energyflow"] * NO_JETNET
    + ["pythia8mc"] * NO_PYTHIA
)
lost = []


def pytest_runtest_logreport(report):
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(re.search(pattern, reason) for pattern in MAY_SKIP):
        lost.append(f"{report.nodeid}: {reason}")


pytest_collectreport = pytest_runtest_logreport  # a whole file can skip itself


def pytest_sessionfinish(session, exitstatus):
    if lost and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    for line in lost:
        terminalreporter.write_line(f"LOST {line} (not in conftest.py's MAY_SKIP)", red=True)


@pytest.fixture(autouse=True)
def nothing_said_yet():
    """Whatever tests ran before: see `say_once`."""
    say_once.cache_clear()


def shared_state():
    """{name: value} of what later tests in this process would see, too."""
    ours = [module for name, module in sys.modules.items() if name.partition(".")[0] in FOLDERS]
    owners = {module.__name__: module for module in ours}
    for module in ours:
        classes = [value for value in vars(module).values() if isinstance(value, type)]
        owners |= {f"{each.__module__}.{each.__qualname__}": each for each in classes}
    return {
        "the working directory": os.getcwd(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's precision of matrix products": torch.get_float32_matmul_precision(),
        "torch's deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "SIGINT's handler": signal.getsignal(signal.SIGINT),
        "SIGTERM's handler": signal.getsignal(signal.SIGTERM),
        **{f"${name}": value for name, value in os.environ.items() if name[:6] != "PYTEST"},
        **{
            f"{place}.{name}": value
            for place, owner in owners.items()
            for name, value in vars(owner).items()
            if callable(value)
        },
    }


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """A test that changes or removes one of these fails here, not in one that runs later."""
    before = shared_state()
    yield
    after = shared_state()
    left = [name for name, value in before.items() if name not in after or after[name] != value]
    assert not left, f"changed for every later test: {', '.join(left)}"


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
            return (
                address[0] if isinstance(address, tuple) else None
            )  # a str is a Unix socket's path

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


@pytest.fixture
def figures_of(monkeypatch):
    """figures_of(module): a list of the figures that module.save_figure is given from then on."""

    def watch(module):
        figures = []

        def keep(figure, path):
            figures.append(figure)
            module.plt.close(figure)

        monkeypatch.setattr(module, "save_figure", keep)
        return figures

    return watch


@pytest.fixture
def grids_of(monkeypatch):
    """grids_of(module): a list of the images that module.save_grid is given from then on."""

    def watch(module):
        grids = []
        monkeypatch.setattr(module, "save_grid", lambda images, *a, **k: grids.append(images))
        return grids

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
    return os.environ | {
        "PATH": f"{bin_dir}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "GOMP_SPINCOUNT": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@pytest.fixture
def python(here, env):
    """python("-m", "began.train", …) in the empty current directory -> CompletedProcess with text."""
    return lambda *words: subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=here,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
