"""Short runs of the GAN and what they left on disk, without what the clock says."""

import json
from pathlib import Path
from typing import Any

from signforge.gan.checkpoint import MANIFEST, list_checkpoints
from signforge.gan.metrics import WALL_CLOCK_KEYS
from signforge.gan.training import TrainingEvents


def stop_after(steps: int) -> TrainingEvents:
    left = iter(range(steps))
    return TrainingEvents(should_stop=lambda: next(left, None) is None)


def metrics(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in WALL_CLOCK_KEYS} for line in lines
    ]


def manifests(run: Path) -> list[dict[str, Any]]:
    """Of all checkpoints, without what the clock says."""
    read = [json.loads((folder / MANIFEST).read_text()) for folder in list_checkpoints(run)]
    for manifest in read:
        for clock in ("seconds", "status_seconds", "one_off_seconds"):
            del manifest["progress"][clock]
    return read
