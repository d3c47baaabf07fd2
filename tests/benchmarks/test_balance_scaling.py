"""Scaling benchmark: its data, its summary, its account of memory, and one tiny run."""

import json
import os
from pathlib import Path

import balance_scaling as script
import pytest
import torch
from own_process import measure_in_own_process
from process_memory import peak_resident_bytes, private_bytes, reset_peak, resident_bytes

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.errors import SignforgeError
from support.fresh_memory import fresh_block

MIB = 2**20


def row(num_classes: int, num_images: int, peak: float) -> dict[str, float]:
    seconds = dict.fromkeys(script.SECONDS, peak / 100)
    sizes = {"data_mib": 60.0, "pool_mib": 40.0, "peak_mib": peak, "worker_mib": 12.0}
    counts = {"num_classes": num_classes, "num_images": num_images}
    return {**counts, "balanced_images": 2 * num_images, **seconds, **sizes}


@pytest.mark.parametrize(("num_classes", "num_images"), [(10, 1000), (300, 1000), (50, 60)])
def test_the_tail_is_long_and_no_class_is_empty(num_classes: int, num_images: int) -> None:
    counts = script.long_tail_counts(num_classes, num_images)
    assert len(counts) == num_classes
    assert int(counts.min()) >= 1
    assert counts.tolist() == sorted(counts.tolist(), reverse=True)
    assert abs(int(counts.sum()) - num_images) <= num_classes / 2
    if num_classes == 10:
        assert int(counts.max()) / int(counts.min()) == pytest.approx(10, rel=0.05)


def test_the_sampler_draws_what_the_real_images_show() -> None:
    images = script.fake_images(4, 40, 8)
    sampler = script.ColourSampler(4, 8)
    assert torch.equal(sampler.sample(images.labels, seed=1), images.images)
    assert sampler.seconds > 0
    balanced = SyntheticBalancedDataset(images, sampler)
    assert all(int(image.max()) == int(image.min()) == label for image, label in balanced)


def test_points_hold_the_largest_corner_and_none_twice() -> None:
    assert script.points([10, 100], [1_000, 100_000]) == [
        (10, 100_000),
        (100, 100_000),
        (100, 1_000),
    ]
    assert script.points([10, 1_000], [100_000_000])[-1] == (1_000, 100_000_000)


def test_rounds_become_medians_and_two_tables() -> None:
    rows = [row(100, 50, 120.0), row(10, 50, 109.0), row(10, 50, 101.0), row(10, 50, 105.0)]
    entries = script.summarise(rows)
    assert [entry["num_classes"] for entry in entries] == [10, 100]
    times, memory = script.tables(entries).split("\n\n")
    assert times.splitlines()[2].startswith("| 10 | 50 | 100 | 1.050 (1.010 to 1.090) |")
    few, many = memory.splitlines()[2:4]
    assert few == ("| 10 | 50 | 100 | 60.0 | 40.0 | 105.0 | 1.050 (1.010 to 1.090) | met | 12.0 |")
    assert many.endswith("| 120.0 | 1.200 (1.200 to 1.200) | missed | 12.0 |")


def test_memory_is_what_this_process_took() -> None:
    reset_peak()
    before = resident_bytes()
    block = fresh_block(48 * MIB)
    assert resident_bytes() - before >= 0.9 * len(block)
    del block
    assert peak_resident_bytes() - before >= 0.9 * 48 * MIB
    reset_peak()
    assert peak_resident_bytes() - before <= 24 * MIB


def test_shared_memory_is_resident_and_private_memory_is_not_shared() -> None:
    before, own = resident_bytes(), private_bytes(os.getpid())
    block = fresh_block(48 * MIB)
    assert private_bytes(os.getpid()) - own >= 0.9 * len(block)
    block.share_memory_()
    assert resident_bytes() - before >= 0.9 * len(block)


def test_a_run_writes_rows_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(_script: str, task: dict[str, int], _name: str) -> dict[str, float]:
        script.main(["--point", json.dumps(task)])
        return json.loads(capsys.readouterr().out)

    monkeypatch.setattr(script, "measure_in_own_process", here)
    monkeypatch.setattr(script, "_warm_up", lambda _: None)  # this process is warm
    monkeypatch.setattr(script, "FIXED_IMAGES", 300)
    monkeypatch.setattr(script, "FIXED_CLASSES", 4)
    argv = ["--classes", "4", "20", "--images", "300", "--resolution", "8", "--rounds", "2"]
    script.main([*argv, "--batch-size", "4", "--threads", "1", "--out", str(tmp_path)])
    text = capsys.readouterr().out
    assert (tmp_path / "scaling.md").read_text() == text.removesuffix("\n")
    rows = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert [entry["num_classes"] for entry in rows] == [4, 20, 20, 4]
    for entry in rows:
        assert entry["drawing_seconds"] <= entry["construct_seconds"]
        assert entry["set_epoch_drawing_seconds"] <= entry["set_epoch_seconds"]
        assert entry["balanced_images"] > entry["num_images"]
        assert entry["worker_mib"] > 0
        pool_images = entry["balanced_images"] - entry["num_images"]
        assert entry["pool_mib"] * MIB == pool_images * (3 * 8 * 8 + 16)


@pytest.mark.slow
def test_a_point_in_a_process_of_its_own_and_one_that_fails() -> None:
    task = {"num_classes": 10, "num_images": 10_000, "resolution": 32, "batch_size": 64}
    point = measure_in_own_process(script.__file__, {**task, "threads": 1}, "The point")
    assert point["peak_mib"] >= point["data_mib"] + 0.9 * point["pool_mib"]
    nothing = {**task, "num_images": 0, "batch_size": 0, "threads": 1}
    with pytest.raises(SignforgeError, match=r"^Nothing could not be measured: ."):
        measure_in_own_process(script.__file__, nothing, "Nothing")


def test_no_rounds_are_refused() -> None:
    with pytest.raises(SignforgeError, match="at least 1"):
        script.main(["--rounds", "0"])
