"""What the command line shows: bars and messages on stderr, results on stdout."""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable
from rich.text import Text

from signforge.benchmark.report import Table
from signforge.config import GanConfig
from signforge.gan.metrics import Status
from signforge.progress import Track

T = TypeVar("T")


def stderr_console() -> Console:
    """For all that is not the result."""
    return Console(stderr=True)


def rich_track(console: Console) -> Track:
    """Draws a bar for the time that the items take; nothing where stderr is no terminal."""

    def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as progress:
            yield from progress.track(items, description=description, total=total)

    return track


@contextmanager
def gan_display(console: Console, config: GanConfig) -> Iterator[Callable[[Status], None]]:
    """Yields a function that shows each Status: a live bar, or lines where there is no terminal."""
    columns = (
        TextColumn("GAN"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} kimg  {task.fields[figures]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("GAN", total=config.total_kimg, figures="", left="")

        def show(status: Status) -> None:
            figures = (
                f"{status.images_per_second:.0f} img/s  D {status.discriminator_loss:.3f}  "
                f"G {status.generator_loss:.3f}"
            )
            left = f"{_minutes_left(status, config):.1f} min left"
            progress.update(task, completed=status.seen_kimg, figures=figures, left=left)
            if not console.is_terminal:
                print_message(console, f"GAN {status.seen_kimg:.0f} kimg  {figures}  {left}")

        yield show


def _minutes_left(status: Status, config: GanConfig) -> float:
    images = (config.total_kimg - status.seen_kimg) * 1000
    seconds = images / max(status.images_per_second, 1e-9)
    if config.max_minutes is not None:
        seconds = min(seconds, config.max_minutes * 60 - status.seconds)
    return max(seconds, 0.0) / 60


class StopSignals:
    """Turns SIGINT and SIGTERM into a flag, so that a step is finished and saved first.

    A second signal of the same kind acts at once. ``exit_code`` is 128 plus the signal's number,
    None while there was none.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> bool:
        return self.exit_code is not None

    def _note(self, number: int, frame: object) -> None:
        del frame
        self.exit_code = 128 + number
        signal.signal(number, self._before[signal.Signals(number)])


def print_message(console: Console, text: str) -> None:
    """One line, as it is: paths may hold what rich takes for markup, and scripts read by line."""
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """What the user should know about the data, one line each."""
    for note in notes:
        print_message(console, f"Note: {note}")


def print_table(table: Table) -> None:
    """Draws ``table`` on stdout, wide enough for its cells where stdout is no terminal."""
    shown = RichTable(title=Text(table.title))
    for index, name in enumerate(table.header):
        shown.add_column(Text(name), justify="left" if index < table.text_columns else "right")
    for row in table.rows:
        shown.add_row(*map(Text, row))  # Text: a class name may hold what rich takes for markup
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(shown)


def print_lines(lines: Sequence[str]) -> None:
    """Plain lines on stdout, never wrapped or coloured."""
    sys.stdout.write("\n".join(lines) + "\n")
