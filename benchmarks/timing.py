"""Paired rounds, medians with their spread, and ratios of them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of the rounds."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio_spread(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Of the quotients of each round; both sides have one value a round."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def rotated(items: Sequence[T], by: int) -> list[T]:
    """``items`` begun at another place every round: no one always runs first."""
    start = by % len(items)
    return [*items[start:], *items[:start]]
