"""Two epochs and a resumed training with the real Trainer, item by item."""

# ruff: noqa: ARG002 - the Trainer's hooks have fixed arguments

from pathlib import Path
from typing import Any

import pytest
import torch
from signforge_transformers import DictItems, EpochInStep, PixelCollator
from torch import Tensor
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    set_seed,
)

from support import COUNTS, SIDE, as_bytes, labeled_images, make_train

BATCH = 12
STEPS = max(COUNTS) * len(COUNTS) // BATCH


class RecordingTrainer(Trainer):
    """Keeps the pixels and labels that reach the model."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, model: Any, inputs: dict[str, Tensor], *rest: Any) -> Tensor:
        self.seen.append((inputs["pixel_values"].clone(), inputs["labels"].clone()))
        return super().training_step(model, inputs, *rest)

    def epochs(self) -> tuple[Tensor, ...]:
        """The pixels of each epoch, all of which are whole."""
        pixels = torch.cat([pixels for pixels, _ in self.seen])
        return pixels.split(max(COUNTS) * len(COUNTS))


def tiny_resnet() -> PreTrainedModel:
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic", num_labels=3
        )
    )


def tiny_vit() -> PreTrainedModel:
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=8,
            image_size=SIDE,
            patch_size=4,
            num_labels=3,
        )
    )


def make_trainer(
    folder: Path,
    *,
    model: PreTrainedModel | None = None,
    callbacks: tuple[TrainerCallback, ...] = (),
    **settings: Any,
) -> RecordingTrainer:
    set_seed(0)
    dataset = make_train()
    defaults: dict[str, Any] = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": BATCH,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return RecordingTrainer(
        model=model or tiny_resnet(),
        args=TrainingArguments(str(folder), **{**defaults, **settings}),
        data_collator=PixelCollator(),
        train_dataset=DictItems(dataset),
        eval_dataset=DictItems(labeled_images(seed=200)),
        callbacks=[EpochInStep(dataset), *callbacks],
    )


def plain_loop(epoch: int) -> list[bytes]:
    """The floats of an epoch, without the Trainer."""
    dataset = make_train()
    dataset.set_epoch(epoch)
    return as_bytes(torch.stack([image for image, _ in dataset]).float() / 255)


@pytest.mark.parametrize(
    "workers",
    [{}, {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}],
    ids=["no workers", "persistent workers"],
)
def test_two_epochs_show_what_a_plain_loop_shows(tmp_path: Path, workers: dict[str, Any]) -> None:
    trainer = make_trainer(tmp_path, **workers)
    trainer.train()
    first, second = (as_bytes(pixels) for pixels in trainer.epochs())
    assert first == plain_loop(0)
    assert second == plain_loop(1)
    made = max(COUNTS) * len(COUNTS) - sum(COUNTS)
    assert len(set(second) - set(first)) == made // 2
    assert set(as_bytes(labeled_images(seed=100).images.float() / 255)) <= set(second)
    labels = torch.cat([labels for _, labels in trainer.seen])
    assert torch.bincount(labels).tolist() == [2 * max(COUNTS)] * len(COUNTS)


@pytest.mark.parametrize("make_model", [tiny_resnet, tiny_vit])
def test_the_model_learns_and_is_evaluated(tmp_path: Path, make_model: Any) -> None:
    model = make_model()
    before = [parameter.clone() for parameter in model.parameters()]
    trainer = make_trainer(tmp_path, model=model)
    trainer.train()
    after = list(model.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    prediction = trainer.predict(DictItems(labeled_images(seed=200)))
    assert prediction.predictions.shape == (sum(COUNTS), len(COUNTS))
    assert prediction.label_ids.tolist() == labeled_images(seed=200).targets
    assert trainer.evaluate()["eval_loss"] > 0


def test_a_resumed_training_goes_on_with_its_epoch(tmp_path: Path) -> None:
    first = make_trainer(tmp_path, save_strategy="epoch")
    first.train()
    resumed = make_trainer(tmp_path, num_train_epochs=4, dataloader_num_workers=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{2 * STEPS}"))
    third, fourth = resumed.epochs()
    assert as_bytes(third) == plain_loop(2)
    assert as_bytes(fourth) == plain_loop(3)


def test_a_training_resumed_inside_an_epoch_shows_what_it_had_left(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": STEPS + 2}
    whole = make_trainer(tmp_path, **settings)
    whole.train()
    resumed = make_trainer(tmp_path, dataloader_num_workers=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STEPS + 2}"))
    left = torch.cat([pixels for pixels, _ in resumed.seen])
    assert torch.equal(left, torch.cat([pixels for pixels, _ in whole.seen[STEPS + 2 :]]))


class StopEpoch(TrainerCallback):
    """Ends every epoch after its first step."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_epoch_stop = True


def test_epochs_that_stop_early_are_counted(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, num_train_epochs=3, callbacks=(StopEpoch(),))
    trainer.train()
    assert len(trainer.seen) == 3
    for epoch, (pixels, _) in enumerate(trainer.seen):
        assert set(as_bytes(pixels)) <= set(plain_loop(epoch))


def test_the_callback_alone_sets_the_epoch(tmp_path: Path) -> None:
    """As with several processes, where nobody calls set_epoch of the data set."""
    trainer = make_trainer(tmp_path)
    trainer.train_dataset.set_epoch = lambda _: None
    trainer.train()
    first, second = trainer.epochs()
    assert as_bytes(first) == plain_loop(0)
    assert as_bytes(second) == plain_loop(1)
