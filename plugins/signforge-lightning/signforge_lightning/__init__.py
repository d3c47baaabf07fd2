"""signforge-lightning: signforge's balanced data sets in a Lightning Trainer."""

from signforge_lightning.callback import EpochInStep
from signforge_lightning.datamodule import BalancedDataModule
from signforge_lightning.loading import EpochShuffle, LateLoader

__all__ = ["BalancedDataModule", "EpochInStep", "EpochShuffle", "LateLoader"]
