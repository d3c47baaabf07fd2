"""What a benchmark would do and how long it would take, from a few measured steps."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from signforge.balance.strategy import resolve_sampling_strategy
from signforge.benchmark.arm_selection import (
    may_use_gate,
    needs_generator,
    select_arms,
    share_drawn,
)
from signforge.benchmark.arms import ARMS, Arm
from signforge.benchmark.fidelity import (
    EXTRACTOR,
    QUALITY,
    cas_steps,
    kept_extractor,
    kept_parts,
    needs_cas,
)
from signforge.benchmark.folder import finished_rows
from signforge.benchmark.gate import is_kept
from signforge.benchmark.runner import (
    GATE,
    GENERATOR,
    check_generator,
    plan_jobs,
)
from signforge.benchmark.same_run import require_same_run
from signforge.classify.model import build_classifier
from signforge.classify.training import fit_classifier, predict_logits
from signforge.config import Config, GanConfig
from signforge.data.splits import PreparedSplits, imbalance_ratio
from signforge.evaluate.coverage import coverage_report
from signforge.evaluate.fidelity import kid
from signforge.evaluate.quality import NEIGHBOURS
from signforge.gan.checkpoint import last_progress
from signforge.gan.hub import CARD_FILE
from signforge.gan.sampler import ClassConditionalSampler, load_sampler
from signforge.gan.step import measure_images_per_second

WARM_STEPS = 3
TIMED_STEPS = 5
TIMED_IMAGES = 256
TIMED_FEATURES = 512
SAMPLING_SPEEDUP = 4.0
"""Assumed where no generator is there to be timed: one forward pass of the generator alone,
against the passes of both networks, forward and backward, that a training image costs."""


@dataclass(frozen=True)
class Plan:
    """A benchmark that has not run. Seconds are estimates for this machine as it is now.

    jobs_left: classifiers still to train; the others are finished in ``run_dir``.
    class_counts, balanced_counts: training images of each class, before and after, (C,).
    gan_kimg: thousands of images the GAN would still train on; None if it would not be trained.
    """

    run_dir: Path
    source: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    jobs: int
    jobs_left: int
    classifier: str
    steps: int
    batch_size: int
    train_images: int
    val_images: int
    test_images: int
    class_counts: tuple[int, ...]
    balanced_counts: tuple[int, ...]
    gan_kimg: float | None
    gan_seconds: float
    extractor_seconds: float
    fidelity_seconds: float
    """Measuring the generator: distances and neighbours, and the classifier trained on samples
    alone; 0 for what ``run_dir`` holds already. Inception distances are not in it."""
    gate_seconds: float
    classifier_seconds: float
    """Of one job: training, drawing synthetic images where the arm does, and testing, averaged."""

    @property
    def total_seconds(self) -> float:
        shared = self.gan_seconds + self.extractor_seconds + self.fidelity_seconds
        shared += self.gate_seconds
        return shared + self.jobs_left * self.classifier_seconds

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, with the total."""
        totals = {"run_dir": str(self.run_dir), "total_seconds": self.total_seconds}
        return {**asdict(self), **totals}

    @property
    def lines(self) -> list[str]:
        """The plan in sentences, the total time last."""
        counts = torch.tensor(self.class_counts)
        added = sum(self.balanced_counts) - sum(self.class_counts)
        finished = self.jobs - self.jobs_left
        lines = [
            f"Data: {self.source}, {len(self.class_counts)} classes; {self.train_images:,} images "
            f"to train on ({int(counts.min()):,} to {int(counts.max()):,} a class, imbalance ratio "
            f"{imbalance_ratio(counts):.1f}), {self.val_images:,} for validation, "
            f"{self.test_images:,} for the test.",
            f"Balancing adds {added:,} images and leaves {_span(self.balanced_counts)} a class.",
        ]
        if self.gan_kimg is not None:
            lines.append(
                f"GAN: up to {self.gan_kimg:g} thousand images, {duration(self.gan_seconds)}."
            )
        if self.extractor_seconds:
            lines.append(
                f"Feature extractor for the fidelity table: {duration(self.extractor_seconds)}."
            )
        if self.fidelity_seconds:
            lines.append(
                f"Fidelity of the generator: {duration(self.fidelity_seconds)}, a classifier "
                "trained on samples alone among it if it is asked for."
            )
        if self.gate_seconds:
            lines.append(
                f"Gate, which keeps bad samples out: {duration(self.gate_seconds)} of training."
            )
        lines += [
            f"Classifiers: {self.jobs} ({', '.join(self.arms)} with seeds "
            f"{', '.join(map(str, self.seeds))}), {self.classifier}, {self.steps:,} steps of "
            f"{self.batch_size}, {duration(self.classifier_seconds)} each"
            + (f"; {finished} are finished already." if finished else "."),
            f"Results in {self.run_dir}.",
            f"About {duration(self.total_seconds)} in all on this machine.",
        ]
        return lines


