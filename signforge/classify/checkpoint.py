"""Where the training of a classifier that was cut short goes on from: one safetensors file.

The random state needs no saving: batches, augmentation and dropout follow from seed and step.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import nn

from signforge.errors import SignforgeError
from signforge.files import sha256, write_atomically
from signforge.tensor_state import flatten_state, restore_state

EVERY_SECONDS = 300.0
MODEL, OPTIMIZER = "model", "optimizer"


@dataclass(frozen=True)
class FitProgress:
    """How far a training has come. seconds: wall-clock, of all its lives, up to their last save."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    loss: float = float("nan")


@dataclass(frozen=True)
class FitCheckpoint:
    """The file that a training keeps, and when it is written.

    identity: whatever decides the result, such as hashes of config and data. A file of another
        identity is no part of this training, which then begins anew and writes over it.
    """

    path: Path
    identity: str
    every_seconds: float = EVERY_SECONDS

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: FitProgress
    ) -> None:
        """Raises SignforgeError where the file cannot be written; the one before is then kept."""
        tensors = flatten_state({MODEL: model}, {OPTIMIZER: optimizer})
        metadata = {
            "identity": self.identity,
            "progress": json.dumps(asdict(progress)),
            "sha256": sha256(save_tensors(tensors)),
        }
        write_atomically(self.path, save_tensors(tensors, metadata))

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> FitProgress:
        """Puts what is kept into both in place; of no progress where nothing of this identity is.

        Raises SignforgeError for a damaged file, and one of another model.
        """
        if not self.path.exists():
            return FitProgress()
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("identity") != self.identity:
                    return FitProgress()
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if sha256(save_tensors(tensors)) != metadata["sha256"]:
                raise ValueError("SHA-256 differs from what it says")
            progress = TypeAdapter(FitProgress).validate_json(metadata["progress"])
            restore_state(tensors, {MODEL: model}, {OPTIMIZER: optimizer})
        except torch.OutOfMemoryError:
            raise  # says nothing about the file
        except (
            OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError
        ) as error:  # fmt: skip
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise SignforgeError(
                f"{self.path} cannot be gone on from ({first_line}); delete it to train this "
                "classifier from its start."
            ) from None
        return progress
