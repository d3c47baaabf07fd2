"""Run directories of a benchmark that never ran: rows and predictions made up to a plan."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from signforge.benchmark.folder import append_row, write_json, write_predictions, write_target
from signforge.config_file import dump_config, validate
from signforge.data.splits import shot_group
from signforge.files import write_atomically

HOSTILE = "<script>alert(\"1\")</script> & 'x' {{ 7 * 7 }}"
CLASS_NAMES = (HOSTILE, "yield | give way", "stop`", "<img src=https://example.org/x.png>")
TRAIN_COUNTS = (400, 150, 60, 6)
TEST_IMAGES = 120
ARMS = ("real", "oversample", "logit_adjustment", "synthetic", "synthetic_ungated")
FINGERPRINT = "9" * 64


def write_run(
    folder: Path,
    *,
    arms: Sequence[str] = ARMS,
    seeds: int = 3,
    accuracy: Mapping[tuple[str, int], float] | None = None,
    class_names: Sequence[str] = CLASS_NAMES,
    generator_fingerprint: str = FINGERPRINT,
    old: bool = False,
) -> None:
    """A finished benchmark: each class is recognised in 70 % of cases, or as ``accuracy`` says.

    accuracy: (arm, class) -> share. old: rows and dataset.json as the first version wrote them.
    """
    num_classes = len(class_names)
    config = validate(
        {
            "data": {"source": "squares", "resolution": 16},
            "classifier": {"name": "test_resnet"},
            "benchmark": {"arms": list(arms), "seeds": seeds, "bootstrap_resamples": 200},
        },
        "test",
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "config.yaml", dump_config(config).encode())
    has_generator = any(arm.startswith("synthetic") for arm in arms)
    write_json(folder / "dataset.json", _dataset(class_names, generator_fingerprint, old=old))
    if not has_generator:
        dataset = _dataset(class_names, generator_fingerprint, old=True)
        write_json(folder / "dataset.json", {**dataset, "generator": None})
    environment = {
        "versions": {"python": "3.11", "signforge": "0.1.0", "timm": None},
        "hardware": {"cpu": "A <b>CPU</b>", "cores": 2, "gpu": None},
        "commit": "c0ffee",
        "dirty": True,
    }
    command = "signforge benchmark --data 'a <i>b</i>' && true"
    repeat = {"command": command} if old else {"commands": [command]}
    write_json(folder / "environment.json", {**environment, **repeat})
    if has_generator:
        write_json(folder / "fidelity.json", _fidelity(num_classes, generator_fingerprint, old=old))

    target = np.repeat(np.arange(num_classes), TEST_IMAGES).astype(np.int16)
    write_target(folder, target)
    rng = np.random.default_rng(0)
    for seed in range(seeds):
        luck = rng.random(len(target))
        for arm in arms:
            share = np.array([(accuracy or {}).get((arm, c), 0.7) for c in range(num_classes)])
            # Two in a hundred images come out differently in each arm.
            own = np.where(rng.random(len(target)) < 0.02, rng.random(len(target)), luck)
            wrong = (target + 1) % num_classes
            preds = np.where(own < share[target], target, wrong).astype(np.int16)
            write_predictions(folder, arm, seed, preds)
            append_row(folder, _row(arm, seed, preds, target, old=old))


def _row(arm: str, seed: int, preds: Any, target: Any, *, old: bool) -> dict[str, Any]:
    num_classes = int(target.max()) + 1
    recall = np.array([(preds[target == c] == c).mean() for c in range(num_classes)])
    shots = np.array(shot_group(torch.tensor(_train_counts(num_classes))))
    generative = arm.startswith("synthetic")
    gated = generative and arm != "synthetic_ungated"
    balanced = generative or arm == "oversample"
    counts = _train_counts(num_classes)
    row = {
        "arm": arm,
        "seed": seed,
        "val_macro_accuracy": float(recall.mean()),
        "top1": float((preds == target).mean()),
        "macro_accuracy": float(recall.mean()),
        "worst_class_recall": float(recall.min()),
        **{
            group: float(recall[shots == group].mean()) if (shots == group).any() else None
            for group in ("many", "medium", "few")
        },
        "per_class_recall": recall.tolist(),
        "class_counts": [max(counts)] * num_classes if balanced else list(counts),
        "uses_generator": generative,
        "gan_seconds": 1234.4 if generative else 0.0,
        "classifier_seconds": 10.0,
        "commit": "c0ffee",
        "dirty": True,
        "finished_at": "2026-01-01T00:00:00+00:00",
    }
    if not old:
        row["gate_seconds"] = 56.0 if gated else 0.0
        row["drawing_seconds"] = 78.0 if generative else 0.001
        row["acceptance"] = [0.25 * (c % 5) if gated else None for c in range(num_classes)]
        row["oversampled_counts"] = [340 if gated and c == 0 else 0 for c in range(num_classes)]
    return row


def _train_counts(num_classes: int) -> tuple[int, ...]:
    return tuple(TRAIN_COUNTS[c % len(TRAIN_COUNTS)] for c in range(num_classes))


def _dataset(class_names: Sequence[str], fingerprint: str, *, old: bool) -> dict[str, Any]:
    num_classes = len(class_names)
    counts = list(_train_counts(num_classes))
    test = [TEST_IMAGES] * num_classes
    dataset: dict[str, Any] = {
        "source": "squares <b>",
        "resolution": 16,
        "class_names": list(class_names),
        "notes": ["Squares are <i>not</i> signs."],
        "splits": {
            name: {"images": sum(of), "groups": 0, "class_counts": of, "fingerprint": name * 20}
            for name, of in (("train", counts), ("val", test), ("test", test))
        },
        "generator": {"fingerprint": fingerprint, "seconds": 1234.4},
    }
    if not old:
        shares = [None, *(0.9 for _ in range(num_classes - 1))]
        dataset["gate"] = {"seconds": 56.0, "tau": 0.5, "folds": 2, "real_acceptance": shares}
    return dataset


def _fidelity(num_classes: int, fingerprint: str, *, old: bool) -> dict[str, Any]:
    first = {
        "metric_name": "fd_test_480",
        "n": 480,
        "fd": 2.0,
        "fd_floor": 1.0,
        "fd_ratio": 2.0,
        "kid": 0.002,
        "kid_floor": 0.001,
        "macro_label_agreement": 0.8,
        "real_label_agreement": 0.9,
        "worst_class_label_agreement": 0.5,
        "worst_class": 0,
        "per_class_label_agreement": [0.5, *(0.9 for _ in range(num_classes - 1))],
        "extractor": "test_indomain",
        "extractor_sha256": "a" * 64,
        "sampler_fingerprint": fingerprint,
        "seed": 0,
    }
    if old:
        return first
    side = {"precision": 0.9, "recall": 0.8, "density": 1.1, "coverage": 0.7, "k": 5}
    near = {"quantile": 0.05, "macro_share": 0.125, "per_class_share": [0.125] * num_classes}
    return {
        **first,
        "per_class": {
            "n": [TEST_IMAGES] * num_classes,
            "label_agreement": first["per_class_label_agreement"],
            "real_label_agreement": [0.9] * num_classes,
            "fd": [3.0] * num_classes,
            "fd_floor": [1.5] * num_classes,
            "kid": [0.003, *([None] * (num_classes - 1))],
            "kid_floor": [0.001, *([None] * (num_classes - 1))],
            "coverage": [0.6] * num_classes,
            "coverage_floor": [0.8] * num_classes,
        },
        "coverage": {"samples": side, "floor": {**side, "coverage": 0.95}},
        "memorization": {"features": near, "pixels": {**near, "macro_share": 0.0}},
        "cas": {
            "macro_accuracy": 0.625,
            "per_class_recall": [0.625] * num_classes,
            "steps": 2000,
        },
        "inception": {
            "n": 400,
            "fid": 31.5,
            "fid_floor": 12.25,
            "kid": 0.004,
            "kid_floor": 0.002,
            "weights_sha256": "b" * 64,
            "known_weights": False,
        },
    }


def append_many(folder: Path, arm: str, count: int) -> None:
    """Rows as long as those of a thousand classes; here, as a started process has to import it."""
    for seed in range(count):
        append_row(folder, {"arm": arm, "seed": seed, "per_class_recall": [0.5] * 1000})
