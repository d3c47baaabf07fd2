"""Training the conditional GAN: ``train_cgan`` loops over ``gan_step``, records and saves.

The training images lie on the training device as uint8; batches are gathered and augmented
there. Every step draws its randomness from (seed, step), so a resumed run replays nothing.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from signforge.config import GanConfig
from signforge.data.images import LabeledImages
from signforge.device import resolve_device
from signforge.errors import SignforgeError
from signforge.gan.batches import BatchSource
from signforge.gan.checkpoint import (
    Progress,
    TrainingState,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from signforge.gan.ema import ema_decay, ema_update
from signforge.gan.metrics import Status, append_status, forget_after, summarise_steps
from signforge.gan.networks import ConditionalGenerator
from signforge.gan.sampler import (
    GanSampler,
    GeneratorCard,
    build_generator,
    save_sampler,
)
from signforge.gan.step import build_training_state, gan_step
from signforge.seeds import derive_seed

RECALIBRATION_BATCHES = 64


@dataclass(frozen=True)
class TrainingEvents:
    """What a caller may hook in; each is called between steps, never inside one."""

    on_start: Callable[[], None] = lambda: None
    """Called once the run is known to be startable, before the first step."""
    on_status: Callable[[Status], None] = lambda _status: None
    on_samples: Callable[[GanSampler, float], None] = lambda _sampler, _seen_kimg: None
    """Gets the current EMA generator as a sampler, and the kimg seen."""
    should_stop: Callable[[], bool] = lambda: False
    """True ends the run after this step, with a checkpoint to resume from."""


def train_cgan(
    config: GanConfig,
    train: LabeledImages,
    run: Path,
    *,
    events: TrainingEvents | None = None,
    resume: bool = False,
) -> Progress:
    """Trains until ``total_kimg`` or ``max_minutes`` and leaves the EMA generator in ``run``.

    Writes metrics.jsonl, checkpoints/ and generator.safetensors + generator.json. With
    ``resume`` it goes on from the newest checkpoint, bit for bit as if it had never stopped.

    Raises SignforgeError for a class without images, a run that already exists (without
    ``resume``), nothing to resume, and a loss that is no longer finite (naming the last
    checkpoint).
    """
    events = events or TrainingEvents()
    empty = [name for name, n in zip(train.class_names, train.class_counts, strict=True) if n == 0]
    if empty:
        raise SignforgeError(
            f"Class {empty[0]!r} has no training image, so the GAN could never draw it; remove "
            "the class or give it images."
        )
    device = resolve_device(config.device)
    state = build_training_state(
        config, num_classes=train.num_classes, resolution=train.resolution, device=device
    )
    batches = BatchSource(train, config.class_prior, device)
    progress = _start(run, state, resume)
    events.on_start()

    started = time.perf_counter() - progress.seconds
    status_from, status_started, collected = progress.seen_images, time.perf_counter(), []
    while not _finished(config, progress) and not events.should_stop():
        rng = torch.Generator(device).manual_seed(derive_seed(config.seed, progress.step))
        _set_learning_rates(state, config, progress.seen_kimg)
        with_penalty = progress.step % config.r1_every_steps == 0
        collected.append(gan_step(state, batches, config, rng, with_penalty=with_penalty))
        decay = ema_decay(config.batch_size, config.ema_halflife_kimg, progress.seen_kimg)
        ema_update(state.ema, state.generator, decay)
        before = progress
        progress = Progress(
            step=before.step + 1,
            seen_images=before.seen_images + config.batch_size,
            seconds=time.perf_counter() - started,
        )

        if _due(config.status_every_kimg, before, progress):
            images = progress.seen_images - status_from
            status = summarise_steps(
                collected, progress, images / (time.perf_counter() - status_started)
            )
            if not math.isfinite(status.discriminator_loss + status.generator_loss):
                raise SignforgeError(_diverged(run, progress))
            append_status(run / "metrics.jsonl", status)
            events.on_status(status)
            status_from, status_started, collected = progress.seen_images, time.perf_counter(), []
        if _due(config.samples_every_kimg, before, progress):
            sampler = _current_sampler(config, state, train, progress, batches)
            events.on_samples(sampler, progress.seen_kimg)
        if _due(config.checkpoint_every_kimg, before, progress):
            _require_finite(run, state, progress)
            save_checkpoint(run, state, progress, config.keep_checkpoints)

    _require_finite(run, state, progress)
    save_checkpoint(run, state, progress, config.keep_checkpoints)
    final = _current_sampler(config, state, train, progress, batches)
    save_sampler(run, final.generator, final.card)
    return progress


def learning_rate_factor(config: GanConfig, seen_kimg: float) -> float:
    """1 until ``learning_rate_decay_from_kimg``, then linearly down to 0 at ``total_kimg``."""
    start = config.learning_rate_decay_from_kimg
    if start is None or seen_kimg <= start:
        return 1.0
    return max(1 - (seen_kimg - start) / max(config.total_kimg - start, 1e-9), 0.0)


def _set_learning_rates(state: TrainingState, config: GanConfig, seen_kimg: float) -> None:
    factor = learning_rate_factor(config, seen_kimg)
    for optimizer, rate in (
        (state.generator_optimizer, config.generator_learning_rate),
        (state.discriminator_optimizer, config.discriminator_learning_rate),
    ):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor


def _start(run: Path, state: TrainingState, resume: bool) -> Progress:
    checkpoints = list_checkpoints(run)
    if resume:
        if not checkpoints:
            raise SignforgeError(f"{run} has no checkpoint to resume from; start without --resume.")
        progress = load_checkpoint(checkpoints[-1], state)
        forget_after(run / "metrics.jsonl", progress)
        return progress
    if checkpoints or (run / "generator.json").exists():
        raise SignforgeError(
            f"{run} already holds a training run; use --resume to go on, or another --out."
        )
    return Progress()


def _finished(config: GanConfig, progress: Progress) -> bool:
    in_time = config.max_minutes is None or progress.seconds < config.max_minutes * 60
    return progress.seen_kimg >= config.total_kimg or not in_time


def _due(every_kimg: float, before: Progress, now: Progress) -> bool:
    return int(before.seen_kimg / every_kimg) != int(now.seen_kimg / every_kimg)


def _require_finite(run: Path, state: TrainingState, progress: Progress) -> None:
    """Holds a diverged state back from being saved between two status lines."""
    for module in state.modules().values():
        if not all(bool(weights.isfinite().all()) for weights in module.parameters()):
            raise SignforgeError(_diverged(run, progress))


def _diverged(run: Path, progress: Progress) -> str:
    checkpoints = list_checkpoints(run)
    last = f"the last good checkpoint is {checkpoints[-1]}" if checkpoints else "nothing was saved"
    return (
        f"The GAN's loss is no longer finite after {progress.seen_kimg:.0f} kimg; {last}; lower "
        "gan.generator_learning_rate and gan.discriminator_learning_rate."
    )


def _current_sampler(
    config: GanConfig,
    state: TrainingState,
    train: LabeledImages,
    progress: Progress,
    batches: BatchSource,
) -> GanSampler:
    """The EMA generator with batch-norm statistics of its own, as users get it."""
    generator = build_generator(
        config, num_classes=train.num_classes, resolution=train.resolution
    ).to(batches.device)
    generator.load_state_dict(state.ema.state_dict())
    _recalibrate(generator, batches, config)
    card = GeneratorCard(
        gan=config,
        resolution=train.resolution,
        class_names=train.class_names,
        class_counts=tuple(train.class_counts.tolist()),
        train_fingerprint=train.fingerprint,
        seen_kimg=progress.seen_kimg,
        seconds=progress.seconds,
        weights_sha256="",
    )
    return GanSampler(generator, card, batches.device)


@torch.no_grad()
def _recalibrate(generator: ConditionalGenerator, batches: BatchSource, config: GanConfig) -> None:
    """Batch-norm statistics averaged over fresh batches.

    The averaged weights never ran in training mode, so statistics averaged along with them
    describe other activations.
    """
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    rng = torch.Generator(batches.device).manual_seed(config.seed)
    generator.train()
    for _ in range(RECALIBRATION_BATCHES):
        z = torch.randn((config.batch_size, config.z_dim), generator=rng, device=batches.device)
        generator(z, batches.labels(config.batch_size, rng))
    generator.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
