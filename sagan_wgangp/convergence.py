"""Convergence of the loss as numbers, from the log of a run: a list of dicts with "step"."""

import math

import numpy as np
from scipy.stats import spearmanr

from common.metrics import find_metric


def stability(log, key):
    """How quiet a loss is in the second half of a run, over its mean there: {"noise", "drift"}.

    noise: sd about the straight line through it; drift: that line's rise. A generator's Wasserstein
    loss has no zero of its own: look at L_D. nan for fewer than 3 lines there.
    """
    rows = np.array([(line["step"], line[key]) for line in log if key in line])
    rows = rows[len(rows) // 2 :]
    if len(rows) < 3:
        return {"noise": math.nan, "drift": math.nan}
    steps, losses = rows.T
    slope, intercept = np.polyfit(steps, losses, 1)
    line = intercept + slope * steps
    scale = abs(losses.mean()) or math.nan
    return {"noise": (losses - line).std() / scale, "drift": (line[-1] - line[0]) / scale}


def fid_curve(log):
    """[(step, FID, IS), …] of a run."""
    curve = [(line["step"], find_metric(line, "fid"), find_metric(line, "is")) for line in log]
    return [point for point in curve if not math.isnan(point[1])]


def loss_versus_quality(log):
    """Spearman's rank correlation of L_D, averaged up to each FID since the last, with that FID.

    −1 for L_D = −W is what WGAN claims: its loss falls in size as samples get better. nan for fewer
    than 4 FIDs.
    """
    curve = fid_curve(log)
    if len(curve) < 4:
        return math.nan
    losses, before = [], 0
    for step, _, _ in curve:
        losses.append(np.mean([line["L_D"] for line in log if before < line["step"] <= step]))
        before = step
    return float(spearmanr(losses, [fid for _, fid, _ in curve]).statistic)
