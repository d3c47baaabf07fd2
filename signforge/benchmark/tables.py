"""What a benchmark found as tables of text, for the terminal, Markdown, CSV and HTML alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from signforge.benchmark.arms import BASELINE
from signforge.benchmark.record import RunRecord
from signforge.benchmark.statistics import Gain
from signforge.benchmark.summary import (
    SHOT_GROUPS,
    SHOWN_TOGETHER,
    ArmSummary,
    Spread,
    Summary,
    contenders,
    epoch_counts,
    rare_first,
    shown_by_class,
)
from signforge.benchmark.verdict import points

MISSING = "-"
GROUP_GAINS = {"worst_class_recall": "worst class", **{group: group for group in SHOT_GROUPS}}
"""Figures of a Comparison beside macro accuracy, with their titles."""


@dataclass(frozen=True)
class Table:
    """Cells as they are shown; the terminal, Markdown and HTML draw the same one.

    text_columns: how many columns, from the left, are words; the rest are figures.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1


def arms_table(summary: Summary) -> Table:
    """One line an arm: accuracies in percent, gains in points with 95 % intervals, costs."""
    header = [
        "arm",
        "seeds",
        "top-1 %",
        "macro %",
        "worst class %",
        "many %",
        "medium %",
        "few %",
        "macro gain over real",
        f"macro gain over {summary.best_cheap}",
        "GAN s",
        "gate s",
        "drawing s",
        "classifier s",
    ]
    parts = [_cost_parts(arm) for arm in summary.arms]
    gated, drawn = (any(cost[part] for cost in parts) for part in (1, 2))
    rows = []
    for arm, (gan, gate, drawing, classifier) in zip(summary.arms, parts, strict=True):
        spreads = (
            arm.top1,
            arm.macro_accuracy,
            arm.worst_class_recall,
            arm.many,
            arm.medium,
            arm.few,
        )
        rows.append(
            [
                arm.arm,
                str(len(arm.seeds)),
                *(percent(spread) for spread in spreads),
                gain_text(arm.over_real),
                gain_text(arm.over_cheap),
                f"{gan:,.0f}",
                f"{gate:,.0f}" if gated else MISSING,
                f"{drawing:,.0f}" if drawn and drawing is not None else MISSING,
                f"{classifier:,.0f}",
            ]
        )
    return without_empty_columns(Table("Arms", tuple(header), tuple(map(tuple, rows))))


def accuracy_table(summary: Summary) -> Table:
    """One line an arm: accuracies in percent, that on validation first, by which arms are chosen.

    Groups of classes that the data lacks have no column.
    """
    shown = {"val. macro %": "val_macro_accuracy", "top-1 %": "top1", "macro %": "macro_accuracy"}
    shown |= {"worst class %": "worst_class_recall"}
    groups = [group for group in SHOT_GROUPS if any(getattr(arm, group) for arm in summary.arms)]
    shown |= {f"{group} %": group for group in groups}
    return Table(
        title="Accuracy: mean ± standard deviation over seeds",
        header=("arm", "seeds", *shown),
        rows=tuple(
            (
                arm.arm,
                str(len(arm.seeds)),
                *(percent(getattr(arm, key)) for key in shown.values()),
            )
            for arm in summary.arms
        ),
    )


def cost_table(summary: Summary) -> Table:
    """One line an arm: seconds for all that it needs, the generator's training among them."""
    table = Table(
        title="Cost of one classifier with all it needs, in seconds",
        header=("arm", "generator", "gate", "drawing images", "classifier", "together"),
        rows=tuple(
            (
                arm.arm,
                *(f"{value:,.0f}" if value else MISSING for value in parts),
                f"{sum(value or 0 for value in parts):,.0f}",
            )
            for arm in summary.arms
            for parts in [_cost_parts(arm)]
        ),
    )
    return without_empty_columns(table)


def _cost_parts(arm: ArmSummary) -> tuple[float, float, float | None, float]:
    """Seconds for generator, gate, drawing (None if unknown) and classifier."""
    drawing = arm.drawing_seconds
    if drawing is not None and drawing < 1:
        drawing = 0.0  # what looking up counts takes
    if drawing is None and not arm.uses_generator:
        drawing = 0.0
    return arm.gan_seconds, arm.gate_seconds, drawing, arm.classifier_seconds


@dataclass(frozen=True)
class GroupGains:
    """titles: of the columns. rows: by arm, its gains, one a column."""

    titles: tuple[str, ...]
    rows: Mapping[str, tuple[Gain, ...]]


def group_gains(summary: Summary, over: str) -> GroupGains | None:
    """Gains in the worst class and in each group of classes over the arm ``over``, ``real`` or the
    best cheap one; None where no arm was compared with it.
    """
    compared = {
        arm.arm: versus.figures
        for arm in summary.arms
        if (versus := arm.versus_real if over == BASELINE else arm.versus_cheap) is not None
    }
    if not compared:
        return None
    shown = [key for key in GROUP_GAINS if key in next(iter(compared.values()))]
    return GroupGains(
        tuple(GROUP_GAINS[key] for key in shown),
        {arm: tuple(figures[key] for key in shown) for arm, figures in compared.items()},
    )


