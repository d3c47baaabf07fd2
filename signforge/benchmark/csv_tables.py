"""What a benchmark found as CSV, for spreadsheets and data frames.

Plain numbers, shares from 0 to 1. A cell is empty where there is no such figure.
"""

import csv
import io
from collections.abc import Sequence
from typing import Any

from signforge.benchmark.statistics import ClassGain, Gain
from signforge.benchmark.summary import ArmSummary, Spread, Summary
from signforge.benchmark.tables import GROUP_GAINS

SPREADS = (
    "val_macro_accuracy",
    "top1",
    "macro_accuracy",
    "worst_class_recall",
    "many",
    "medium",
    "few",
)
GAINS = ("macro_accuracy", *GROUP_GAINS)


def results_csv(summary: Summary) -> str:
    """One line an arm: accuracies, gains over ``real`` and the best cheap arm, seconds."""
    lines = []
    for arm in summary.arms:
        line: dict[str, Any] = {"arm": arm.arm, "seeds": len(arm.seeds)}
        for key in SPREADS:
            spread: Spread | None = getattr(arm, key)
            line[key] = spread.mean if spread else None
            line[f"{key}_std"] = spread.std if spread else None
        for other, versus in (("real", arm.versus_real), ("cheap", arm.versus_cheap)):
            for key in GAINS:
                gain = versus.figures.get(key) if versus else None
                line |= _gain_cells(f"{key}_gain_over_{other}", gain)
        line["best_cheap"] = summary.best_cheap
        line["gan_seconds"] = arm.gan_seconds
        line["gate_seconds"] = arm.gate_seconds
        line["drawing_seconds"] = arm.drawing_seconds
        line["classifier_seconds"] = arm.classifier_seconds
        lines.append(line)
    return _csv(lines)


def classes_csv(summary: Summary) -> str:
    """One line an arm and class: recall and precision, and the class's gains in recall."""
    return _csv(
        [_class_line(summary, arm, label) for arm in summary.arms for label in _labels(summary)]
    )


def _class_line(summary: Summary, arm: ArmSummary, label: int) -> dict[str, Any]:
    line: dict[str, Any] = {
        "arm": arm.arm,
        "class": label,
        "name": summary.class_names[label],
        "train_images": summary.train_counts[label],
        "test_images": summary.test_counts[label],
        "recall": arm.per_class_recall[label],
        "precision": arm.per_class_precision[label],
    }
    for other, gains in (("real", arm.class_gains), ("cheap", arm.class_gains_over_cheap)):
        gain: ClassGain | None = gains[label] if gains else None
        name = f"recall_gain_over_{other}"
        line |= _gain_cells(name, gain)
        line[f"{name}_p_holm"] = gain.p_holm if gain else None
    return line


def _labels(summary: Summary) -> range:
    return range(len(summary.class_names))


def _gain_cells(name: str, gain: Gain | None) -> dict[str, float | None]:
    return {
        name: gain.mean if gain else None,
        f"{name}_low": gain.low if gain else None,
        f"{name}_high": gain.high if gain else None,
        f"{name}_p": gain.p if gain else None,
    }


def _csv(lines: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
