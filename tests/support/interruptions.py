"""A process that is killed, or a disk that fails, at any one of the calls that change files."""

import os
import pathlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Killed(BaseException):
    """Stops all at once, as a kill does: nothing that handles errors may run."""


class HalfFile:
    """A file opened for writing that is interrupted in the middle of a write."""

    def __init__(self, file, tick: Callable[[], None]) -> None:
        self.file, self.tick = file, tick

    def __enter__(self) -> "HalfFile":
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def write(self, content: bytes) -> int:
        try:
            self.tick()
        except BaseException:
            self.file.write(content[: len(content) // 2])
            raise
        return self.file.write(content)


@contextmanager
def interrupted(at_call: int, error: BaseException) -> Iterator[list[str]]:
    """Raises ``error`` at one call that changes the disk; yields the names of all the calls."""
    calls: list[str] = []

    def tick(name: str) -> None:
        calls.append(name)
        if len(calls) == at_call:
            raise error

    def ticking(name: str) -> Callable[..., object]:
        real = getattr(os, name)

        def call(*args: object, **options: object) -> object:
            tick(name)
            return real(*args, **options)

        return call

    real_open = pathlib.Path.open

    def open_to_write(self: Path, mode: str = "r", *args: object, **options: object) -> object:
        if "r" in mode:
            return real_open(self, mode, *args, **options)
        tick("open")
        return HalfFile(real_open(self, mode, *args, **options), lambda: tick("write"))

    with pytest.MonkeyPatch.context() as patch:
        for name in ("fsync", "replace", "rename", "mkdir", "rmdir", "unlink"):
            patch.setattr(os, name, ticking(name))
        patch.setattr(pathlib.Path, "open", open_to_write)
        yield calls
