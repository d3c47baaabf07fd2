"""Training a classifier for an exact number of optimizer steps, and asking it for logits.

The loop is one function without hooks; batch order, augmentation and any dropout follow from
(seed, epoch) and (seed, step), so neither workers nor the caller's random state can change them.
"""

import math
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.utils.data import Dataset, Sampler

from signforge.classify.augment import augment_batch, normalise
from signforge.classify.batches import (
    AUGMENT,
    ENDING,
    MODEL,
    Batch,
    catch_up,
    describe_image,
    draw_batches,
    seeded,
)
from signforge.classify.checkpoint import FitCheckpoint, FitProgress
from signforge.classify.last_layer import freeze_all_but_last_layer
from signforge.classify.losses import Deferred, loss_at
from signforge.classify.losses import Loss as Loss
from signforge.classify.separate_statistics import forward_apart
from signforge.config import ClassifierConfig
from signforge.device import autocast, deterministic, enough_memory, resolve_device
from signforge.errors import SignforgeError
from signforge.progress import Stopped, Track, no_progress
from signforge.seeds import derive_seed

LAST_LAYER_SHARE = 0.2
"""Of the steps, where the last layer is tuned by itself at the end."""


@dataclass(frozen=True)
class FitResult:
    """What a training cost: wall-clock seconds, images seen, and the loss of the last step."""

    seconds: float
    images: int
    final_loss: float


@dataclass(frozen=True)
class Ending:
    """A last part of the training in which only the last layer learns, from other images.

    dataset, sampler: as in ``fit_classifier``. share: of all steps, rounded.
    """

    dataset: Dataset[Any]
    sampler: Sampler[int] | None = None
    share: float = LAST_LAYER_SHARE


def fit_classifier(
    model: nn.Module,
    dataset: Dataset[Any],
    *,
    config: ClassifierConfig,
    seed: int,
    sampler: Sampler[int] | None = None,
    loss: Loss | Deferred = F.cross_entropy,
    ending: Ending | None = None,
    checkpoint: FitCheckpoint | None = None,
    track: Track = no_progress,
) -> FitResult:
    """Trains ``model`` in place for exactly ``config.steps`` optimizer steps.

    dataset: map-style, items (uint8 (3, R, R), int); its ``set_epoch`` is called before every
        epoch if it has one. A third member, bool, tells synthetic images, which are then normalised
        apart from the others (``forward_apart``).
    sampler: draws the indices instead of a shuffle by (seed, epoch); needs a length, and its
        ``set_epoch`` is called too. A last batch that is not full is dropped, unless all images
        fit into one batch.
    ending: the last of these steps; then only the last layer learns, and all others do what they
        do in evaluation mode. Learning rate and loss go on as they would without.
    checkpoint: written every so often and where ``track`` raises Stopped; a training that finds
        one goes on from it, and ends on a CPU, or where ``deterministic`` is set, with the very
        weights of one that was never cut short. For that, sampler and ``set_epoch`` must follow
        from the epoch alone, and items must not draw at random in worker processes. Whoever has
        kept the result deletes it.

    AdamW with linear warm-up and cosine decay over all steps; the model ends up on
    ``config.device``, in training mode. The global random state is left as it was.

    Raises SignforgeError for an empty dataset, items of another kind, labels that the model has
    no output for, a loss or a gradient that is not finite (before it reaches the weights), and a
    checkpoint that cannot be read. Warns of one that cannot be written.
    """
    with deterministic(config.deterministic), enough_memory("lower classifier.batch_size"):
        return _fit(model, dataset, config, seed, sampler, loss, ending, checkpoint, track)


def _fit(
    model: nn.Module,
    dataset: Dataset[Any],
    config: ClassifierConfig,
    seed: int,
    sampler: Sampler[int] | None,
    loss: Loss | Deferred,
    ending: Ending | None,
    checkpoint: FitCheckpoint | None,
    track: Track,
) -> FitResult:
    device = resolve_device(config.device)
    started = saved_at = time.perf_counter()
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.train()
    optimizer = _optimizer(model, config)
    begun = progress = checkpoint.load(model, optimizer) if checkpoint else FitProgress()
    last = ending or Ending(dataset, share=0.0)
    first_steps = config.steps - round(last.share * config.steps)
    begun_first = min(begun.step, first_steps)
    begun_last = begun.step - begun_first
    # What the data sets show last is theirs to tell, also where no batch is left to draw.
    catch_up(dataset, sampler, begun_first, config)
    catch_up(last.dataset, last.sampler, begun_last, config)
    # Closed here, because an error's traceback would otherwise keep its worker processes alive.
    batches = draw_batches(dataset, sampler, config, seed, device, begun_first)
    last_seed = derive_seed(seed, ENDING)
    last_batches = draw_batches(last.dataset, last.sampler, config, last_seed, device, begun_last)
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, closing(batches), closing(last_batches):
        forward = torch.compile(model) if config.compile else model
        frozen: list[nn.Parameter] = []
        drawn = chain(islice(batches, first_steps - begun_first), last_batches)
        todo = range(begun.step, config.steps)
        steps = seeded(drawn, todo, derive_seed(seed, MODEL), device)
        try:
            for batch in track(steps, "classifier", len(todo)):
                step = progress.step
                if step >= first_steps and not frozen:
                    frozen = freeze_all_but_last_layer(model)
                value = _train_step(
                    model, forward, optimizer, batch, config=config, loss=loss, step=step, seed=seed
                )
                now = time.perf_counter()
                progress = FitProgress(
                    step=step + 1,
                    images=progress.images + len(batch[0]),
                    seconds=begun.seconds + now - started,
                    loss=value,
                )
                if checkpoint and now - saved_at >= checkpoint.every_seconds:
                    _save_if_possible(checkpoint, model, optimizer, progress)
                    saved_at = time.perf_counter()
        except Stopped:
            if checkpoint:
                _save_if_possible(checkpoint, model, optimizer, progress)
            raise
        for parameter in frozen:
            parameter.requires_grad_(True)
        model.train()
    seconds = begun.seconds + time.perf_counter() - started
    return FitResult(seconds=seconds, images=progress.images, final_loss=progress.loss)


