"""Tables of balance_trials.py: made from its rows and validation.json, without any data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt
from records import markdown_table
from scipy import stats

from signforge.balance.decision import ValidationGroups, class_gains
from signforge.balance.plan import BalancePlan
from signforge.benchmark.folder import Row
from signforge.benchmark.trials import group_recall

Array = npt.NDArray[np.float64]
LEVEL = 0.95


@dataclass(frozen=True)
class Validation:
    """What the rows were scored on. halves: 0 or 1 for each group, for choosing and scoring."""

    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    groups: ValidationGroups
    halves: npt.NDArray[np.int64]

    @property
    def rarest(self) -> npt.NDArray[np.int64]:
        """The third of the classes with the fewest training images."""
        return np.argsort(self.train_counts, kind="stable")[: max(1, len(self.train_counts) // 3)]


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        mark = "" if self.low <= 0 <= self.high else " *"
        return f"{100 * self.mean:+.2f} [{100 * self.low:+.2f}, {100 * self.high:+.2f}]{mark}"


def mean_gain(
    ours: Array, theirs: Array, validation: Validation, classes: npt.NDArray[np.int64] | None = None
) -> Interval:
    """Paired gain in the mean recall of ``classes`` (all by default), with its 95 % interval.

    ours, theirs: recall within each group (S, M), row s of both from the same seed. The interval
    covers other validation signs (pooled over classes, see ``class_gains``) and other seeds; as
    few seeds say little about their own spread, it is stretched by Student's t with
    Welch-Satterthwaite degrees of freedom.
    """
    num_classes = len(validation.class_names)
    chosen = np.arange(num_classes) if classes is None else classes
    gains = class_gains(ours, theirs, validation.groups, num_classes)
    per_seed = gains.per_seed[:, chosen].mean(1)
    seeds = len(per_seed)
    of_groups = gains.group_variance[chosen].sum() / len(chosen) ** 2
    of_seeds = per_seed.var(ddof=1) / seeds if seeds > 1 else 0.0
    total = of_groups + of_seeds
    share = of_seeds / total if total else 0.0
    freedom = (seeds - 1) / max(share**2, 1e-12) if seeds > 1 else np.inf
    reach = stats.t.ppf((1 + LEVEL) / 2, freedom) * total**0.5
    mean = per_seed.mean()
    return Interval(float(mean), float(mean - reach), float(mean + reach))


def class_recall(recall: Array, validation: Validation) -> Array:
    """Share of each class's images that are right: (S, M) -> (S, C)."""
    groups, num_classes = validation.groups, len(validation.class_names)
    images = np.bincount(groups.labels, weights=groups.sizes, minlength=num_classes)
    hits = [
        np.bincount(groups.labels, weights=row * groups.sizes, minlength=num_classes)
        for row in recall
    ]
    return np.stack(hits) / images


def recalls_of(rows: Mapping[str, Sequence[Row]], validation: Validation) -> dict[str, Array]:
    """Recall within each group (S, M) of every variant, seeds in rising order.

    "plan" is put together from the two plans: each group is scored by the classifiers of the plan
    that was chosen on the other half.
    """
    recalls = {
        name: group_recall(sorted(own, key=lambda row: row["seed"]), validation.groups)
        for name, own in rows.items()
    }
    if {"plan-0", "plan-1"} <= recalls.keys():
        by_first, by_second = recalls.pop("plan-0"), recalls.pop("plan-1")
        recalls["plan"] = np.where(validation.halves == 1, by_first, by_second)
    return recalls


