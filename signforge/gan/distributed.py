"""Several processes that train as one, each on its share of every batch.

``torchrun`` or ``accelerate launch`` starts them and torch.distributed does the talking. In a
plain call every function here does nothing: one process is the whole.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, TypeVarTuple

import torch
from torch import Tensor, distributed, nn

from signforge.device import resolve_device
from signforge.errors import SignforgeError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PATIENCE = timedelta(hours=2)
"""How long processes wait for the first one, which alone trains the guide and the probe."""


@dataclass(frozen=True)
class Share:
    """Which rows of a batch one of ``size`` equal processes works on.

    Random numbers are drawn for the whole batch and then cut, so that all processes together see
    exactly what one alone would.
    """

    rank: int = 0
    size: int = 1
    parts: int = 1
    """Batches that lie one after another, such as real and fake: the share is one of each."""

    def of(self, rows: Tensor) -> Tensor:
        """(N, ...) of the whole batch -> (N / size, ...)."""
        if self.size == 1:
            return rows
        shares = rows.reshape(self.parts, self.size, -1, *rows.shape[1:])
        return shares[:, self.rank].flatten(0, 1)


WHOLE = Share()


def current_share() -> Share:
    """Of this process; the whole where it is alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return WHOLE
    return Share(distributed.get_rank(), distributed.get_world_size())


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Joins the processes that the launcher started, until all have come to the end.

    A plain call does nothing. On GPUs each process gets the one of its LOCAL_RANK.

    device: as in ``GanConfig``.
    Raises SignforgeError for a GPU that all would have to share, more processes than GPUs, and
    an environment that no launcher made.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise SignforgeError(
            f"WORLD_SIZE asks for several processes, but there is no {missing[0]}; start it with "
            "torchrun or accelerate launch, or unset WORLD_SIZE."
        )
    backend = "gloo"
    if torch.cuda.is_available() and device.partition(":")[0] in ("auto", "cuda"):
        torch.cuda.set_device(_own_gpu(device))  # first: whatever asks the GPU asks its own
    if resolve_device(device).type == "cuda":
        backend = "cpu:gloo,cuda:nccl"  # flags go over the CPU, so that no GPU is waited for
    distributed.init_process_group(backend, timeout=PATIENCE)
    yield
    # Not after an error in this process alone: to part in order is to wait for the others, and on
    # GPUs for what these wait for. The launcher ends them once this process is gone.
    any_process(False)  # who leaves early takes the others' meeting place along
    distributed.destroy_process_group()


def by_first(action: Callable[[*Ts], T], *args: *Ts) -> T:
    """What ``action`` returns in the first process, the only one that runs it.

    The others wait for it. Raises, in all of them, the SignforgeError that it raised; of another
    error only the first raises it, and the others a SignforgeError that tells of it.
    """
    share = current_share()
    if share.size == 1:
        return action(*args)
    outcome: list[Any] = [None, None]
    if share.rank == 0:
        try:
            outcome[0] = action(*args)
        except SignforgeError as error:
            outcome[1] = str(error)
        except Exception as error:
            outcome[1] = f"The first process failed with {type(error).__name__}; see its message."
            distributed.broadcast_object_list(outcome)
            raise
    distributed.broadcast_object_list(outcome)
    result, problem = outcome
    if problem is not None:
        raise SignforgeError(problem)
    return result  # type: ignore[no-any-return]


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set in any process."""
    return bool(largest(flag))


def largest(value: int) -> int:
    """The largest of the values that the processes have."""
    if current_share().size == 1:
        return value
    shared = torch.tensor(int(value))
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return int(shared)


def of_first(value: float) -> float:
    """The value that the first process has."""
    if current_share().size == 1:
        return value
    shared = torch.tensor(value, dtype=torch.float64)
    distributed.broadcast(shared, 0)
    return float(shared)


@torch.no_grad()
def copy_from_first(module: nn.Module) -> None:
    """Gives all processes the first one's weights and buffers."""
    if current_share().size > 1:
        for value in module.state_dict().values():
            distributed.broadcast(value, 0)


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Replaces each tensor by its mean over all processes; one not finite spreads to all.

    As in StyleGAN and EDM, instead of DistributedDataParallel, which supports neither the double
    backward of R1 nor a discriminator that is run twice and frozen for the generator's step.
    """
    size = current_share().size
    if size == 1:
        return
    flat = torch.cat([tensor.float().flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    means = torch.split(flat / size, [tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means, strict=True):
        tensor.copy_(mean.view(tensor.shape))


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` over the batch of all processes; nn.SyncBatchNorm knows no CPU.

    float (N, C, H, W) -> like the input; N must be the same in all processes.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the name that nn.BatchNorm2d uses)
        if not self.training:
            return super().forward(input)
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        values = input.float()
        mean = _mean_over_processes(values.mean(dim=(0, 2, 3)))
        centred = values - mean[:, None, None]
        variance = _mean_over_processes(centred.square().mean(dim=(0, 2, 3)))
        with torch.no_grad():
            count = values.numel() // values.shape[1] * current_share().size
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        normal: Tensor = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            normal = torch.addcmul(self.bias[:, None, None], normal, self.weight[:, None, None])
        return normal.to(input.dtype)


def use_global_batch_norm(module: nn.Module) -> None:
    """Turns every nn.BatchNorm2d inside ``module`` into one over all processes, in place."""
    for norm in module.modules():
        if type(norm) is nn.BatchNorm2d:
            norm.__class__ = GlobalBatchNorm2d


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _mean_over_processes(values: Tensor) -> Tensor:
    mean: Tensor = _Mean.apply(values)
    return mean


class _Mean(torch.autograd.Function):
    """The mean over processes, through which the sum of all their losses is differentiated."""

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        mean = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(mean)
        return mean.div_(current_share().size)

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        mean: Tensor = _mean_over_processes(gradient)
        return mean


def _own_gpu(device: str) -> int:
    local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if torch.device("cuda" if device == "auto" else device).index is not None:
        raise SignforgeError(
            f"gan.device is {device!r}, one GPU, but each process needs its own; use cuda or auto."
        )
    if local_rank >= gpus:
        raise SignforgeError(
            f"More processes were started than this machine has GPUs ({gpus}); start {gpus}, or "
            "use --device cpu."
        )
    return local_rank
