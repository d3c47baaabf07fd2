"""A training run on disk: what was asked, on what data, with what, and grids of samples."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from signforge.config import Config, dump_config, load_config
from signforge.data.charts import save_image_grid
from signforge.data.images import LabeledImages
from signforge.data.splits import PreparedSplits
from signforge.environment import describe_environment
from signforge.errors import SignforgeError
from signforge.files import write_atomically
from signforge.gan.metrics import Status
from signforge.gan.sampler import ClassConditionalSampler, GanSampler, load_sampler
from signforge.gan.training import TrainingEvents, train_cgan

GRID_COLUMNS = 12
GRID_SEED = 0
MAY_DIFFER_ON_RESUME = frozenset(
    {
        "gan.total_kimg",
        "gan.max_minutes",
        "gan.learning_rate_decay_from_kimg",
        "gan.status_every_kimg",
        "gan.samples_every_kimg",
        "gan.checkpoint_every_kimg",
        "gan.keep_checkpoints",
        "data.source",
    }
)


def run_training(
    config: Config,
    splits: PreparedSplits,
    run: Path,
    *,
    resume: bool = False,
    on_status: Callable[[Status], None] = lambda _status: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> GanSampler:
    """Trains the conditional GAN on ``splits.train`` into the run directory ``run``.

    Writes config.yaml, dataset.json, environment.json, real.png and samples/*.png beside what
    ``train_cgan`` writes, and returns the finished generator.

    Raises SignforgeError as ``train_cgan`` does, and where a resumed run's config or training
    data are not those it was started with.
    """
    train = splits.train
    if resume:
        _check_same_run(run, config, train)

    def record() -> None:
        write_atomically(run / "config.yaml", dump_config(config).encode())
        write_atomically(run / "dataset.json", _json(_describe(splits)))
        write_atomically(run / "environment.json", _json(describe_environment()))
        save_image_grid(
            run / "real.png", train.examples(GRID_COLUMNS), row_names(train.class_names)
        )

    def on_samples(sampler: GanSampler, seen_kimg: float) -> None:
        save_sample_grid(run / "samples" / f"{int(seen_kimg):06d}kimg.png", sampler)

    events = TrainingEvents(
        on_start=record, on_status=on_status, on_samples=on_samples, should_stop=should_stop
    )
    train_cgan(config.gan, train, run, events=events, resume=resume)
    sampler = load_sampler(run, config.gan.device)
    save_sample_grid(run / "samples.png", sampler)
    return sampler


def save_sample_grid(path: Path, sampler: ClassConditionalSampler) -> None:
    """A PNG of ``GRID_COLUMNS`` samples a class, one row a class, the same latents every time."""
    labels = torch.arange(sampler.num_classes).repeat_interleave(GRID_COLUMNS)
    rows = torch.split(sampler.sample(labels, GRID_SEED), GRID_COLUMNS)
    save_image_grid(path, rows, row_names(sampler.class_names))


def row_names(class_names: tuple[str, ...]) -> list[str]:
    """Ids beside names, as both may be typed after ``--class``."""
    return [name if name == str(i) else f"{i} {name}" for i, name in enumerate(class_names)]


def _describe(splits: PreparedSplits) -> dict[str, Any]:
    named = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {
        "source": splits.source,
        "class_names": list(splits.train.class_names),
        "notes": list(splits.notes),
        "splits": {
            name: {
                "images": len(split),
                "class_counts": split.class_counts.tolist(),
                "fingerprint": split.fingerprint,
            }
            for name, split in named.items()
        },
    }


def _check_same_run(run: Path, config: Config, train: LabeledImages) -> None:
    recorded = load_config(run / "config.yaml")
    differing = [
        f"{section}.{key}"
        for section in ("data", "gan")
        for key, value in getattr(config, section).model_dump().items()
        if f"{section}.{key}" not in MAY_DIFFER_ON_RESUME
        and getattr(recorded, section).model_dump()[key] != value
    ]
    if differing:
        raise SignforgeError(
            f"{run} was started with other values of {', '.join(differing)}; resume it with those "
            "of its config.yaml, or start a new run with another --out."
        )
    try:
        dataset = json.loads((run / "dataset.json").read_text(encoding="utf-8"))
        fingerprint = dataset["splits"]["train"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        raise SignforgeError(f"{run / 'dataset.json'} cannot be read; start a new run.") from None
    if fingerprint != train.fingerprint:
        raise SignforgeError(
            f"{run} was trained on other images than {train.source} holds now; resume it with the "
            "data it began with, or start a new run with another --out."
        )


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()
