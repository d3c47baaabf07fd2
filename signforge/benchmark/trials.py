"""Trials of remedies: classifiers trained on the training split and scored on validation alone.

A row keeps how many images of each validation group (physical sign) were classified right, from
which every figure of it can be computed again. The test split never comes near.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.balance.decision import ValidationGroups
from signforge.benchmark.arms import ArmSetup
from signforge.benchmark.fitting import fit_arm
from signforge.benchmark.folder import Row, append_row, read_rows
from signforge.classify.training import predict_logits
from signforge.config import CLASSIFIER_RUNNING_KEYS, ClassifierConfig
from signforge.data.images import UNKNOWN_GROUP, LabeledImages
from signforge.evaluate.accuracy import accuracy_report
from signforge.progress import Track, no_progress

T = TypeVar("T")

NO_RESULT_KEYS = (*CLASSIFIER_RUNNING_KEYS, "device", "compile")
"""Classifier keys that change how fast a row comes, not what is in it."""


@dataclass(frozen=True)
class Trial:
    """One classifier to train.

    settings: JSON-ready, all that the row depends on besides the seed, the data and the
        classifier; a finished row is taken up again only where they are the same.
    build: makes what the classifier trains on, for (seed, track).
    """

    arm: str
    seed: int
    settings: Mapping[str, Any]
    build: Callable[[int, Track], ArmSetup]


@dataclass(frozen=True)
class Stage:
    """What all trials have in common. environment: as ``describe_environment`` makes it."""

    train: LabeledImages
    val: LabeledImages
    classifier: ClassifierConfig
    environment: Mapping[str, Any]
    command: str = ""


def run_trials(
    trials: Sequence[Trial],
    stage: Stage,
    folder: Path,
    *,
    on_row: Callable[[Row], None] = lambda _row: None,
    track: Track = no_progress,
) -> list[Row]:
    """The rows of ``trials`` in their order; finished ones are read from ``folder``/rows.jsonl.

    on_row: called with each new row once it is on disk.
    Raises SignforgeError as the parts of a trial do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, trial in enumerate(trials, start=1):
        wanted = identity(trial, stage)
        # Read anew each time: another process may share the folder.
        kept = [row for row in read_rows(folder) if row.get("identity") == wanted]
        if kept:
            rows.append(kept[0])
            continue
        shown = _labelled(track, f"{trial.arm}, seed {trial.seed} ({number} of {len(trials)})")
        row = run_trial(trial, stage, track=shown)
        append_row(folder, row)
        rows.append(row)
        on_row(row)
    return rows


def run_trial(trial: Trial, stage: Stage, *, track: Track = no_progress) -> Row:
    """Trains and scores one classifier; writes nothing."""
    train, val, config = stage.train, stage.val, stage.classifier
    started = time.perf_counter()
    setup = trial.build(trial.seed, track)
    setup_seconds = time.perf_counter() - started
    model, fit = fit_arm(setup, train, config, seed=trial.seed, track=track)
    preds = predict_logits(model, val.images, precision=config.precision).argmax(1)
    report = accuracy_report(preds, val.labels, train.class_counts)
    groups, group_of = validation_groups(val)
    hits = np.bincount(group_of[(preds == val.labels).numpy()], minlength=len(groups.labels))
    return {
        "arm": trial.arm,
        "seed": trial.seed,
        "identity": identity(trial, stage),
        "settings": dict(trial.settings),
        "classifier": config.model_dump(mode="json"),
        **report.as_dict(),
        "worst_class_name": train.class_names[report.worst_class],
        "group_hits": hits.tolist(),
        "images": fit.images,
        "final_loss": fit.final_loss,
        "fit_seconds": round(fit.seconds, 3),
        "setup_seconds": round(setup_seconds, 3),
        "class_counts": list(setup.class_counts),
        **_counts_of_filling(setup.dataset),
        "train_images": len(train),
        "val_images": len(val),
        "val_groups": len(groups.labels),
        "train_fingerprint": train.fingerprint,
        "val_fingerprint": val.fingerprint,
        **{key: stage.environment[key] for key in ("versions", "hardware", "commit", "dirty")},
        "command": stage.command,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def identity(trial: Trial, stage: Stage) -> str:
    """SHA-256 (hex) of all that the result of a trial depends on."""
    classifier = stage.classifier.model_dump(mode="json")
    text = json.dumps(
        {
            "arm": trial.arm,
            "seed": trial.seed,
            "settings": trial.settings,
            "classifier": {k: v for k, v in classifier.items() if k not in NO_RESULT_KEYS},
            "train": stage.train.fingerprint,
            "val": stage.val.fingerprint,
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def validation_groups(val: LabeledImages) -> tuple[ValidationGroups, npt.NDArray[np.int64]]:
    """The groups of ``val`` by rising (class, group), and the group of each image: int64 (N,).

    An image of unknown group is a group of its own.
    """
    alone = -1 - torch.arange(len(val))
    ids = torch.where(val.groups == UNKNOWN_GROUP, alone, val.groups)
    keys, group_of, sizes = np.unique(
        torch.stack([val.labels, ids]).numpy(), axis=1, return_inverse=True, return_counts=True
    )
    return ValidationGroups(keys[0], sizes), group_of.reshape(-1)


def group_recall(rows: Sequence[Row], groups: ValidationGroups) -> npt.NDArray[np.float64]:
    """Share of each group that each row got right: float64 (rows, M)."""
    hits = np.array([row["group_hits"] for row in rows], dtype=np.float64)
    recall: npt.NDArray[np.float64] = hits / groups.sizes
    return recall


def _counts_of_filling(dataset: object) -> dict[str, Any]:
    """What a filled data set says of itself, for each class; nothing for other data sets."""
    if not isinstance(dataset, SyntheticBalancedDataset):
        return {}
    return {
        "synthetic_counts": dataset.synthetic_counts.tolist(),
        "oversampled_counts": dataset.oversampled_counts.tolist(),
        "acceptance": none_for_nan(dataset.acceptance),
    }


def none_for_nan(values: Tensor) -> list[float | None]:
    """float (C,) as JSON can hold it."""
    return [None if value != value else value for value in values.tolist()]


def _labelled(track: Track, label: str) -> Track:
    """``track`` under the trial's own description instead of the caller's."""

    def labelled(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        del description
        return track(items, label, total)

    return labelled
