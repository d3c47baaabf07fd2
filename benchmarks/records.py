"""Rows with their origin, tables and exit codes: what every benchmark script writes and says."""

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from signforge.benchmark.folder import Row
from signforge.benchmark.folder import read_rows as read_trials
from signforge.environment import describe_environment, hardware_line
from signforge.errors import SignforgeError
from signforge.files import write_atomically


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


def write_table(folder: Path, make_table: Callable[[Sequence[Row]], str]) -> str:
    """table.md of the trials kept in ``folder``, and where they come from; returns the table.

    Raises SignforgeError where there are no trials.
    """
    rows = read_trials(folder)
    if not rows:
        raise SignforgeError(f"{folder} holds no trials; run some first.")
    table = make_table(rows)
    write_atomically(folder / "table.md", f"{table}\n{provenance_text(rows[-1])}".encode())
    return table


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """One line of JSON at the end of ``path``; processes that share it take turns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _turn(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What ``append_row`` wrote. Raises SignforgeError where there is nothing."""
    if not path.is_file():
        raise SignforgeError(f"{path} does not exist: run a benchmark into this folder first.")
    with _turn(path):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _turn(path: Path) -> FileLock:
    return FileLock(path.with_name(f".{path.name}.lock"))


def run_script(main: Callable[[Sequence[str]], None]) -> int:
    """Exit code: 0, or 2 with one sentence on stderr for what the user can mend."""
    try:
        main(sys.argv[1:])
    except SignforgeError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
