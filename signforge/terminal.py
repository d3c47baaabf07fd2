"""What the command line shows: bars and messages on stderr, results on stdout."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
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

from signforge.benchmark.tables import Table
from signforge.progress import Track

T = TypeVar("T")


def stderr_console() -> Console:
    """For all that is not the result; silent in all but the first of several processes."""
    return Console(stderr=True, quiet=not is_first_process())


def is_first_process() -> bool:
    """True but for the further processes of ``torchrun`` and ``accelerate launch``."""
    return os.environ.get("RANK", "0") == "0"


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
