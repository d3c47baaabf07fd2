"""report.html: everything a benchmark found in one file that asks nothing of any network.

The template draws; this module gathers what it draws from the files of the run directory.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from signforge.benchmark.arms import BASELINE
from signforge.benchmark.confusion import ConfusionChange, confusion_changes
from signforge.benchmark.fidelity_tables import (
    fidelity_class_table,
    fidelity_table,
    real_macro_accuracy,
)
from signforge.benchmark.folder import commands_of, read_predictions, read_target
from signforge.benchmark.gallery import most_changed, read_gallery
from signforge.benchmark.geometry import (
    columns,
    count_ticks,
    gain_axis,
    mark,
)
from signforge.benchmark.protocol import environment_lines, fidelity_note, protocol_lines
from signforge.benchmark.record import RunRecord
from signforge.benchmark.statistics import Gain
from signforge.benchmark.summary import (
    ArmSummary,
    Summary,
    contenders,
    epoch_counts,
    rare_first,
    shown_by_class,
)
from signforge.benchmark.tables import (
    GroupGains,
    accuracy_table,
    class_table,
    cost_table,
    counts_table,
    group_gains,
    synthetic_table,
)
from signforge.benchmark.verdict import points

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Confusions:
    """The pairs that changed most between ``real`` and one arm."""

    arm: str
    changes: Sequence[ConfusionChange]


def report_html(run_dir: Path, summary: Summary, record: RunRecord) -> str:
    """The page, made from ``run_dir`` alone: styles, charts and images are all inside it."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "breakable": _breakable,
        "code": _code,
        "points": _points,
        "p": _p_value,
        "png": _png,
    }
    fidelity = record.fidelity
    real_macro = real_macro_accuracy(summary, record)
    gaining = [arm for arm in summary.arms if arm.class_gains]
    series = epoch_counts(summary)
    order = rare_first(summary)
    gained, lost = most_changed(summary)
    generator = record.dataset["generator"]
    return environment.get_template("report.html").render(
        summary=summary,
        record=record,
        names=_class_names(summary),
        facts=_facts(summary, record),
        baseline=BASELINE,
        over_real=_forest([arm.over_real for arm in summary.arms]),
        over_cheap=_forest([arm.over_cheap for arm in summary.arms]),
        group_gains=_group_gains(summary),
        accuracy=accuracy_table(summary),
        cost=cost_table(summary),
        gaining=gaining,
        shown=shown_by_class(summary),
        series_of=_series(summary),
        order=order,
        class_axis=gain_axis([gain for arm in shown_by_class(summary) for gain in arm.class_gains]),
        mark_of=mark,
        recall=class_table(summary),
        series=series,
        bars=columns(series, order[::-1]),
        count_ticks=count_ticks(series),
        counts=counts_table(summary),
        confusions=_confusions(run_dir, summary, contenders(summary)),
        gained=gained,
        lost=lost,
        gain_of=_gain_of(summary),
        pictures=read_gallery(run_dir, generator["fingerprint"]) if generator else {},
        fidelity=fidelity_table(fidelity, summary.class_names, real_macro) if fidelity else None,
        fidelity_note=fidelity_note(record),
        fidelity_classes=fidelity_class_table(summary, record),
        synthetic=synthetic_table(summary, record),
        gate=record.dataset.get("gate"),
        commands=commands_of(record.environment),
        protocol=protocol_lines(record, summary),
        environment=environment_lines(record),
    )


def _series(summary: Summary) -> dict[str, int]:
    """Number of each arm's mark; those that stand side by side first, so that they differ most."""
    order = [BASELINE, *(arm.arm for arm in (*shown_by_class(summary), *summary.arms))]
    return {arm: number for number, arm in enumerate(dict.fromkeys(order))}


def _forest(gains: Sequence[Gain | None]) -> dict[str, Any]:
    """Gains of one column on one axis."""
    return {"axis": gain_axis([gain for gain in gains if gain is not None]), "gains": gains}


def _group_gains(summary: Summary) -> dict[str, GroupGains]:
    """By the arm that the others are compared with: ``real``, then the best cheap one."""
    overs = [over for over in (BASELINE, summary.best_cheap) if over]
    return {over: gains for over in overs if (gains := group_gains(summary, over)) is not None}


def _confusions(run_dir: Path, summary: Summary, arms: Sequence[ArmSummary]) -> list[Confusions]:
    """For each contender, over the seeds that it shares with ``real``."""
    seeds_of = {arm.arm: set(arm.seeds) for arm in summary.arms}
    target = read_target(run_dir)
    found = []
    for arm in arms:
        seeds = sorted(seeds_of[arm.arm] & seeds_of[BASELINE])
        preds, baseline = (
            np.stack([read_predictions(run_dir, name, seed) for seed in seeds])
            for name in (arm.arm, BASELINE)
        )
        changes = confusion_changes(preds, baseline, target, len(summary.class_names))
        found.append(Confusions(arm.arm, changes))
    return found


def _gain_of(summary: Summary) -> Sequence[Gain]:
    """Of each class by the best arm with a generator."""
    arm = next((arm for arm in summary.arms if arm.arm == summary.best_generative), None)
    return arm.class_gains if arm else ()


def _facts(summary: Summary, record: RunRecord) -> list[tuple[str, str]]:
    """The figures that a reader asks for first."""
    counts = summary.train_counts
    seeds = sorted({len(arm.seeds) for arm in summary.arms})
    seconds = (
        (arm.classifier_seconds + (arm.drawing_seconds or 0)) * len(arm.seeds)
        for arm in summary.arms
    )
    hours = sum(seconds) / 3600
    generator = record.dataset["generator"]
    hours += generator["seconds"] / 3600 if generator else 0.0
    hours += max(arm.gate_seconds for arm in summary.arms) / 3600
    return [
        ("Classes", f"{len(counts):,}"),
        ("Training images", f"{sum(counts):,}"),
        ("Imbalance ratio", f"{max(counts) / max(min(counts), 1):.1f}"),
        ("Test images", f"{sum(summary.test_counts):,}"),
        ("Arms", f"{len(summary.arms)}"),
        ("Seeds", " to ".join(str(number) for number in (seeds[0], seeds[-1])[: len(seeds)])),
        ("Computing time", f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"),
    ]


def _class_names(summary: Summary) -> list[str]:
    """With their numbers, unless that is all the name says."""
    return [
        name if name == str(label) else f"{label} {name}"
        for label, name in enumerate(summary.class_names)
    ]


def _code(text: str) -> Markup:
    """Escaped, what stands in backticks as ``<code>``, and minus signs before figures."""
    signed = re.sub(r"(?<=[ (])-(?=\d)", "\u2212", str(escape(text)))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", signed))  # noqa: S704


def _breakable(name: str) -> Markup:
    """Escaped; a narrow column may break it after ``_`` and ``+``, as arms have no spaces."""
    return Markup(re.sub(r"([_+])", r"\1<wbr>", str(escape(name))))  # noqa: S704


def _points(share: float) -> str:
    """``-0.0123`` -> ``"\u22121.23"``: with the sign that figures are set with, no minus zero."""
    return points(round(share, 4) + 0.0).replace("-", "\u2212")


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def _png(content: bytes) -> str:
    """A data URI."""
    return "data:image/png;base64," + base64.b64encode(content).decode()
