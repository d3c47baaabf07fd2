"""Arms x seeds -> rows: every arm trains as many steps, from the same weights, and is tested once.

Jobs run behind one small interface (``Executor``); the one here runs them one after another in
this process, a plugin can run them elsewhere. What an executor runs writes nothing: all files are
written here, by the one process that asked for the rows.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.benchmark.arm_selection import may_use_gate, needs_generator, select_arms
from signforge.benchmark.arms import ARMS, Arm, ArmContext, ArmSetup
from signforge.benchmark.clusters import Split
from signforge.benchmark.description import describe_run, with_gate
from signforge.benchmark.fitting import fit_arm
from signforge.benchmark.folder import (
    Labels,
    Row,
    append_row,
    config_hash,
    finished_rows,
    open_run,
    write_groups,
    write_json,
    write_predictions,
    write_target,
)
from signforge.benchmark.gate import FittedGate, is_kept, kept_gate
from signforge.benchmark.trials import none_for_nan
from signforge.classify.checkpoint import FitCheckpoint
from signforge.classify.training import predict_logits
from signforge.config import Config
from signforge.data.images import UNKNOWN_GROUP, LabeledImages
from signforge.data.splits import PreparedSplits
from signforge.environment import describe_environment
from signforge.errors import SignforgeError
from signforge.evaluate.accuracy import accuracy_report
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress

GATE = "gate"
GENERATOR = "generator"
"""Folders of a run directory."""

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One classifier to train: ``number`` of ``total`` in this benchmark, from 1."""

    arm: str
    seed: int
    number: int
    total: int


@dataclass(frozen=True)
class JobResult:
    """row: JSON-ready. predictions, val_predictions: int16 (N,), the predicted class of each image
    of the test and the validation split.
    """

    row: Row
    predictions: Labels
    val_predictions: Labels


Work = Callable[[Job], JobResult]
"""Does one job; may be pickled, and gives the same result wherever and however often it runs."""

Executor = Callable[[Sequence[Job], Work], Iterator[JobResult]]
"""Runs the work on every job, anywhere and in any order, and yields each result as it comes: what
was yielded is kept if the process dies. Raises what the work raises."""


def run_in_process(jobs: Sequence[Job], work: Work) -> Iterator[JobResult]:
    """The executor for one machine: one job after another."""
    yield from map(work, jobs)


def run_benchmark(
    config: Config,
    splits: PreparedSplits,
    sampler: ClassConditionalSampler | None,
    run_dir: Path,
    *,
    arms: Mapping[str, Arm] = ARMS,
    gan_seconds: float = 0.0,
    command: str = "",
    environment: Mapping[str, Any] | None = None,
    run_jobs: Executor | None = None,
    on_row: Callable[[Row], None] = lambda _row: None,
    track: Track = no_progress,
) -> list[Row]:
    """All rows of ``config.benchmark``'s arms and seeds, those of earlier runs among them.

    The gate that ``config.balance`` asks for is fitted to the training split first, if an arm may
    use it, and kept in ``run_dir``.

    arms: what the names in ``config.benchmark.arms`` mean.
    gan_seconds: what training the generator took, for the cost column of arms that use it.
    command: how to repeat this run, for the report.
    environment: as ``describe_environment`` makes it, which is the default.
    run_jobs: where the classifiers are trained; None trains one after another in this process.
    on_row: called with each new row once it is on disk.
    track: reports the steps of each classifier; with an executor, the classifiers that are done.

    Raises SignforgeError for an unknown arm or combination, an arm whose generator is missing or
    does not fit the data, and a folder that holds rows or a gate of another config.
    """
    chosen = select_arms(config.benchmark.arms, arms)
    if sampler is None:
        for name in chosen:
            if needs_generator((name,)):
                raise SignforgeError(
                    f"The arm {name} needs a generator: train one, or leave it out."
                )
    if sampler is not None:
        check_generator(sampler, splits.train)
    environment = environment or describe_environment(config.classifier.device)
    dataset = describe_run(config, splits, sampler, gan_seconds)
    open_run(run_dir, config, dataset, environment, command)
    _write_truth(run_dir, splits.test, "test")
    _write_truth(run_dir, splits.val, "val")

    done = finished_rows(run_dir, config)
    for arm, seed in done:  # killed between the row and the end of what led to it
        unfinished_file(run_dir, arm, seed).unlink(missing_ok=True)
    jobs = plan_jobs(config)
    missing = [job for job in jobs if (job.arm, job.seed) not in done]
    gate = None
    if sampler is not None and may_use_gate(tuple(chosen)) and (missing or is_kept(run_dir / GATE)):
        gate = kept_gate(
            config.balance,
            config.classifier,
            splits.train,
            run_dir / GATE,
            track=_labelled(track, "classifiers of the gate"),
        )
    if gate is not None:
        write_json(run_dir / "dataset.json", with_gate(dataset, gate))
    work = partial(
        run_job,
        config=config,
        splits=splits,
        sampler=sampler,
        arms=chosen,
        gan_seconds=gan_seconds,
        gate=gate,
        environment=environment,
    )
    if run_jobs is None:
        results = run_in_process(missing, partial(work, run_dir=run_dir, track=track))
    else:
        done_elsewhere = run_jobs(
            missing, partial(_with_own_hardware, work=work, device=config.classifier.device)
        )
        results = track(done_elsewhere, "classifiers", len(missing))
    for result in results:
        row = result.row
        # Predictions first: a row on disk vouches for them.
        write_predictions(run_dir, row["arm"], row["seed"], result.predictions)
        write_predictions(run_dir, row["arm"], row["seed"], result.val_predictions, "val")
        append_row(run_dir, row)
        unfinished_file(run_dir, row["arm"], row["seed"]).unlink(missing_ok=True)
        done[row["arm"], row["seed"]] = row
        on_row(row)
    return [done[job.arm, job.seed] for job in jobs]


