"""Rows and predictions -> what the benchmark found: figures of each arm, gains, and a verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from signforge.benchmark.arms import BASELINE
from signforge.benchmark.clusters import Clustering, IntArray, Predictions
from signforge.benchmark.folder import (
    Row,
    read_json,
    read_predictions,
    read_rows,
    read_target,
)
from signforge.benchmark.run_clustering import clustering_of_run
from signforge.benchmark.statistics import ClassGain, Comparison, Gain, compare
from signforge.benchmark.verdict import Contender, verdict
from signforge.config_file import load_config
from signforge.data.splits import shot_group
from signforge.errors import SignforgeError

SHOT_GROUPS = ("many", "medium", "few")
SHOWN_TOGETHER = 3
"""Arms that a picture or a table of all classes can hold and still be read."""


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and the standard deviation between them (None for one seed)."""

    mean: float
    std: float | None


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its seeds; accuracies and recalls are shares from 0 to 1.

    val_macro_accuracy: on the validation split, by which arms are chosen; all else is the test's.
    many, medium, few: None where the data has no class of that kind.
    per_class_recall, per_class_precision: (C,), means over seeds; precision over those that
        predicted the class, None where none did. class_counts: images an epoch shows, (C,).
    gan_seconds, gate_seconds, drawing_seconds, classifier_seconds: means over seeds; 0 for what an
        arm did without. drawing_seconds: for the images of the first epoch, before training; those
        of later epochs are part of classifier_seconds. None in rows of versions that did not tell.
    acceptance: (C,), share of trial samples that the gate kept; None where no gate was asked.
    oversampled_counts: (C,), real images that the last epoch showed again; empty if unknown.
    versus_real, versus_cheap: gains over ``real`` and over the best cheap arm; None for the arm
        itself, and where there is no such arm with the same seeds.
    """

    arm: str
    seeds: tuple[int, ...]
    val_macro_accuracy: Spread
    top1: Spread
    macro_accuracy: Spread
    worst_class_recall: Spread
    many: Spread | None
    medium: Spread | None
    few: Spread | None
    per_class_recall: tuple[float, ...]
    per_class_precision: tuple[float | None, ...]
    class_counts: tuple[int, ...]
    uses_generator: bool
    gan_seconds: float
    gate_seconds: float
    drawing_seconds: float | None
    classifier_seconds: float
    acceptance: tuple[float | None, ...]
    oversampled_counts: tuple[float, ...]
    versus_real: Comparison | None
    versus_cheap: Comparison | None

    @property
    def over_real(self) -> Gain | None:
        """Gain in macro accuracy over ``real``."""
        return self.versus_real.figures["macro_accuracy"] if self.versus_real else None

    @property
    def over_cheap(self) -> Gain | None:
        """Gain in macro accuracy over the best cheap arm."""
        return self.versus_cheap.figures["macro_accuracy"] if self.versus_cheap else None

    @property
    def class_gains(self) -> tuple[ClassGain, ...]:
        """Gain of each class over ``real``; empty where there is none."""
        return self.versus_real.classes if self.versus_real else ()

    @property
    def class_gains_over_cheap(self) -> tuple[ClassGain, ...]:
        """Gain of each class over the best cheap arm; empty where there is none."""
        return self.versus_cheap.classes if self.versus_cheap else ()


@dataclass(frozen=True)
class Summary:
    """What a benchmark found.

    best_cheap, best_generative: of the arms without and with a generator, besides ``real``, the
        one with the highest macro accuracy on validation, which the test has no part in; None if
        there is none.
    clustering: what images of one group count for in the intervals; None where neither split's
        groups are known and tell, and each image counts as if it stood alone.
    """

    verdict: str
    arms: tuple[ArmSummary, ...]
    best_cheap: str | None
    best_generative: str | None
    class_names: tuple[str, ...]
    train_counts: tuple[int, ...]
    test_counts: tuple[int, ...]
    clustering: Clustering | None


def contenders(summary: Summary) -> list[ArmSummary]:
    """The arms that the verdict puts to the test, of those that were compared with ``real``."""
    chosen = (summary.best_cheap, summary.best_generative)
    return [arm for arm in summary.arms if arm.arm in chosen and arm.class_gains]


def shown_by_class(summary: Summary) -> list[ArmSummary]:
    """Arms whose gain of each class can be looked at side by side: all of a few, else the two
    contenders.
    """
    gaining = [arm for arm in summary.arms if arm.class_gains]
    few = len(gaining) <= SHOWN_TOGETHER
    return gaining if few else contenders(summary) or gaining[:SHOWN_TOGETHER]


def rare_first(summary: Summary) -> list[int]:
    """Classes from the fewest training images to the most."""
    return sorted(range(len(summary.class_names)), key=lambda c: (summary.train_counts[c], c))


def epoch_counts(summary: Summary) -> dict[str, tuple[int, ...]]:
    """Images of each class that an epoch shows, (C,): before balancing and in each arm.

    Arms that show the same share one key, their names joined by commas; "real" comes first.
    """
    series: dict[str, tuple[int, ...]] = {BASELINE: summary.train_counts}
    for arm in summary.arms:
        same = [name for name, counts in series.items() if counts == arm.class_counts]
        if same and same[0] != arm.arm:
            series = {
                f"{name}, {arm.arm}" if name == same[0] else name: counts
                for name, counts in series.items()
            }
        elif not same:
            series[arm.arm] = arm.class_counts
    return series


def summarise_run(run_dir: Path) -> Summary:
    """The summary of a run directory, from its own files alone.

    All its rows count, also those that a call with other arms or seeds left, but of an arm and
    seed that were trained twice the last one alone: two are not two seeds. ``real`` comes first,
    then the last call's arms, then the others in the order they finished.

    Raises SignforgeError where it holds no finished row.
    """
    config = load_config(run_dir / "config.yaml").benchmark
    dataset = read_json(run_dir / "dataset.json")
    rows = list({(row["arm"], row["seed"]): row for row in read_rows(run_dir)}.values())
    predictions = {
        (row["arm"], row["seed"]): read_predictions(run_dir, row["arm"], row["seed"])
        for row in rows
    }
    return summarise(
        rows,
        predictions,
        read_target(run_dir),
        arms=tuple(dict.fromkeys([BASELINE, *config.arms, *(row["arm"] for row in rows)])),
        class_names=tuple(dataset["class_names"]),
        train_counts=tuple(dataset["splits"]["train"]["class_counts"]),
        clustering=clustering_of_run(run_dir, rows),
        resamples=config.bootstrap_resamples,
    )


def summarise(
    rows: Sequence[Row],
    predictions: Predictions,
    target: IntArray,
    *,
    arms: Sequence[str],
    class_names: tuple[str, ...],
    train_counts: tuple[int, ...],
    clustering: Clustering | None = None,
    resamples: int = 2000,
) -> Summary:
    """Figures of every arm that has a row, in the order of ``arms``.

    predictions: for every (arm, seed) in ``rows``. target: (N,) true classes.
    clustering: what images of one group count for; None takes each as standing alone.
    """
    of_arm = {
        arm: sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["seed"])
        for arm in arms
    }
    of_arm = {arm: found for arm, found in of_arm.items() if found}
    if not of_arm:
        raise SignforgeError("The benchmark has no finished row yet; run it to the end first.")
    best_cheap = _best_on_validation(of_arm, uses_generator=False)
    best_generative = _best_on_validation(of_arm, uses_generator=True)
    shots = np.array(shot_group(torch.tensor(train_counts)))
    groups = {name: np.flatnonzero(shots == name) for name in SHOT_GROUPS if name in shots}

    def versus(arm: str, other: str | None) -> Comparison | None:
        """Over the seeds that both have."""
        if other is None or other == arm or other not in of_arm:
            return None
        others = {row["seed"] for row in of_arm[other]}
        seeds = [row["seed"] for row in of_arm[arm] if row["seed"] in others]
        if not seeds:
            return None
        preds, baseline = (
            np.stack([predictions[name, seed] for seed in seeds]) for name in (arm, other)
        )
        return compare(
            preds,
            baseline,
            target,
            groups=groups,
            design_effect=clustering.design_effect(len(seeds)) if clustering else 1.0,
            resamples=resamples,
        )

    summaries = {}
    for arm, found in of_arm.items():
        shown = {
            group: _spread(found, group) if found[0][group] is not None else None
            for group in SHOT_GROUPS
        }
        recall = np.array([row["per_class_recall"] for row in found]).mean(0)
        summaries[arm] = ArmSummary(
            arm=arm,
            seeds=tuple(row["seed"] for row in found),
            val_macro_accuracy=_spread(found, "val_macro_accuracy"),
            top1=_spread(found, "top1"),
            macro_accuracy=_spread(found, "macro_accuracy"),
            worst_class_recall=_spread(found, "worst_class_recall"),
            **shown,
            per_class_recall=tuple(recall.tolist()),
            per_class_precision=_mean_precision(
                [predictions[arm, row["seed"]] for row in found], target, len(class_names)
            ),
            class_counts=tuple(found[0]["class_counts"]),
            uses_generator=_uses_generator(found),
            gan_seconds=_spread(found, "gan_seconds").mean,
            gate_seconds=float(np.mean([row.get("gate_seconds", 0.0) for row in found])),
            drawing_seconds=mean_of_known([row.get("drawing_seconds") for row in found]),
            classifier_seconds=_spread(found, "classifier_seconds").mean,
            # Rows of older versions lack the key.
            acceptance=_means_of_known(
                [row.get("acceptance") or [None] * len(class_names) for row in found]
            ),
            oversampled_counts=_mean_of_lists(found, "oversampled_counts"),
            versus_real=versus(arm, BASELINE),
            versus_cheap=versus(arm, best_cheap),
        )

    def contender(arm: str | None) -> Contender | None:
        found = summaries[arm] if arm else None
        if found is None or found.over_real is None:
            return None
        return Contender(found.arm, found.over_real, found.over_cheap)

    return Summary(
        verdict=verdict(contender(best_cheap), contender(best_generative)),
        arms=tuple(summaries.values()),
        best_cheap=best_cheap,
        best_generative=best_generative,
        class_names=class_names,
        train_counts=train_counts,
        test_counts=tuple(np.bincount(target, minlength=len(class_names)).tolist()),
        clustering=clustering,
    )


def _best_on_validation(of_arm: Mapping[str, Sequence[Row]], *, uses_generator: bool) -> str | None:
    """The arm besides ``real`` with the highest validation macro accuracy, over common seeds.

    Arms that share two seeds with ``real`` go before those that share one, of which nothing sure
    can be said, and these before others, of which nothing can.
    """
    chosen = {
        arm: found
        for arm, found in of_arm.items()
        if arm != BASELINE and _uses_generator(found) == uses_generator
    }
    real_seeds = {row["seed"] for row in of_arm.get(BASELINE, ())}
    paired = {
        arm: [row for row in found if row["seed"] in real_seeds] for arm, found in chosen.items()
    }
    for fewest in (1, 2):
        chosen = {arm: found for arm, found in paired.items() if len(found) >= fewest} or chosen
    if not chosen:
        return None
    # An arm with more seeds than others must not win by seeds that were easy.
    common = set.intersection(*({row["seed"] for row in found} for found in chosen.values()))
    return max(
        chosen,
        key=lambda arm: (
            _spread(
                [row for row in chosen[arm] if not common or row["seed"] in common],
                "val_macro_accuracy",
            ).mean
        ),
    )


def _uses_generator(rows: Sequence[Row]) -> bool:
    return any(row["uses_generator"] for row in rows)


def _spread(rows: Sequence[Row], key: str) -> Spread:
    values = np.array([row[key] for row in rows], dtype=np.float64)
    return Spread(float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None)


def _means_of_known(lists: Sequence[Sequence[float | None]]) -> tuple[float | None, ...]:
    """Of each class, (C,), over the lists (C,) that know it."""
    return tuple(mean_of_known(column) for column in zip(*lists, strict=True))


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """None where none is known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _mean_precision(
    predictions: Sequence[IntArray], target: IntArray, num_classes: int
) -> tuple[float | None, ...]:
    """Share of the images predicted as a class that are of it, (C,), mean over seeds."""
    precisions = []
    for preds in predictions:
        predicted = np.bincount(preds, minlength=num_classes)
        right = np.bincount(preds[preds == target], minlength=num_classes)
        pairs = zip(right.tolist(), predicted.tolist(), strict=True)
        precisions.append([hits / count if count else None for hits, count in pairs])
    return _means_of_known(precisions)


def _mean_of_lists(rows: Sequence[Row], key: str) -> tuple[float, ...]:
    """(C,), or empty where a row does not know it."""
    lists = [row.get(key) for row in rows]
    if any(values is None for values in lists):
        return ()
    return tuple(np.mean(np.array(lists, dtype=np.float64), axis=0).tolist())