def dry_run(
    config: Config,
    splits: PreparedSplits,
    run_dir: Path,
    *,
    sampler: ClassConditionalSampler | None = None,
    arms: Mapping[str, Arm] = ARMS,
) -> Plan:
    """Plans ``config.benchmark`` and times a few steps of the real models; writes nothing.

    sampler: the generator to be used; without one, and with an arm that needs one, the plan
        includes training it.
    arms: what the names in ``config.benchmark.arms`` mean.

    Raises SignforgeError as ``run_benchmark`` would for arms, generator and classifier.
    """
    chosen = tuple(select_arms(config.benchmark.arms, arms))
    require_same_run(config, splits, run_dir, sampler)
    own = run_dir / GENERATOR
    kimg_left, seconds_left = _left_of_gan(config.gan, own)
    finished = min(kimg_left, seconds_left) == 0 and (own / CARD_FILE).exists()
    if sampler is None and finished:
        sampler = load_sampler(own, config.gan.device)
    if sampler is not None:
        check_generator(sampler, splits.train)
    balanced = resolve_sampling_strategy(
        config.balance.sampling_strategy,
        splits.train.class_counts,
        class_names=splits.train.class_names,
        max_synthetic_fraction=config.balance.max_synthetic_fraction,
    )
    jobs = plan_jobs(config)
    done = finished_rows(run_dir, config)
    left = [job for job in jobs if (job.arm, job.seed) not in done]

    generative = needs_generator(chosen)
    gan_rate = gan_seconds = 0.0
    if generative and sampler is None:
        gan_rate = measure_images_per_second(config.gan, splits.train)
        gan_seconds = min(1000 * kimg_left / gan_rate, seconds_left)
    step_seconds, predict_seconds = _measure_classifier(config, splits)
    training = config.classifier.steps * step_seconds
    testing = (len(splits.val) + len(splits.test)) * predict_seconds
    gated = generative and may_use_gate(chosen) and config.balance.gate_tau > 0
    gate_seconds = 0.0
    if gated and left and not is_kept(run_dir / GATE):
        steps = config.balance.gate_folds * config.balance.gate_steps
        gate_seconds = steps * step_seconds + len(splits.train) * predict_seconds
    drawing = fidelity_seconds = extractor_seconds = 0.0
    if generative:
        if kept_extractor(config, splits, run_dir / EXTRACTOR) is None:
            extractor_seconds = config.benchmark.extractor_steps * step_seconds
        rate = _sampling_rate(sampler) if sampler else SAMPLING_SPEEDUP * gan_rate
        fidelity_seconds = _fidelity_seconds(
            config, splits, run_dir, sampler, step_seconds, predict_seconds, 1 / rate
        )
    if generative and left:
        judged = config.balance.gate_folds * predict_seconds if gated else 0.0
        drawing = fmean(
            share_drawn((job.arm,)) * (1 / rate + judged * may_use_gate((job.arm,))) for job in left
        ) * _images_drawn(config, balanced, splits)
    return Plan(
        run_dir=run_dir,
        source=splits.source,
        arms=chosen,
        seeds=tuple(dict.fromkeys(job.seed for job in jobs)),
        jobs=len(jobs),
        jobs_left=len(left),
        classifier=config.classifier.name,
        steps=config.classifier.steps,
        batch_size=config.classifier.batch_size,
        train_images=len(splits.train),
        val_images=len(splits.val),
        test_images=len(splits.test),
        class_counts=tuple(splits.train.class_counts.tolist()),
        balanced_counts=tuple(balanced.tolist()),
        gan_kimg=kimg_left if gan_seconds else None,
        gan_seconds=gan_seconds,
        extractor_seconds=extractor_seconds,
        fidelity_seconds=fidelity_seconds,
        gate_seconds=gate_seconds,
        classifier_seconds=training + testing + drawing,
    )