def unfinished_file(run_dir: Path, arm: str, seed: int) -> Path:
    """What is kept of a classifier whose training was cut short."""
    return run_dir / f"unfinished-{arm}-seed{seed}.safetensors"


def training_identity(job: Job, origin: Mapping[str, Any], class_counts: Sequence[int]) -> str:
    """All that decides a classifier's weights, as far as it is known; a training that was cut short
    goes on only where it is the same.

    origin: fingerprints of config, data, generator and gate, versions, hardware and commit, as in
        a row. A changed arm of one's own, or a checkout with other changes than before, shows in
        none of them.
    """
    return json.dumps([job.arm, job.seed, origin, list(class_counts)], sort_keys=True)


def _write_truth(run_dir: Path, images: LabeledImages, split: Split) -> None:
    """What predictions are compared with: classes, and groups where any is known."""
    write_target(run_dir, images.labels.numpy(), split)
    if bool((images.groups != UNKNOWN_GROUP).any()):
        write_groups(run_dir, images.groups.numpy(), split)


def plan_jobs(config: Config) -> list[Job]:
    """Seed by seed, all arms of a seed together, so that a benchmark cut short has pairs."""
    arms = tuple(dict.fromkeys(config.benchmark.arms))
    first = config.benchmark.first_seed
    pairs = [(arm, seed) for seed in range(first, first + config.benchmark.seeds) for arm in arms]
    return [Job(arm, seed, n, len(pairs)) for n, (arm, seed) in enumerate(pairs, start=1)]


