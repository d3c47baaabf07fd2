"""signforge's own training, stopped at each mark and resumed from its checkpoint after it."""

from pathlib import Path

from signforge.config import GanConfig
from signforge.data.images import LabeledImages
from signforge.gan.sampler import GanSampler, load_sampler
from signforge.gan.training import train_cgan


class Ours:
    """``train_cgan`` as users run it; its guide and checkpoints count as training time."""

    def __init__(self, config: GanConfig, train: LabeledImages, run: Path) -> None:
        self.config, self.train, self.run = config, train, run
        self.seconds = 0.0
        self.seen_images = 0

    def train_until(self, seconds: float) -> None:
        """Less where ``config.total_kimg`` ends the run before."""
        config = self.config.model_copy(update={"max_minutes": seconds / 60})
        resume = (self.run / "checkpoints").is_dir()
        progress = train_cgan(config, self.train, self.run, resume=resume)
        self.seconds = progress.seconds
        self.seen_images = progress.seen_images

    def sampler(self) -> GanSampler:
        return load_sampler(self.run, self.config.device)
