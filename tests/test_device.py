"""Devices, random generators, several processes, torchvision."""

import contextlib
import functools
import importlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from began import pretrained, train
from bigan.features import auroc, linear_probe, one_nn_accuracy
from common import torchvision_cpu
from common.cli import UserError, run_main
from common.device import autocast, bf16_if_fast, check_batch_norm, choose_device
from common.distributed import average, average_gradients, init_processes, part, shard
from common.torchvision_cpu import import_torchvision
from common.rng import rng_state, seed_all, set_rng_state, step_rng
from common.runs import read_log
from common.metrics import jets as jet_scores
from common.toys import mixture
from common.metrics.toy import mmd2, mode_metrics

from .apple import APPLE, apple_device
from .gpu_run import VARIANTS
from .helpers import FOLDERS, PICTURES, smoke_run

# --- choice


@pytest.mark.parametrize("name", ["tpu", "", "cpu:0", "cuda:x", "mps:0", "CPU"])
def test_unknown_devices_are_refused(name):
    with pytest.raises(UserError, match="must be auto, cpu, cuda, cuda:N or mps"):
        choose_device(name)


def test_absent_devices_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(UserError, match=f"--device {name}: .*--device cpu"):
            choose_device(name)


def test_gpus_are_chosen_by_number_or_local_rank(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert choose_device("auto") == torch.device("cuda", 0) and choose_device(
        "cuda:1"
    ) == torch.device("cuda", 1)
    assert current == [0, 1]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"cuda:2: this machine has 2 GPU\(s\)"):
        choose_device("cuda:2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(
        UserError, match="cuda:1: each process takes its own GPU. Give --device cuda"
    ):
        choose_device("cuda:1")
    assert choose_device("cuda") == torch.device("cuda", 1)


def test_several_processes_on_an_apple_gpu_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="^--device mps: an Apple GPU .* Give --device cpu$"):
        init_processes(torch.device("mps"))


# --- bf16


@pytest.fixture
def gpu(monkeypatch):
    """gpu(name, bf16): one GPU, that has bf16 or only what torch calls emulation. No CPU has it."""

    def make(name, bf16):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation=True: bf16 or including_emulation,
        )

    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    return make


QUICK_BF16 = ["began", "bigan", "cagan"]


@pytest.mark.parametrize("folder", QUICK_BF16)
def test_quick_takes_bf16_where_the_gpu_has_it(folder, gpu, capsys):
    parse_args = importlib.import_module(f"{folder}.train").parse_args
    gpu("NVIDIA A100", True)
    assert parse_args(["--quick"]).amp == "bf16" and parse_args([]).amp == "off"
    assert parse_args(["--quick", "--device", "cpu"]).amp == "off"  # this CPU hasn't
    assert parse_args(["--quick", "--amp", "off"]).amp == "off"
    gpu("Tesla T4", False)
    assert "bf16 convolutions" not in capsys.readouterr().err
    assert parse_args(["--quick"]).amp == "off"
    words = capsys.readouterr().err
    assert words.count("Tesla T4 has no bf16 convolutions: --amp stays off\n") == 1


def test_no_other_preset_chooses_bf16():
    for folder in FOLDERS:
        for name, value in vars(importlib.import_module(f"{folder}.train")).items():
            if name.isupper() and isinstance(value, dict) and "amp" in value:
                assert value["amp"] is bf16_if_fast and folder in QUICK_BF16, f"{folder}: {name}"


def test_reduced_figures_take_bf16_where_the_gpu_has_it(gpu, monkeypatch, tmp_path):
    from cagan import reproduce

    taken = []
    monkeypatch.setattr(reproduce, "sweep", lambda *args: taken.append(args[-1]) or [])
    for name, bf16 in (("NVIDIA A100", True), ("Tesla T4", False)):
        gpu(name, bf16)
        with pytest.raises(SystemExit):
            reproduce.main(["--reduced", "--part", "0/1", "--out", str(tmp_path)])
    assert [flags[flags.index("--amp") + 1] for flags in taken] == ["bf16", "off"]


