"""Training the conditional GAN: ``train_cgan`` loops over ``gan_step``, records and saves.

The training images lie on the training device as uint8; batches are gathered and augmented
there. Every step draws its randomness from (seed, step), so a resumed run replays nothing.
Within ``process_group`` several processes take each step together, and the first alone writes.
"""

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from signforge.config import GanConfig
from signforge.data.images import LabeledImages
from signforge.device import deterministic, enough_memory, resolve_device
from signforge.errors import SignforgeError
from signforge.gan.batches import BatchSource
from signforge.gan.checkpoint import (
    TrainingState,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from signforge.gan.distributed import (
    any_process,
    by_first,
    copy_from_first,
    current_share,
    of_first,
)
from signforge.gan.ema import ema_decay, ema_update
from signforge.gan.export import current_sampler, export_generator
from signforge.gan.guide import train_guide
from signforge.gan.metrics import (
    Probe,
    ProbeStopped,
    Progress,
    Status,
    StepMeans,
    append_status,
    peak_memory_mib,
    summarise_steps,
)
from signforge.gan.rollback import is_finite, roll_back
from signforge.gan.sampler import GanSampler
from signforge.gan.schedule import learning_rates, reachable_kimg
from signforge.gan.start import begin_run
from signforge.gan.step import StepValues, build_training_state, gan_step
from signforge.gan.warmup import set_warmup
from signforge.progress import Track, no_progress
from signforge.seeds import derive_seed

T = TypeVar("T")

FINITE_CHECK_STEPS_GPU = 50


@dataclass(frozen=True)
class TrainingEvents:
    """What a caller may hook in; each is called between steps, never inside one.

    Of several processes only the first calls them, but for ``should_stop``, which all are asked.
    """

    on_start: Callable[[], None] = lambda: None
    """Called once the run is known to be startable, before the first step."""
    on_status: Callable[[Status], None] = lambda _status: None
    on_samples: Callable[[GanSampler, float], None] = lambda _sampler, _seen_kimg: None
    """Gets the current EMA generator as a sampler, and the kimg seen."""
    should_stop: Callable[[], bool] = lambda: False
    """True ends the run after this step, with a checkpoint to resume from."""
    probe: Probe | None = None
    """Judges the EMA generator every ``probe_every_kimg`` and at the end."""
    track: Track = no_progress
    """Reports the steps of the guide's training."""


class StoppedBeforeStart(Exception):  # noqa: N818  (not an error: the user asked for it)
    """Stopped while the guide was trained: there is nothing yet to go on from."""


@dataclass(frozen=True)
class Due:
    """What is to be done between two steps."""

    status: bool
    last_status: bool
    """A line for the end of the run, off the beat: a run that is made longer drops it."""
    samples: bool
    probe: bool
    checkpoint: bool

    def __bool__(self) -> bool:
        return self.status or self.last_status or self.samples or self.probe or self.checkpoint


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
    ``resume`` it goes on from the newest checkpoint, on a CPU, or where ``deterministic`` is set,
    bit for bit as if it had never stopped (unless ``max_minutes`` is what ends it: then the clock
    sets the learning rates).
    Where a loss or gradient is not finite it goes back to the newest checkpoint and on from
    there at half the learning rates, ``max_rollbacks`` times at most.

    Raises SignforgeError for a class without images, a batch that the processes cannot divide, a
    run that already exists (without ``resume``), nothing to resume, a file that cannot be written
    (the newest checkpoint is then as good as before), and values that stay not finite (naming
    the last good checkpoint). Raises StoppedBeforeStart where ``events.should_stop`` said so before
    there was a checkpoint.
    """
    with (
        deterministic(config.deterministic),
        enough_memory("lower gan.batch_size, gan.base_channels or gan.z_dim"),
    ):
        return _train(config, train, run, events or TrainingEvents(), resume)


def _train(
    config: GanConfig, train: LabeledImages, run: Path, events: TrainingEvents, resume: bool
) -> Progress:
    _require_every_class(train)
    device = resolve_device(config.device)
    state = build_training_state(
        config, num_classes=train.num_classes, resolution=train.resolution, device=device
    )
    batches = BatchSource(train, config.class_prior, device)

    def show(to: Callable[[GanSampler, float], T], progress: Progress) -> T:
        return to(current_sampler(config, state, train, progress, batches), progress.seen_kimg)

    progress = begin_run(run, state, config, resume=resume)
    by_first(events.on_start)
    started = time.perf_counter() - progress.seconds
    if not resume:
        if state.guide is not None:
            stop, track = events.should_stop, events.track
            if not by_first(train_guide, state.guide, batches, config, stop, track):
                raise StoppedBeforeStart
            copy_from_first(state.guide)
        seconds = of_first(time.perf_counter() - started)
        progress = replace(
            progress, seconds=seconds, status_seconds=seconds, one_off_seconds=seconds
        )
        # So that every run can be resumed, and has a state to go back to.
        by_first(save_checkpoint, run, state, progress, config.keep_checkpoints)

    def paused(progress: Progress) -> Progress:
        """``progress`` with the time of now, of which no step took anything."""
        return progress.after_pause(of_first(time.perf_counter() - started))

    saved = progress
    sums, finite = _step_sums(progress, device), torch.tensor(True, device=device)
    while True:
        # What is drawn below must not depend on whether a step came before in this process.
        set_warmup(state, batches, config, progress.seen_kimg)
        finished, stopping = _finished(config, progress), any_process(events.should_stop())
        due = _due(config, progress, saved, events, stopping=stopping, finished=finished)
        ask = due or progress.step % finite_check_steps(device) == 0
        if ask and any_process(not bool(finite) or (bool(due) and not is_finite(state))):
            progress = saved = _roll_back(run, state, config, progress)
            sums, finite = _step_sums(progress, device), torch.tensor(True, device=device)
            continue
        if due and device.type != "cpu" and progress.step != saved.step:
            # What the steps still had to do there is done by now, and is theirs.
            progress = replace(progress, seconds=of_first(time.perf_counter() - started))

        if due.probe and not stopping and events.probe:
            # A probe may take minutes, which is more than a scheduler leaves between its signals.
            progress = replace(paused(progress), step_sums=StepMeans(*sums.tolist()))
            by_first(save_checkpoint, run, state, progress, config.keep_checkpoints)
            found = by_first(_unless_stopped, partial(show, events.probe), progress)
            if found is not None:
                judged = paused(progress)
                if progress.probe is None:
                    once = progress.one_off_seconds + judged.seconds - progress.seconds
                    judged = replace(judged, one_off_seconds=once)
                progress = replace(judged, probe=found, probe_step=progress.step)
            stopping = any_process(found is None or events.should_stop())
        # A stop leaves the probe to the resumed run, and with it the line that would hold it.
        probe_owed = due.probe and progress.probe_step != progress.step
        if (due.status or due.last_status) and not probe_owed:
            progress = replace(progress, step_sums=StepMeans(*sums.tolist()))
            rates, memory = learning_rates(config, progress), peak_memory_mib(device)
            status = summarise_steps(progress, rates, memory)
            by_first(append_status, run / "metrics.jsonl", status)
            by_first(events.on_status, status)
        if due.status and not probe_owed:
            progress = progress.after_status(reachable_kimg(config, progress))
            sums.zero_()
        if due.samples and not stopping:
            by_first(show, events.on_samples, progress)
            progress = replace(progress, samples_step=progress.step)
        if due.checkpoint and progress != saved:
            progress = replace(paused(progress), step_sums=StepMeans(*sums.tolist()))
            by_first(save_checkpoint, run, state, progress, config.keep_checkpoints)
            saved = progress
        if stopping or finished:
            break
        if due:
            progress = paused(progress)

        rng = torch.Generator(device).manual_seed(derive_seed(config.seed, progress.step))
        _set_learning_rates(state, learning_rates(config, progress))
        with_penalty = progress.step % config.r1_every_steps == 0
        values = gan_step(state, batches, config, rng, with_penalty=with_penalty)
        decay = ema_decay(config.batch_size, config.ema_halflife_kimg, progress.seen_kimg)
        ema_update(state.ema, state.generator, decay)
        sums += _row(values)
        finite &= values.finite
        progress = replace(
            progress,
            step=progress.step + 1,
            seen_images=progress.seen_images + config.batch_size,
            seconds=of_first(time.perf_counter() - started),
        )

    by_first(partial(export_generator, run, config, train, batches, seconds=progress.seconds))
    return progress


def finite_check_steps(device: torch.device) -> int:
    """How often to ask a device whether all was finite: to ask a GPU is to wait for it."""
    return 1 if device.type == "cpu" else FINITE_CHECK_STEPS_GPU


def _unless_stopped(action: Callable[[Progress], T], progress: Progress) -> T | None:
    try:
        return action(progress)
    except ProbeStopped:
        return None


def _set_learning_rates(state: TrainingState, rates: tuple[float, float]) -> None:
    optimizers = (state.generator_optimizer, state.discriminator_optimizer)
    for optimizer, rate in zip(optimizers, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate


def _require_every_class(train: LabeledImages) -> None:
    empty = [name for name, n in zip(train.class_names, train.class_counts, strict=True) if n == 0]
    if empty:
        raise SignforgeError(
            f"Class {empty[0]!r} has no training image, so the GAN could never draw it; remove "
            "the class or give it images."
        )


def _roll_back(run: Path, state: TrainingState, config: GanConfig, progress: Progress) -> Progress:
    """Only the first process writes; what it went back to is what the others then find."""
    restored = by_first(roll_back, run, state, config, progress)
    if current_share().rank > 0:
        load_checkpoint(list_checkpoints(run)[-1], state)
    return restored


def _finished(config: GanConfig, progress: Progress) -> bool:
    in_time = config.max_minutes is None or progress.seconds < config.max_minutes * 60
    return progress.seen_kimg >= config.total_kimg or not in_time


def _due(
    config: GanConfig,
    progress: Progress,
    saved: Progress,
    events: TrainingEvents,
    *,
    stopping: bool,
    finished: bool,
) -> Due:
    def times(every_kimg: float, seen_images: int) -> int:
        return int(seen_images / 1000 / every_kimg + 1e-9)  # 0.072 / 0.024 is a bit less than 3

    def crossed(every_kimg: float, since_step: int) -> bool:
        since = times(every_kimg, since_step * config.batch_size)
        return since != times(every_kimg, progress.seen_images)

    every, minutes = config.probe_every_kimg, config.checkpoint_every_minutes
    probe = (
        events.probe is not None
        and progress.probe_step != progress.step
        and (finished or (every is not None and crossed(every, progress.probe_step)))
    )
    status = crossed(config.status_every_kimg, progress.status_step)
    return Due(
        status=status,
        last_status=finished and not status and progress.status_step != progress.step,
        samples=crossed(config.samples_every_kimg, progress.samples_step),
        probe=probe,
        checkpoint=probe  # a state that turns out to be the best must be there to export
        or stopping
        or finished
        or crossed(config.checkpoint_every_kimg, saved.step)
        or (minutes is not None and progress.seconds - saved.seconds >= minutes * 60),
    )


def _step_sums(progress: Progress, device: torch.device) -> Tensor:
    """float64 (4,): the sums that the next status line goes on from."""
    return torch.tensor(astuple(progress.step_sums), dtype=torch.float64, device=device)


def _row(values: StepValues) -> Tensor:
    """float64 (4,) in the order of StepMeans; summed on the device, which is never waited for."""
    means = (
        values.discriminator_loss,
        values.generator_loss,
        values.real_logits_mean,
        values.fake_logits_mean,
    )
    return torch.stack([mean.float() for mean in means]).double()
