"""Table 1: the paper's numbers, and ours in its units."""

import math
import re

from common.evaluate import markdown_table

COLUMNS = {
    "W1M (x 10³)": ("w1m", 1e3),
    "W1P (x 10³)": ("w1p_paper", 1e3),
    "W1EFP (x 10⁵)": ("w1efp_paper", 1e5),
    "KPD (x 10⁴)": ("kpd", 1e4),
    "FPD (x 10⁴)": ("fpd", 1e4),
}
TABLE_1 = {  # the paper's, 150 particles of the real JetNet, scaled as the columns
    "q": {
        "EPiC": ("0.5 ± 0.1", "1.25 ± 0.09", "0.81 ± 0.16", "-0.0 ± 0.1", "5 ± 1"),
        "MDMA": ("0.7 ± 0.1", "0.37 ± 0.05", "0.82 ± 0.14", "-0.05 ± 0.07", "3.8 ± 0.8"),
        "IN": ("0.5 ± 0.1", "0.15 ± 0.04", "0.59 ± 0.16", "-0.0 ± 0.2", "3 ± 2"),
    },
    "g": {
        "EPiC": ("0.5 ± 0.1", "1.13 ± 0.04", "0.93 ± 0.14", "0.06 ± 0.05", "4.2 ± 0.7"),
        "MDMA": ("0.5 ± 0.1", "0.27 ± 0.02", "1.12 ± 0.13", "-0.05 ± 0.03", "1.4 ± 0.5"),
        "IN": ("0.6 ± 0.2", "0.048 ± 0.009", "0.79 ± 0.24", "-0.1 ± 0.1", "3.2 ± 0.8"),
    },
    "t": {
        "EPiC": ("0.69 ± 0.08", "0.65 ± 0.03", "2.67 ± 0.39", "1.7 ± 1.0", "22 ± 1"),
        "MDMA": ("0.57 ± 0.09", "0.10 ± 0.02", "2.12 ± 0.64", "-0.0 ± 0.2", "5.3 ± 0.9"),
        "IN": ("0.42 ± 0.09", "0.12 ± 0.04", "1.22 ± 0.32", "-0.1 ± 0.2", "1.2 ± 0.6"),
    },
    "w": {
        "MDMA": ("0.31 ± 0.02", "0.20 ± 0.04", "0.284 ± 0.040", "0.01 ± 0.02", "1 ± 4"),
        "IN": ("0.18 ± 0.05", "0.14 ± 0.04", "0.136 ± 0.021", "-0.00 ± 0.01", "1 ± 1"),
    },
    "z": {
        "MDMA": ("0.27 ± 0.03", "0.23 ± 0.04", "0.373 ± 0.069", "-0.01 ± 0.02", "1 ± 4"),
        "IN": ("0.18 ± 0.03", "0.24 ± 0.07", "0.152 ± 0.042", "0.00 ± 0.02", "2 ± 1"),
    },
}


def key_of(metrics, metric, protocol, start=""):
    """The key in `metrics` of one of COLUMNS, after `start`; None if there is none.

    KPD and FPD have one protocol, the paper's.
    """
    start += f"{metric}_" if metric in ("kpd", "fpd") else f"{metric}_{protocol}"
    return next(
        (k for k in metrics if k.startswith(start) and not re.search("line|20k_50k|_err", k)), None
    )


def row_of(metrics, protocol):
    """Table 1's five entries of `jet_metrics`, as text in its units."""
    entries = []
    for metric, scale in COLUMNS.values():
        key = key_of(metrics, metric, protocol)
        if key is None:
            entries.append("–")
            continue
        value, error = scale * metrics[key], metrics.get(f"{key}_err")
        if error is None:  # of a single batch
            entries.append(f"{value:.2f}")
            continue
        error *= scale
        digits = max(0, min(6, 1 - math.floor(math.log10(error)))) if error > 0 else 2
        entries.append(f"{value:.{digits}f} ± {error:.{digits}f}")
    return entries


def table1(jets, jet_type, ours, inside=None, model="MDMA"):
    """Markdown: the paper's rows of a jet type (None: of none), and ours by both protocols.

    ours: metrics of `model`'s jets; inside: of training jets, none: no such row.
    """
    measured = {model: ours} | ({"IN": inside} if inside else {})
    rows = [
        [f"{jet_type}, JetNet-150", f"{name}, paper", *entries]
        for name, entries in TABLE_1.get(jet_type, {}).items()
    ]
    for protocol in ("bootstrap5", "disjoint"):
        for name, metrics in measured.items():
            key = next(key for key in metrics if key.startswith(f"w1m_{protocol}"))
            tag = key.removeprefix("w1m_")
            rows.append([jets, f"{name}, ours, {tag}", *row_of(metrics, protocol)])
    return markdown_table(["jets", "model, protocol", *COLUMNS], rows)


def metric_lines(ours, inside=None):
    """One line per metric of generated jets, with that of training against test jets (IN)."""

    def protocol(key):  # IN has fewer disjoint batches
        return re.sub(r"disjoint\d+", "disjoint", key)

    in_sample = {protocol(key): value for key, value in (inside or {}).items()}
    lines = []
    for key, value in ours.items():
        if key.endswith("_err"):
            continue
        line = f"{key:34} {value:.3e}"
        if f"{key}_err" in ours:
            line += f" ± {ours[key + '_err']:.2e}"
        if protocol(key) in in_sample:
            line += f"   (IN {in_sample[protocol(key)]:.3e})"
        lines.append(line)
    return lines
