"""signforge's own training, stopped at each mark and resumed from its checkpoint after it."""

import time
from pathlib import Path

from signforge.config import GanConfig
from signforge.data.images import LabeledImages
from signforge.gan.sampler import GanSampler, load_sampler
from signforge.gan.training import TrainingEvents, train_cgan


class Ours:
    """``train_cgan`` as users run it; its checkpoints count as training time."""

    def __init__(self, config: GanConfig, train: LabeledImages, run: Path) -> None:
        self.config, self.train, self.run = config, train, run
        self.seconds = 0.0
        self.seen_images = 0

    def train_until(self, seconds: float) -> None:
        """Less where ``config.total_kimg`` or ``config.max_minutes`` ends the run before."""
        left = seconds - self.seconds
        started: float | None = None

        def reached() -> bool:
            nonlocal started  # asked before the first step: set-up and loading do not count
            now = time.perf_counter()
            started = now if started is None else started
            return now - started >= left

        events = TrainingEvents(should_stop=reached)
        resume = (self.run / "checkpoints").is_dir()
        progress = train_cgan(self.config, self.train, self.run, events=events, resume=resume)
        self.seconds = progress.seconds
        self.seen_images = progress.seen_images

    def sampler(self) -> GanSampler:
        return load_sampler(self.run, self.config.device)
