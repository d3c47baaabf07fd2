"""What a run directory says of itself besides its rows: config, data, machine and fidelity."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from signforge.benchmark.folder import Row, read_json, read_rows
from signforge.config import Config
from signforge.config_file import load_config
from signforge.environment import hardware_line


@dataclass(frozen=True)
class RunRecord:
    """dataset, environment, fidelity: as in the JSON files of these names.

    fidelity: None where it was not measured. finished_at: of the last row, ISO 8601.
    environments: machine and versions, a phrase each, of the rows in the order they finished; those
    of the first call where rows of older versions do not tell.
    commits: of signforge, each once, of the rows in the order they finished; empty if unknown.
    """

    config: Config
    dataset: Mapping[str, Any]
    environment: Mapping[str, Any]
    fidelity: Mapping[str, Any] | None
    finished_at: str
    environments: tuple[str, ...]
    commits: tuple[str, ...]

    @property
    def title(self) -> str:
        """``"resnet18 on gtsrb"``."""
        return f"{self.config.classifier.name} on {self.dataset['source']}"


def read_record(run_dir: Path) -> RunRecord:
    """Raises SignforgeError where a file is missing or unreadable."""
    fidelity = run_dir / "fidelity.json"
    rows, first_call = read_rows(run_dir), read_json(run_dir / "environment.json")
    return RunRecord(
        config=load_config(run_dir / "config.yaml"),
        dataset=read_json(run_dir / "dataset.json"),
        environment=first_call,
        fidelity=read_json(fidelity) if fidelity.exists() else None,
        finished_at=max(row["finished_at"] for row in rows),
        environments=tuple(dict.fromkeys(_environment({**first_call, **row}) for row in rows)),
        commits=tuple(dict.fromkeys(_commit(row) for row in rows if row["commit"])),
    )


def _environment(known: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in known["versions"].items() if v)
    return f"{hardware_line(known)}; {versions}"


def _commit(row: Row) -> str:
    return f"`{row['commit']}`{' with uncommitted changes' if row['dirty'] else ''}"