def _save_if_possible(
    checkpoint: FitCheckpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: FitProgress,
) -> None:
    """A training that cannot be saved is still worth finishing: its result is much smaller."""
    try:
        checkpoint.save(model, optimizer, progress)
    except SignforgeError as error:
        warnings.warn(f"{error} The training goes on without a checkpoint.", stacklevel=3)


def _train_step(
    model: nn.Module,
    forward: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    config: ClassifierConfig,
    loss: Loss | Deferred,
    step: int,
    seed: int,
) -> float:
    """One update from one batch; its loss."""
    images, labels, synthetic = batch
    device = next(model.parameters()).device
    _check_images(images, model)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    rng = torch.Generator().manual_seed(derive_seed(seed, AUGMENT, step))
    inputs = augment_batch(images.to(device, non_blocking=True), config.augment, rng)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    with autocast(device, config.precision):
        if synthetic is None:
            logits = forward(inputs)
        else:
            logits = forward_apart(forward, model, inputs, synthetic)
    _check_labels(labels, logits.shape[1])
    criterion = loss_at(loss, step, config.steps)
    step_loss = criterion(logits.float(), labels.to(device, non_blocking=True))
    optimizer.zero_grad(set_to_none=True)
    step_loss.backward()  # type: ignore[no-untyped-call]
    # Read together: a GPU, which has all it needs for the gradients by now, is waited for once.
    norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    value, steepness = torch.stack([step_loss.detach().reshape(()).to(device), norm]).tolist()
    for name, number in (("loss", value), ("gradient", steepness)):
        if not math.isfinite(number):
            raise SignforgeError(
                f"The classifier's {name} became {number} at step {step + 1} of {config.steps}; "
                f"lower classifier.learning_rate (now {config.learning_rate:g})."
            )
    optimizer.step()
    return float(value)


def predict_logits(
    model: nn.Module,
    images: Tensor,
    *,
    batch_size: int = 512,
    precision: str = "auto",
    track: Track = no_progress,
) -> Tensor:
    """float32 (N, C) on the CPU for uint8 (N, 3, R, R), with ``model`` where and as it is.

    Runs in evaluation mode without gradients; the model's mode is put back.
    Raises SignforgeError for no images, for images of another kind or resolution, and for logits
    that are not finite: their argmax would be class 0.
    """
    if len(images) == 0:
        raise SignforgeError("There is no image to classify.")
    _check_images(images, model)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    starts = range(0, len(images), batch_size)
    rows = []
    with torch.no_grad(), autocast(device, precision):
        for start in track(starts, "predict", len(starts)):
            batch = normalise(images[start : start + batch_size].to(device))
            logits = model(batch.contiguous(memory_format=torch.channels_last))
            rows.append(logits.float().cpu())
    model.train(was_training)
    found = torch.cat(rows)
    if not bool(found.isfinite().all()):
        raise SignforgeError(
            "The classifier gives logits that are not finite: its weights have overflowed; lower "
            "classifier.learning_rate."
        )
    return found


def learning_rate(step: int, config: ClassifierConfig) -> float:
    """Rate of the 0-based ``step``: linear to the peak, then half a cosine towards 0."""
    warmup = config.warmup_fraction * config.steps
    if step + 1 <= warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / (config.steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * max(progress, 0.0)))


def _check_images(images: Tensor, model: nn.Module) -> None:
    resolution = getattr(model, "resolution", images.shape[-1])
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, resolution, resolution):
        raise SignforgeError(
            f"The classifier takes uint8 images (3, {resolution}, {resolution}), "
            f"got {describe_image(images[0])}."
        )


def _check_labels(labels: Tensor, num_classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise SignforgeError(
            f"The dataset has label {low if low < 0 else high}, but the classifier has outputs "
            f"for 0..{num_classes - 1} only."
        )


def _optimizer(model: nn.Module, config: ClassifierConfig) -> torch.optim.Optimizer:
    """Fused AdamW; biases and the scales of norms (1-d parameters) are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1]},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
