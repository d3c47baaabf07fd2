"""Checkpoints: everything a run needs to go on exactly where it stopped.

One folder each, ``checkpoints/000200kimg/`` with ``state.safetensors`` and ``manifest.json``,
written under a temporary name and renamed when whole; the manifest, with the hash, comes last.
The random state needs no saving: every step seeds itself from the step number.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from signforge.errors import SignforgeError
from signforge.files import sha256, write_atomically

STATE, MANIFEST = "state.safetensors", "manifest.json"


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    step: int = 0
    seen_images: int = 0
    seconds: float = 0.0
    """Training time so far, over all resumed parts."""

    @property
    def seen_kimg(self) -> float:
        return self.seen_images / 1000


@dataclass(frozen=True)
class TrainingState:
    """The modules and optimizers that training changes in place."""

    generator: nn.Module
    discriminator: nn.Module
    ema: nn.Module
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer

    def modules(self) -> dict[str, nn.Module]:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "ema": self.ema,
        }

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }


def save_checkpoint(run: Path, state: TrainingState, progress: Progress, keep: int) -> Path:
    """Writes one checkpoint and then deletes all but the newest ``keep``.

    Raises SignforgeError where it cannot be written; older checkpoints are then untouched.
    """
    folder = run / "checkpoints" / f"{progress.seen_images // 1000:06d}kimg"
    temporary = folder.with_name(f".{folder.name}.tmp")
    for leftover in folder.parent.glob(".*kimg.tmp"):
        shutil.rmtree(leftover)
    content = save_tensors(_flatten(state))
    manifest = {"format_version": 1, "sha256": sha256(content), "progress": asdict(progress)}
    try:
        write_atomically(temporary / STATE, content)
        write_atomically(temporary / MANIFEST, json.dumps(manifest, indent=2).encode())
    except SignforgeError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    replaced = folder.with_name(f".{folder.name}.replaced.tmp")
    if folder.exists():
        folder.rename(replaced)
    temporary.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return folder


def list_checkpoints(run: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(path.parent for path in (run / "checkpoints").glob(f"*kimg/{MANIFEST}"))


def load_checkpoint(folder: Path, state: TrainingState) -> Progress:
    """Puts a checkpoint into ``state`` in place and says how far it had come.

    Raises SignforgeError where the checkpoint is damaged or made for other networks.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        content = (folder / STATE).read_bytes()
        progress = Progress(**manifest["progress"])
        if sha256(content) != manifest["sha256"]:
            raise ValueError("SHA-256 differs from the manifest")
        _restore(state, load_tensors(content))
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SignforgeError(
            f"Checkpoint {folder} cannot be resumed ({first_line}); delete it to go on from the "
            "one before."
        ) from None
    return progress


def _flatten(state: TrainingState) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name, module in state.modules().items():
        for key, value in module.state_dict().items():
            tensors[f"{name}.{key}"] = value.detach().cpu().contiguous()
    for name, optimizer in state.optimizers().items():
        for index, moments in optimizer.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"{name}.{index}.{key}"] = value.detach().cpu().contiguous()
    # safetensors refuses tensors that share memory.
    return {key: value.clone() for key, value in tensors.items()}


def _restore(state: TrainingState, tensors: dict[str, Tensor]) -> None:
    for name, module in state.modules().items():
        module.load_state_dict(_below(tensors, name))
    for name, optimizer in state.optimizers().items():
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in _below(tensors, name).items():
            index, _, moment = key.partition(".")
            if value.shape == weights[int(index)].shape:
                # Fused Adam walks through memory and never looks at strides, so moments must lie
                # as their channels_last weights do.
                value = torch.empty_like(weights[int(index)].detach()).copy_(value)
            moments.setdefault(int(index), {})[moment] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
