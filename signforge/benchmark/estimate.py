"""What a benchmark would do and how long it would take, from a few measured steps."""

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
from signforge.benchmark.gan_estimate import estimate_gan, is_trained
from signforge.benchmark.gate import is_kept
from signforge.benchmark.runner import (
    GATE,
    GENERATOR,
    check_generator,
    plan_jobs,
)
from signforge.benchmark.same_run import require_same_run
from signforge.benchmark.speeds import (
    measure_classifier,
    measure_pair_seconds,
    measure_sampling_rate,
)
from signforge.config import Config
from signforge.data.splits import PreparedSplits, imbalance_ratio
from signforge.gan.hub import CARD_FILE
from signforge.gan.sampler import ClassConditionalSampler, load_sampler


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
    """Its guide and its probe with it."""
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
                f"GAN: up to {self.gan_kimg:g} thousand images, {duration(self.gan_seconds)}, "
                "guide and probe included."
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
    finished = is_trained(config.gan, own) and (own / CARD_FILE).exists()
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
    gan, rate = None, 0.0
    if generative and sampler is None:
        gan = estimate_gan(config.gan, splits, own)
        rate = gan.sampling_rate
    elif generative and sampler is not None:
        rate = measure_sampling_rate(sampler)
    step_seconds, predict_seconds = measure_classifier(config.classifier, splits)
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
        gan_kimg=gan.kimg if gan and gan.seconds else None,
        gan_seconds=gan.seconds if gan else 0.0,
        extractor_seconds=extractor_seconds,
        fidelity_seconds=fidelity_seconds,
        gate_seconds=gate_seconds,
        classifier_seconds=training + testing + drawing,
    )


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
        seconds += measure_pair_seconds() * n * n
    if needs_cas(config, found):
        steps = cas_steps(config)
        seconds += steps * (step_seconds + config.classifier.batch_size * draw_seconds)
        seconds += n * predict_seconds
    return seconds


def _images_drawn(config: Config, balanced: torch.Tensor, splits: PreparedSplits) -> float:
    """Synthetic images of a job that fills all: the first time, and a share each later epoch."""
    total = int(balanced.sum())
    missing = total - len(splits.train)
    epochs = config.classifier.steps * config.classifier.batch_size / max(total, 1)
    return missing * (1 + config.balance.refresh * epochs)
