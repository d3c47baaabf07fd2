"""The main job: from a config to a finished report, training whatever is not there yet."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from signforge.balance.strategy import resolve_sampling_strategy
from signforge.benchmark.arm_selection import (
    arms_within,
    needs_cosines,
    needs_generator,
    select_arms,
)
from signforge.benchmark.arms import ARMS, Arm
from signforge.benchmark.fidelity import EXTRACTOR, measure_fidelity
from signforge.benchmark.folder import MOST_CLASSES, Row, finished_rows
from signforge.benchmark.gallery import most_changed, save_gallery
from signforge.benchmark.report import write_summary
from signforge.benchmark.runner import (
    GATE,
    GENERATOR,
    Executor,
    check_generator,
    plan_jobs,
    run_benchmark,
)
from signforge.benchmark.same_run import require_same_run
from signforge.benchmark.summary import Summary, summarise_run
from signforge.benchmark.tracking import track_benchmark
from signforge.classify.losses import LDAM_SCALE
from signforge.classify.model import build_classifier
from signforge.config import Config
from signforge.data.charts import save_image_grid
from signforge.data.splits import PreparedSplits
from signforge.errors import SignforgeError
from signforge.evaluate.inception import find_inception_weights
from signforge.evaluate.observed import TrainingDisplay, train_observed
from signforge.files import remove_leftovers
from signforge.gan.checkpoint import list_checkpoints
from signforge.gan.open_sampler import open_sampler
from signforge.gan.run import GRID_COLUMNS, GRID_SEED, row_names
from signforge.gan.sampler import ClassConditionalSampler, GanSampler
from signforge.gan.trackers import check_trackers
from signforge.gan.training import StoppedBeforeStart
from signforge.progress import Stopped, Track, no_progress

WRITTEN_FOLDERS = (EXTRACTOR, "gallery", GATE, "predictions", "predictions/val")
"""Of a run directory: where a killed process may have left a temporary file."""


T = TypeVar("T")


@dataclass(frozen=True)
class JobDisplay:
    """How the main job tells what it does; silent by default."""

    message: Callable[[str], None] = lambda _text: None
    track: Track = no_progress
    gan: Callable[[], AbstractContextManager[TrainingDisplay]] = lambda: nullcontext(
        TrainingDisplay()
    )
    on_row: Callable[[Row], None] = lambda _row: None
    on_left: Callable[[int, float], None] = lambda _classifiers, _seconds: None
    """After each row but the last: the classifiers left, and the seconds that they will take at the
    pace of those that this call has trained."""
    should_stop: Callable[[], bool] = field(default=lambda: False)


def find_generator(
    config: Config, splits: PreparedSplits, generator: str | Path | None
) -> ClassConditionalSampler | None:
    """The generator that ``open_sampler`` opens, checked against the data; None for None.

    Raises SignforgeError where it draws other classes or sizes, or was trained on other images
    than this training split: it may then have seen the images it is judged by. What the sampler
    of a plugin was made from nobody knows; the report notes that.
    """
    if generator is None:
        return None
    sampler = open_sampler(generator, config.gan.device)
    check_generator(sampler, splits.train)
    if not isinstance(sampler, GanSampler):
        return sampler
    if sampler.card.train_fingerprint != splits.train.fingerprint:
        raise SignforgeError(
            f"{generator} was trained on other images than this training split, so it may have "
            "seen validation or test images; use the data options it was trained with (see its "
            "config.yaml), or leave out --generator."
        )
    return sampler


def run_main_job(
    config: Config,
    splits: PreparedSplits,
    run_dir: Path,
    *,
    arms: Mapping[str, Arm] = ARMS,
    generator: str | Path | None = None,
    run_jobs: Executor | None = None,
    command: str = "",
    display: JobDisplay | None = None,
) -> Summary:
    """Trains the GAN unless ``generator`` is given, measures it, and compares the arms.

    Everything lands in ``run_dir``; called again with the same config it goes on where it
    stopped and repeats nothing that is finished.

    arms: what the names in ``config.benchmark.arms`` mean, one's own among them.
    generator: as for ``open_sampler``. Arms of one's own get it; for them none is trained.
    run_jobs: as in ``run_benchmark``.

    Raises SignforgeError as its parts do, and Stopped where ``display.should_stop`` said so.
    """
    display = display or JobDisplay()
    track = _until_stopped(display)
    _refuse_early(config, splits, arms)
    own_arms = not ARMS.keys() >= arms_within(config.benchmark.arms)
    generative = needs_generator(config.benchmark.arms)
    sampler = None
    if generative or (own_arms and generator is not None):
        sampler = find_generator(config, splits, generator)
    require_same_run(config, splits, run_dir, sampler)
    for folder in (run_dir, *(run_dir / name for name in WRITTEN_FOLDERS)):
        remove_leftovers(folder)
    if generative and sampler is None:
        sampler = _trained_generator(config, splits, run_dir / GENERATOR, display)
    if sampler is not None:
        _save_samples(run_dir / "samples.png", sampler, splits)
        display.message("Measuring the generator's fidelity against the validation split.")
        measure_fidelity(config, splits, sampler, run_dir, track=track)

    jobs, done = plan_jobs(config), finished_rows(run_dir, config)
    missing = sum((job.arm, job.seed) not in done for job in jobs)
    trained, started = 0, time.perf_counter()

    def on_row(row: Row) -> None:
        nonlocal trained
        trained += 1
        display.on_row(row)
        if left := missing - trained:
            display.on_left(left, (time.perf_counter() - started) / trained * left)
        if display.should_stop():
            raise Stopped

    run_benchmark(
        config,
        splits,
        sampler,
        run_dir,
        arms=arms,
        gan_seconds=sampler.card.seconds if isinstance(sampler, GanSampler) else 0.0,
        command=command,
        run_jobs=run_jobs,
        on_row=on_row,
        track=track,
    )
    summary = summarise_run(run_dir)
    if sampler is not None:
        gained, lost = most_changed(summary)
        save_gallery(run_dir, sampler, splits.train, [*gained, *lost])
    write_summary(run_dir, summary)
    track_benchmark(config, run_dir, summary, display.message)
    return summary


def _until_stopped(display: JobDisplay) -> Track:
    """``display.track`` that raises Stopped after an item: whoever asks it to stop need not wait
    for the end of a classifier, and rows are written whole or not at all.
    """

    def tracked(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        for item in display.track(items, description, total):
            # An item that an executor finished must reach the disk first.
            yield item
            if display.should_stop():
                raise Stopped

    return tracked


def _refuse_early(config: Config, splits: PreparedSplits, arms: Mapping[str, Arm]) -> None:
    """Raises what a misspelt arm or classifier would raise only after the GAN's training."""
    select_arms(config.benchmark.arms, arms)
    check_trackers(config.gan.trackers)
    find_inception_weights(config.benchmark.inception_weights)
    if splits.train.num_classes < 2:
        raise SignforgeError(
            "A benchmark compares classifiers, which takes at least two classes; name more in "
            "data.classes, or use `signforge train-cgan` for one class."
        )
    if splits.train.num_classes > MOST_CLASSES:
        raise SignforgeError(
            f"Predictions are kept for {MOST_CLASSES:,} classes at most, not "
            f"{splits.train.num_classes:,}; name fewer in data.classes."
        )
    resolve_sampling_strategy(
        config.balance.sampling_strategy,
        splits.train.class_counts,
        class_names=splits.train.class_names,
        max_synthetic_fraction=config.balance.max_synthetic_fraction,
    )
    build_classifier(
        config.classifier.name,
        num_classes=splits.train.num_classes,
        resolution=splits.train.resolution,
        pretrained=False,
        seed=0,
        cosine_scale=LDAM_SCALE if needs_cosines(config.benchmark.arms) else None,
    )


