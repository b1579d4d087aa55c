"""Fig. 4, left and middle: Inception score, and FID, over generations and over time.

curves: {method: [the lines of a run's log that have scores, of each run]}.
"""

from common import plots
from common.evaluate import markdown_table
from common.metrics import find_metric

from .tables import mean_sd, summary


def curve_numbers(curves):
    """IS and FID at equal generations and at equal time, a row for each method that has runs.

    Equal time is the shortest run's whole time; each run's last score by then counts (at least its
    first).
    """
    equal = min((c[-1]["seconds"] for runs in curves.values() for c in runs), default=0)
    rows = []
    for method, runs in curves.items():
        if not runs:
            continue
        last = [curve[-1] for curve in runs]
        at_equal = [last_by(curve, equal) for curve in runs]
        rows.append(
            {
                "method": method,
                "generations": last[0]["step"],
                "equal_seconds": equal,
                "generations_per_s": summary([line["step"] / line["seconds"] for line in last]),
                "is_last": summary([find_metric(line, "is") for line in last], best=max),
                "is_equal_time": summary([find_metric(line, "is") for line in at_equal], best=max),
                "fid_last": summary([find_metric(line, "fid") for line in last]),
                "fid_equal_time": summary([find_metric(line, "fid") for line in at_equal]),
                "generations_equal_time": [line["step"] for line in at_equal],
            }
        )
    return rows


def last_by(curve, seconds):
    """The last line of a curve at or before so many seconds; its first where all are later."""
    before = [line for line in curve if line["seconds"] <= seconds]
    return before[-1] if before else curve[0]


def survivors(log):
    """{mutation: its share of the children that lived on, over the whole run}."""
    start = "selected_"
    names = [key.removeprefix(start) for key in log[-1] if key.startswith(start)]
    return {name: sum(line[start + name] for line in log) / len(log) for name in names}


def curves_markdown(rows):
    first = rows[0] if rows else {"generations": 0, "equal_seconds": 0}
    columns = [
        "method",
        "generations/s",
        f"IS, FID after {first['generations']} generations",
        f"IS, FID after {first['equal_seconds']:.0f} s (generations)",
    ]
    cells = [
        [
            row["method"],
            f"{row['generations_per_s']['mean']:.1f}",
            f"{mean_sd(row['is_last'])}, {mean_sd(row['fid_last'])}",
            f"{mean_sd(row['is_equal_time'])}, {mean_sd(row['fid_equal_time'])} "
            f"({', '.join(map(str, row['generations_equal_time']))})",
        ]
        for row in rows
    ]
    return markdown_table(columns, cells)


def draw_curves(curves, n, path):
    """IS above FID, over generations and over seconds; n: samples, for the labels."""
    keys = [key for runs in curves.values() for curve in runs for line in curve for key in line]
    extractor = next((key.split("_")[1] for key in keys if key.startswith("fid_")), "none")
    measured = f"{extractor}, {n:,} samples"
    figure, axes = plots.plt.subplots(2, 2, figsize=(10, 6.4), sharex="col", sharey="row")
    for i, (method, runs) in enumerate(curves.items()):
        for j, curve in enumerate(runs):
            style = {"color": f"C{i}", "label": None if j else method}
            for row, what in zip(axes, ("is", "fid")):
                score = [find_metric(line, what) for line in curve]
                row[0].plot([line["step"] for line in curve], score, **style)
                row[1].plot([line["seconds"] for line in curve], score, **style)
    axes[0, 0].set(ylabel=f"IS ({measured})")
    axes[1, 0].set(xlabel="generation", ylabel=f"FID ({measured})", yscale="log")
    axes[1, 1].set(xlabel="seconds of training")
    axes[0, 1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    plots.save_figure(figure, path)
