"""EpochInStep: the callback that brings in the synthetic images of each epoch."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from signforge import SignforgeError, SyntheticBalancedDataset
from signforge_lightning.loading import LateLoader


class EpochInStep(Callback):
    """Calls ``set_epoch`` of the training set before the first batch of each epoch.

    dataset: None stands for the training set of the Trainer's BalancedDataModule.

    The epoch is the one that Lightning gives its samplers, so it is right after a resume too.

    Raises SignforgeError where there is no such data set, and where a resumed fit has workers
    that have read ahead already (use LateLoader).
    """

    def __init__(self, dataset: SyntheticBalancedDataset | None = None) -> None:
        self.dataset = dataset

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A fit that resumes inside an epoch does not call on_train_epoch_start for that epoch.
        del pl_module
        dataset = self._dataset_of(trainer)
        loader = trainer.train_dataloader
        if (
            dataset.epoch != current_epoch(trainer)
            and isinstance(loader, DataLoader)
            and loader.num_workers > 0
            and not isinstance(loader, LateLoader)
        ):
            raise SignforgeError(
                f"The workers of the training loader have read ahead from epoch {dataset.epoch}, "
                f"but training goes on at epoch {current_epoch(trainer)}: use "
                "signforge_lightning.LateLoader in place of DataLoader, with the same arguments."
            )
        dataset.set_epoch(current_epoch(trainer))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del pl_module
        self._dataset_of(trainer).set_epoch(current_epoch(trainer))

    def _dataset_of(self, trainer: Trainer) -> SyntheticBalancedDataset:
        # trainer.datamodule is set by fit, but no annotation of Trainer knows it.
        dataset = self.dataset
        if dataset is None:
            dataset = getattr(getattr(trainer, "datamodule", None), "train_set", None)
        if dataset is None:
            raise SignforgeError(
                "EpochInStep has no data set: train with a BalancedDataModule, or give the "
                "callback the SyntheticBalancedDataset that the loader reads."
            )
        return dataset


def current_epoch(trainer: Trainer) -> int:
    """The epoch that Lightning tells samplers.

    ``trainer.current_epoch`` lags one behind after a resume under ``max_steps``.
    """
    progress: Any = trainer.fit_loop.epoch_progress.current  # annotated with a base class
    return int(progress.processed)
