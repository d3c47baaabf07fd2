"""Pictures of a benchmark: which classes gained, and how balancing changed their sizes."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from signforge.benchmark.summary import Summary, epoch_counts, rare_first, shown_by_class
from signforge.files import write_atomically

# Okabe & Ito's colours, told apart by colour-blind readers too; vermilion is kept for losses.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#000000")


def save_per_class_gain(path: Path, summary: Summary) -> None:
    """Dots with 95 % intervals: recall gained over ``real``, classes from rare to frequent.

    Of the arms of ``shown_by_class``. Writes a PNG; one that says so where no arm could be compared
    with ``real``.
    """
    order = rare_first(summary)
    arms = shown_by_class(summary)
    figure = Figure(figsize=(9, 1.6 + 0.3 * len(order)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.4", linewidth=1)
    rows = np.arange(len(order))
    for number, arm in enumerate(arms):
        shift = 0.24 * (number - (len(arms) - 1) / 2)
        gains = [arm.class_gains[label] for label in order]
        mean, low, high = (
            100 * np.array([getattr(gain, key) for gain in gains])
            for key in ("mean", "low", "high")
        )
        axes.errorbar(
            mean,
            rows + shift,
            xerr=(mean - low, high - mean),
            fmt="o",
            markersize=4,
            elinewidth=1,
            color=COLORS[number % len(COLORS)],
            label=arm.arm,
        )
    axes.set_yticks(rows, [_class_label(summary, label) for label in order], fontsize=8)
    axes.set_ylim(-0.7, len(order) - 0.3)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel("recall gained over real, percentage points, 95 % interval")
    axes.set_title("Gain of each class (training images), rarest class at the bottom")
    if arms:
        figure.legend(loc="outside upper right", ncols=len(arms))
    else:
        axes.text(0.5, 0.5, "no arm to compare with real", transform=axes.transAxes, ha="center")
    _save(figure, path)


def save_class_balance(path: Path, summary: Summary) -> None:
    """Images of each class that an epoch shows, before balancing and in each arm that differs."""
    order = rare_first(summary)[::-1]
    series = {name: np.array(counts) for name, counts in epoch_counts(summary).items()}
    figure = Figure(figsize=(max(6.0, 1.5 + 0.24 * len(order)), 4.5), layout="constrained")
    axes = figure.subplots()
    columns = np.arange(len(order))
    # Tallest first, so that the shorter bars stand in front of it.
    color = {name: COLORS[number % len(COLORS)] for number, name in enumerate(series)}
    for name, counts in sorted(series.items(), key=lambda item: -int(item[1].sum())):
        axes.bar(columns, counts[order], color=color[name], label=name, width=0.8)
    axes.set_xticks(columns, [str(label) for label in order], fontsize=7, rotation=90)
    axes.set_xlabel("class")
    axes.set_ylabel("images in an epoch")
    axes.set_title("Images of each class before and after balancing")
    figure.legend(loc="outside upper left", ncols=1, fontsize=8)
    _save(figure, path)


def _class_label(summary: Summary, label: int) -> str:
    # matplotlib reads text between dollar signs as mathematics.
    name = summary.class_names[label].replace("$", r"\$")
    return f"{label} {name} ({summary.train_counts[label]:,})"


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())
