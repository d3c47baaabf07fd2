"""Which device, and which precision pays on it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from signforge.errors import SignforgeError

# cuBLAS reads it with its first product, and torch notes once what it says; so not later than here.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

_CPU_IS_FULL = ("can't allocate memory", "Storage size calculation overflowed")


def resolve_device(name: str) -> torch.device:
    """``"auto"`` is CUDA where there is one, else the CPU; other names are torch's.

    Raises SignforgeError for a name that torch does not know, and a device that is not there or is
    too old for this build of torch.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SignforgeError(f"Unknown device {name!r}: use auto, cpu, cuda or cuda:N.") from None
    try:
        torch.ones(1, device=device).add_(1)  # an empty tensor runs nothing
    except (RuntimeError, AssertionError):  # torch asserts where it was built without the backend
        raise SignforgeError(
            f"Device {name!r} was asked for, but torch cannot use it on this machine; use cpu."
        ) from None
    return device


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; where that is a GPU, nobody waits for what it still has to do."""
    if device.type != "cuda" or tensor.device == device:
        return tensor.to(device)
    return (tensor if tensor.is_cuda else tensor.pin_memory()).to(device, non_blocking=True)


@contextmanager
def enough_memory(advice: str) -> Iterator[None]:
    """Raises SignforgeError with ``advice`` where a GPU or the CPU has not enough memory inside."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        what = str(error).split(". ")[0].strip().rstrip(".")
        raise SignforgeError(f"{what}; {advice}, or free memory on the device.") from None
    except RuntimeError as error:  # all that torch raises for the CPU
        if not any(sign in str(error) for sign in _CPU_IS_FULL):
            raise
        raise SignforgeError(f"The memory is too small for this; {advice}.") from None


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside, where ``wanted``, torch takes only algorithms that give the same bits each time.

    They are what a CPU has anyway; a GPU has to be told. torch's settings are put back at the end.
    Raises SignforgeError for an operation that has no such algorithm.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warned_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "CUBLAS_WORKSPACE_CONFIG" in str(error):
            raise SignforgeError(
                "cuBLAS repeats its bits only where CUBLAS_WORKSPACE_CONFIG is :4096:8 or :16:8 "
                "before its first product; start Python with that."
            ) from None
        name, found, _ = str(error).partition(" does not have a deterministic implementation")
        if not found:
            raise
        raise SignforgeError(
            f"{name} has no deterministic algorithm on this device; set deterministic to false, "
            "or do without what needs it."
        ) from None
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned_only)


def use_bf16(device: torch.device, precision: str) -> bool:
    """Whether ``precision`` (auto, fp32 or bf16) means bf16 autocast on ``device``."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        with torch.cuda.device(device):  # torch answers for the current one
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # The question oneDNN answers from the CPU's own flags: emulated bf16 is slower than fp32.
        # Some builds, such as those for Apple silicon, have no oneDNN at all.
        available = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        supported = available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        return supported and not _is_intel_without_amx()
    return False


def _is_intel_without_amx() -> bool:
    # Intel's AVX-512 instruction for bf16 is there, but at half the rate of fp32's: its bf16 pays
    # in AMX tiles alone, which virtual machines may hide. AMD's instruction doubles the rate.
    ask = getattr(torch.cpu, "get_capabilities", dict)  # not in the oldest torch that we support
    capabilities: Mapping[str, object] = ask()
    is_intel = str(capabilities.get("cpu_name", "")).startswith("Intel")
    return is_intel and not capabilities.get("amx_bf16", False)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """bf16 autocast on ``device`` if ``use_bf16``, else none, within another one too."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast(
        device.type, torch.bfloat16, enabled=use_bf16(device, precision)
    )
    return context
