"""Where the marks of the report's charts lie, in percent of a chart's width or height.

Percentages let one SVG fit a phone and a desktop without its text being scaled.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from signforge.benchmark.statistics import Gain

CUT_BEYOND = 2.0
"""Intervals that reach so many times as far as the largest gain are cut."""


@dataclass(frozen=True)
class Tick:
    """at: percent of the axis. text: what stands there."""

    at: float
    text: str


@dataclass(frozen=True)
class GainAxis:
    """From ``-limit`` to ``limit`` points, zero in the middle."""

    limit: float

    @property
    def ticks(self) -> tuple[Tick, ...]:
        return tuple(
            Tick(25.0 * (step + 2), f"{step * self.limit / 2:+g}".replace("-", "\u2212"))
            if step
            else Tick(50.0, "0")
            for step in range(-2, 3)
        )

    def at(self, share: float) -> float:
        """Percent of the width where a gain of ``share`` (0.01 is one point) lies; may be out."""
        return 50 + 50 * (100 * share) / self.limit


@dataclass(frozen=True)
class Mark:
    """A dot with its interval. cut_low, cut_high: the interval goes on beyond the axis."""

    at: float
    low: float
    high: float
    cut_low: bool
    cut_high: bool


@dataclass(frozen=True)
class Bar:
    """One class in one series; top and height in percent, counted from above."""

    series: int
    top: float
    height: float


@dataclass(frozen=True)
class Column:
    """The bars of one class, tallest first, so that shorter ones, and the first, stand in front."""

    label: int
    left: float
    width: float
    bars: tuple[Bar, ...]


def gain_axis(gains: Sequence[Gain]) -> GainAxis:
    """An axis on which every mean and most intervals lie.

    With two seeds intervals may span everything; such do not set the scale, they are cut.
    """
    widest = 1.15 * max((abs(100 * gain.mean) for gain in gains), default=0.0)
    reach = (100 * max(abs(gain.low), abs(gain.high)) for gain in gains)
    usual = max((far for far in reach if far <= CUT_BEYOND * widest), default=0.0)
    return GainAxis(nice_limit(max(widest, usual, 0.5)))


def mark(axis: GainAxis, gain: Gain) -> Mark:
    """``gain`` on ``axis``."""
    at, low, high = (axis.at(share) for share in (gain.mean, gain.low, gain.high))
    return Mark(_inside(at), _inside(low), _inside(high), low < 0, high > 100)


def nice_limit(value: float) -> float:
    """The next of 1, 2, 3, 4, 6, 8, 10 times a power of ten that is not below ``value`` > 0."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 3, 4, 6, 8, 10) if step * power >= value * 0.999999)


def columns(series: Mapping[str, Sequence[int]], order: Sequence[int]) -> list[Column]:
    """One column a class, in ``order``, with a bar for each series that differs from the others.

    series: name -> images of each class, (C,).
    """
    tallest = count_limit(series)
    slot = 100 / max(len(order), 1)
    found = []
    for place, label in enumerate(order):
        counts = {number: values[label] for number, values in enumerate(series.values())}
        bars = [
            Bar(number, 100 - 100 * count / tallest, 100 * count / tallest)
            for number, count in sorted(counts.items(), key=lambda item: (-item[1], -item[0]))
        ]
        found.append(Column(label, place * slot + 0.1 * slot, 0.8 * slot, tuple(bars)))
    return found


def count_ticks(series: Mapping[str, Sequence[int]]) -> list[Tick]:
    """Heights of the grid lines, in percent from above."""
    limit = count_limit(series)
    return [Tick(100 - 25.0 * step, f"{limit * step / 4:,.0f}") for step in range(1, 5)]


def count_limit(series: Mapping[str, Sequence[int]]) -> float:
    """The upper end of an axis of counts."""
    return nice_limit(max(chain.from_iterable(series.values()), default=1) or 1)


def _inside(percent: float) -> float:
    return round(min(max(percent, 0.0), 100.0), 2)
