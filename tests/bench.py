"""Steps per second of every folder on this machine: `make bench`. Each row is a real, short training run.

Rows run one after the other; nothing else should be running. Compare rows of one run only.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile

import torch

from common.device import choose_device, device_name
from common.runs import read_log

ROWS = [  # folder, what, flags
    ("began", "thesis preset, fp32", []),
    ("began", "thesis preset, bf16 + channels_last", ["--amp", "bf16"]),
    ("began", "--quick, fp32", ["--quick", "--amp", "off"]),
    ("began", "--quick (bf16 + channels_last)", ["--quick"]),
    ("bigan", "permutation-invariant, fp32", []),
    ("bigan", "permutation-invariant, bf16", ["--amp", "bf16"]),
    ("bigan", "--quick", ["--quick"]),
    ("bigan", "--arch conv, 32x32, bf16", ["--arch", "conv", "--amp", "bf16"]),
    ("egan", "8 Gaussians, μ = 1", []),
    ("egan", "8 Gaussians, μ = 4", ["--mu", "4"]),
    ("egan", "--quick", ["--quick"]),
    (
        "egan",
        "FashionMNIST 32x32, width 32",
        ["--dataset", "fashion-mnist", "--width-g", "32", "--width-d", "32"],
    ),
    *(
        ("sagan_wgangp", f"32x32, {method}", ["--size", "32", "--method", method])
        for method in ("gan", "wgan", "wgan_gp", "sagan", "sagan_wgan_gp")
    ),
    ("sagan_wgangp", "64x64, sagan_wgan_gp", ["--size", "64"]),
    (
        "sagan_wgangp",
        "64x64, sagan_wgan_gp without attention",
        ["--size", "64", "--attention", "none"],
    ),
    ("sagan_wgangp", "200x200 RGB, batch 8, sagan_wgan_gp", ["--batch-size", "8"]),
    ("cagan", "§5, fp32", []),
    ("cagan", "§5, bf16", ["--amp", "bf16"]),
    ("cagan", "--quick (bf16)", ["--quick", "--fid-samples", "0"]),
    ("pan", "--quick, in-painting", ["--quick"]),
    ("pan", "--quick, de-raining", ["--quick", "--task", "deraining"]),
    ("mdma", "30 particles", ["--num-particles", "30"]),
    ("mdma", "30 particles, --eager (CUDA: no graphs)", ["--num-particles", "30", "--eager"]),
    ("mdma", "150 particles", ["--num-particles", "150"]),
    ("mdma", "150 particles, --paper-code", ["--num-particles", "150", "--paper-code"]),
]
COMMON = {
    "began": ["--encoder-weights", "none"],
    "egan": [],
    "bigan": [],
    "cagan": ["--dataset", "fashion-mnist"],
    "mdma": ["--dataset", "synthetic", "--valid-batches", "1"],
    "pan": [],
    "sagan_wgangp": ["--dataset", "synthetic", "--channels", "3", "--n-critic-warm", "0"],
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--only", help="a folder")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if args.steps < 8:
        parser.error(
            f"--steps {args.steps}: the first five and the last one are not counted, use 8 or more"
        )
    print(f"torch {torch.__version__}, {device_name(choose_device(args.device))}")
    for folder, what, flags in ROWS:
        if args.only in (None, folder):
            with tempfile.TemporaryDirectory() as out:
                command = [
                    sys.executable,
                    "-m",
                    f"{folder}.train",
                    "--out",
                    f"{out}/run",
                    "--steps",
                    str(args.steps),
                    "--log-every",
                    "1",
                    "--device",
                    args.device,
                    *COMMON[folder],
                    *flags,
                ]
                subprocess.run(command, check=True, capture_output=True)
                seconds = [line["seconds"] for line in read_log(f"{out}/run/log.jsonl")]
            step = statistics.median(
                b - a for a, b in zip(seconds[4:-2], seconds[5:-1])
            )  # the last draws, saves
            print(
                f"{folder:14} {what:40} {1 / step:8.2f} steps/s   {1000 * step:8.0f} ms/step",
                flush=True,
            )


if __name__ == "__main__":
    main()
