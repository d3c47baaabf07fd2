"""Training the GAN while a probe judges it and trackers record it, as the config asks."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from signforge.config import Config
from signforge.data.splits import PreparedSplits
from signforge.evaluate.probe import ValidationProbe, build_probe
from signforge.gan.metrics import ProbeStopped, Status
from signforge.gan.run import run_training
from signforge.gan.sampler import GanSampler
from signforge.gan.trackers import open_trackers
from signforge.progress import Track, no_progress

T = TypeVar("T")


@dataclass(frozen=True)
class TrainingDisplay:
    """Where a training run shows itself; nowhere by default."""

    on_status: Callable[[Status], None] = lambda _status: None
    message: Callable[[str], None] = lambda _text: None
    track: Track = no_progress


def train_observed(
    config: Config,
    splits: PreparedSplits,
    run: Path,
    *,
    resume: bool = False,
    should_stop: Callable[[], bool] = lambda: False,
    display: TrainingDisplay | None = None,
) -> GanSampler:
    """``run_training`` with a probe every ``gan.probe_every_kimg`` and with ``gan.trackers``.

    Raises SignforgeError as ``run_training`` does, and before it starts for a probe's classifier
    that timm does not know and for a tracker whose package is missing or that
    cannot be opened.
    """
    display = display or TrainingDisplay()
    probe = _probe(config, splits, run, display, should_stop)
    with open_trackers(config, run, display.message) as trackers:

        def on_status(status: Status) -> None:
            display.on_status(status)
            trackers.log_status(status)

        return run_training(
            config,
            splits,
            run,
            resume=resume,
            on_start=trackers.open,
            on_status=on_status,
            on_grid=trackers.log_grid,
            should_stop=should_stop,
            probe=probe,
            track=display.track,
        )


def _probe(
    config: Config,
    splits: PreparedSplits,
    run: Path,
    display: TrainingDisplay,
    should_stop: Callable[[], bool],
) -> ValidationProbe | None:
    if config.gan.probe_every_kimg is None:
        return None
    track = _until_stopped(display.track, should_stop)
    probe = build_probe(config.gan, splits, run, track=track)
    if probe is None:
        display.message("A single class cannot be mistaken for another: the probe is left out.")
    return probe


def _until_stopped(track: Track, should_stop: Callable[[], bool]) -> Track:
    """``track`` that raises ProbeStopped, between two items, once ``should_stop`` says so."""

    def tracked(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        for item in track(items, description, total):
            if should_stop():
                raise ProbeStopped
            yield item

    return tracked
