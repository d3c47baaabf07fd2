"""What a run knows of itself: how far it is, what its probe found, and a line for each status.

metrics.jsonl is always on and keeps in step with the checkpoints: a resumed run writes the same
lines as an uninterrupted one, but for what the clock and the memory say (``WALL_CLOCK_KEYS``).
"""

import errno
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from signforge.errors import SignforgeError
from signforge.files import cannot_write, make_folder, write_atomically
from signforge.gan.sampler import GanSampler

WALL_CLOCK_KEYS = frozenset(
    {"seconds", "images_per_second", "pace_images_per_second", "memory_mib"}
)


@dataclass(frozen=True)
class ProbeValues:
    """What a look at samples of every class found; all shares lie in 0..1."""

    label_agreement: float
    """Mean over classes of the share of samples that a classifier gives their own class."""
    worst_class_label_agreement: float
    worst_class: int
    per_class_label_agreement: tuple[float, ...]
    fd: float
    """Frechet distance to the validation split."""
    fd_ratio: float | None
    """``fd`` over that of real images against real images."""
    collapsed_classes: tuple[int, ...]


Probe = Callable[[GanSampler, float], ProbeValues]
"""Judges the EMA generator, as users get it, at the kimg seen. May raise ProbeStopped."""


class ProbeStopped(Exception):  # noqa: N818  (not an error: the user asked for it)
    """The user stopped the run while the probe was at work; the resumed run asks it again."""


@dataclass(frozen=True)
class StepMeans:
    """Means over the steps since the last status, or their sums."""

    discriminator_loss: float = 0.0
    generator_loss: float = 0.0
    real_logits_mean: float = 0.0
    fake_logits_mean: float = 0.0


@dataclass(frozen=True)
class Progress:
    """How far a run has come, and what it owes to the next status line.

    Each ``*_step`` is the step after which a thing was last done, so that a run stopped before
    something that was due does it first when it is resumed.
    """

    step: int = 0
    seen_images: int = 0
    seconds: float = 0.0
    """Time so far, over all resumed parts, with what probes, grids and checkpoints took."""
    one_off_seconds: float = 0.0
    """Of these, what is done only once: the guide's training and the first probe, which trains its
    classifier."""
    reachable_kimg: float | None = None
    """Where ``max_minutes`` will end the run; None if ``total_kimg`` comes first."""
    rollbacks: int = 0
    """How often the run went back to a good state; each time halved the learning rates."""
    status_step: int = 0
    status_seconds: float = 0.0
    """``seconds`` at the last status, moved on by every pause since: the rest is steps alone."""
    step_sums: StepMeans = StepMeans()
    """Sums over the steps since the last status. float64, and JSON keeps every bit of them."""
    samples_step: int = 0
    probe_step: int = 0
    probe: ProbeValues | None = None
    """The newest probe's values."""

    @property
    def seen_kimg(self) -> float:
        return self.seen_images / 1000

    @property
    def fd(self) -> float | None:
        """The Frechet distance of exactly this state, if a probe judged it."""
        return self.probe.fd if self.probe and self.probe_step == self.step else None

    def after_pause(self, seconds: float) -> "Progress":
        """At ``seconds``, with no step since the last one that is counted here."""
        pause = seconds - self.seconds
        return replace(self, seconds=seconds, status_seconds=self.status_seconds + pause)

    def after_status(self, reachable_kimg: float | None) -> "Progress":
        """With a status line written for this very step."""
        return replace(
            self,
            status_step=self.step,
            status_seconds=self.seconds,
            reachable_kimg=reachable_kimg,
        )


@dataclass(frozen=True)
class Status:
    """One line of metrics.jsonl; means are over all steps since the line before."""

    seen_kimg: float
    seconds: float
    images_per_second: float
    """While it trained: probes, grids and checkpoints are not counted."""
    discriminator_loss: float
    generator_loss: float
    real_logits_mean: float
    fake_logits_mean: float
    generator_learning_rate: float
    discriminator_learning_rate: float
    memory_mib: float
    """Peak memory: of this process, or of the GPU's tensors where one is used."""
    rollbacks: int = 0
    label_agreement: float | None = None
    """This and all below: the newest probe's, None before the first."""
    worst_class_label_agreement: float | None = None
    fd: float | None = None
    fd_ratio: float | None = None
    collapsed_classes: tuple[int, ...] | None = None
    worst_class: int | None = None
    pace_images_per_second: float | None = None
    """With all that is done again and again between steps: what tells the time left."""


def summarise_steps(
    progress: Progress, learning_rates: tuple[float, float], memory_mib: float
) -> Status:
    """The status line for ``progress``, which came at least one step since the last one.

    learning_rates: of the generator and of the discriminator.
    """
    steps, sums, probe = progress.step - progress.status_step, progress.step_sums, progress.probe
    images = progress.seen_images * steps / progress.step
    images_per_second = images / max(progress.seconds - progress.status_seconds, 1e-9)
    pace = progress.seen_images / max(progress.seconds - progress.one_off_seconds, 1e-9)
    return Status(
        seen_kimg=progress.seen_kimg,
        seconds=round(progress.seconds, 1),
        images_per_second=round(images_per_second, 1),
        discriminator_loss=sums.discriminator_loss / steps,
        generator_loss=sums.generator_loss / steps,
        real_logits_mean=sums.real_logits_mean / steps,
        fake_logits_mean=sums.fake_logits_mean / steps,
        generator_learning_rate=learning_rates[0],
        discriminator_learning_rate=learning_rates[1],
        memory_mib=round(memory_mib, 1),
        rollbacks=progress.rollbacks,
        label_agreement=probe.label_agreement if probe else None,
        worst_class_label_agreement=probe.worst_class_label_agreement if probe else None,
        fd=probe.fd if probe else None,
        fd_ratio=probe.fd_ratio if probe else None,
        collapsed_classes=probe.collapsed_classes if probe else None,
        worst_class=probe.worst_class if probe else None,
        pace_images_per_second=round(pace, 1),
    )


def peak_memory_mib(device: torch.device) -> float:
    """Peak resident memory of this process, or on a GPU the peak that tensors took there.

    0 on Windows, which does not tell.
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 2**20
    if sys.platform == "win32":
        return 0.0
    import resource  # not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def append_status(path: Path, status: Status) -> None:
    """Adds one whole line. Raises SignforgeError where the file cannot be written."""
    line = json.dumps(asdict(status)).encode() + b"\n"
    try:
        make_folder(path.parent)
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        raise cannot_write(path, error) from None


def forget_after(path: Path, progress: Progress) -> None:
    """Drops the lines that a resumed run will write again, and one cut off by a kill.

    Raises SignforgeError where the file cannot be read or written.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SignforgeError(f"Cannot read {path}: {error.strerror}.") from None
    kept = [line for line in lines if _is_up_to(line, progress)]
    if len(kept) < len(lines):
        write_atomically(path, b"".join(kept))


def _is_up_to(line: bytes, progress: Progress) -> bool:
    """Whether it is a whole line that was written before ``progress`` was saved.

    A line of the very step is not, where the run stopped before it wrote that line.
    """
    try:
        seen_kimg = float(json.loads(line)["seen_kimg"])
    except (ValueError, KeyError, TypeError):
        return False
    written = progress.seen_images * progress.status_step // max(progress.step, 1)
    return line.endswith(b"\n") and seen_kimg <= written / 1000
