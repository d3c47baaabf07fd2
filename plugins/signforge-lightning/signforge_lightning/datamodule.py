"""BalancedDataModule: a balanced training set, validation and test as Lightning wants them."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from signforge import SignforgeError, SyntheticBalancedDataset
from signforge_lightning.callback import EpochInStep
from signforge_lightning.loading import EpochShuffle, LateLoader


class BalancedDataModule(LightningDataModule):
    """Loaders over real and synthetic images; give the Trainer an ``EpochInStep()`` as well.

    make_train: makes the training set, ``functools.partial(SyntheticBalancedDataset, real,
        run)`` for example. ``setup`` calls it in each process that trains, since only the process
        that makes a data set can draw new images for it.
    val, test: map-style Datasets of (image, label).
    eval_transform: applied to the images of ``val`` and ``test``; those of the training set go
        through its own ``transform``.
    seed: of the order of the training images; see EpochShuffle.
    num_workers: of each loader; workers stay from epoch to epoch.

    train_set: the training set; None before ``setup("fit")``.

    Raises SignforgeError where the Trainer has no EpochInStep, and for a test without test set.
    """

    def __init__(
        self,
        make_train: Callable[[], SyntheticBalancedDataset],
        val: Dataset[Any],
        test: Dataset[Any] | None = None,
        *,
        eval_transform: Callable[[Any], Any] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        pin_memory: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not callable(make_train):
            raise SignforgeError(
                f"make_train is a {type(make_train).__name__}: give a function that makes the "
                "data set, such as functools.partial(SyntheticBalancedDataset, real, run)."
            )
        self.make_train = make_train
        self.val = val
        self.test = test
        self.eval_transform = eval_transform
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.seed = seed
        self.train_set: SyntheticBalancedDataset | None = None

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.train_set is None:
            self.train_set = self.make_train()

    def train_dataloader(self) -> DataLoader[Any]:
        if self.train_set is None:
            raise SignforgeError('There is no training set yet: call setup("fit") first.')
        callbacks = getattr(self.trainer, "callbacks", None)  # None without a Trainer
        if callbacks is not None and not any(isinstance(one, EpochInStep) for one in callbacks):
            raise SignforgeError(
                "Without its callback every epoch shows the same synthetic images: "
                "Trainer(callbacks=[EpochInStep()])."
            )
        return LateLoader(
            self.train_set,
            batch_size=self.batch_size,
            sampler=EpochShuffle(self.train_set, self.seed),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        return self._eval_loader(self.val)

    def test_dataloader(self) -> DataLoader[Any]:
        if self.test is None:
            raise SignforgeError("There is no test set: pass test= to BalancedDataModule.")
        return self._eval_loader(self.test)

    def _eval_loader(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        if self.eval_transform is not None:
            dataset = _Transformed(dataset, self.eval_transform)
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self.pin_memory,
        )


class _Transformed(Dataset[Any]):
    """``dataset`` with ``transform`` applied to its images."""

    def __init__(self, dataset: Dataset[Any], transform: Callable[[Any], Any]) -> None:
        self.dataset = dataset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image, label = self.dataset[index]
        return self.transform(image), label
