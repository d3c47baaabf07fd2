"""The averaged generator as users get it: batch-norm statistics of its own, and a card.

At the end of a run it is the best one that a probe judged, not simply the last.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from signforge.config import GanConfig
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.gan.batches import BatchSource
from signforge.gan.checkpoint import TrainingState, best_checkpoint, list_checkpoints, load_ema
from signforge.gan.metrics import Progress
from signforge.gan.networks import ConditionalGenerator
from signforge.gan.sampler import (
    GanSampler,
    GeneratorCard,
    build_generator,
    load_sampler,
    save_sampler,
)

RECALIBRATION_BATCHES = 64


def current_sampler(
    config: GanConfig,
    state: TrainingState,
    train: LabeledImages,
    progress: Progress,
    batches: BatchSource,
) -> GanSampler:
    """The EMA generator of ``state``, ready to sample; ``state`` stays as it is."""
    generator = build_generator(
        config, num_classes=train.num_classes, resolution=train.resolution
    ).to(batches.device)
    generator.load_state_dict(state.ema.state_dict())
    return _finished_sampler(config, generator, train, progress, batches)


def export_generator(
    run: Path,
    config: GanConfig,
    train: LabeledImages,
    batches: BatchSource,
    *,
    seconds: float,
) -> None:
    """Writes generator.safetensors and generator.json from the best checkpoint by its probe.

    Where no probe ran, that is the newest one. The card says at which kimg it was; what it cost
    are the ``seconds`` of the whole run, since nobody knew the best before the end.

    What was written after these very ``seconds`` and is whole stays: to work the statistics out
    again with other threads or hardware changes their last bits, and with them the fingerprint that
    others go by.

    Raises SignforgeError where the checkpoint is damaged or a file cannot be written.
    """
    with suppress(SignforgeError):
        if load_sampler(run, "cpu").card.seconds == seconds:
            return
    chosen = best_checkpoint(run) or list_checkpoints(run)[-1]
    generator = build_generator(
        config, num_classes=train.num_classes, resolution=train.resolution
    ).to(batches.device)
    progress = replace(load_ema(chosen, generator), seconds=seconds)
    sampler = _finished_sampler(config, generator, train, progress, batches)
    save_sampler(run, sampler.generator, sampler.card)


def _finished_sampler(
    config: GanConfig,
    generator: ConditionalGenerator,
    train: LabeledImages,
    progress: Progress,
    batches: BatchSource,
) -> GanSampler:
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
