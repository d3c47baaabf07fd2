"""metrics.jsonl: one line a status, always on, in step with the checkpoints on resume."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from signforge.errors import SignforgeError
from signforge.files import write_atomically
from signforge.gan.checkpoint import Progress
from signforge.gan.step import StepValues


@dataclass(frozen=True)
class Status:
    """One line of metrics.jsonl."""

    seen_kimg: float
    seconds: float
    images_per_second: float
    discriminator_loss: float
    generator_loss: float
    real_logits_mean: float
    fake_logits_mean: float


def summarise_steps(
    collected: Sequence[StepValues], progress: Progress, images_per_second: float
) -> Status:
    """The means of what the steps since the last status computed."""

    def mean(values: Iterator[Tensor]) -> float:
        return float(torch.stack(list(values)).float().mean())

    return Status(
        seen_kimg=progress.seen_kimg,
        seconds=round(progress.seconds, 1),
        images_per_second=round(images_per_second, 1),
        discriminator_loss=mean(values.discriminator_loss for values in collected),
        generator_loss=mean(values.generator_loss for values in collected),
        real_logits_mean=mean(values.real_logits_mean for values in collected),
        fake_logits_mean=mean(values.fake_logits_mean for values in collected),
    )


def append_status(path: Path, status: Status) -> None:
    """Adds one line. Raises SignforgeError where the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(status)) + "\n")
    except OSError as error:
        raise SignforgeError(f"Cannot write {path}: {error.strerror}.") from None


def forget_after(path: Path, progress: Progress) -> None:
    """Drops the lines that a resumed run will write again, and one cut off by a kill."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            known = line.endswith(b"\n") and json.loads(line)["seen_kimg"] <= progress.seen_kimg
        except (ValueError, KeyError, TypeError):
            known = False
        if known:
            kept.append(line)
    write_atomically(path, b"".join(kept))
