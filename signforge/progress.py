"""How lower rooms report progress without knowing what shows it.

Functions that may take more than two seconds accept a ``track``; the command line passes one
that draws a bar on stderr, a program passes nothing.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818  (not an error: the user asked for it)
    """Raised by a ``Track`` between two items: the user wants an end, and to go on some day."""


class Track(Protocol):
    """Wraps an iterable and reports how far it has come, as ``tqdm`` does; may raise Stopped."""

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterator[T]: ...


def no_progress(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """The silent ``Track``."""
    del description, total
    yield from items