@pytest.mark.parametrize("folder", ["began", "bigan"])
def test_all_parts_of_a_reduced_table_have_one_amp(folder, gpu, monkeypatch, tmp_path):
    """The machines of its parts may differ: the settings say which bf16 or fp32 all runs have."""
    reproduce, taken = importlib.import_module(f"{folder}.reproduce"), []
    monkeypatch.setattr(reproduce, "sweep", lambda *args: taken.append(args[3]) or [])
    tables = {"bigan": [["--table"], ["--toy"]]}.get(folder, [[]])
    for name, bf16 in (("NVIDIA A100", True), ("Tesla T4", False)):
        gpu(name, bf16)
        for table in tables:
            for more in ([], ["--reduced"]):
                with pytest.raises(SystemExit):
                    reproduce.main([*table, *more, "--part", "0/1", "--out", str(tmp_path)])
    found = [getattr(args, "train_amp", None) for args in taken]
    toys = [None, None] * (len(tables) - 1)  # whose --quick has no --amp
    assert found == [None, "bf16", *toys, None, "off", *toys]


@pytest.mark.parametrize("script", ["began.train", "sagan_wgangp.reproduce", "pan.eval"])
def test_bf16_is_refused_on_a_gpu_without(script, gpu, here):
    from common.arguments import EvalArgs, parse_args

    module = importlib.import_module(script)
    table = getattr(module, "Args", EvalArgs)
    gpu("Tesla T4", False)
    words = "--amp bf16: Tesla T4 has no bf16 convolutions.*Give --amp off"
    with pytest.raises(UserError, match=words):
        parse_args(table, "doc", ["--amp", "bf16"])
    assert parse_args(table, "doc", ["--amp", "bf16", "--device", "cpu"]).amp == "bf16"
    gpu("NVIDIA A100", True)
    assert parse_args(table, "doc", ["--amp", "bf16"]).amp == "bf16"


def test_a_run_in_bf16_can_go_on_without_the_gpu(gpu, tmp_path):
    """--amp off would be another run, and is refused."""
    gpu("Tesla T4", False)
    (tmp_path / "args.json").write_text(json.dumps(vars(train.Args(amp="bf16"))))
    resume = ["--resume", str(tmp_path)]
    words = (
        "--amp bf16: Tesla T4 has no bf16 .*Go on with a GPU that has them, or with --device cpu"
    )
    with pytest.raises(UserError, match=words):
        train.parse_args(resume)
    assert train.parse_args([*resume, "--device", "cpu"]).amp == "bf16"
    with pytest.raises(UserError, match="--amp off: the run in .* was started with bf16"):
        train.parse_args([*resume, "--amp", "off"])


# --- randomness


def test_step_rng_is_a_pure_function_of_seed_and_step():
    def draw(seed, step):
        return tuple(torch.randn(4, generator=step_rng(seed, step)).tolist())

    pairs = [
        (seed, step) for seed in (-1, 0, 1, 2, 2**31, 2**32 - 1) for step in (*range(50), 10**9)
    ]
    first = [draw(*pair) for pair in pairs]
    torch.manual_seed(5)
    assert [draw(*pair) for pair in reversed(pairs)][::-1] == first
    assert len(set(first)) == len(pairs)


def test_step_rng_draws_nothing_from_the_global_generators():
    before = rng_state()
    step_rng(0, 1)
    assert str(rng_state()) == str(before)


def draws():
    return [
        random.random(),
        random.gauss(0, 1),
        np.random.rand(),
        np.random.randn(),
        *torch.randn(3).tolist(),
    ]


def test_rng_state_round_trip(tmp_path):
    seed_all(3)
    random.gauss(0, 1), np.random.randn(), torch.randn(3)  # leave half of a pair of normals behind
    torch.save(rng_state(), tmp_path / "rng.pt")
    first = draws()
    assert draws() != first
    set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert draws() == first


