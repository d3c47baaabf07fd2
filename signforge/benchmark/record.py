"""What a run directory says of itself besides its rows: config, data, machine and fidelity."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from signforge.benchmark.folder import Row, read_json, read_rows
from signforge.config import Config, load_config


@dataclass(frozen=True)
class RunRecord:
    """dataset, environment, fidelity: as in the JSON files of these names.

    fidelity: None where it was not measured. finished_at: of the last row, ISO 8601.
    commits: of signforge, each once, of the rows in the order they finished; empty if unknown.
    """

    config: Config
    dataset: Mapping[str, Any]
    environment: Mapping[str, Any]
    fidelity: Mapping[str, Any] | None
    finished_at: str
    commits: tuple[str, ...]

    @property
    def title(self) -> str:
        """``"resnet18 on gtsrb"``."""
        return f"{self.config.classifier.name} on {self.dataset['source']}"


def read_record(run_dir: Path) -> RunRecord:
    """Raises SignforgeError where a file is missing or unreadable."""
    fidelity = run_dir / "fidelity.json"
    rows = read_rows(run_dir)
    return RunRecord(
        config=load_config(run_dir / "config.yaml"),
        dataset=read_json(run_dir / "dataset.json"),
        environment=read_json(run_dir / "environment.json"),
        fidelity=read_json(fidelity) if fidelity.exists() else None,
        finished_at=max(row["finished_at"] for row in rows),
        commits=tuple(dict.fromkeys(_commit(row) for row in rows if row["commit"])),
    )


def _commit(row: Row) -> str:
    return f"`{row['commit']}`{' with uncommitted changes' if row['dirty'] else ''}"
