"""One step of adversarial training: computes and updates, never logs or saves."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from signforge.config import GanConfig
from signforge.data.images import LabeledImages
from signforge.device import autocast, resolve_device
from signforge.errors import SignforgeError
from signforge.gan import losses
from signforge.gan.augment import diff_augment
from signforge.gan.batches import BatchSource
from signforge.gan.checkpoint import TrainingState
from signforge.gan.distributed import WHOLE, Share, average, current_share, use_global_batch_norm
from signforge.gan.ema import ema_copy
from signforge.gan.guide import build_guide, guide_loss, guide_view
from signforge.gan.networks import UNKNOWN_CLASS, ConditionalGenerator, ProjectionDiscriminator
from signforge.gan.sampler import build_generator

STDDEV_GROUP = 8
"""Images over which the discriminator sees the variety of a batch, where the batch divides."""
ANCHOR_DECAY = 0.99


@dataclass(frozen=True)
class StepValues:
    """What one step computed on the whole batch, as detached scalars on the training device."""

    discriminator_loss: Tensor
    generator_loss: Tensor
    real_logits_mean: Tensor
    fake_logits_mean: Tensor
    finite: Tensor
    """bool: False where a loss or gradient was not, and that network's weights were left as they
    were; statistics (of batch norms, LeCam's anchors) may have taken in what was not finite."""


@dataclass(frozen=True)
class Pair:
    """This process's share of what a network trains on in one step.

    real, fake: float (n, 3, H, W) in -1..1, image i of both with labels[i], int64 (n,). Fakes that
        the generator learns from carry its gradients.
    """

    real: Tensor
    fake: Tensor
    labels: Tensor


def build_training_state(
    config: GanConfig, *, num_classes: int, resolution: int, device: torch.device
) -> TrainingState:
    """Networks and optimizers, initialised from ``config.seed`` without touching global state.

    The guide is as yet untrained. Every process of a group builds the same.

    Raises SignforgeError for a batch that cannot be divided evenly among the processes, and for
    Apple's GPUs.
    """
    if device.type == "mps":
        raise SignforgeError(
            "The GAN cannot train on an Apple GPU, which has no float64; use --device cpu."
        )
    share = current_share()
    stddev_group = math.gcd(config.batch_size, STDDEV_GROUP)
    if config.batch_size % (stddev_group * share.size):
        raise SignforgeError(
            f"gan.batch_size is the batch of all processes, and {config.batch_size} images cannot "
            f"be divided among {share.size}; make it a multiple of {STDDEV_GROUP * share.size}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        generator = build_generator(config, num_classes=num_classes, resolution=resolution)
        discriminator = ProjectionDiscriminator(
            num_classes=num_classes,
            resolution=resolution,
            base_channels=config.base_channels,
            stddev_group=stddev_group,
            spectral_norm=config.spectral_norm,
        )
    if share.size > 1:
        use_global_batch_norm(generator)
    for network in (generator, discriminator):
        network.to(device)
        network.to(memory_format=torch.channels_last)
        if config.compile:
            network.compile()  # in place: the names of the weights stay as they are
    betas = (config.adam_beta1, config.adam_beta2)
    guided = config.guide_weight > 0 and num_classes > 1
    return TrainingState(
        generator=generator,
        discriminator=discriminator,
        ema=ema_copy(generator),
        guide=build_guide(config, num_classes=num_classes, device=device) if guided else None,
        generator_optimizer=torch.optim.Adam(
            generator.parameters(), lr=config.generator_learning_rate, betas=betas, fused=True
        ),
        discriminator_optimizer=torch.optim.Adam(
            discriminator.parameters(),
            lr=config.discriminator_learning_rate,
            betas=betas,
            fused=True,
        ),
    )


def gan_step(
    state: TrainingState,
    batches: BatchSource,
    config: GanConfig,
    rng: torch.Generator,
    *,
    with_penalty: bool,
) -> StepValues:
    """One update of the discriminator and one of the generator.

    with_penalty: adds R1 to the discriminator's gradients, weighted by ``r1_every_steps``, since
    it is only applied that often ("lazy regularisation", Karras et al. 2020, appendix B).

    In a group of processes each works on its share of the batch; gradients, losses and
    statistics are means over all, so that all stay alike.
    """
    share = current_share()
    # Fakes have the labels of the real images, so that only looks can tell the two apart.
    real, labels = batches.batch(config.batch_size, rng, share)

    def draw() -> Tensor:
        z = torch.randn((config.batch_size, config.z_dim), generator=rng, device=batches.device)
        with autocast(batches.device, config.precision):
            return cast(Tensor, state.generator(share.of(z), labels))

    with torch.set_grad_enabled(not config.fresh_fakes):
        pair = Pair(real, draw(), labels)
    loss, real_mean, fake_mean, discriminator_finite = _train_discriminator(
        state, pair, config, rng, with_penalty=with_penalty
    )
    if config.fresh_fakes:
        pair = replace(pair, fake=draw())
    generator_loss, generator_finite = _train_generator(state, pair, batches.counts, config, rng)
    return StepValues(
        discriminator_loss=loss,
        generator_loss=generator_loss,
        real_logits_mean=real_mean,
        fake_logits_mean=fake_mean,
        finite=discriminator_finite & generator_finite,
    )


def _train_discriminator(
    state: TrainingState,
    pair: Pair,
    config: GanConfig,
    rng: torch.Generator,
    *,
    with_penalty: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, means of real and of fake logits, and whether the update was finite."""
    device, share = pair.real.device, current_share()
    discriminator = cast(ProjectionDiscriminator, state.discriminator)
    both_shares = replace(share, parts=2)
    drop = partial(dropout_factors, discriminator.top_channels, config, rng)
    told = _told(pair.labels, config, rng, share)
    with autocast(device, config.precision):
        both = augment(torch.cat([pair.real, pair.fake.detach()]), config, rng, both_shares)
        logits = discriminator(both, told.repeat(2), drop(both_shares))
        real_logits, fake_logits = logits.chunk(2)
        loss = losses.adversarial_loss_of_discriminator(config.loss, real_logits, fake_logits)
        regularised = loss
        if config.lecam_weight:
            anchors = discriminator.logit_anchors
            _follow(anchors, real_logits, fake_logits)
            penalty = losses.lecam_penalty(real_logits, fake_logits, anchors)
            regularised = regularised + config.lecam_weight * penalty
    state.discriminator_optimizer.zero_grad()
    regularised.backward()  # type: ignore[no-untyped-call]
    if with_penalty and config.r1_gamma:
        gamma = config.r1_gamma * config.r1_every_steps
        for images in both.chunk(2)[: 2 if config.loss == "relativistic" else 1]:
            inputs = images.detach().requires_grad_(True)
            with autocast(device, config.precision):
                # ``forward``: a call would run what ``compile`` made, which has one derivative.
                judged = discriminator.forward(inputs, told, drop(share))
            penalty = losses.r1_penalty(judged, inputs)
            (gamma * penalty).backward()  # type: ignore[no-untyped-call]
    means = [value.detach().mean() for value in (loss, real_logits, fake_logits)]
    finite = _update_if_finite(state.discriminator_optimizer, means)
    return means[0], means[1], means[2], finite


def _train_generator(
    state: TrainingState,
    pair: Pair,
    class_counts: Tensor,
    config: GanConfig,
    rng: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Loss, and whether the update was finite."""
    device, share = pair.real.device, current_share()
    generator = cast(ConditionalGenerator, state.generator)
    discriminator = cast(ProjectionDiscriminator, state.discriminator)
    drop = partial(dropout_factors, discriminator.top_channels, config, rng)
    with _frozen(discriminator), autocast(device, config.precision):
        fake = augment(pair.fake, config, rng, share)
        told = _told(pair.labels, config, rng, share)
        logits = discriminator(fake, told, drop(share))
        real_logits = None
        if config.loss == "relativistic":
            real = augment(pair.real, config, rng, share)
            real_logits = discriminator(real, told, drop(share))
        loss = losses.adversarial_loss_of_generator(config.loss, logits, real_logits)
        regularised = loss
        if state.guide is not None:
            guessed = state.guide(guide_view(pair.fake, rng, share))
            missed = guide_loss(guessed, pair.labels, config.guide_margin)
            regularised = regularised + config.guide_weight * generator.class_strength * missed
        if config.gsr_weight:
            vectors = generator.class_norm_parameters()
            penalties = [losses.group_spectral_penalty(v, class_counts) for v in vectors]
            regularised = regularised + config.gsr_weight * torch.stack(penalties).mean()
    state.generator_optimizer.zero_grad()
    regularised.backward()  # type: ignore[no-untyped-call]
    loss = loss.detach()
    return loss, _update_if_finite(state.generator_optimizer, [loss])


def measure_images_per_second(config: GanConfig, train: LabeledImages, steps: int = 8) -> float:
    """Training speed of this config on this machine, from ``steps`` timed steps after two."""
    device = resolve_device(config.device)
    state = build_training_state(
        config, num_classes=train.num_classes, resolution=train.resolution, device=device
    )
    batches = BatchSource(train, config.class_prior, device)
    rng = torch.Generator(device).manual_seed(0)
    for step in range(2):
        values = gan_step(state, batches, config, rng, with_penalty=step == 0)
    values.generator_loss.item()  # waits for the device
    started = time.perf_counter()
    for step in range(steps):
        with_penalty = step % config.r1_every_steps == 0
        values = gan_step(state, batches, config, rng, with_penalty=with_penalty)
    values.generator_loss.item()
    return steps * config.batch_size / (time.perf_counter() - started)


def augment(
    images: Tensor, config: GanConfig, rng: torch.Generator, share: Share = WHOLE
) -> Tensor:
    """What the discriminator gets to see of float (N, 3, H, W) images."""
    return diff_augment(images, config.augment, rng, config.augment_probability, share)


def _told(labels: Tensor, config: GanConfig, rng: torch.Generator, share: Share) -> Tensor:
    """The labels that the discriminator is told: int64 (N,), some of them UNKNOWN_CLASS.

    labels: those of this process, of ``config.batch_size`` in all.
    """
    if config.projection_share == 1:
        return labels
    drawn = torch.rand(config.batch_size, generator=rng, device=labels.device)
    return torch.where(share.of(drawn) < config.projection_share, labels, UNKNOWN_CLASS)


def dropout_factors(
    channels: int, config: GanConfig, rng: torch.Generator, share: Share
) -> Tensor | None:
    """Factors of the discriminator's channels for this process's rows; None without dropout.

    float (N, C, 1, 1): 0 for a channel that is left out, else 1 / (1 - p), as nn.Dropout2d has it;
    that one draws from torch's global generator, which knows nothing of shares.
    """
    p = config.discriminator_dropout
    if p == 0:
        return None
    shape = (share.parts * config.batch_size, channels, 1, 1)
    drawn = torch.rand(shape, generator=rng, device=rng.device)
    return share.of((drawn >= p).float() / (1 - p))


@torch.no_grad()
def _follow(anchors: Tensor, real_logits: Tensor, fake_logits: Tensor) -> None:
    """Moves the anchors a little towards the means of this batch."""
    means = torch.stack([real_logits.mean(), fake_logits.mean()])
    average([means])
    anchors.lerp_(means.to(anchors.dtype), 1 - ANCHOR_DECAY)


def _update_if_finite(optimizer: torch.optim.Optimizer, values: Sequence[Tensor]) -> Tensor:
    """One optimizer step unless a gradient or the loss is not finite; bool, on the device.

    Gradients and values, scalars of which the first is the loss, become the means over all
    processes first: what is not finite in one of them is not finite in all.

    The fused optimizer itself skips the update, told by ``found_inf`` as a GradScaler would, so
    the host never waits to learn which it was.
    """
    gradients = [
        weight.grad
        for group in optimizer.param_groups
        for weight in group["params"]
        if weight.grad is not None
    ]
    average([*gradients, *values])
    # A sum of absolute values is finite exactly if all of them are, short of overflow.
    norms = torch.stack(torch._foreach_norm(gradients, 1))
    finite = norms.isfinite().all() & values[0].isfinite()
    optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    optimizer.step()
    return finite


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for the weights inside: the generator step only needs those of the images."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
