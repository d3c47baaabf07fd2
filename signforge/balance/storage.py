"""PoolImages: the memory that a pool's images lie in; loader workers share it, never copy it.

Memory or file, it is one nameless file mapped into the process, so the system frees it with the
last process that uses it, even if all of them are killed. Forked workers inherit the mapping,
others get its descriptor with their copy of the data set (multiprocessing.reduction.DupFd).
"""

import math
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from multiprocessing import reduction
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from signforge.device import resolve_device
from signforge.errors import SignforgeError

Place = Literal["memory", "file", "device"]

_MIB, _GIB = 2**20, 2**30
_DESCRIPTORS_TRAVEL = hasattr(reduction, "DupFd")  # not on Windows
_CGROUP = Path("/sys/fs/cgroup")
_FEWER = "ask for fewer by sampling_strategy or max_synthetic_fraction"


class PoolImages:
    """Images that one process writes and its loader workers read.

    tensor: uint8 (M, 3, H, W). Keep this object, not the tensor alone, in what workers get:
        multiprocessing hands it over as a view of the same memory, but would copy the tensor.
        Plain ``pickle`` copies the pixels. Copies of images on an accelerator are black.
    place: "memory", "file" or "device".
    own: whether it is this process that may write to them.
    """

    def __init__(
        self, tensor: Tensor, place: Place, descriptor: int | None = None, *, own: bool = True
    ) -> None:
        self.tensor = tensor
        self.place = place
        self._descriptor = descriptor
        self._owner = os.getpid() if own else None
        if descriptor is not None:
            weakref.finalize(self, os.close, descriptor)

    @property
    def is_own(self) -> bool:
        """False where another process made the memory: forked, or handed over."""
        return self._owner == os.getpid()

    def __reduce__(self) -> tuple[Callable[..., "PoolImages"], tuple[Any, ...]]:
        return PoolImages, (self._carried(), self.place)

    def _carried(self) -> Tensor:
        if self.tensor.device.type == "cpu":
            return self.tensor
        # no worker may touch the device: zeros without memory
        return torch.zeros((1, 1, 1, 1), dtype=torch.uint8).expand(self.tensor.shape)


def _shared(images: PoolImages) -> tuple[Callable[..., PoolImages], tuple[Any, ...]]:
    """How multiprocessing pickles ``images`` for a process that is to attach to their memory."""
    if images._descriptor is None:  # torch shares ordinary tensors by itself
        return _handed_over, (images._carried(), images.place)
    handle = reduction.DupFd(images._descriptor)
    return _attached, (handle, tuple(images.tensor.shape), images.place)


def _attached(handle: Any, shape: tuple[int, ...], place: Place) -> PoolImages:
    return _mapped(handle.detach(), shape, place, own=False)


def _handed_over(tensor: Tensor, place: Place) -> PoolImages:
    return PoolImages(tensor, place, own=False)


reduction.register(PoolImages, _shared)


def allocate_images(
    count: int,
    size: tuple[int, int],
    *,
    memory_cap_mib: float = 4096,
    folder: Path | None = None,
    device: str = "cpu",
) -> PoolImages:
    """Room for ``count`` images of ``size`` (height, width), all zero.

    On the CPU it is shared memory up to ``memory_cap_mib`` MiB, beyond it a file without a name
    in ``folder`` (default: the system's temporary folder, which should not be in memory itself).
    On another ``device`` it is memory of that device, and both options are ignored. Windows
    cannot hand a nameless file to workers: there it is shared memory at any size.

    All of it is reserved at once, so that no later write can end the process (SIGBUS). Raises
    SignforgeError where there is no room, or ``folder`` or ``device`` cannot be used.
    """
    if not memory_cap_mib >= 0:
        raise SignforgeError(f"memory_cap_mib must be 0 or more, got {memory_cap_mib}.")
    target = resolve_device(device)
    shape = (count, 3, *size)
    num_bytes = math.prod(shape)
    if target.type != "cpu":
        return PoolImages(_device_tensor(shape, target), "device")
    if not num_bytes:  # nothing to map
        return PoolImages(torch.zeros(shape, dtype=torch.uint8), "memory")
    if not _DESCRIPTORS_TRAVEL:
        return PoolImages(_torch_shared(shape), "memory")
    if num_bytes <= memory_cap_mib * _MIB:
        return _mapped(_memory_file(num_bytes), shape, "memory")
    return _mapped(_disk_file(num_bytes, folder or Path(tempfile.gettempdir())), shape, "file")


