"""EpochInStep: the callback that brings in the synthetic images of each epoch."""

# ruff: noqa: ARG002 - the Trainer's hooks have fixed arguments

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from signforge import SyntheticBalancedDataset


class EpochInStep(TrainerCallback):
    """Calls ``set_epoch`` of ``dataset`` before each epoch, counting on where a resume left off.

    The Trainer calls ``set_epoch`` by itself in one process only: with several, accelerate calls
    that of the sampler in place of the data set's.
    """

    def __init__(self, dataset: SyntheticBalancedDataset) -> None:
        self.dataset = dataset
        self._next_epoch = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # Counted from here on: an epoch that is stopped early leaves state.epoch behind.
        self._next_epoch = int(state.epoch)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.dataset.set_epoch(self._next_epoch)
        self._next_epoch += 1
