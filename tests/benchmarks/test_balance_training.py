"""Training benchmark: that a training pays for its refresh, its arithmetic, and one tiny run."""

import json
from pathlib import Path
from typing import Any

import balance_training as script
import pytest
from balance_scaling import ColourSampler, fake_images

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.errors import SignforgeError

CLASSES, RESOLUTION = 3, 32


def row(arm: str, number: int, seconds_per_step: float, set_epoch_seconds: float) -> Any:
    return {
        "arm": arm,
        "round": number,
        "epoch_steps": 10,
        "steps": 2,
        "seconds_per_step": seconds_per_step,
        "set_epoch_seconds": set_epoch_seconds,
    }


def test_epochs_begin_where_they_are_told_to_and_items_are_the_same() -> None:
    images = fake_images(CLASSES, 12, 8)
    balanced = SyntheticBalancedDataset(images, ColourSampler(CLASSES, 8), refresh=1.0)
    later = script.FromEpoch(balanced, 3)
    later.set_epoch(2)
    assert balanced.epoch == 5
    assert later.seconds > 0
    assert len(later) == len(balanced)
    assert later[0][1] == balanced[0][1]
    assert [label for _, label in later.__getitems__([0, len(balanced) - 1])] == [
        balanced.targets[0],
        balanced.targets[-1],
    ]


def test_the_refresh_is_added_once_to_the_scaled_steps() -> None:
    rows = [row("oversample", 1, 1.0, 0.0), row("oversample", 2, 2.0, 0.0)]
    rows += [row("ours, refresh 0.1", 1, 1.0, 1.0), row("ours, refresh 0.1", 2, 2.0, 0.2)]
    assert script.epoch_seconds(rows[2]) == 11.0
    base, ours = script.table(rows).splitlines()[2:]
    assert base.endswith("| 1.000 (1.000 to 1.000) |  | 2 of 10 |")
    assert ours.endswith("| 15.6 (11.0 to 20.2) | 1.055 (1.010 to 1.100) | missed | 2 of 10 |")


def test_one_tiny_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = fake_images(CLASSES, 12, RESOLUTION)
    sampler = ColourSampler(CLASSES, RESOLUTION)
    monkeypatch.setattr(script, "load_training_images", lambda _: images)
    monkeypatch.setattr(script, "load_sampler", lambda _: sampler)
    argv = ["--rounds", "2", "--steps", "2", "--batch-size", "4", "--refresh", "1"]
    argv += ["--threads", "1", "--classifier", "test_resnet", "--out", str(tmp_path)]
    script.main(argv)
    text = capsys.readouterr().out
    assert (tmp_path / "training.md").read_text() == text.removesuffix("\n")
    rows = json.loads((tmp_path / "training.json").read_text())["rows"]
    # The other arm begins in the other round, and only ours has something to refresh.
    assert [entry["arm"] for entry in rows] == [
        "ours, refresh 1",
        "oversample",
        "oversample",
        "ours, refresh 1",
    ]
    for entry in rows:
        assert (entry["set_epoch_seconds"] > 0) == (entry["arm"] != "oversample")
        assert entry["seconds_per_step"] > 0
        assert entry["epoch_steps"] == len(SyntheticBalancedDataset(images, sampler)) // 4


def test_more_steps_than_an_epoch_has_are_refused() -> None:
    images = fake_images(CLASSES, 12, 8)
    config = script.ClassifierConfig(steps=100, batch_size=4)
    with pytest.raises(SignforgeError, match="An epoch has 6 steps"):
        script.measure(images, ColourSampler(CLASSES, 8), [0.0], config=config, rounds=1)


def test_no_rounds_are_refused() -> None:
    with pytest.raises(SignforgeError, match="at least 1"):
        script.main(["--rounds", "0"])
