"""Checkpoints: everything a run needs to go on exactly where it stopped.

One folder each, ``checkpoints/000200.064kimg/`` with ``state.safetensors`` and ``manifest.json``,
written under a temporary name and renamed when whole; the manifest, with the hash, comes last.
The random state needs no saving: every step seeds itself from the step number.
"""

import json
import math
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from signforge.errors import SignforgeError
from signforge.files import (
    cannot_write,
    make_folder,
    remove_leftovers,
    sha256,
    sync_folder,
    write_atomically,
    write_synced,
)
from signforge.gan.metrics import Progress
from signforge.tensor_state import flatten_state, restore_state, state_below

STATE, MANIFEST = "state.safetensors", "manifest.json"
FOLDER_NAME = re.compile(r"\d{6,}\.\d{3}kimg")
"""What a checkpoint is called; a folder of another name is the user's, and left alone."""


@dataclass(frozen=True)
class TrainingState:
    """The modules and optimizers that training changes in place."""

    generator: nn.Module
    discriminator: nn.Module
    ema: nn.Module
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    guide: nn.Module | None = None
    """Classifier of real images that steers the generator; trained first, then frozen."""

    def modules(self) -> dict[str, nn.Module]:
        modules = {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "ema": self.ema,
        }
        return modules if self.guide is None else {**modules, "guide": self.guide}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "generator_optimizer": self.generator_optimizer,
            "discriminator_optimizer": self.discriminator_optimizer,
        }


def save_checkpoint(run: Path, state: TrainingState, progress: Progress, keep: int) -> Path:
    """Writes one checkpoint, then deletes all but the newest ``keep`` and the best.

    Within a run the images seen determine the state, so where they have a checkpoint already
    only its manifest is written again: what is known of a state may grow, the state may not
    change, and no finished checkpoint is ever moved out of the way of another.

    Raises SignforgeError where it cannot be written; older checkpoints are then untouched.
    """
    whole, rest = divmod(progress.seen_images, 1000)
    folder = run / "checkpoints" / f"{whole:06d}.{rest:03d}kimg"
    try:
        if (folder / MANIFEST).exists():
            digest = _read_manifest(folder)["sha256"]
            write_atomically(folder / MANIFEST, _manifest(digest, progress))
        else:
            _write_checkpoint(
                folder, save_tensors(flatten_state(state.modules(), state.optimizers())), progress
            )
        best = best_checkpoint(run)
        for old in list_checkpoints(run)[:-keep]:
            if old != best:
                _delete(old)
    except OSError as error:
        raise cannot_write(folder, error) from None
    return folder


def list_checkpoints(run: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    folders = [path.parent for path in (run / "checkpoints").glob(f"*kimg/{MANIFEST}")]
    return sorted((folder for folder in folders if FOLDER_NAME.fullmatch(folder.name)), key=kimg_of)


def kimg_of(checkpoint: Path) -> float:
    """How far training was at a checkpoint, from its name."""
    return float(checkpoint.name.removesuffix("kimg"))


def last_progress(run: Path) -> Progress:
    """Of the last finished checkpoint; of a run that has not begun where there is none.

    Raises SignforgeError where its manifest is damaged.
    """
    checkpoints = list_checkpoints(run)
    if not checkpoints:
        return Progress()
    try:
        return _progress(_read_manifest(checkpoints[-1]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _damaged(checkpoints[-1], error) from None


def best_checkpoint(run: Path) -> Path | None:
    """The one whose probe found the lowest Frechet distance; of equals the oldest.

    None where no probe judged any, or all distances are not finite.
    """
    judged: list[tuple[float, Path]] = []
    for folder in list_checkpoints(run):
        try:
            fd = _progress(_read_manifest(folder)).fd
        except (OSError, ValueError, LookupError, TypeError):
            continue  # damaged: the newest is refused on resume, an older one is no candidate
        if fd is not None and math.isfinite(fd):
            judged.append((fd, folder))
    return min(judged, key=lambda pair: pair[0])[1] if judged else None


def load_checkpoint(folder: Path, state: TrainingState) -> Progress:
    """Puts a checkpoint into ``state`` in place and says how far it had come.

    Raises SignforgeError where the checkpoint is damaged or made for other networks.
    """
    try:
        progress, tensors = _read(folder)
        restore_state(tensors, state.modules(), state.optimizers())
    except torch.OutOfMemoryError:
        raise  # says nothing about the checkpoint
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise _damaged(folder, error) from None
    return progress


def load_ema(folder: Path, generator: nn.Module) -> Progress:
    """Puts only the averaged generator of a checkpoint into ``generator``.

    Raises SignforgeError where the checkpoint is damaged or made for other networks.
    """
    try:
        progress, tensors = _read(folder)
        generator.load_state_dict(state_below(tensors, "ema"))
    except torch.OutOfMemoryError:
        raise  # says nothing about the checkpoint
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise _damaged(folder, error) from None
    return progress


def _write_checkpoint(folder: Path, content: bytes, progress: Progress) -> None:
    """Both files into a temporary folder, whose name becomes ``folder`` in one step."""
    remove_leftovers(folder.parent)
    if folder.exists():  # without a manifest it is no checkpoint
        shutil.rmtree(folder)
    temporary = folder.with_name(f".{folder.name}.tmp")
    try:
        make_folder(temporary)
        write_synced(temporary / STATE, content)
        write_synced(temporary / MANIFEST, _manifest(sha256(content), progress))
        sync_folder(temporary)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _delete(folder: Path) -> None:
    """Takes the name away first: a checkpoint that lost one of its files would look finished."""
    doomed = folder.with_name(f".{folder.name}.tmp")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _manifest(digest: str, progress: Progress) -> bytes:
    manifest = {"format_version": 2, "sha256": digest, "progress": asdict(progress)}
    return json.dumps(manifest, indent=2).encode()


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{MANIFEST} is nested too deeply") from None
    if not isinstance(manifest, dict):
        raise TypeError(f"{MANIFEST} is no JSON object")
    return manifest


def _progress(manifest: dict[str, Any]) -> Progress:
    progress = TypeAdapter(Progress).validate_python(manifest["progress"])
    if manifest["format_version"] == 1:  # it had no marks of what was done last
        step, seconds = progress.step, progress.seconds
        return replace(
            progress, status_step=step, status_seconds=seconds, samples_step=step, probe_step=step
        )
    return progress


def _read(folder: Path) -> tuple[Progress, dict[str, Tensor]]:
    manifest = _read_manifest(folder)
    content = (folder / STATE).read_bytes()
    if sha256(content) != manifest["sha256"]:
        raise ValueError("SHA-256 differs from the manifest")
    return _progress(manifest), load_tensors(content)


def _damaged(folder: Path, error: Exception) -> SignforgeError:
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return SignforgeError(
        f"Checkpoint {folder} cannot be resumed ({first_line}); delete it to go on from the one "
        "before."
    )
