"""Memory that is new to the process, for tests of what a process takes."""

import mmap

import torch
from torch import Tensor


def fresh_block(size: int) -> Tensor:
    """uint8 (size,) of ones on pages of its own, given back when it goes.

    An allocator may hand out what earlier tests in this process have freed, which is resident.
    """
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.uint8).fill_(1)
