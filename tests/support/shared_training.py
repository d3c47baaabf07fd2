"""What each of two processes does in the tests of training together."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from torch import Tensor, nn

from signforge.config import GanConfig
from signforge.data.images import LabeledImages
from signforge.gan import losses, training
from signforge.gan.distributed import (
    Share,
    any_process,
    current_share,
    largest,
    of_first,
    use_global_batch_norm,
)
from signforge.gan.metrics import ProbeValues, Progress
from signforge.gan.sampler import GanSampler
from signforge.gan.training import TrainingEvents, train_cgan
from signforge.terminal import StopSignals
from support.runs import stop_after


def train(
    config: GanConfig, train: LabeledImages, run: Path, steps: int | None = None
) -> tuple[int, int]:
    """Steps taken and rollbacks; stops after ``steps``, and goes on with what is there."""
    events = stop_after(steps) if steps is not None else TrainingEvents()
    resume = any_process((run / "checkpoints").exists())
    progress = train_cgan(config, train, run, events=events, resume=resume)
    return progress.step, progress.rollbacks


def batch_norm(x: Tensor, slope: Tensor, momentum: float) -> dict[str, Tensor]:
    """Of this process's share of ``x``: output, gradients, running statistics; as double lists."""
    share = current_share()
    layer = nn.Sequential(nn.BatchNorm2d(x.shape[1], momentum=momentum))
    if share.size > 1:
        use_global_batch_norm(layer)
    inputs = share.of(x).clone().requires_grad_(True)
    out = layer(inputs)
    # The mean over processes of their mean losses is the loss of the whole batch.
    loss = (out * share.of(slope)).sin().mean()
    loss.backward()
    assert inputs.grad is not None
    return {
        "out": out.detach(),
        "gradient": inputs.grad / share.size,
        **{f"weights {key}": value.grad for key, value in layer.named_parameters()},
        **layer.state_dict(),
    }


def poisoned_training(
    config: GanConfig, train: LabeledImages, run: Path, poisoned_rank: int, call: int
) -> tuple[Progress, list[bool]]:
    """The generator's loss is NaN at one call in one process; which steps were finite."""
    calls, finite = 0, []
    real_loss, real_step = losses.generator_loss, training.gan_step

    def loss(logits: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        bad = calls == call and current_share().rank == poisoned_rank
        return real_loss(logits) * (float("nan") if bad else 1.0)

    def step(*args: Any, **options: Any) -> Any:
        values = real_step(*args, **options)
        finite.append(bool(values.finite))
        return values

    with (
        mock.patch.object(losses, "generator_loss", loss),
        mock.patch.object(training, "gan_step", step),
    ):
        return train_cgan(config, train, run), finite


def signalled_training(
    config: GanConfig, train: LabeledImages, run: Path, rank: int
) -> tuple[int, int | None, int]:
    """SIGTERM comes to one process within its sixth step: steps, exit code here, and of all."""
    real_step, steps = training.gan_step, 0

    def step(*args: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 6 and current_share().rank == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return real_step(*args, **options)

    with StopSignals() as stop, mock.patch.object(training, "gan_step", step):
        progress = train_cgan(config, train, run, events=TrainingEvents(should_stop=stop))
    return progress.step, stop.exit_code, largest(stop.exit_code or 0)


def watched_training(
    config: GanConfig, train: LabeledImages, run: Path
) -> tuple[list[str], list[str]]:
    """Which events were called, and which files were opened to write or renamed in ``run``."""
    called: list[str] = []
    touched: list[str] = []

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR) and str(run) in str(args[0]):
            touched.append(str(args[0]))
        if event in {"os.rename", "os.remove", "os.mkdir", "shutil.rmtree"}:
            touched.append(str(args[0]))

    sys.addaudithook(audit)

    def note(name: str) -> Callable[..., None]:
        return lambda *_args: called.append(name)

    def probe(_sampler: GanSampler, seen_kimg: float) -> ProbeValues:
        called.append("probe")
        return ProbeValues(0.5, 0.5, 0, (0.5, 0.5, 0.5), abs(seen_kimg - 0.08), None, ())

    events = TrainingEvents(
        on_start=note("start"), on_status=note("status"), on_samples=note("samples"), probe=probe
    )
    train_cgan(config, train, run, events=events)
    return called, touched


def failing_training(config: GanConfig, train: LabeledImages, run: Path, error: Exception) -> str:
    """``error`` befalls the first process; what each of them raises."""

    def fail(_status: object) -> None:
        raise error

    try:
        train_cgan(config, train, run, events=TrainingEvents(on_status=fail))
    except Exception as raised:
        return repr(raised)
    return "nothing raised"


def agreements() -> tuple[Share, bool, bool, float, int]:
    rank = current_share().rank
    return (
        current_share(),
        any_process(rank == 1),
        any_process(False),
        of_first(2.5 + rank),
        largest(143 * rank),
    )