def trials_table(rows: Mapping[str, Sequence[Row]], validation: Validation) -> str:
    """Markdown: one line a variant; gains over the seeds that both sides have."""
    recalls = recalls_of(rows, validation)
    seeds = {name: sorted(row["seed"] for row in own) for name, own in rows.items()}
    seeds["plan"] = seeds.get("plan-0", [])
    images = int(validation.groups.sizes.sum())
    header = [
        "variant", "seeds", "macro", "rarest third", "worst class", "top-1",
        "macro over real", "rarest third over real", "macro over oversample", "images seen",
        "synthetic", "minutes",
    ]  # fmt: skip
    lines = []
    for name, recall in recalls.items():
        of_class = class_recall(recall, validation)
        hits = (recall * validation.groups.sizes).sum(1) / images
        own = [row for key in _parts(name) for row in rows.get(key, ())]
        gains = [
            _gain(recalls, seeds, name, other, validation, classes)
            for other, classes in (
                ("real", None), ("real", validation.rarest), ("oversample", None),
            )
        ]  # fmt: skip
        lines.append([
            name,
            str(len(seeds[name])),
            f"{100 * of_class.mean():.2f}",
            f"{100 * of_class[:, validation.rarest].mean():.2f}",
            f"{100 * of_class.min(1).mean():.1f}",
            f"{100 * hits.mean():.2f}",
            *gains,
            f"{fmean(row['images'] for row in own):,.0f}",
            f"{fmean(_drawn(row) for row in own):,.0f}",
            f"{fmean(row['fit_seconds'] + row['setup_seconds'] for row in own) / 60:.1f}",
        ])  # fmt: skip
    return markdown_table(header, lines)


def class_table(
    rows: Mapping[str, Sequence[Row]],
    validation: Validation,
    plans: Mapping[str, BalancePlan],
    real_acceptance: Mapping[str, Sequence[float | None]],
) -> str:
    """Markdown: one line a class with the gate's acceptance and what the plans decided.

    real_acceptance: for each gated variant, the share of each class's real images that its gate
        keeps: the control.
    """
    gated = [name for name in rows if name.startswith("gated")]
    header = [
        "class", "train images", "signs in val", "recall real",
        *(f"{name}: accepted (real)" for name in gated),
        *plans,
    ]  # fmt: skip
    real = recalls_of(rows, validation).get("real")
    recall = None if real is None else class_recall(real, validation).mean(0)
    signs = np.bincount(validation.groups.labels, minlength=len(validation.class_names))
    lines = [
        [
            validation.class_names[label],
            f"{validation.train_counts[label]:,}",
            str(signs[label]),
            "-" if recall is None else f"{100 * recall[label]:.1f}",
            *(
                f"{_percent(_mean_share(rows[name], label))} "
                f"({_percent(real_acceptance[name][label])})"
                for name in gated
            ),
            *(_decision(plan, label) for plan in plans.values()),
        ]
        for label in np.argsort(validation.train_counts, kind="stable")
    ]
    return markdown_table(header, lines)


def _parts(name: str) -> tuple[str, ...]:
    return ("plan-0", "plan-1") if name == "plan" else (name,)


def _gain(
    recalls: Mapping[str, Array],
    seeds: Mapping[str, list[int]],
    name: str,
    other: str,
    validation: Validation,
    classes: npt.NDArray[np.int64] | None,
) -> str:
    both = [seed for seed in seeds[name] if seed in seeds.get(other, [])]
    if name == other or not both:
        return ""
    ours, theirs = (
        recalls[key][[seeds[key].index(seed) for seed in both]] for key in (name, other)
    )
    return str(mean_gain(ours, theirs, validation, classes))


def _drawn(row: Row) -> int:
    """Generated images in the data set of a row."""
    return sum(row.get("synthetic_counts", ())) - sum(row.get("oversampled_counts", ()))


def _mean_share(rows: Sequence[Row], label: int) -> float | None:
    shares = [row["acceptance"][label] for row in rows]
    return None if None in shares else fmean(shares)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}"


def _decision(plan: BalancePlan, label: int) -> str:
    """The remedy, and for each one tried its gain and the probability that it is above zero."""
    decision = plan.decisions[label]
    tried: list[Any] = [
        f"{remedy[:4]}. {100 * found.gain:+.1f} ({found.probability:.2f})"
        for remedy, found in decision.evidence.items()
    ]
    return ", ".join([decision.remedy, *tried])
