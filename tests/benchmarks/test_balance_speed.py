"""Loader benchmark: what it compares, its arithmetic, and one tiny run."""

import json
from pathlib import Path
from typing import Any

import balance_speed as script
import pytest
import torch
from balance_scaling import ColourSampler, fake_images
from balanced_data import FirstIndices, NaivelyBalanced, Transformed, load_training_images
from torch import Tensor
from torch.utils.data import SequentialSampler
from torchvision.transforms import v2

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError

CLASSES, RESOLUTION = 3, 8


class CountingSampler(ColourSampler):
    fingerprint = "counting"

    def __init__(self) -> None:
        super().__init__(CLASSES, RESOLUTION)
        self.calls: list[int] = []

    def sample(self, labels: Tensor, seed: int) -> Tensor:
        self.calls.append(len(labels))
        return super().sample(labels, seed)


@pytest.fixture
def images() -> LabeledImages:
    return fake_images(CLASSES, 60, RESOLUTION)


def row(arm: str, number: int, loader_seconds: float, set_epoch_seconds: float = 0.0) -> Any:
    """One that read 100 of 400 images."""
    return {
        "arm": arm,
        "transform": "none",
        "workers": 0,
        "round": number,
        "set_epoch_seconds": set_epoch_seconds,
        "loader_seconds": loader_seconds,
        "images": 100,
        "batches": 10,
        "epoch_images": 400,
    }


def test_a_part_of_an_epoch_is_scaled_up_and_the_refresh_is_not() -> None:
    part = row("ours", 1, loader_seconds=2.0, set_epoch_seconds=8.0)
    assert script.rate(part, with_set_epoch=False) == 400 / 8
    assert script.rate(part, with_set_epoch=True) == 400 / 16


def test_ratios_are_of_the_same_round_and_aims_are_judged() -> None:
    rows = [row("oversample", 1, 1.0), row("oversample", 2, 4.0)]
    rows += [row("ours, refresh 0.1", 1, 1.0), row("ours, refresh 0.1", 2, 4.0, 16.0)]
    rows += [row("naive", 1, 30.0), row("naive", 2, 100.0)]
    lines = script.table(rows, "none", 0).splitlines()[2:]
    assert lines[1].split(" | ")[1:4] == [
        "400",
        "56 (12 to 100)",
        "0.750 (0.500 to 1.000)",
    ]
    assert lines[1].endswith("| 1.000 (1.000 to 1.000) | 8.00 (0.00 to 16.00) | 10 of 40 |")
    text = script.verdicts(rows, "none", 0)
    assert "0.750 (0.500 to 1.000); aim at least 0.95, missed." in text
    assert "21.2 (12.5 to 30.0); aim at least 20, met." in text
    assert script.verdicts(rows[:2], "none", 0) == ""


def test_the_baseline_reads_the_images_as_they_are(images: LabeledImages) -> None:
    plain = Transformed(images, None)
    assert len(plain) == len(images)
    picked = plain.__getitems__([5, 0])
    assert [label for _, label in picked] == [images[5][1], images[0][1]]
    assert torch.equal(picked[0][0], images.images[5])
    changed, label = Transformed(images, lambda image: image + 1)[5]
    assert torch.equal(changed, images.images[5] + 1)
    assert label == images[5][1]


def test_the_naive_way_has_our_labels_and_draws_one_image_at_a_time(images: LabeledImages) -> None:
    sampler = CountingSampler()
    balanced = SyntheticBalancedDataset(images, sampler)
    naive = NaivelyBalanced(images, sampler, balanced, None)
    sampler.calls.clear()
    items = [naive[index] for index in range(len(naive))]
    assert [label for _, label in items] == balanced.targets
    assert sampler.calls == [1] * int(balanced.synthetic_counts.sum())
    # The sampler gives every class its own colour, so the very pixels must be the same here.
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(items, balanced, strict=True))


