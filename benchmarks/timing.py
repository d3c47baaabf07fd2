"""What the benchmark scripts share: paired rounds, medians with spread, tables, provenance.

Ratios are taken round by round, so that a machine that slows down for a while slows both sides.
"""

import json
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from signforge.environment import describe_environment, hardware_line
from signforge.errors import SignforgeError

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


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, all others to the right."""
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def command_line(script: str, argv: Sequence[str]) -> str:
    """The command to repeat a benchmark with."""
    return shlex.join(["python", f"benchmarks/{Path(script).name}", *argv])


def provenance(command: str) -> dict[str, Any]:
    """Command, versions, hardware and commit, ready for JSON."""
    return {"command": command, **describe_environment()}


def provenance_text(origin: Mapping[str, Any]) -> str:
    """The same as two lines of Markdown."""
    versions = origin["versions"]
    commit = (origin["commit"] or "no commit")[:10] + (" with changes" if origin["dirty"] else "")
    return (
        f"`{origin['command']}`\n\n"
        f"{hardware_line(origin)}; Python {versions['python']}, torch {versions['torch']}; "
        f"signforge {versions['signforge']}, {commit}.\n"
    )


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """One line of JSON at the end of ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What ``append_row`` wrote. Raises SignforgeError where there is nothing."""
    if not path.is_file():
        raise SignforgeError(f"{path} does not exist: run a benchmark into this folder first.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_script(main: Callable[[Sequence[str]], None]) -> int:
    """Exit code: 0, or 2 with one sentence on stderr for what the user can mend."""
    try:
        main(sys.argv[1:])
    except SignforgeError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
