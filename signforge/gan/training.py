"""Training the conditional GAN: ``gan_step`` computes, ``train_cgan`` loops, records and saves.

The training images lie on the training device as uint8; batches are gathered and augmented
there. Every step draws its randomness from (seed, step), so a resumed run replays nothing.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from signforge.config import GanConfig
from signforge.data.images import LabeledImages
from signforge.device import autocast, resolve_device
from signforge.errors import SignforgeError
from signforge.gan import losses
from signforge.gan.augment import diff_augment
from signforge.gan.batches import BatchSource
from signforge.gan.checkpoint import (
    Progress,
    TrainingState,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from signforge.gan.ema import ema_copy, ema_decay, ema_update
from signforge.gan.networks import ConditionalGenerator, ProjectionDiscriminator
from signforge.gan.sampler import (
    GanSampler,
    GeneratorCard,
    build_generator,
    save_sampler,
)
from signforge.seeds import derive_seed

RECALIBRATION_BATCHES = 64


@dataclass(frozen=True)
class StepValues:
    """What one step computed, as detached scalars on the training device."""

    discriminator_loss: Tensor
    generator_loss: Tensor
    real_logits_mean: Tensor
    fake_logits_mean: Tensor


@dataclass(frozen=True)
class Status:
    """One line of metrics.jsonl."""

    seen_kimg: float
    seconds: float
    images_per_second: float
    discriminator_loss: float
    generator_loss: float
    real_logits_mean: float
    fake_logits_mean: float


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
            status = _status(collected, progress, images / (time.perf_counter() - status_started))
            if not math.isfinite(status.discriminator_loss + status.generator_loss):
                raise SignforgeError(_diverged(run, progress))
            _append(run / "metrics.jsonl", status)
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


def _start(run: Path, state: TrainingState, resume: bool) -> Progress:
    checkpoints = list_checkpoints(run)
    if resume:
        if not checkpoints:
            raise SignforgeError(f"{run} has no checkpoint to resume from; start without --resume.")
        return load_checkpoint(checkpoints[-1], state)
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


def _status(collected: list[StepValues], progress: Progress, images_per_second: float) -> Status:
    def mean(values: Iterator[Tensor]) -> float:
        return float(torch.stack(list(values)).float().mean())

    return Status(
        seen_kimg=progress.seen_kimg,
        seconds=round(progress.seconds, 1),
        images_per_second=round(images_per_second, 1),
        discriminator_loss=mean(values.discriminator_loss for values in collected),
        generator_loss=mean(values.generator_loss for values in collected),
        real_logits_mean=mean(values.real_logits_mean for values in collected),
        fake_logits_mean=mean(values.fake_logits_mean for values in collected),
    )


def _append(path: Path, status: Status) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(status)) + "\n")
    except OSError as error:
        raise SignforgeError(f"Cannot write {path}: {error.strerror}.") from None


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
