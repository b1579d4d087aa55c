"""The simulated jets beside what is known of the real JetNet. From the repository's root:

  python -m mdma.twin                         of the jets in data/pythia
  python -m mdma.twin --data-dir DIR

Prints a table, JetNet's value in brackets where it is known, and writes it as twin.md and twin.json
into runs/mdma.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

if not __package__:  # started as a file
    print("error: start this from the repository's root: python -m mdma.twin", file=sys.stderr)
    sys.exit(2)

from common import arguments
from common.arguments import FilePath
from common.cli import run_main
from common.errors import UserError
from common.evaluate import markdown_table
from common.metrics.jets import FPND_TYPES, fpnd, jet_mass, present, wasserstein1
from common.runs import replace_file, write_json

from .jets import JET_TYPES, SPLITS, load_jets

# The real JetNet at 30 particles. sd of η and φ, mean and sd of pT: stated in EPiC-GAN's code; the
# mass's quantiles at 10, 50 and 90 %: of jets of MPGAN, trained on it. n, of all particles:
# published with MDMA, in results/jetnet_multiplicity.json.
JETNET_30 = {
    "g": {
        "η sd": 0.0779,
        "φ sd": 0.0767,
        "pT mean": 0.0303,
        "pT sd": 0.0422,
        "mass": (0.024, 0.050, 0.107),
    },
    "q": {
        "η sd": 0.0926,
        "φ sd": 0.0905,
        "pT mean": 0.0357,
        "pT sd": 0.0703,
        "mass": (0.021, 0.038, 0.090),
    },
    "t": {
        "η sd": 0.1163,
        "φ sd": 0.1172,
        "pT mean": 0.0305,
        "pT sd": 0.0395,
        "mass": (0.078, 0.131, 0.161),
    },
}


COLUMNS = ("jets", "n mean", "n sd", "n W1", "η sd", "φ sd", "pT mean", "pT sd", "mass", "FPND")


def twin_row(jet_type, data_dir, fpnd_jets=10_000):
    """{quantity: value} of all simulated jets of a type: n up to 150 particles, the rest at 30."""
    n = torch.cat([load_jets("pythia", jet_type, 150, data_dir, split).n for split in SPLITS])
    x = torch.cat(
        [load_jets("pythia", jet_type, 30, data_dir, split).particles for split in SPLITS]
    )
    published = Path(__file__).parent / "results/jetnet_multiplicity.json"
    counts = json.loads(published.read_text())[jet_type]
    theirs = torch.repeat_interleave(
        torch.arange(len(counts["counts_by_n"])), torch.tensor(counts["counts_by_n"])
    )
    real = x[present(x)].double()
    row = {
        "jets": len(n),
        "n mean": n.double().mean().item(),
        "n sd": n.double().std().item(),
        "n W1": wasserstein1(n.double(), theirs.double()).item(),
        "η sd": real[:, 0].std().item(),
        "φ sd": real[:, 1].std().item(),
        "pT mean": real[:, 2].mean().item(),
        "pT sd": real[:, 2].std().item(),
        "mass": np.quantile(jet_mass(x).numpy(), [0.1, 0.5, 0.9]).tolist(),
        "FPND jets": min(fpnd_jets, len(x)),
        "FPND": fpnd(x[:fpnd_jets], jet_type) if jet_type in FPND_TYPES else None,
    }
    known = {"n mean": counts["mean"], "n sd": counts["std"], **JETNET_30.get(jet_type, {})}
    return {"type": jet_type, "twin": row, "JetNet": known}


def table(rows):
    """Markdown of twin_row's, JetNet's value in brackets."""
    lines = []
    for row in rows:
        cells = [row["type"]]
        for column in COLUMNS:
            cell = text(row["twin"][column])
            if column in row["JetNet"]:
                cell += f" ({text(row['JetNet'][column])})"
            cells.append(cell)
        lines.append(cells)
    return markdown_table(["type", *COLUMNS], lines)


def text(value):
    if value is None:
        return "–"
    if isinstance(value, (list, tuple)):
        return " / ".join(f"{v:.3f}" for v in value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if value < 0.2 else f"{value:.2f}"


@dataclass
class Args:
    # --- options
    data_dir: FilePath = "data"  # simulated jets are in its folder pythia


def parse_args(argv=None):
    return arguments.parse_args(Args, __doc__, argv)


def main(argv=None):
    data_dir = Path(parse_args(argv).data_dir)
    rows = [
        twin_row(jet_type, data_dir)
        for jet_type in JET_TYPES
        if (data_dir / "pythia" / f"{jet_type}150.hdf5").exists()
    ]
    if not rows:
        raise UserError(
            f'no simulated jets in {data_dir}/pythia: make data-jets ARGS="--type g q t w z"'
        )
    where = Path("runs/mdma")
    where.mkdir(parents=True, exist_ok=True)
    replace_file(where / "twin.md", table(rows).encode())
    write_json(where / "twin.json", rows)
    print(table(rows), end="")
    print(f"in {where}: twin.md, twin.json")
    return rows


if __name__ == "__main__":
    run_main(main)
