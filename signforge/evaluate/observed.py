"""Training the GAN while a probe judges it and trackers record it, as the config asks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from signforge.config import Config
from signforge.data.splits import PreparedSplits
from signforge.evaluate.probe import ValidationProbe, build_probe
from signforge.gan.metrics import Status
from signforge.gan.run import run_training
from signforge.gan.sampler import GanSampler
from signforge.gan.trackers import open_trackers
from signforge.progress import Track, no_progress


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
    that timm does not know and for a tracker whose package is missing.
    """
    display = display or TrainingDisplay()
    probe = _probe(config, splits, run, display)
    with open_trackers(config, run, display.message) as trackers:

        def on_status(status: Status) -> None:
            display.on_status(status)
            trackers.log_status(status)

        return run_training(
            config,
            splits,
            run,
            resume=resume,
            on_status=on_status,
            on_grid=trackers.log_grid,
            should_stop=should_stop,
            probe=probe,
        )


def _probe(
    config: Config, splits: PreparedSplits, run: Path, display: TrainingDisplay
) -> ValidationProbe | None:
    if config.gan.probe_every_kimg is None:
        return None
    probe = build_probe(config.gan, splits, run, track=display.track)
    if probe is None:
        display.message("A single class cannot be mistaken for another: the probe is left out.")
    return probe
