import ctypes
import os
import platform
import subprocess
import sys

import pytest

from signforge.allocator import keep_freed_memory

FAULTS_OF_STEPS = """
import resource, sys
import torch
from signforge.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    activations = [torch.ones(2**23, dtype=torch.uint8) for _ in range(8)]
    del activations

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(3):
    step()
before = faults()
for _ in range(10):
    step()
print(faults() - before)
"""


def faults_of_steps(how: str) -> int:
    """Pages that the system cleared for ten steps after three, each of 64 MiB."""
    command = [sys.executable, "-c", FAULTS_OF_STEPS, how]
    # Where glibc begins; it moves with what a program frees, and with it how often pages go back.
    start = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    return int(subprocess.run(command, capture_output=True, env=start, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_step_gets_the_memory_of_the_last_one() -> None:
    assert faults_of_steps("keep") < faults_of_steps("as it is") / 10


@pytest.mark.parametrize("missing", [AttributeError, OSError, TypeError])
def test_without_glibc_nothing_happens(
    missing: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        def __init__(self, _name: None) -> None:
            if missing is not AttributeError:
                raise missing

    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert keep_freed_memory() is False
