"""One step of adversarial training: computes and updates, never logs or saves."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from signforge.config import GanConfig
from signforge.data.images import LabeledImages
from signforge.device import autocast, resolve_device
from signforge.gan import losses
from signforge.gan.augment import diff_augment
from signforge.gan.batches import BatchSource
from signforge.gan.checkpoint import TrainingState
from signforge.gan.ema import ema_copy
from signforge.gan.networks import ProjectionDiscriminator
from signforge.gan.sampler import build_generator


@dataclass(frozen=True)
class StepValues:
    """What one step computed, as detached scalars on the training device."""

    discriminator_loss: Tensor
    generator_loss: Tensor
    real_logits_mean: Tensor
    fake_logits_mean: Tensor


def build_training_state(
    config: GanConfig, *, num_classes: int, resolution: int, device: torch.device
) -> TrainingState:
    """Networks and optimizers, initialised from ``config.seed`` without touching global state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        generator = build_generator(config, num_classes=num_classes, resolution=resolution)
        discriminator = ProjectionDiscriminator(
            num_classes=num_classes, resolution=resolution, base_channels=config.base_channels
        )
    for network in (generator, discriminator):
        network.to(device)
        network.to(memory_format=torch.channels_last)
    betas = (config.adam_beta1, config.adam_beta2)
    return TrainingState(
        generator=generator,
        discriminator=discriminator,
        ema=ema_copy(generator),
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
    """
    device, n = batches.device, config.batch_size
    z = torch.randn((2, n, config.z_dim), generator=rng, device=device)

    real, real_labels = batches.batch(n, rng)
    fake_labels = batches.labels(n, rng)
    with autocast(device, config.precision):
        with torch.no_grad():
            fake = state.generator(z[0], fake_labels)
        both = diff_augment(torch.cat([real, fake]), config.augment, rng)
        logits = state.discriminator(both, torch.cat([real_labels, fake_labels]))
        real_logits, fake_logits = logits[:n], logits[n:]
        discriminator_loss = losses.discriminator_loss(real_logits, fake_logits)
    state.discriminator_optimizer.zero_grad()
    discriminator_loss.backward()  # type: ignore[no-untyped-call]
    if with_penalty:
        augmented = both[:n].detach().requires_grad_(True)
        penalty = losses.r1_penalty(state.discriminator(augmented, real_labels), augmented)
        (config.r1_gamma * config.r1_every_steps * penalty).backward()  # type: ignore[no-untyped-call]
    state.discriminator_optimizer.step()

    fake_labels = batches.labels(n, rng)
    with _frozen(state.discriminator), autocast(device, config.precision):
        fake = state.generator(z[1], fake_labels)
        generator_logits = state.discriminator(diff_augment(fake, config.augment, rng), fake_labels)
        generator_loss = losses.generator_loss(generator_logits)
    state.generator_optimizer.zero_grad()
    generator_loss.backward()  # type: ignore[no-untyped-call]
    state.generator_optimizer.step()

    return StepValues(
        discriminator_loss=discriminator_loss.detach(),
        generator_loss=generator_loss.detach(),
        real_logits_mean=real_logits.detach().mean(),
        fake_logits_mean=fake_logits.detach().mean(),
    )


def measure_images_per_second(config: GanConfig, train: LabeledImages, steps: int = 8) -> float:
    """Training speed of this config on this machine, from ``steps`` timed steps after two."""
    device = resolve_device(config.device)
    state = build_training_state(
        config, num_classes=train.num_classes, resolution=train.resolution, device=device
    )
    batches = BatchSource(train, config.class_prior, device)
    rng = torch.Generator(device).manual_seed(0)
    for step in range(2):
        gan_step(state, batches, config, rng, with_penalty=step == 0)
    started = time.perf_counter()
    for step in range(steps):
        with_penalty = step % config.r1_every_steps == 0
        values = gan_step(state, batches, config, rng, with_penalty=with_penalty)
    values.generator_loss.item()  # waits for the device
    return steps * config.batch_size / (time.perf_counter() - started)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradients for the weights inside: the generator step only needs those of the images."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)
