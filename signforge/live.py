"""How a GAN training shows itself on stderr: a live panel on a terminal, else plain lines."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from signforge.config import GanConfig
from signforge.evaluate.observed import TrainingDisplay
from signforge.gan.metrics import Status
from signforge.progress import no_progress
from signforge.terminal import print_message

T = TypeVar("T")

LISTED_CLASSES = 8
"""Collapsed classes that a line names; the rest are counted."""
BAR = 50
"""Characters."""
BETWEEN_DRAWS = 0.25
"""Seconds at least between two drawings of a track."""


@contextmanager
def gan_display(
    console: Console, config: GanConfig, class_names: Sequence[str]
) -> Iterator[TrainingDisplay]:
    """Shows each Status, and in a line of its own each roll-back and each class that collapses.

    On a terminal a panel is drawn anew with each status; elsewhere each is one line.
    """
    watched = _Watched(console, config, class_names)
    if not console.is_terminal:
        yield TrainingDisplay(
            on_status=watched.print_line, message=watched.message, track=no_progress
        )
        return
    with Live(console=console, auto_refresh=False) as live:
        watched.live = live
        live.update(watched.panel(), refresh=True)
        yield TrainingDisplay(on_status=watched.draw, message=watched.message, track=watched.track)
        watched.live = None


def events(before: Status | None, now: Status, class_names: Sequence[str]) -> list[str]:
    """What a user must not miss between two statuses, one sentence each."""
    sentences = []
    if before is None and now.rollbacks:  # of a resumed run perhaps long ago
        times = "once" if now.rollbacks == 1 else f"{now.rollbacks} times"
        sentences.append(
            f"The GAN has been rolled back to its last good state {times} so far; each time the "
            "learning rates were halved."
        )
    elif before and now.rollbacks > before.rollbacks:
        sentences.append(
            f"At {now.seen_kimg:.0f} kimg the GAN has been rolled back to its last good state for "
            f"the {_ordinal(now.rollbacks)} time; the learning rates are halved."
        )
    was = set((before.collapsed_classes if before else None) or ())
    collapsed = set(now.collapsed_classes or ())
    changes = [
        f"{what}: {_listed(sorted(labels), class_names)}"
        for what, labels in (("collapsed", collapsed - was), ("recovered", was - collapsed))
        if labels
    ]
    if changes:
        sentences.append(f"Classes at {now.seen_kimg:.0f} kimg: {'; '.join(changes)}.")
    return sentences


def status_line(status: Status, config: GanConfig, class_names: Sequence[str]) -> str:
    """All figures in one line."""
    parts = [
        f"GAN {status.seen_kimg:.0f} kimg",
        f"{status.images_per_second:.0f} img/s",
        f"D {status.discriminator_loss:.3f}",
        f"G {status.generator_loss:.3f}",
        f"lr {_learning_rates(status)}",
    ]
    if status.label_agreement is not None:
        agreement = _agreement(status, class_names)
        parts += [f"label agreement {agreement}", f"fd {_distance(status)}"]
    if status.rollbacks:
        parts.append(f"rollbacks {status.rollbacks}")
    parts.append(f"{status.memory_mib:.0f} MiB")
    return "  ".join([*parts, f"{minutes_left(status, config):.1f} min left"])


def minutes_left(status: Status, config: GanConfig) -> float:
    """Until ``total_kimg`` at the pace so far, or until ``max_minutes`` if that is earlier."""
    images = (config.total_kimg - status.seen_kimg) * 1000
    seconds = images / max(status.pace_images_per_second or status.images_per_second, 1e-9)
    if config.max_minutes is not None:
        seconds = min(seconds, config.max_minutes * 60 - status.seconds)
    return max(seconds, 0.0) / 60


class _Watched:
    """The newest status of one training, and how it is shown."""

    def __init__(self, console: Console, config: GanConfig, class_names: Sequence[str]) -> None:
        self.console = console
        self.config = config
        self.class_names = class_names
        self.live: Live | None = None
        self.status: Status | None = None
        self.doing = ""

    def message(self, text: str) -> None:
        print_message(self.console, text)

    def print_line(self, status: Status) -> None:
        self.message(status_line(status, self.config, self.class_names))
        self._take(status)

    def draw(self, status: Status) -> None:
        self._take(status)
        self._refresh()

    def track(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Shows in the panel how far ``items`` have come: rich draws one live thing at a time."""
        drawn = 0.0
        for number, item in enumerate(items, start=1):
            if time.monotonic() - drawn > BETWEEN_DRAWS:
                drawn = time.monotonic()
                self.doing = f"{description} {number:,} of {total:,}"
                self._refresh()
            yield item
        self.doing = ""
        self._refresh()

    def panel(self) -> Panel:
        """Every figure of the newest status."""
        status, total = self.status, self.config.total_kimg
        figures = Table.grid(padding=(0, 2))
        figures.add_column(style="bold")
        figures.add_column()
        seen = status.seen_kimg if status else 0.0
        figures.add_row("done", ProgressBar(total=total, completed=min(seen, total), width=BAR))
        for name, value in self._rows():
            figures.add_row(name, Text(value))  # Text: a class name may look like markup
        return Panel(figures, title=f"GAN: {seen:,.0f} of {total:,.0f} kimg", expand=False)

    def _rows(self) -> Iterator[tuple[str, str]]:
        status = self.status
        if status is None:
            yield "speed", "first figures follow"
        else:
            left = f"{minutes_left(status, self.config):.1f} min left"
            yield "speed", f"{status.images_per_second:.0f} img/s, {left}"
            yield (
                "loss",
                f"discriminator {status.discriminator_loss:.3f}, "
                f"generator {status.generator_loss:.3f}",
            )
            yield "learning rate", _learning_rates(status)
            if status.label_agreement is not None:
                yield "label agreement", _agreement(status, self.class_names)
                yield "Frechet distance", _distance(status)
            if status.collapsed_classes is not None:
                yield "collapsed", _listed(status.collapsed_classes, self.class_names) or "none"
            yield "memory", f"{status.memory_mib:,.0f} MiB"
            yield "rollbacks", str(status.rollbacks)
        if self.doing:
            yield "now", self.doing

    def _take(self, status: Status) -> None:
        for sentence in events(self.status, status, self.class_names):
            self.message(sentence)
        self.status = status

    def _refresh(self) -> None:
        if self.live is not None:
            self.live.update(self.panel(), refresh=True)


def _learning_rates(status: Status) -> str:
    return f"G {status.generator_learning_rate:.2g}, D {status.discriminator_learning_rate:.2g}"


def _agreement(status: Status, class_names: Sequence[str]) -> str:
    worst = status.worst_class_label_agreement
    text = f"{100 * (status.label_agreement or 0.0):.1f} %"
    if worst is None or status.worst_class is None:
        return text
    return f"{text} (worst {100 * worst:.1f} %: {_listed([status.worst_class], class_names)})"


def _distance(status: Status) -> str:
    if status.fd is None:
        return "unknown"
    if status.fd_ratio is None:
        return f"{status.fd:.3g}"
    return f"{status.fd:.3g} ({status.fd_ratio:.2f} times real)"


def _listed(labels: Sequence[int], class_names: Sequence[str]) -> str:
    names = [f"{label} {class_names[label]}" for label in labels[:LISTED_CLASSES]]
    more = len(labels) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
