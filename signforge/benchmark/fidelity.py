"""Fidelity of the generator that a benchmark uses, measured once and kept in its run directory."""

from pathlib import Path
from typing import Any

from signforge.benchmark.folder import read_json, write_json
from signforge.config import Config
from signforge.data.splits import PreparedSplits
from signforge.evaluate.features import FeatureExtractor, load_extractor, train_extractor
from signforge.evaluate.fidelity import fidelity_report
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress

EXTRACTOR_SEED = 1_000_003
"""Far from the seeds of the arms, so that no arm starts from the extractor's own weights."""


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
        already is used again, and so is a measurement of the same generator by the same extractor.
    """
    extractor = extractor or _own_extractor(config, splits, run_dir / "extractor", track)
    path = run_dir / "fidelity.json"
    if path.exists():
        before: dict[str, Any] = read_json(path)
        if (before["sampler_fingerprint"], before["extractor_sha256"]) == (
            sampler.fingerprint,
            extractor.weights_sha256,
        ):
            return before
    report = fidelity_report(
        sampler, extractor, splits.val, splits.train, seed=EXTRACTOR_SEED, track=track
    ).as_dict()
    write_json(path, report)
    return report


def _own_extractor(
    config: Config, splits: PreparedSplits, folder: Path, track: Track
) -> FeatureExtractor:
    """The one in ``folder`` if it was made for this training split, classifier and steps."""
    steps = config.benchmark.extractor_steps
    if (folder / "extractor.json").exists():
        found = load_extractor(folder, config.classifier.device)
        made_for = (found.card.train_fingerprint, found.card.classifier, found.card.steps)
        if made_for == (splits.train.fingerprint, config.classifier.name, steps):
            return found
    extractor = train_extractor(
        splits.train,
        config=config.classifier,
        steps=steps,
        seed=EXTRACTOR_SEED,
        track=track,
    )
    folder.mkdir(parents=True, exist_ok=True)
    extractor.save(folder)
    return extractor
