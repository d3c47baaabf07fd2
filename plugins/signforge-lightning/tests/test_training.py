"""Two epochs and resumed fits with the real Trainer, item by item."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from signforge_lightning import BalancedDataModule, EpochInStep, LateLoader
from torch import Tensor
from torch.utils.data import DataLoader

from signforge import SignforgeError, SyntheticBalancedDataset
from signforge.seeds import derive_seed
from support import COUNTS, Learner, Recorder, labeled_images, make_train, make_trainer

SEED = 7
BATCH = 10
STEPS = -(-max(COUNTS) * len(COUNTS) // BATCH)


def make_module(workers: int) -> BalancedDataModule:
    val, test = labeled_images(seed=200), labeled_images(seed=300)
    return BalancedDataModule(
        make_train, val, test, batch_size=BATCH, num_workers=workers, seed=SEED
    )


def plain_loop(epochs: Iterable[int]) -> tuple[Tensor, Tensor]:
    """What these epochs show, without Lightning and without a loader."""
    dataset = make_train()
    items = []
    for epoch in epochs:
        dataset.set_epoch(epoch)
        rng = torch.Generator().manual_seed(derive_seed(SEED, epoch))
        items += [dataset[i] for i in torch.randperm(len(dataset), generator=rng).tolist()]
    return torch.stack([image for image, _ in items]), torch.tensor([label for _, label in items])


def assert_same(shown: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    assert torch.equal(shown[1], expected[1])
    assert torch.equal(shown[0], expected[0])


def as_set(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("workers", [0, 2])
def test_two_epochs_show_what_a_plain_loop_shows(tmp_path: Path, workers: int) -> None:
    model = Recorder()
    trainer = make_trainer(tmp_path, max_epochs=2, callbacks=[EpochInStep()])
    trainer.fit(model, datamodule=make_module(workers))
    assert_same(model.shown(), plain_loop(range(2)))


def test_the_pool_changes_in_the_second_epoch_and_real_images_stay(tmp_path: Path) -> None:
    model = Recorder()
    trainer = make_trainer(tmp_path, max_epochs=2, callbacks=[EpochInStep()])
    trainer.fit(model, datamodule=make_module(2))
    images, labels = model.shown()
    first, second = images.chunk(2)
    assert torch.bincount(labels.chunk(2)[0]).tolist() == [max(COUNTS)] * len(COUNTS)
    real = as_set(labeled_images(seed=100).images)
    assert real <= as_set(first)
    assert real <= as_set(second)
    made = max(COUNTS) * len(COUNTS) - sum(COUNTS)
    assert len(as_set(second) - as_set(first)) == made // 2


def test_validation_and_test_go_through_the_eval_transform(tmp_path: Path) -> None:
    module = BalancedDataModule(
        make_train,
        labeled_images(seed=200),
        labeled_images(seed=300),
        eval_transform=lambda image: image / 255,
    )
    trainer = make_trainer(tmp_path)
    for run, seed in ((trainer.validate, 200), (trainer.test, 300)):
        model = Recorder()
        run(model, datamodule=module, verbose=False)
        expected = labeled_images(seed)
        assert torch.equal(
            torch.cat([images for images, _ in model.evaluated]), expected.images / 255
        )
        assert torch.equal(torch.cat([labels for _, labels in model.evaluated]), expected.labels)


def test_a_missing_test_set_is_an_error(tmp_path: Path) -> None:
    module = BalancedDataModule(make_train, labeled_images(seed=200))
    with pytest.raises(SignforgeError, match="test="):
        make_trainer(tmp_path).test(Recorder(), datamodule=module)


def fit(
    folder: Path, saves: dict[str, Any], limit: dict[str, int], workers: int, resume: Path | None
) -> tuple[Recorder, Path]:
    """The model after a fit that saved checkpoints, and the last of them."""
    model = Recorder()
    saver = ModelCheckpoint(folder, **saves)
    trainer = make_trainer(
        folder, callbacks=[EpochInStep(), saver], enable_checkpointing=True, **limit
    )
    trainer.fit(model, datamodule=make_module(workers), ckpt_path=resume)
    return model, Path(saver.best_model_path)


EPOCH_END: dict[str, Any] = {"save_on_train_epoch_end": True}
VALIDATION_END: dict[str, Any] = {"save_on_train_epoch_end": False}  # inside the epoch
LAST_BATCH: dict[str, Any] = {"every_n_train_steps": STEPS}


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
@pytest.mark.parametrize(
    ("saves", "unit", "epochs"),
    [
        (EPOCH_END, {"max_epochs": 1}, [2, 3]),
        (VALIDATION_END, {"max_epochs": 1}, [2, 3]),
        (LAST_BATCH, {"max_epochs": 1}, [2, 3]),
        # Lightning counts one more epoch here, which has no batches; samplers skip it as well.
        (EPOCH_END, {"max_steps": STEPS}, [3, 4]),
        (VALIDATION_END, {"max_steps": STEPS}, [2, 3]),
        (LAST_BATCH, {"max_steps": STEPS}, [2, 3]),
    ],
)
def test_a_fit_resumed_after_two_epochs_shows_the_next_ones(
    tmp_path: Path, saves: dict[str, Any], unit: dict[str, int], epochs: list[int]
) -> None:
    ((limit, length),) = unit.items()
    _, saved = fit(tmp_path / "first", saves, {limit: 2 * length}, 2, None)
    model, _ = fit(tmp_path / "second", saves, {limit: 4 * length}, 2, saved)
    assert_same(model.shown(), plain_loop(epochs))


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_fit_resumed_inside_an_epoch_shows_images_of_that_epoch(tmp_path: Path) -> None:
    saves = {"every_n_train_steps": STEPS + 3}
    _, saved = fit(tmp_path / "first", saves, {"max_epochs": 2}, 2, None)
    model, _ = fit(tmp_path / "second", saves, {"max_epochs": 2}, 2, saved)
    images, labels = model.shown()
    expected_images, expected_labels = plain_loop([1])
    # Lightning has no place in the order to go back to: it starts over, with the batches left.
    left = (STEPS - 3) * BATCH
    assert_same((images, labels), (expected_images[:left], expected_labels[:left]))


def test_a_loader_of_ones_own_goes_with_the_callback(tmp_path: Path) -> None:
    dataset = make_train()
    model = Learner()
    trainer = make_trainer(tmp_path, max_epochs=2, callbacks=[EpochInStep(dataset)])
    trainer.fit(model, DataLoader(dataset, batch_size=BATCH))
    for images, epoch in zip(model.shown()[0].chunk(2), range(2), strict=True):
        dataset.set_epoch(epoch)
        assert torch.equal(images, torch.stack([image for image, _ in dataset]))


def resume(folder: Path, loader: type[DataLoader], dataset: SyntheticBalancedDataset) -> Learner:
    """A third epoch after two, read by two workers of ``loader``."""
    first = make_trainer(folder, max_epochs=2, callbacks=[EpochInStep(dataset)])
    first.fit(Learner(), DataLoader(dataset, batch_size=BATCH))
    first.save_checkpoint(folder / "two.ckpt")
    dataset.set_epoch(0)
    model = Learner()
    resumed = make_trainer(folder, max_epochs=3, callbacks=[EpochInStep(dataset)])
    ours = loader(dataset, batch_size=BATCH, num_workers=2, persistent_workers=True)
    resumed.fit(model, ours, ckpt_path=folder / "two.ckpt")
    return model


def test_workers_that_read_ahead_of_a_resume_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SignforgeError, match=r"read ahead from epoch 0.*at epoch 2.*LateLoader"):
        resume(tmp_path, DataLoader, make_train())


def test_a_late_loader_of_ones_own_resumes(tmp_path: Path) -> None:
    dataset = make_train()
    model = resume(tmp_path, LateLoader, dataset)
    dataset.set_epoch(2)
    assert torch.equal(model.shown()[0], torch.stack([image for image, _ in dataset]))


def test_a_missing_callback_is_an_error(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=1)
    with pytest.raises(SignforgeError, match=r"callbacks=\[EpochInStep\(\)\]"):
        trainer.fit(Recorder(), datamodule=make_module(0))


def test_a_callback_without_data_set_is_an_error(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_epochs=1, callbacks=[EpochInStep()])
    with pytest.raises(SignforgeError, match="EpochInStep has no data set"):
        trainer.fit(Learner(), DataLoader(make_train(), batch_size=BATCH))


def test_a_data_set_in_place_of_a_function_is_an_error() -> None:
    with pytest.raises(SignforgeError, match="make_train is a SyntheticBalancedDataset"):
        BalancedDataModule(make_train(), labeled_images(seed=200))


def test_a_loader_before_setup_is_an_error() -> None:
    with pytest.raises(SignforgeError, match="setup"):
        make_module(0).train_dataloader()