def test_each_process_restores_the_generator_of_its_own_gpu(monkeypatch):
    """To the state of process 0's, which is saved."""
    gpus, mine = {0: torch.tensor([7]), 1: torch.tensor([7])}, [0]
    fakes = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_rng_state": lambda: gpus[mine[0]],
        # of process 0: it draws nothing on the other's GPU
        "get_rng_state_all": lambda: [gpus[0], torch.tensor([0])],
        "set_rng_state": lambda state: gpus.update({mine[0]: state}),
        "set_rng_state_all": lambda states: gpus.update(enumerate(states)),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    saved = rng_state()
    for mine[0] in (0, 1):
        gpus[mine[0]] = torch.tensor([0])  # as seeded anew
        set_rng_state(saved)
        assert gpus[mine[0]] == 7


@pytest.mark.parametrize("seed", [0, -1, 2**40])
def test_seed_all_fixes_every_generator(seed):
    seed_all(seed)
    first = draws()
    seed_all(seed + 1)
    assert all(a != b for a, b in zip(draws(), first))
    seed_all(seed)
    assert draws() == first


# --- several processes


def test_without_torchrun_nothing_is_shared(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert init_processes(torch.device("cpu")) == (0, 1) and not dist.is_initialized()
    batch, net = torch.randn(7, 2), torch.nn.Linear(2, 1)
    net(batch).sum().backward()
    grads = [p.grad.clone() for p in net.parameters()]
    average_gradients(net)
    assert shard(batch) is batch and all(
        torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads)
    )
    value = net(batch).mean()
    assert torch.equal(average(value), value) and not average(value).requires_grad