def group_gains_table(summary: Summary, over: str) -> Table | None:
    """``group_gains`` as text, one line an arm."""
    found = group_gains(summary, over)
    if found is None:
        return None
    return Table(
        title=f"Gain over {over} in groups of classes, points",
        header=("arm", *found.titles),
        rows=tuple((arm, *map(gain_text, gains)) for arm, gains in found.rows.items()),
    )


def counts_table(summary: Summary) -> Table:
    """One line a class, most frequent first: images that an epoch shows."""
    series = epoch_counts(summary)
    return Table(
        title="Images of each class in an epoch",
        header=("class", *series),
        rows=tuple(
            (
                f"{label} {summary.class_names[label]}",
                *(f"{counts[label]:,}" for counts in series.values()),
            )
            for label in reversed(rare_first(summary))
        ),
    )


def synthetic_table(summary: Summary, record: RunRecord) -> Table | None:
    """One line a class, rarest first: how well its synthetic images passed; None without any.

    Of many arms that the gate judged, those alone that the verdict looks at.
    """
    found: dict[str, Sequence[float | None]] = {}
    if record.fidelity is not None:
        found["label agreement %"] = record.fidelity["per_class_label_agreement"]
    gated = [arm for arm in summary.arms if any(share is not None for share in arm.acceptance)]
    if len(gated) > SHOWN_TOGETHER:
        gated = [arm for arm in gated if arm in contenders(summary)]
    for arm in gated:
        found[f"kept by the gate, {arm.arm} %"] = arm.acceptance
    gate = record.dataset.get("gate")
    if gated and gate:
        found["real images that the gate would keep %"] = gate["real_acceptance"]
    stand_ins = {arm.arm: arm.oversampled_counts for arm in gated if any(arm.oversampled_counts)}
    if not found:
        return None
    return Table(
        title="Synthetic images of each class",
        header=(
            "class",
            "train images",
            *found,
            *(f"real images in their place, {arm}" for arm in stand_ins),
        ),
        rows=tuple(
            (
                f"{label} {summary.class_names[label]}",
                f"{summary.train_counts[label]:,}",
                *(share_text(shares[label]) for shares in found.values()),
                *(f"{counts[label]:,.0f}" for counts in stand_ins.values()),
            )
            for label in rare_first(summary)
        ),
    )


def class_table(summary: Summary) -> Table:
    """One line a class, rarest first: recall of each arm, gains over ``real`` of the arms of
    ``shown_by_class``, and over the best cheap arm of the best with a generator.
    """
    gaining = shown_by_class(summary)
    generative = [
        arm for arm in summary.arms if arm.arm == summary.best_generative and arm.versus_cheap
    ]
    return Table(
        title="Recall of each class",
        header=(
            "class",
            "train images",
            "test images",
            *(f"{arm.arm} %" for arm in summary.arms),
            *(f"{arm.arm} over real" for arm in gaining),
            *(f"{arm.arm} over {summary.best_cheap}" for arm in generative),
        ),
        rows=tuple(
            (
                f"{label} {summary.class_names[label]}",
                f"{summary.train_counts[label]:,}",
                f"{summary.test_counts[label]:,}",
                *(f"{100 * arm.per_class_recall[label]:.1f}" for arm in summary.arms),
                *(gain_text(arm.class_gains[label]) for arm in gaining),
                *(gain_text(arm.class_gains_over_cheap[label]) for arm in generative),
            )
            for label in rare_first(summary)
        ),
    )


def without_empty_columns(table: Table) -> Table:
    """Without the columns of figures that hold nothing."""
    keep = [
        column
        for column in range(len(table.header))
        if column < table.text_columns or any(row[column] != MISSING for row in table.rows)
    ]
    return Table(
        title=table.title,
        header=tuple(table.header[column] for column in keep),
        rows=tuple(tuple(row[column] for column in keep) for row in table.rows),
        text_columns=table.text_columns,
    )


def percent(spread: Spread | None) -> str:
    """``"93.48 ± 1.20"``: mean and standard deviation over seeds, in percent."""
    if spread is None:
        return MISSING
    deviation = "" if spread.std is None else f" ± {100 * spread.std:.2f}"
    return f"{100 * spread.mean:.2f}{deviation}"


def gain_text(gain: Gain | None) -> str:
    """``"+0.75 (-0.10 to +1.60)"``: points and their 95 % interval."""
    if gain is None:
        return MISSING
    return f"{points(gain.mean)} ({points(gain.low)} to {points(gain.high)})"


def share_text(value: float | None) -> str:
    """``0.5`` -> ``"50.0"``, in percent."""
    return MISSING if value is None else f"{100 * value:.1f}"