def run_job(
    job: Job,
    *,
    config: Config,
    splits: PreparedSplits,
    sampler: ClassConditionalSampler | None,
    arms: Mapping[str, Arm],
    gan_seconds: float,
    environment: Mapping[str, Any],
    gate: FittedGate | None = None,
    run_dir: Path | None = None,
    track: Track = no_progress,
) -> JobResult:
    """Trains and tests one classifier; writes nothing but its checkpoint, into ``run_dir``."""
    train, classifier = splits.train, config.classifier
    track = _labelled(track, f"{job.arm}, seed {job.seed} ({job.number} of {job.total})")
    context = ArmContext(job.seed, sampler, config.balance, track, gate.gate if gate else None)
    started = time.perf_counter()
    setup = arms[job.arm](train, context)
    drawing_seconds = time.perf_counter() - started
    used_gate = gate if setup.uses_gate else None
    origin = {
        "config_hash": config_hash(config),
        "train_fingerprint": train.fingerprint,
        "generator_fingerprint": sampler.fingerprint if sampler and setup.uses_generator else None,
        "gate_sha256": used_gate.gate.card.weights_sha256 if used_gate else None,
        **{key: environment[key] for key in ("versions", "hardware", "commit", "dirty")},
    }
    checkpoint = None
    if run_dir is not None:
        identity = training_identity(job, origin, setup.class_counts)
        checkpoint = FitCheckpoint(unfinished_file(run_dir, job.arm, job.seed), identity)
    model, fit = fit_arm(
        setup, train, classifier, seed=job.seed, checkpoint=checkpoint, track=track
    )
    val_preds = predict_logits(model, splits.val.images, precision=classifier.precision).argmax(1)
    preds = predict_logits(model, splits.test.images, precision=classifier.precision).argmax(1)
    val = _scores(val_preds, splits.val, train)
    row = {
        "arm": job.arm,
        "seed": job.seed,
        "classifier": classifier.name,
        "pretrained": classifier.pretrained,
        "steps": classifier.steps,
        "batch_size": classifier.batch_size,
        "images": fit.images,
        "final_loss": fit.final_loss,
        "drawing_seconds": round(drawing_seconds, 3),
        "classifier_seconds": round(fit.seconds, 3),
        "gan_seconds": round(gan_seconds, 3) if setup.uses_generator else 0.0,
        "gate_seconds": used_gate.seconds if used_gate else 0.0,
        "uses_generator": setup.uses_generator,
        **_scores(preds, splits.test, train),
        "val_top1": val["top1"],
        "val_macro_accuracy": val["macro_accuracy"],
        "class_counts": list(setup.class_counts),
        **_filling(setup, train),
        "train_images": len(train),
        "val_images": len(splits.val),
        "test_images": len(splits.test),
        "val_fingerprint": splits.val.fingerprint,
        "test_fingerprint": splits.test.fingerprint,
        **origin,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return JobResult(
        row=row,
        predictions=preds.numpy().astype(np.int16),
        val_predictions=val_preds.numpy().astype(np.int16),
    )


def _with_own_hardware(job: Job, *, work: Work, device: str) -> JobResult:
    """The result of ``work``, its row naming the machine that it was done on."""
    result = work(job)
    hardware = describe_environment(device)["hardware"]
    return replace(result, row={**result.row, "hardware": hardware})


def check_generator(sampler: ClassConditionalSampler, train: LabeledImages) -> None:
    """Raises SignforgeError where the generator draws other classes or sizes than ``train``'s."""
    if sampler.num_classes != train.num_classes:
        raise SignforgeError(
            f"The generator draws {sampler.num_classes} classes, the data have "
            f"{train.num_classes}; use a generator trained on these classes."
        )
    names = tuple(sampler.class_names)
    if names and names != train.class_names:
        raise SignforgeError(
            f"The generator's {sampler.num_classes} classes are not the data's: their names "
            "differ; use a generator trained on these classes."
        )
    if sampler.resolution != train.resolution:
        raise SignforgeError(
            f"The generator draws {sampler.resolution}x{sampler.resolution} images, the data are "
            f"{train.resolution}x{train.resolution}; set data.resolution={sampler.resolution} or "
            "train a generator at the data's size."
        )


def _filling(setup: ArmSetup, train: LabeledImages) -> dict[str, Any]:
    """Of each class, (C,): how many real images the last epoch showed again, and the share of
    trial draws that the gate kept. None where nobody knows, or no gate was asked.
    """
    dataset = setup.dataset
    if isinstance(dataset, SyntheticBalancedDataset):
        added_counts = dataset.synthetic_counts if setup.only_real else dataset.oversampled_counts
        repeated = added_counts.tolist()
        return {"oversampled_counts": repeated, "acceptance": none_for_nan(dataset.acceptance)}
    own = train.class_counts.tolist()
    pairs = zip(setup.class_counts, own, strict=True)
    added = (
        [max(shown - real, 0) for shown, real in pairs]
        if dataset is train or setup.only_real
        else None
    )
    return {"oversampled_counts": added, "acceptance": [None] * train.num_classes}


def _scores(preds: Tensor, split: LabeledImages, train: LabeledImages) -> dict[str, Any]:
    """Figures of ``preds`` (N,) as a row holds them; many, medium and few may be None."""
    report = accuracy_report(preds, split.labels, train.class_counts)
    return {**report.as_dict(), "worst_class_name": train.class_names[report.worst_class]}


def _labelled(track: Track, label: str) -> Track:
    """``track`` under the job's own description instead of the caller's."""

    def labelled(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        del description
        return track(items, label, total)

    return labelled