def test_the_first_indices_of_an_epoch() -> None:
    whole = SequentialSampler(range(10))
    assert list(FirstIndices(whole, 4)) == [0, 1, 2, 3]
    assert len(FirstIndices(whole, 4)) == 4
    assert len(list(FirstIndices(whole, 10**30))) == len(FirstIndices(whole, 10**30)) == 10


def test_the_transform_is_timms_without_a_flip(images: LabeledImages) -> None:
    transform = script.build_transform("timm", RESOLUTION)
    steps = repr(transform)
    assert "Flip" not in steps
    for part in ("RandomResizedCrop", "scale=(0.8, 1.0)", "ColorJitter", "Normalize"):
        assert part in steps
    image = transform(images.images[0])
    assert image.shape == (3, RESOLUTION, RESOLUTION)
    assert image.dtype == torch.float32
    assert isinstance(transform, v2.Compose)
    assert script.build_transform("none", RESOLUTION) is None


def test_a_round_sets_the_epoch_once_and_then_reads_in_every_way(images: LabeledImages) -> None:
    log: list[Any] = []

    def opened(transform: Any) -> Any:
        log.append(transform)
        return Transformed(images, None), SequentialSampler(images)

    arm = script.Arm("mine", opened, 3, lambda epoch: log.append(f"epoch {epoch}"))
    rows = script.measure([arm], {"a": "A", "b": "B"}, [0], rounds=2, batch_size=4)
    # Warm-up, then two rounds that begin at another transform each.
    assert log == ["A", "B", "epoch 1", "B", "A", "epoch 2", "A", "B"]
    assert [(entry["transform"], entry["round"]) for entry in rows] == [
        ("a", 1),
        ("a", 2),
        ("b", 1),
        ("b", 2),
    ]
    assert all(entry["images"] == 12 for entry in rows)


def test_the_split_of_the_source_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Splits:
        train = "all of it"

    monkeypatch.setattr(
        "balanced_data.load_splits", lambda config: asked.append(config.source) or Splits
    )
    assert load_training_images("somewhere") == "all of it"
    assert asked == ["somewhere"]


@pytest.mark.parametrize("workers", [0, 1])
def test_one_tiny_run(
    workers: int,
    images: LabeledImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sampler = CountingSampler()
    monkeypatch.setattr(script, "load_training_images", lambda _: images)
    monkeypatch.setattr(script, "load_sampler", lambda _: sampler)
    argv = ["--rounds", "2", "--batches", "2", "--naive-batches", "1", "--batch-size", "4"]
    argv += ["--workers", str(workers), "--threads", "1", "--out", str(tmp_path)]
    argv += ["--transforms", *(("none",) if workers else script.TRANSFORMS)]
    script.main(argv)
    text = capsys.readouterr().out
    assert (tmp_path / "loader.md").read_text() == text.removesuffix("\n")
    found = json.loads((tmp_path / "loader.json").read_text())
    assert found["origin"]["generator"] == "counting"
    assert len(found["fill_seconds"]) == 3
    names = ["real", "oversample", "ours, refresh 0", "ours, refresh 0.1", "ours, refresh 1"]
    names.append("naive")
    ways = 1 if workers else 2
    for name in names:
        mine = [entry for entry in found["rows"] if entry["arm"] == name]
        assert len(mine) == 2 * ways
        assert {entry["batches"] for entry in mine} == {1 if name == "naive" else 2}
        assert {entry["images"] for entry in mine} == {4 if name == "naive" else 8}
        balanced = len(SyntheticBalancedDataset(images, CountingSampler()))
        epoch_images = len(images) if name == "real" else balanced
        assert {entry["epoch_images"] for entry in mine} == {epoch_images}
        assert text.count(f"\n| {name} |") == ways
    assert text.count("Over the naive way") == ways


def test_no_rounds_are_refused() -> None:
    with pytest.raises(SignforgeError, match="at least 1"):
        script.main(["--rounds", "0"])