@pytest.fixture
def two_processes(monkeypatch):
    """We are rank 1 of 2; the other one's tensors are 3 times ours."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "all_reduce", lambda x: x.mul_(4))


@pytest.mark.parametrize("folder", ["began", "bigan", "cagan", "mdma", "pan", "sagan_wgangp"])
def test_a_batch_that_cannot_be_split_is_refused_before_anything_is_written(
    tmp_path, monkeypatch, folder
):
    monkeypatch.setenv("WORLD_SIZE", "2")
    train = importlib.import_module(f"{folder}.train")
    with pytest.raises(UserError, match="--batch-size 7 can't be split evenly over 2 processes"):
        train.main(["--smoke", "--batch-size", "7", "--out", str(tmp_path / "r")])
    assert not (tmp_path / "r").exists()


def test_shards_and_averages(two_processes):
    assert shard(torch.arange(6)).tolist() == [3, 4, 5]
    assert part(3) == slice(1, 3) and part(3, 0) == slice(0, 1) and part(6) == slice(3, 6)
    with pytest.raises(UserError, match="--batch-size 7 can't be split evenly over 2 processes"):
        shard(torch.arange(7))
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    net[1].bias.requires_grad_(False)  # a parameter without .grad
    net(torch.randn(4, 2)).sum().backward()
    grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    average_gradients(net)
    for p, g in zip(net.parameters(), grads):
        torch.testing.assert_close(p.grad, 2 * g)  # (g + 3g) / 2
    assert average(torch.tensor(3.0)) == 6


# --- BatchNorm and one sample


def test_one_sample_is_refused_where_batchnorm_sees_one_value_a_channel():
    flat = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).eval()
    maps = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    before = str(flat.state_dict()), str(maps.state_dict()), str(rng_state())
    check_batch_norm("--batch-size", 1, 1, (maps, (1, 4, 4)))  # a map of 2x2 has four values
    check_batch_norm("--batch-size", 2, 1, (flat, (3,)))
    check_batch_norm("--batch-size", 4, 2, (flat, (3,)))
    words = "^--batch-size 1: BatchNorm needs two samples per process. Give --batch-size 2 or more$"
    with pytest.raises(UserError, match=words):
        check_batch_norm("--batch-size", 1, 1, (maps, (1, 4, 4)), (flat, (3,)))
    with pytest.raises(UserError, match="^--n 1: .* Give --n 2 or more$"):
        check_batch_norm("--n", 1, 1, (maps, (1, 3, 3)))  # a map of 1x1
    with pytest.raises(
        UserError, match="^--batch-size 3 over 3 processes: .* Give --batch-size 6 or more$"
    ):
        check_batch_norm("--batch-size", 3, 3, (flat, (3,)))
    assert (
        not flat.training
        and (str(flat.state_dict()), str(maps.state_dict()), str(rng_state())) == before
    )
    with pytest.raises(RuntimeError):
        check_batch_norm("--batch-size", 1, 1, (flat, (4,)))  # other mistakes are not hidden


RESNET = [
    "--dataset",
    "synthetic",
    "--encoder",
    "resnet18",
    "--encoder-weights",
    "none",
    "--width",
    "4",
]
TOY = ["--dataset", "8gaussians", "--width-g", "8", "--width-d", "8"]
TOY_25 = ["--dataset", "25gaussians", "--width", "8"]


@pytest.mark.parametrize(
    "folder, flag, words",
    [
        ("began", "--batch-size", [*RESNET, "--size", "32"]),
        ("bigan", "--batch-size", ["--smoke"]),
        ("bigan", "--batch-size", ["--smoke", "--arch", "conv"]),
        ("bigan", "--batch-size", TOY_25),
        ("egan", "--batch-size", TOY),
        ("egan", "--eval-batch", TOY),
    ],
)
def test_every_folder_refuses_one_sample_per_process_before_it_makes_a_run(
    here, monkeypatch, folder, flag, words
):
    module = importlib.import_module(f"{folder}.train")
    for world in (1,) if folder == "egan" else (1, 2):  # all of E-GAN's take whole batches
        monkeypatch.setattr(
            module, "init_processes", lambda *given, world=world: (0, world), raising=False
        )
        with pytest.raises(
            UserError, match=f"^{flag} {world}( over 2 processes)?: BatchNorm needs two samples"
        ):
            module.main([*words, flag, str(world), "--steps", "1", "--out", "x"])
        assert not Path("x").exists()


@pytest.mark.parametrize(
    "folder, words",
    [
        ("began", ["--smoke"]),
        ("began", ["--smoke", "--arch", "berthelot"]),
        ("egan", [*TOY, "--d-norm", "none"]),
        ("cagan", ["--smoke", "--norm", "batch"]),
        ("sagan_wgangp", ["--smoke", "--method", "gan"]),
    ],
)
def test_one_sample_trains_where_it_can(here, monkeypatch, folder, words):
    """Without BatchNorm, or on maps larger than 1x1."""
    module = importlib.import_module(f"{folder}.train")
    for name in ("curves", "save_grid", "draw_samples", "densities"):
        monkeypatch.setattr(module, name, lambda *args, **kwargs: None, raising=False)
    assert module.main([*words, "--batch-size", "1", "--steps", "2", "--out", "x"])["step"] == 2


def two_on_one_node(words, here, env):
    """What torchrun says that starts two processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node=2", *words],
        cwd=here,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def one_on_each_of_two_nodes(words, here, env):
    """What two torchruns say that find each other over the network, here the loopback."""
    port = free_port()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    nodes = [
        subprocess.Popen(
            [*torchrun, f"--node-rank={node}", *words],
            cwd=here,
            env=env | {"GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(2)
    ]
    try:
        said = [node.communicate(timeout=300)[1] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "run directory" not in said[1]
    return "".join(said)


@pytest.mark.parametrize("start", [two_on_one_node, one_on_each_of_two_nodes])
def test_two_processes_train_as_one(start, here, env, monkeypatch):
    """torchrun with 2 processes and one process on the whole batch reach the same weights to 1e-6, a hundredth of
    one Adam step (1e-4): the sums differ in order only. Only rank 0 writes."""
    words = [
        "--smoke",
        "--arch",
        "berthelot",
        "--size",
        "16",
        "--width",
        "4",
        "--z-dim",
        "4",
        "--code-dim",
        "8",
        "--batch-size",
        "8",
        "--steps",
        "3",
        "--log-every",
        "1",
        "--lambda-k",
        "0.5",
    ]
    said = start(["-m", "began.train", *words], here, env)
    directories = list(Path("runs/began").iterdir())
    assert (
        len(directories) == 1 and said.count("run directory: ") == 1 and "over 2 processes" in said
    )
    two = directories[0]
    assert not list(two.rglob("*.tmp")) and {p.name for p in Path().iterdir()} <= {"runs", "data"}
    log = [json.loads(line) for line in (two / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [1, 2, 3]

    monkeypatch.setattr(train, "draw_curves", lambda *args, **kwargs: None)
    last = train.main([*words, "--out", "one"])
    ours, theirs = (
        torch.load(d / "last.pt", weights_only=True)["state"] for d in (Path("one"), two)
    )
    for name in ("G", "D"):
        torch.testing.assert_close(theirs[name], ours[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(theirs["k_t"], ours["k_t"], rtol=0, atol=1e-6)
    assert ours["k_t"] > 0.01
    for key in ("L_x", "L_G", "L_D", "k", "M"):
        assert log[-1][key] == pytest.approx(last[key], abs=1e-5)


def forked(main, rank, port):
    """A child that calls main(rank), as process `rank` of two, and says what it says into err<rank>."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.alarm(200)  # a hang ends by it
        sys.stderr = open(f"err{rank}", "w", buffering=1)
        os.environ.update(WORLD_SIZE="2", RANK=str(rank), MASTER_ADDR="127.0.0.1")
        os.environ["MASTER_PORT"] = str(port)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
        run_main(lambda: main(rank))
        code = 0
    except SystemExit as e:
        code = e.code
    finally:
        os._exit(code)


@pytest.mark.parametrize(
    "which, words",
    [
        ("flags", "--encoder-weights: imagenet in process 0, none (imagenet could not be had) in "),
        ("data", "images: 512 in process 0, 500 in process 1. "),
        ("steps", "steps done: 2 in process 0, 3 in process 1. "),
    ],
)
def test_processes_of_one_run_need_the_same_flags_data_and_step(here, monkeypatch, which, words):
    """Each says so and ends with exit code 2, and no run directory is made."""
    monkeypatch.setattr(train, "draw_curves", lambda *args, **kwargs: None)
    flags = ["--smoke", "--size", "8", "--width", "4"]
    if which == "steps":
        for steps in (2, 3):
            train.main([*flags, "--steps", str(steps), "--out", str(steps)])
    before = {path.name for path in here.rglob("*")}

    def main(rank):
        if which == "flags":
            had = ("imagenet", pretrained.NOT_HAD)[rank]
            train.encoder_weights = lambda which: (None, had)
            train.main([*flags, "--encoder", "resnet18", "--encoder-weights", "imagenet"])
        elif which == "data":
            train.load_images = functools.partial(train.load_images, limit=(None, 500)[rank])
            train.main(flags)
        else:
            train.main(["--resume", str(2 + rank), "--steps", "4"])

    port = free_port()
    children = [forked(main, rank, port) for rank in range(2)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    for rank in range(2):
        said = Path(f"err{rank}").read_text()
        assert codes[rank] == 2 and f"\nerror: {words}" in f"\n{said}", said
        assert said.endswith("Start all with the same flags, data and last.pt\n")
    assert {path.name for path in here.rglob("*")} - before == {"err0", "err1"}


def test_pans_hinge_is_of_the_whole_batch_in_two_processes(here, monkeypatch):
    """m lies between P of the batch and the larger P of its halves, whose own hinge would be off."""
    pan = importlib.import_module("pan.train")
    for name in PICTURES:
        monkeypatch.setattr(pan, name, lambda *args, **kwargs: None, raising=False)
    # whose statistics are each process's own
    monkeypatch.setattr(pan.model, "batch_norm", lambda channels: torch.nn.Identity())
    flags = ["--smoke", "--steps", "1", "--batch-size", "4"]
    args = pan.parse_args(flags)
    data = pan.load_data(args)
    args.channels = data.channels
    seed_all(args.seed)
    T, D = pan.build(args)
    x, y = data.batch(0, 4, args.seed)
    with torch.no_grad():
        pairs = zip(D(y)[1], D(T(x))[1])
    each = sum(w * (a - b).abs().mean((1, 2, 3)) for w, (a, b) in zip(args.lambdas, pairs))
    m = (each.mean() + each.view(2, 2).mean(1).max()).item() / 2
    flags += ["--m", str(m)]

    port = free_port()
    children = [forked(lambda rank: pan.main([*flags, "--out", "two"]), i, port) for i in range(2)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0], Path("err0").read_text() + Path("err1").read_text()
    pan.main([*flags, "--out", "one"])
    ours, theirs = (torch.load(Path(d, "last.pt"), weights_only=True) for d in ("one", "two"))
    for name in ("D", "T"):
        torch.testing.assert_close(theirs["state"][name], ours["state"][name], rtol=0, atol=1e-6)
    one, two = (read_log(Path(d, "log.jsonl"))[-1] for d in ("one", "two"))
    for key in ("L_D", "hinge_active", "P", "L_T"):
        assert two[key] == pytest.approx(one[key], abs=1e-5), key
    assert one["hinge_active"] == 1


def test_autocast_takes_a_device_or_its_name():
    for device in ("cpu", torch.device("cpu")):
        with autocast(device, "bf16"):
            assert torch.is_autocast_enabled("cpu")
        with autocast(device, "off"):
            assert not torch.is_autocast_enabled("cpu")


# --- Apple's GPUs, which have no float64


TRACKED = {
    "began": ["--smoke"],
    "bigan": ["--smoke"],
    "cagan": ["--smoke", "--fid-samples", "20"],
    "egan": ["--smoke", "--population", "loop"],
    "mdma": ["--smoke"],
    "pan": ["--smoke"],
    "sagan_wgangp": ["--smoke", "--fid-samples", "8"],
}


@pytest.mark.filterwarnings("ignore:.*singular covariance")
@pytest.mark.parametrize("folder", TRACKED)
def test_training_makes_no_float64_on_an_apple_gpu(here, monkeypatch, folder):
    module = importlib.import_module(f"{folder}.train")
    monkeypatch.setattr(module, "choose_device", lambda name: APPLE)
    for name in PICTURES:
        monkeypatch.setattr(module, name, lambda *args, **kwargs: None, raising=False)
    with apple_device(monkeypatch):
        last = module.main([*TRACKED[folder], "--steps", "2", "--sample-every", "2", "--out", "x"])
    assert last["step"] == 2 and len(last) > 3


@pytest.mark.parametrize("folder, flags", [(f, v) for f, vs in VARIANTS.items() for v in vs[1:]])
def test_other_losses_networks_and_tasks_train_on_a_gpu(here, monkeypatch, folder, flags):
    module = importlib.import_module(f"{folder}.train")
    monkeypatch.setattr(module, "choose_device", lambda name: APPLE)
    for name in PICTURES:
        monkeypatch.setattr(module, name, lambda *args, **kwargs: None, raising=False)
    one_by_one = ["--population", "loop"] if folder == "egan" else []  # vmap takes no stand-in
    with apple_device(monkeypatch):
        words = ["--smoke", "--steps", "2", "--sample-every", "2", *flags, *one_by_one]
        assert module.main([*words, "--out", "x"])["step"] == 2


@pytest.mark.filterwarnings("ignore:.*singular covariance")
@pytest.mark.parametrize("folder", TRACKED)
def test_every_eval_runs_on_a_gpu(here, monkeypatch, folder):
    """Its networks and images are on the device, also as --samples and --export draw them."""
    smoke_run(folder, "x", "--steps", 2)
    module = importlib.import_module(f"{folder}.eval")
    monkeypatch.setattr(module, "choose_device", lambda name: APPLE)
    few = {"bigan": ["--bank", "64", "--bn-batches", "2"]}.get(folder, [])
    ckpt = ["--ckpt", "x/last.pt"]
    with apple_device(monkeypatch):
        assert module.main([*ckpt, "--n", "64", *few])
        module.main([*ckpt, "--samples", "4", "--grid-out", "grid.png"])
        module.main([*ckpt, "--n", "5", "--export", "samples"])
    assert Path("x/eval_2.json").exists() and Path("grid.png").exists()
    assert Path("samples/samples.npz").exists()


def test_metrics_of_tensors_on_an_apple_gpu_are_those_of_the_cpu(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    jets = torch.rand(2, 40, 5, 3, generator=rng)
    points = torch.randn(2, 50, 2, generator=rng)
    features, labels = torch.randn(2, 60, 4, generator=rng), torch.arange(60) % 3

    def measure(place):
        real, fake = place(jets[0]), place(jets[1])
        bank, queries = place(features[0]), place(features[1])
        x, y = place(points[0]), place(points[1])
        draws = jet_scores.disjoint(40, 40)
        return [
            *jet_scores.observables(real).flatten().tolist(),
            *jet_scores.w1p(real, fake, draws).flatten().tolist(),
            *jet_scores.jet_metrics(real, fake).values(),
            jet_scores.frechet_of_all(jet_scores.efps(real), jet_scores.efps(fake)),
            jet_scores.kpd(bank, queries, normalise=False)[0],
            *mode_metrics(x, mixture("8gaussians")).values(),
            mmd2(x, y, 1.0, True),
            linear_probe(bank, labels, queries, labels),
            one_nn_accuracy(bank, labels, queries, labels),
            auroc(place(features[0, :, 0]), labels == 1),
        ]

    expected = measure(lambda x: x)
    with apple_device(monkeypatch):
        with pytest.raises(TypeError, match="no float64"):
            points.to(APPLE).double()
        assert measure(lambda x: x.to(APPLE)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


# --- torchvision


def test_torchvision_is_usable_beside_a_cpu_torch():
    torchvision = import_torchvision()
    assert import_torchvision() is torchvision and len(torchvision_cpu._kept) <= 1
    net = torchvision.models.resnet18(weights=None).eval()
    assert net(torch.randn(1, 3, 32, 32)).shape == (1, 1000)
    assert len(torchvision.datasets.FakeData(3)) == 3 and torchvision.datasets.FashionMNIST.mirrors


# --- gradients of several processes


def parameters_of(folder, out, *flags):
    """{"G.…": tensor} of all networks of a smoke run, without buffers."""
    state = smoke_run(folder, out, *flags)["state"]
    buffer = re.compile(r"running_|num_batches|\._[uv]$|\.0\._")
    return {
        f"{net}.{name}": value
        for net in ("G", "E", "D", "T")
        for name, value in state.get(net, {}).items()
        if not buffer.search(name)
    }


@pytest.mark.parametrize("folder", [name for name in FOLDERS if name != "egan"])
def test_every_gradient_is_averaged_over_processes_before_its_step(folder, tmp_path, monkeypatch):
    """If all that is averaged comes out as 0, no weight moves: none steps by a gradient of its own.

    E-GAN lives in one process.
    """
    train = importlib.import_module(f"{folder}.train")
    flags = {"mdma": ["--weight-decay", 0]}
    flags["bigan"] = ["--weight-decay", 0, "--cycle", 1]  # without it E learns only where D does
    flags = flags.get(folder, [])
    first = parameters_of(folder, tmp_path / "1", "--steps", 1, *flags)
    third = parameters_of(folder, tmp_path / "3", "--steps", 3, *flags)
    moved = {name.partition(".")[0] for name in first if not torch.equal(first[name], third[name])}
    assert moved == {name.partition(".")[0] for name in first}  # each network trains

    def nothing_is_left(net):
        for p in net.parameters():
            if p.grad is not None:
                p.grad.zero_()

    monkeypatch.setattr(train, "average_gradients", nothing_is_left)
    first = parameters_of(folder, tmp_path / "1 still", "--steps", 1, *flags)
    third = parameters_of(folder, tmp_path / "3 still", "--steps", 3, *flags)
    still = [name for name in first if not torch.equal(first[name], third[name])]
    assert not still, still


# --- channels_last


LAID_OUT = [
    ("began", ""),
    ("bigan", "--arch conv --cycle 1"),
    ("cagan", "--norm none"),
    ("pan", ""),
    ("pan", "--task inpainting --size 64"),
    ("sagan_wgangp", "--method sagan_wgan_gp --n-critic 1"),
    ("sagan_wgangp", "--method wgan"),
]


@pytest.mark.parametrize("folder, flags", LAID_OUT)
def test_bf16_runs_are_channels_last_and_train_the_same_weights(
    folder, flags, tmp_path, monkeypatch
):
    """Without autocast, so that the two runs differ by float32's rounding only."""
    module = importlib.import_module(f"{folder}.train")
    monkeypatch.setattr(module, "autocast", lambda device, amp: contextlib.nullcontext())
    seen, build = set(), module.build
    # its ε, else noise decides on the sign of a step of biases that BatchNorm takes away
    monkeypatch.setattr(module, "fused_adam", functools.partial(module.fused_adam, eps=0.1))

    def look(_, x):
        if torch.is_grad_enabled():  # not where pictures are drawn
            seen.add(x[0].is_contiguous(memory_format=torch.channels_last))

    def watched(*args):
        nets = build(*args)
        for layer in (layer for net in nets for layer in net.modules()):
            if isinstance(layer, torch.nn.Conv2d) and layer.in_channels in (3, 6):
                layer.register_forward_pre_hook(look)
        return nets

    monkeypatch.setattr(module, "build", watched)
    words = [*flags.split(), "--channels", "3", "--steps", "3", "--sample-every", "9"]
    states = []
    for amp in ("off", "bf16"):
        seen.clear()
        states.append(smoke_run(folder, tmp_path / amp, *words, "--amp", amp)["state"])
    # CA-GAN's mix joins x to none of x', which torch makes contiguous
    assert seen == {folder != "cagan"}
    plain, laid_out = (
        {f"{net}.{k}": v for net in "GEDT" if net in state for k, v in state[net].items()}
        for state in states
    )
    for name, value in plain.items():
        assert torch.allclose(laid_out[name], value, rtol=1e-3, atol=1e-4), name
        if value.ndim == 4:
            assert laid_out[name].is_contiguous(memory_format=torch.channels_last), name


@pytest.mark.parametrize(
    "folder, flags",
    [
        ("bigan", "--arch mlp"),
        ("bigan", "--dataset 8gaussians"),
        ("cagan", "--norm instance"),
        ("cagan", "--norm batch"),
        ("sagan_wgangp", "--dataset 8gaussians"),
    ],
)
def test_bf16_runs_that_gain_nothing_by_channels_last_are_contiguous(folder, flags, tmp_path):
    words = [*flags.split(), "--steps", "1", "--amp", "bf16"]
    state = smoke_run(folder, tmp_path / "run", *words)["state"]
    weights = [v for net in "GED" if net in state for v in state[net].values()]
    assert all(value.is_contiguous() for value in weights)


def test_a_contiguous_run_goes_on_as_channels_last(tmp_path):
    """Of an older version or another device: fused Adam would mix the moments of two weights."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    words = ["--norm", "none", "--channels", "3", "--sample-every", "9", "--amp", "bf16"]
    expected = smoke_run("cagan", whole, *words, "--steps", "6")["state"]
    checkpoint = smoke_run("cagan", halves, *words, "--steps", "3")
    moved = 0
    for name in ("opt_G", "opt_D"):
        for moments in checkpoint["state"][name]["state"].values():
            for key, value in moments.items():
                moved += not value.is_contiguous()
                moments[key] = value.contiguous()
    assert moved
    del checkpoint["metrics"]
    torch.save(checkpoint, halves / "last.pt")
    module = importlib.import_module("cagan.train")
    module.main(["--resume", str(halves), "--steps", "6"])
    state = torch.load(halves / "last.pt", weights_only=False)["state"]
    for net in "GD":
        for name, value in expected[net].items():
            assert torch.equal(state[net][name], value), name
