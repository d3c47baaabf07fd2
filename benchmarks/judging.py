"""What the measuring scripts share: the judge classifier and the GANs that it judges."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from records import command_line, provenance
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from signforge.config import ClassifierConfig, GanConfig
from signforge.data.images import UNKNOWN_GROUP, LabeledImages
from signforge.errors import SignforgeError
from signforge.evaluate.features import FeatureExtractor, load_extractor, train_extractor
from signforge.files import write_atomically
from signforge.gan.checkpoint import list_checkpoints
from signforge.gan.sampler import GanSampler, load_sampler
from signforge.gan.training import train_cgan
from signforge.progress import Track

JUDGE_SEED = 2_000_003
"""Far from the seeds of runs, arms and probes, so that no other classifier has these weights."""


def load_or_train_judge(
    folder: Path, train: LabeledImages, *, config: ClassifierConfig, steps: int, track: Track
) -> FeatureExtractor:
    """The judge in ``folder``, trained on ``train`` there first if the folder has none.

    Raises SignforgeError where the judge in the folder was made otherwise than asked for now.
    """
    if not (folder / "extractor.json").exists():
        judge = train_extractor(train, config=config, steps=steps, seed=JUDGE_SEED, track=track)
        folder.mkdir(parents=True, exist_ok=True)
        judge.save(folder)
    judge = load_extractor(folder, config.device)
    card = judge.card
    for what, has, wanted in (
        ("training images", card.train_fingerprint, train.fingerprint),
        ("classifier", card.classifier, config.name),
        ("steps", card.steps, steps),
    ):
        if has != wanted:
            raise SignforgeError(
                f"The judge in {folder} was made with other {what} ({has}) than these ({wanted}); "
                "name another folder to train one there."
            )
    return judge


def judge_line(rows: Sequence[Mapping[str, Any]], sha_key: str) -> str:
    """Who judged ``rows``, and how it judges real images, as a sentence.

    sha_key: under which a row names the judge's weights.
    Raises SignforgeError where they were judged by different judges.
    """
    judges = {row[sha_key] for row in rows}
    if len(judges) > 1:
        raise SignforgeError("The rows come from different judges and cannot be compared.")
    row = rows[0]
    return (
        f"Judge {row[sha_key][:12]}, which gives {row['real_label_agreement']:.1%} of the "
        f"{row['n']} real validation images their class; floor of the Frechet distance "
        f"{row['fd_floor']:.2f}."
    )


def kept_features(
    judge: FeatureExtractor, folder: Path, images: LabeledImages, track: Track
) -> tuple[Tensor, Tensor]:
    """The judge's features and logits of real images, computed once and kept in ``folder``."""
    name = f"features-{judge.weights_sha256[:16]}-{images.fingerprint[:16]}.safetensors"
    path = folder / name
    if not path.exists():
        features, logits = judge.features_and_logits(images.images, track)
        write_atomically(path, save_tensors({"features": features, "logits": logits}))
    kept = load_tensors(path.read_bytes())
    return kept["features"], kept["logits"]


def trained_gan(config: GanConfig, train: LabeledImages, run: Path) -> GanSampler:
    """The finished generator in ``run``, trained or trained on first where it is not there."""
    if not (run / "generator.json").exists():
        print(f"Training {run.name}: {config.total_kimg:g} kimg", file=sys.stderr, flush=True)
        train_cgan(config, train, run, resume=bool(list_checkpoints(run)))
    sampler = load_sampler(run)
    if sampler.card.train_fingerprint != train.fingerprint or sampler.card.gan != config:
        raise SignforgeError(
            f"{run} holds a GAN of other settings or images than asked for; name another --out."
        )
    return sampler


def has_other_groups(groups: Tensor, k: int) -> bool:
    """Whether each of int64 (N,) groups has k rows of other groups (unknown ones are alone)."""
    known = groups[groups != UNKNOWN_GROUP]
    largest = int(known.unique(return_counts=True)[1].max()) if len(known) else 1
    return len(groups) - largest >= k


def origin(script: str, argv: Sequence[str]) -> dict[str, Any]:
    """Command, time, versions, hardware and commit: the last keys of every row."""
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    return {**provenance(command_line(script, argv)), "finished_at": finished}


def announce(items: Any, description: str, total: int) -> Iterator[Any]:
    """A ``Track`` that says on stderr which stage has begun, when it is a long one."""
    if total > 20:
        print(f"  {description} ...", file=sys.stderr, flush=True)
    yield from items
