"""Fig. 2, and jets in the (η, φ) plane."""

import math

import numpy as np
import torch

from common.metrics.jets import jet_mass, present
from common.plots import plt, save_figure

CURVES = [["L_D"], ["L_G", "L_match"], ["w1m_valid"], ["frechet_valid"]]  # panels of curves.png
ETA, PHI = "Δη = η − η(jet), of particles", "Δφ = φ − φ(jet) in radians, of particles"
PT, COUNT = "p_T / p_T(jet), of particles", "particles per jet, n"
MASS, SUM_PT = "jet mass / p_T(jet)", "Σ p_T / p_T(jet), per jet"
LOGARITHMIC = (ETA, PHI, PT)  # densities over particles
JET_NAMES = {"g": "gluon", "q": "light quark", "t": "top quark", "w": "W", "z": "Z"}
RADIUS = 0.4  # R of the simulated jets
AREA = 400  # of a dot of a particle that has all of its jet's pt, in points²


def draw_features(jets, path, title=""):
    """Fig. 2: densities of eta, phi, pt of all particles and of the jet's mass, ratios below.

    Added here are n and the sum of pt. jets: {label: particles (J, N, 3), padding 0}, of which the
    first is the reference. Bands: one Poisson sd.
    """
    # fixed places: a layout found by matplotlib takes twice as long, at each validation
    figure = plt.figure(figsize=(12, 8))
    panels = figure.add_gridspec(2, 3, wspace=0.18, hspace=0.18)
    grids = [panel.subgridspec(2, 1, height_ratios=[3, 1], hspace=0.1) for panel in panels]
    axes = [[figure.add_subplot(part) for part in grid] for grid in grids]
    values = {label: observables(x) for label, x in jets.items()}
    reference = next(iter(jets))
    for i, name in enumerate(values[reference]):
        axis, ratio_axis = axes[i]
        bins = bin_edges(name, values[reference][name])
        ratio_histogram(
            axis,
            ratio_axis,
            {label: value[name] for label, value in values.items() if label != reference},
            (reference, values[reference][name]),
            bins,
        )
        axis.set(yscale="log" if name in LOGARITHMIC else "linear")
        axis.tick_params(labelbottom=False)  # those of the ratio below
        for shown in (axis, ratio_axis):
            shown.set(xscale="log" if name == PT else "linear", xlim=bins[[0, -1]])
        if name != PT:
            ratio_axis.locator_params(axis="x", nbins=6)
        ratio_axis.set_xlabel(name)
        if i % 3 == 0:
            axis.set_ylabel("density")
            ratio_axis.set_ylabel(f"ratio to\n{reference}")
    handles = [h for axis in axes[0] for h in axis.get_legend_handles_labels()[0]]
    figure.legend(
        handles=handles,
        title=title,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.89),
        ncols=len(handles),
    )
    save_figure(figure, path)


def observables(x):
    """{name: values} of jets (J, N, 3): features of all real particles, then one value per jet."""
    eta, phi, pt = x[present(x)].T.numpy()
    return {
        ETA: eta,
        PHI: phi,
        PT: pt,
        MASS: jet_mass(x).numpy(),
        COUNT: present(x).sum(1).numpy(),
        SUM_PT: x[..., 2].sum(1).numpy(),
    }


def bin_edges(name, values):
    """50 edges, or one bin per n, over all but the outermost 0.1 % of the values."""
    low, high = np.quantile(values, [0.0005, 0.9995])
    # All values are one: the masses of jets of one particle, sums of pT divided by themselves
    if high - low <= 1e-6 * (1 + abs(low)):
        low, high = low - 0.1 * (1 + abs(low)), high + 0.1 * (1 + abs(high))
    if name == PT:
        return np.geomspace(max(low, 1e-5), high, 50)
    if name == COUNT:
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
    band = dict(baseline=1 - error / safe, fill=True, alpha=0.3, color="k")
    ratio_axis.stairs(1 + error / safe, bins, **band, label=f"± 1 Poisson sd of {label}")
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
    """Jets in the (Δη, Δφ) plane: a dot per particle, its area proportional to pt_rel.

    jets: {label: particles (J, N, 3), padding 0}; each label begins a row of panels.
    """
    side = math.ceil(sum(map(len, jets.values())) ** 0.5)
    rows = [(label, part) for label, x in jets.items() for part in x.split(side)]
    angles = torch.cat([x[present(x)][:, :2] for x in jets.values()]).abs()
    reach = max(1.1 * RADIUS, float(angles.quantile(0.995)))  # other jets may be wider
    square = dict(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    dot = dict(alpha=0.5, lw=0, color="C0")
    figure, axes = plt.subplots(
        len(rows),
        side,
        figsize=(1.5 * side + 0.6, 1.5 * len(rows) + 0.9),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for row, (label, part) in zip(axes, rows):
        row[0].set_ylabel(label)
        for axis in row[len(part) :]:
            axis.axis("off")
        for axis, jet in zip(row, part):
            eta, phi, pt = jet[jet[:, 2] > 0].T.numpy()
            axis.add_patch(plt.Circle((0, 0), RADIUS, fill=False, color="0.6"))
            axis.scatter(eta, phi, s=AREA * pt, **dot)
            axis.set(**square, xticks=(-RADIUS, 0, RADIUS), yticks=(-RADIUS, 0, RADIUS))
    handles = [
        axes[0, 0].scatter([], [], s=AREA * pt, label=label, **dot)
        for pt, label in ((0.01, "p_T / p_T(jet) = 0.01"), (0.1, "0.1"), (0.3, "0.3"))
    ]
    ring = dict(s=90, facecolor="none", edgecolor="0.6", label=f"jet radius R = {RADIUS}")
    handles.append(axes[0, 0].scatter([], [], **ring))
    figure.legend(handles=handles, loc="outside upper center", ncols=4, fontsize=8)
    figure.supxlabel("Δη = η − η(jet)", fontsize=10)
    figure.supylabel("Δφ = φ − φ(jet) in radians", fontsize=10)
    save_figure(figure, path)
