"""Fig. 2, and jets in the (η, φ) plane."""

import math

import numpy as np

from common.metrics.jets import jet_mass, present
from common.plots import plt, save_figure

CURVES = [["L_D"], ["L_G", "L_match"], ["w1m_valid"], ["frechet_valid"]]  # panels of curves.png
LOGARITHMIC = ("η rel", "φ rel", "p_T rel")  # densities over particles


def draw_features(jets, path):
    """Fig. 2: densities of eta, phi, pt of all particles and of the jet's mass, ratios below.

    Added here are n and the sum of pt. jets: {label: particles (J, N, 3), padding 0}, of which the
    first is the reference. Bands: one Poisson sd.
    """
    figure, axes = plt.subplots(4, 3, figsize=(12, 8), height_ratios=[3, 1, 3, 1], sharex=False)
    values = {label: observables(x) for label, x in jets.items()}
    reference = next(iter(jets))
    for i, name in enumerate(values[reference]):
        axis, ratio_axis = axes[2 * (i // 3), i % 3], axes[2 * (i // 3) + 1, i % 3]
        ratio_histogram(
            axis,
            ratio_axis,
            {label: value[name] for label, value in values.items() if label != reference},
            (reference, values[reference][name]),
            bin_edges(name, values[reference][name]),
        )
        axis.set(yscale="log" if name in LOGARITHMIC else "linear")
        ratio_axis.set_xlabel(name)
        if name == "p_T rel":
            axis.set_xscale("log")
            ratio_axis.set_xscale("log")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    save_figure(figure, path)


def observables(x):
    """{name: values} of jets (J, N, 3): features of all real particles, then one value per jet."""
    eta, phi, pt = x[present(x)].T.numpy()
    return {
        "η rel": eta,
        "φ rel": phi,
        "p_T rel": pt,
        "mass": jet_mass(x).numpy(),
        "n": present(x).sum(1).numpy(),
        "Σ p_T rel": x[..., 2].sum(1).numpy(),
    }


def bin_edges(name, values):
    """50 edges, or one bin per n, over all but the outermost 0.1 % of the values."""
    low, high = np.quantile(values, [0.0005, 0.9995])
    if low == high:  # as the mass of jets of one particle
        low, high = low - 0.1 * (1 + abs(low)), high + 0.1 * (1 + abs(high))
    if name == "p_T rel":
        return np.geomspace(max(low, 1e-5), high, 50)
    if name == "n":
        return np.arange(int(low), int(high) + 2) - 0.5
    return np.linspace(low, high, 50)


def ratio_histogram(axis, ratio_axis, samples, reference, bins):
    """Densities of `samples` ({label: values}) over `reference` (label, values), their ratio below.

    bins: edges. Bands are one Poisson standard deviation of the bin counts.
    """

    def density(values):
        counts = np.histogram(values, bins)[0]
        scale = len(values) * np.diff(bins)
        return counts / scale, np.sqrt(counts) / scale

    label, values = reference
    expected, error = density(values)
    axis.stairs(expected, bins, fill=True, alpha=0.3, color="k", label=label)
    safe = np.where(expected > 0, expected, np.nan)
    ratio_axis.stairs(
        1 + error / safe, bins, baseline=1 - error / safe, fill=True, alpha=0.3, color="k"
    )
    for label, values in samples.items():
        height, error = density(values)
        line = axis.stairs(height, bins, label=label)
        centres = (bins[1:] + bins[:-1]) / 2
        ratio_axis.errorbar(
            centres, height / safe, error / safe, fmt=".", ms=3, lw=1, color=line.get_edgecolor()
        )
    ratio_axis.axhline(1, color="k", lw=0.5)
    ratio_axis.set_ylim(0.5, 1.5)


def draw_jets(jets, path):
    """Jets in the (eta, phi) plane: a dot per particle, its area proportional to pt_rel."""
    side = math.ceil(len(jets) ** 0.5)
    rows = math.ceil(len(jets) / side)
    figure, axes = plt.subplots(rows, side, figsize=(1.3 * side, 1.3 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, jet in zip(axes.flat, jets):
        eta, phi, pt = jet[jet[:, 2] > 0].T.numpy()
        axis.scatter(eta, phi, s=400 * pt, alpha=0.5, lw=0)
        axis.set(xlim=(-0.4, 0.4), ylim=(-0.4, 0.4))
    save_figure(figure, path)
