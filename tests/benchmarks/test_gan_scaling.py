"""Scaling script: its points, its summary, and one point in a process of its own."""

import json
from pathlib import Path
from typing import Any

import gan_scaling as script
import pytest
import torch
from own_process import measure_in_own_process

from signforge.config import GanConfig
from signforge.errors import SignforgeError
from support.fresh_memory import fresh_block

CONFIG = GanConfig(base_channels=4, batch_size=4, r1_every_steps=2, device="cpu")


def row(num_classes: int, resolution: int, rate: float) -> dict[str, float]:
    return {
        "num_classes": num_classes,
        "resolution": resolution,
        "images_per_second": rate,
        "memory_mib": 10.0,
        "generator_parameters": 2_000_000,
        "discriminator_parameters": 1_000_000,
        "checkpoint_mib": 3.0,
        "generator_mib": 1.5,
    }


def test_random_images_have_every_class_twice() -> None:
    images = script.random_images(1000, 8)
    assert images.images.shape == (2000, 3, 8, 8)
    assert int(images.class_counts.min()) == int(images.class_counts.max()) == 2


def test_no_point_comes_twice() -> None:
    assert script.points([10, 43], [32, 64]) == [(10, 32), (43, 32), (43, 64)]


def test_rounds_become_medians_and_a_table() -> None:
    rows = [row(43, 64, 5.0), row(10, 32, 30.0), row(10, 32, 10.0), row(10, 32, 20.0)]
    entries = script.summarise(rows)
    assert [entry["num_classes"] for entry in entries] == [10, 43]
    lines = script.table(entries).splitlines()[2:]
    assert lines[0] == "| 10 | 32 | 20.0 (10.0 to 30.0) | 10 | 2.00 | 1.00 | 3.0 | 1.5 |"
    assert len(lines) == 2


def test_more_classes_cost_parameters_and_bytes() -> None:
    few, many = (script.measure_point(CONFIG, n, 8, 2) for n in (10, 600))
    for key in ("generator_parameters", "discriminator_parameters"):
        assert many[key] > few[key]
    for key in ("checkpoint_mib", "generator_mib"):
        assert many[key] > few[key]
    assert few["images_per_second"] > 0
    # Weights are saved as float32, beside batch-norm statistics.
    assert few["generator_mib"] * 2**20 >= 4 * few["generator_parameters"]


def test_memory_is_what_this_process_took() -> None:
    held = script._held_bytes(torch.device("cpu"))
    block = fresh_block(48 * 2**20)
    assert script._peak_bytes(torch.device("cpu")) - held >= 0.9 * len(block)


def test_a_run_writes_rows_table_and_plot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(_script: str, task: dict[str, Any], _name: str) -> dict[str, float]:
        config = GanConfig.model_validate(task["config"])
        return script.measure_point(config, *task["point"], task["steps"])

    monkeypatch.setattr(script, "measure_in_own_process", here)
    argv = ["--config", "demo", "--classes", "10", "--resolutions", "8", "--rounds", "2"]
    argv += ["--steps", "1", "--threads", "1", "--out", str(tmp_path)]
    for text in ("gan.base_channels=4", "gan.batch_size=2", "gan.r1_every_steps=1"):
        argv += ["--set", text]
    script.main(argv)
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    points = [(r["num_classes"], r["resolution"]) for r in rows]
    assert points == [(10, 32), (43, 8), (43, 8), (10, 32)]
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "scaling.md").read_text().count("\n| 10 | 32 |") == 1


def test_a_process_prints_its_point(capsys: pytest.CaptureFixture[str]) -> None:
    task = {"config": CONFIG.model_dump(mode="json"), "point": [10, 8], "steps": 2}
    script.main(["--point", json.dumps({**task, "threads": 1})])
    point = json.loads(capsys.readouterr().out)
    assert (point["num_classes"], point["resolution"]) == (10, 8)


@pytest.mark.slow
def test_a_point_that_fails_in_its_process_is_one_sentence() -> None:
    task = {"config": CONFIG.model_dump(mode="json"), "point": [10, 7], "steps": 1, "threads": 1}
    with pytest.raises(SignforgeError, match=r"^The point could not be measured: .*, not 7"):
        measure_in_own_process(script.__file__, task, "The point")