def _trained_generator(
    config: Config, splits: PreparedSplits, run: Path, display: JobDisplay
) -> GanSampler:
    resume = bool(list_checkpoints(run))
    display.message(f"{'Resuming' if resume else 'Training'} the GAN in {run}.")
    with display.gan() as shown:
        try:
            sampler = train_observed(
                config, splits, run, resume=resume, should_stop=display.should_stop, display=shown
            )
        except StoppedBeforeStart:
            raise Stopped from None
    if display.should_stop():
        raise Stopped
    return sampler


def _save_samples(path: Path, sampler: ClassConditionalSampler, splits: PreparedSplits) -> None:
    """A PNG with real images beside synthetic ones, one row a class."""
    columns = GRID_COLUMNS // 2
    labels = torch.arange(sampler.num_classes).repeat_interleave(columns)
    synthetic = torch.split(sampler.sample(labels, GRID_SEED), columns)
    pairs = zip(splits.train.examples(columns), synthetic, strict=True)
    rows = [_side_by_side(real, fake, columns) for real, fake in pairs]
    names = row_names(splits.train.class_names)
    save_image_grid(path, rows, names, ("real", "synthetic"))


def _side_by_side(real: Tensor, fake: Tensor, columns: int) -> Tensor:
    """Both in equal shares of a row, uint8 (2 * columns, 3, H, W); white where real has fewer."""
    missing = torch.full((columns - len(real), *real.shape[1:]), 255, dtype=torch.uint8)
    return torch.cat([real, missing, fake])