def _left_of_gan(config: GanConfig, run: Path) -> tuple[float, float]:
    """Thousands of images, and seconds at most, that the training in ``run`` has still to go."""
    done = last_progress(run)
    kimg = max(config.total_kimg - done.seen_images / 1000, 0.0)
    if config.max_minutes is None:
        return kimg, math.inf
    return kimg, max(60 * config.max_minutes - done.seconds, 0.0)


def _span(counts: tuple[int, ...]) -> str:
    """``"17 to 180"``, or one number where all are the same."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def duration(seconds: float) -> str:
    """``75`` -> ``"1 min 15 s"``, in the two units that matter."""
    whole = max(round(seconds), 1)
    minutes, rest = divmod(whole, 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _measure_classifier(config: Config, splits: PreparedSplits) -> tuple[float, float]:
    """Seconds of one training step, and of one prediction."""
    train = splits.train
    model = build_classifier(
        config.classifier.name,
        num_classes=train.num_classes,
        resolution=train.resolution,
        pretrained=False,
        seed=0,
    )
    for steps in (WARM_STEPS, TIMED_STEPS):
        few = config.classifier.model_copy(update={"steps": steps})
        fit = fit_classifier(model, train, config=few, seed=0)
    images = splits.test.images[:TIMED_IMAGES]
    started = time.perf_counter()
    predict_logits(model, images, precision=config.classifier.precision)
    return fit.seconds / TIMED_STEPS, (time.perf_counter() - started) / len(images)


def _sampling_rate(sampler: ClassConditionalSampler) -> float:
    """Images a second that the generator draws."""
    labels = torch.arange(TIMED_IMAGES) % sampler.num_classes
    started = time.perf_counter()
    sampler.sample(labels, seed=0)
    return TIMED_IMAGES / max(time.perf_counter() - started, 1e-9)


def _fidelity_seconds(
    config: Config,
    splits: PreparedSplits,
    run_dir: Path,
    sampler: ClassConditionalSampler | None,
    step_seconds: float,
    predict_seconds: float,
    draw_seconds: float,
) -> float:
    """What ``measure_fidelity`` has still to do but for extractor and Inception."""
    found = kept_parts(run_dir, sampler.fingerprint) if sampler else {}
    n, seconds = len(splits.val), 0.0
    if QUALITY not in found:
        seconds += (len(splits.train) + 2 * n) * predict_seconds + n * draw_seconds
        seconds += _pair_seconds() * n * n
    if needs_cas(config, found):
        steps = cas_steps(config)
        seconds += steps * (step_seconds + config.classifier.batch_size * draw_seconds)
        seconds += n * predict_seconds
    return seconds


def _pair_seconds() -> float:
    """Of what every pair of a sample and a real image costs: KID and neighbours among features."""
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, TIMED_IMAGES, TIMED_FEATURES, generator=rng)
    started = time.perf_counter()
    for _ in ("samples", "floor"):
        coverage_report(real, fake, k=NEIGHBOURS)
        kid(real, fake)
    return (time.perf_counter() - started) / TIMED_IMAGES**2


def _images_drawn(config: Config, balanced: torch.Tensor, splits: PreparedSplits) -> float:
    """Synthetic images of a job that fills all: the first time, and a share each later epoch."""
    total = int(balanced.sum())
    missing = total - len(splits.train)
    epochs = config.classifier.steps * config.classifier.batch_size / max(total, 1)
    return missing * (1 + config.balance.refresh * epochs)