def _mapped(
    descriptor: int, shape: tuple[int, ...], place: Place, *, own: bool = True
) -> PoolImages:
    # The tensor keeps the mapping alive, which does not need the descriptor.
    num_bytes = math.prod(shape)
    try:
        memory = mmap.mmap(descriptor, num_bytes)
    except OSError as error:
        os.close(descriptor)
        raise _no_room(num_bytes, "address space", str(error.strerror), _FEWER) from None
    tensor = torch.frombuffer(memory, dtype=torch.uint8).view(shape)
    return PoolImages(tensor, place, descriptor, own=own)


def _memory_file(num_bytes: int) -> int:
    """The descriptor of ``num_bytes`` of memory.

    Not in /dev/shm, which has 64 MiB in a container and is where batches travel.
    """
    if not hasattr(os, "memfd_create"):  # macOS: the file that the system caches does as well
        return _disk_file(num_bytes, Path(tempfile.gettempdir()))
    free = _free_memory()
    remedy = f"lower memory_cap_mib, so that they go to a file, or {_FEWER}"
    if num_bytes > free:
        raise _no_room(num_bytes, "memory", f"{free / _GIB:.1f} GiB are free", remedy)
    descriptor = os.memfd_create("signforge-pool")
    try:
        return _reserved(descriptor, num_bytes)
    except OSError as error:
        raise _no_room(num_bytes, "memory", str(error.strerror), remedy) from None


def _disk_file(num_bytes: int, folder: Path) -> int:
    """The descriptor of a file of ``num_bytes`` in ``folder`` that has no name there."""
    remedy = f"give a pool_folder on a larger disk or {_FEWER}"
    try:
        free = shutil.disk_usage(folder).free
        if num_bytes > free:  # do not fill the disk on the way to finding out
            raise _no_room(num_bytes, str(folder), f"{free / _GIB:.1f} GiB are free", remedy)
        with tempfile.TemporaryFile(dir=folder) as file:
            descriptor = os.dup(file.fileno())
    except OSError as error:
        raise SignforgeError(
            f"Synthetic images cannot be kept in the folder {folder} ({error.strerror}): give "
            "pool_folder a folder that exists and can be written to."
        ) from None
    try:
        return _reserved(descriptor, num_bytes)
    except OSError as error:
        raise _no_room(num_bytes, str(folder), str(error.strerror), remedy) from None


def _reserved(descriptor: int, num_bytes: int) -> int:
    """``descriptor``, its file grown to ``num_bytes``; closes it and raises OSError if refused."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, num_bytes)
        else:  # macOS
            os.ftruncate(descriptor, num_bytes)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _device_tensor(shape: tuple[int, ...], device: torch.device) -> Tensor:
    try:
        return torch.zeros(shape, dtype=torch.uint8, device=device)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        remedy = f"use pool_device='cpu' or {_FEWER}"
        raise _no_room(math.prod(shape), str(device), reason, remedy) from None


def _torch_shared(shape: tuple[int, ...]) -> Tensor:
    try:
        memory = torch.zeros(shape, dtype=torch.uint8)
        memory.share_memory_()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise _no_room(math.prod(shape), "shared memory", reason, _FEWER) from None
    return memory


def _free_memory() -> float:
    """Bytes that Linux can still give to programs, in this container."""
    fields = Path("/proc/meminfo").read_text(encoding="ascii").split()
    free = int(fields[fields.index("MemAvailable:") + 1]) * 1024
    return min(free, _left_of_cgroup(_CGROUP))


def _left_of_cgroup(cgroup: Path) -> float:
    """Bytes below the limit of a cgroup v2; infinity where there is none."""
    try:
        limit, used = (
            (cgroup / name).read_text(encoding="ascii").strip()
            for name in ("memory.max", "memory.current")
        )
        stat = (cgroup / "memory.stat").read_text(encoding="ascii").split()
    except OSError:
        return math.inf
    if not limit.isdecimal():
        return math.inf
    # Files that nobody reads any more count as used, but are dropped before anyone is killed.
    dropped = int(stat[stat.index("inactive_file") + 1])
    return max(0, int(limit) - int(used) + dropped)


def _no_room(num_bytes: int, where: str, reason: str, remedy: str) -> SignforgeError:
    return SignforgeError(
        f"No room for {num_bytes / _GIB:.1f} GiB of synthetic images in {where} ({reason}): "
        f"{remedy}."
    )
