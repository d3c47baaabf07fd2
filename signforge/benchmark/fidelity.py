"""Fidelity of the generator that a benchmark uses, measured once and kept in its run directory.

fidelity.json grows part by part (what the extractor says, the classification accuracy score,
Inception distances), so that a kill costs one part, and an older file only gains what it lacks.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from signforge.benchmark.folder import read_json, write_json
from signforge.config import CLASSIFIER_RUNNING_KEYS, Config
from signforge.data.splits import PreparedSplits
from signforge.evaluate.classification_accuracy_score import synthetic_accuracy
from signforge.evaluate.features import FeatureExtractor, load_extractor, train_extractor
from signforge.evaluate.inception import (
    find_inception_weights,
    inception_report,
    load_inception,
)
from signforge.evaluate.quality import quality_report
from signforge.files import sha256
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress

EXTRACTOR = "extractor"
EXTRACTOR_SEED = 1_000_003
"""Far from the seeds of the arms, so that no arm starts from the extractor's own weights."""
CAS_SEED = 0
"""The same however many seeds of the arms are asked for, and with which of them a call begins."""
FIDELITY = "fidelity.json"
QUALITY, CAS, INCEPTION = "per_class", "cas", "inception"
"""The key of fidelity.json that each part writes, and by which it is known to be there."""


def measure_fidelity(
    config: Config,
    splits: PreparedSplits,
    sampler: ClassConditionalSampler,
    run_dir: Path,
    *,
    extractor: FeatureExtractor | None = None,
    track: Track = no_progress,
) -> dict[str, Any]:
    """fidelity.json: the generator against the validation split, test never touched.

    extractor: by default a classifier trained on the training split for
        ``benchmark.extractor_steps`` steps, kept in ``run_dir``/extractor; one that is there
        already is used again, and so is every part that was measured of the same generator by
        the same extractor.

    Raises SignforgeError for Inception weights that were asked for and cannot be read.
    """
    weights = find_inception_weights(config.benchmark.inception_weights)
    extractor = extractor or _own_extractor(config, splits, run_dir / EXTRACTOR, track)
    path = run_dir / FIDELITY
    found = kept_parts(run_dir, sampler.fingerprint)
    if found.get("extractor_sha256") != extractor.weights_sha256:
        found = {}
    if QUALITY not in found:
        report = quality_report(
            sampler, extractor, splits.val, splits.train, seed=EXTRACTOR_SEED, track=track
        )
        found = {**found, **report.as_dict()}
        write_json(path, found)
    if needs_cas(config, found):
        found = {**found, CAS: _classification_accuracy(config, splits, sampler, track)}
        write_json(path, found)
    if weights is not None and needs_inception(config, found, weights):
        inception = inception_report(
            load_inception(weights, config.classifier.device),
            sampler,
            splits.val,
            splits.train,
            most=config.benchmark.inception_images,
            seed=EXTRACTOR_SEED,
            track=track,
        )
        found = {
            **found,
            INCEPTION: {**asdict(inception), "most": config.benchmark.inception_images},
        }
        write_json(path, found)
    return found


def cas_steps(config: Config) -> int:
    """Optimizer steps of the classifier trained on samples alone; 0 for none."""
    steps = config.benchmark.cas_steps
    return config.classifier.steps if steps is None else steps


def needs_cas(config: Config, found: Mapping[str, Any]) -> bool:
    """Whether fidelity.json as ``found`` lacks the classification accuracy score asked for."""
    kept = found.get(CAS)
    return cas_steps(config) > 0 and (kept is None or kept["made_by"] != _made_by(config))


def needs_inception(config: Config, found: Mapping[str, Any], weights: Path) -> bool:
    """Whether fidelity.json as ``found`` lacks Inception distances by these weights."""
    kept = found.get(INCEPTION)
    wanted = (sha256(weights.read_bytes()), config.benchmark.inception_images)
    return kept is None or (kept["weights_sha256"], kept["most"]) != wanted


def kept_parts(run_dir: Path, sampler_fingerprint: str) -> dict[str, Any]:
    """What fidelity.json says of this generator; empty where it says nothing."""
    path = run_dir / FIDELITY
    found: dict[str, Any] = read_json(path) if path.exists() else {}
    return found if found.get("sampler_fingerprint") == sampler_fingerprint else {}


def _classification_accuracy(
    config: Config, splits: PreparedSplits, sampler: ClassConditionalSampler, track: Track
) -> dict[str, Any]:
    """As ``synthetic_accuracy`` reports it; its partner on real images is the arm ``real``."""
    steps = cas_steps(config)
    accuracy = synthetic_accuracy(
        sampler,
        splits.train,
        splits.val,
        config=config.classifier.model_copy(update={"steps": steps}),
        seed=CAS_SEED,
        track=track,
    )
    return {**accuracy.as_dict(), "steps": steps, "made_by": _made_by(config)}


def _made_by(config: Config) -> dict[str, Any]:
    """What the classification accuracy score depends on besides generator and data."""
    settings = config.classifier.model_dump(mode="json", exclude={*CLASSIFIER_RUNNING_KEYS})
    return {**settings, "steps": cas_steps(config), "seed": CAS_SEED}


def kept_extractor(config: Config, splits: PreparedSplits, folder: Path) -> FeatureExtractor | None:
    """The one in ``folder`` if it was made for this training split, classifier and steps."""
    if not (folder / "extractor.json").exists():
        return None
    found = load_extractor(folder, config.classifier.device)
    made_for = (found.card.train_fingerprint, found.card.classifier, found.card.steps)
    asked = (splits.train.fingerprint, config.classifier.name, config.benchmark.extractor_steps)
    return found if made_for == asked else None


def _own_extractor(
    config: Config, splits: PreparedSplits, folder: Path, track: Track
) -> FeatureExtractor:
    """The one that is kept in ``folder``, else a new one, kept there."""
    kept = kept_extractor(config, splits, folder)
    if kept is not None:
        return kept
    extractor = train_extractor(
        splits.train,
        config=config.classifier,
        steps=config.benchmark.extractor_steps,
        seed=EXTRACTOR_SEED,
        track=track,
    )
    folder.mkdir(parents=True, exist_ok=True)
    extractor.save(folder)
    return extractor
