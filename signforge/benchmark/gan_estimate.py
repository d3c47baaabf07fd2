"""How long a benchmark's GAN still has to train: its steps, its guide and its probe."""

import math
from dataclasses import dataclass
from pathlib import Path

from signforge.benchmark.speeds import measure_classifier
from signforge.config import GanConfig
from signforge.data.splits import PreparedSplits
from signforge.evaluate.probe import (
    PROBE,
    images_compared,
    kept_probe_extractor,
    probe_classifier,
    samples_judged,
)
from signforge.gan.checkpoint import last_progress
from signforge.gan.guide import measure_guide_seconds
from signforge.gan.step import measure_images_per_second

SAMPLING_SPEEDUP = 4.0
"""Assumed, as no generator is there to be timed: one forward pass of the generator alone, against
the passes of both networks, forward and backward, that a training image costs."""


@dataclass(frozen=True)
class GanEstimate:
    """Of a training that has not begun, or not ended."""

    kimg: float
    """Thousands of images, at most."""
    seconds: float
    sampling_rate: float
    """Images a second that its generator would draw."""


def is_trained(config: GanConfig, run: Path) -> bool:
    """Whether the training in ``run`` has come to the end that ``config`` sets."""
    return min(_left(config, run)) == 0


def estimate_gan(config: GanConfig, splits: PreparedSplits, run: Path) -> GanEstimate:
    """What the training in ``run`` has still to do, guide and probe with it.

    The probe's share leaves out the Frechet distance itself, seconds each time.
    """
    kimg, limit = _left(config, run)
    rate = measure_images_per_second(config, splits.train)
    if min(kimg, limit) == 0:
        return GanEstimate(kimg, 0.0, SAMPLING_SPEEDUP * rate)
    seconds = 1000 * kimg / rate
    if config.guide_weight > 0 and last_progress(run).seconds == 0:
        seconds += measure_guide_seconds(config, splits.train)
    if config.probe_every_kimg is not None:
        seconds += _probe_seconds(config, splits, run, kimg, SAMPLING_SPEEDUP * rate)
    return GanEstimate(kimg, min(seconds, limit), SAMPLING_SPEEDUP * rate)


def _left(config: GanConfig, run: Path) -> tuple[float, float]:
    """Thousands of images, and seconds at most, that the training in ``run`` has still to go."""
    done = last_progress(run)
    kimg = max(config.total_kimg - done.seen_images / 1000, 0.0)
    if config.max_minutes is None:
        return kimg, math.inf
    return kimg, max(60 * config.max_minutes - done.seconds, 0.0)


def _probe_seconds(
    config: GanConfig, splits: PreparedSplits, run: Path, kimg: float, sampling_rate: float
) -> float:
    """Its classifier's training, then what it looks at, every so often and at the end."""
    step_seconds, predict_seconds = measure_classifier(probe_classifier(config), splits)
    seconds = images_compared(splits) * predict_seconds
    if kept_probe_extractor(config, splits.train, run / PROBE) is None:
        seconds += config.probe_steps * step_seconds
    times = math.ceil(kimg / (config.probe_every_kimg or kimg))
    return seconds + times * samples_judged(splits.val) * (1 / sampling_rate + predict_seconds)
