"""Weights & Biases really writes, without a network, and what it wrote is read back."""

import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from signforge.config import Config, GanConfig
from signforge.data.charts import save_image_grid
from signforge.gan.trackers import open_trackers
from support.statuses import make_status

pytest.importorskip("wandb")

LOG_HEADER, BLOCK, PIECE_HEADER = 7, 32768, 7
"""Bytes."""
FULL, LAST = 1, 4


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)


def records(folder: Path) -> list[Any]:
    """All that an offline run holds, in wandb's own form: LevelDB's log of protobuf messages."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = folder.rglob("run-*.wandb")
    data, at, whole, found = file.read_bytes(), LOG_HEADER, b"", []
    while at + PIECE_HEADER <= len(data):
        if BLOCK - at % BLOCK < PIECE_HEADER:  # the rest of a block is padding
            at += BLOCK - at % BLOCK
            continue
        _crc, length, kind = struct.unpack_from("<IHB", data, at)
        at += PIECE_HEADER + length
        if at > len(data):  # still being written
            break
        whole += data[at - length : at]
        if kind in {FULL, LAST}:
            found.append(Record.FromString(whole))
            whole = b""
    return found


def records_of_finished(folder: Path) -> list[Any]:
    """wandb's service may still be writing when the run has been closed."""
    deadline = time.monotonic() + 60
    while True:
        found = records(folder)
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        assert time.monotonic() < deadline, "wandb never wrote the end of the run"
        time.sleep(0.1)


def items(entries: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in entries}


def test_a_run_reaches_wandb(tmp_path: Path) -> None:
    run = tmp_path / "run"
    grid = run / "samples" / "000008kimg.png"
    save_image_grid(grid, [torch.zeros((2, 3, 8, 8), dtype=torch.uint8)], ["stop"])
    config = Config(gan=GanConfig(trackers=("wandb",), batch_size=48))
    problems: list[str] = []
    with open_trackers(config, run, problems.append) as trackers:
        trackers.log_status(make_status(8.0, fd=12.5, collapsed_classes=(1, 7)))
        trackers.log_grid(grid, 8.0)
    assert problems == []
    found = records_of_finished(tmp_path)
    settings: dict[str, Any] = {}
    history: dict[str, Any] = {}
    for record in found:
        settings |= items(record.run.config.update) | items(record.config.update)
        history |= items(record.history.item)
    assert settings["gan.batch_size"] == 48
    assert (history["fd"], history["collapsed_classes"]) == (12.5, 2)
    assert (history["samples._type"], history["samples.count"]) == ("images/separated", 1)
    (picture,) = tmp_path.rglob("media/images/**/*.png")
    assert picture.stat().st_size > 0
