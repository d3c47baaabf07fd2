import json

import pytest
import torch
from PIL import Image

from signforge.config import DataConfig
from signforge.data.checks import inspect_splits
from signforge.data.images import UNKNOWN_GROUP, LabeledImages, LabeledSplits
from signforge.data.inspect import LISTED, inspect_source, report_lines


def make(split: str, labels: list[int], groups: list[int] | None = None, seed: int = 0):
    n = len(labels)
    rng = torch.Generator().manual_seed(seed)
    return LabeledImages(
        images=torch.randint(256, (n, 3, 8, 8), generator=rng, dtype=torch.uint8),
        labels=torch.tensor(labels),
        groups=torch.tensor(groups or [UNKNOWN_GROUP] * n),
        class_names=("cat", "dog"),
        names=tuple(f"{split}/{i}.png" for i in range(n)),
        source="made",
    )


def lines_of(splits: LabeledSplits) -> list[str]:
    return report_lines(inspect_splits(splits, "made"))


def test_lines_give_totals_and_a_row_for_each_class():
    train = make("train", [0] * 1200 + [1] * 30, groups=[*[0] * 1200, *[1] * 30])
    lines = lines_of(LabeledSplits(train=train, test=make("test", [0, 1, 1], seed=1)))
    assert lines[0] == "made: 2 classes at 8x8, imbalance ratio 40.0:1."
    assert lines[1] == "train: 1,230 images, 2 tracks, 30 to 1,200 a class"
    assert lines[2] == "test: 3 images, tracks unknown, 1 to 2 a class"
    assert lines[3].startswith(
        "Training classes: 1 many (over 100 images), 1 medium (20 to 100), 0"
    )
    assert [line.split() for line in lines[5:8]] == [
        ["id", "class", "train", "test"],
        ["0", "cat", "1,200", "1"],
        ["1", "dog", "30", "2"],
    ]
    assert len({len(line) for line in lines[5:8]}) == 1
    assert "Duplicates within a split: 0" in lines
    assert "Duplicates across splits: 0" in lines
    assert lines[-1] == "Unreadable files: 0"


def test_a_class_without_images_has_no_ratio():
    lines = lines_of(LabeledSplits(train=make("train", [0, 0])))
    assert lines[0].endswith("imbalance ratio undefined (a class has no image).")


def test_lines_name_duplicates_unreadable_files_and_notes():
    train, test = make("train", [0, 1, 0, 1]), make("test", [0, 1], seed=1)
    train.images[2] = train.images[0]
    test.images[0] = train.images[1]
    lines = lines_of(
        LabeledSplits(
            train=train, test=test, notes=("mind the gap.",), unreadable=("x.png is truncated.",)
        )
    )
    assert "Duplicates within a split: 1" in lines
    assert "  train, class cat: train/0.png, train/2.png" in lines
    assert "Duplicates across splits: 1" in lines
    assert "  classes cat and dog: train train/1.png; test test/0.png" in lines
    assert lines[-3:] == ["Unreadable files: 1", "  x.png is truncated.", "Note: mind the gap."]


def test_long_lists_are_cut_and_say_so():
    n = LISTED + 3
    train = make("train", [0] * (2 * n))
    train.images[n:] = train.images[:n]
    splits = LabeledSplits(train=train, unreadable=tuple(f"{i}.png is bad." for i in range(n)))
    lines = lines_of(splits)
    assert f"Duplicates within a split: {n}" in lines
    assert sum(line.startswith("  train, class cat") for line in lines) == LISTED
    assert "  ... 3 more with --json" in lines
    assert f"Unreadable files: {n}" in lines
    assert sum(line.endswith("is bad.") for line in lines) == LISTED


@pytest.fixture
def folder(tmp_path, draw, encode):
    root = tmp_path / "signs"
    for place, (name, count) in enumerate({"ahead": 4, "stop": 2}.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.png").write_bytes(encode(draw(10 * place + i), "PNG"))
    return root


def test_a_source_is_inspected_with_pictures(folder, tmp_path):
    config = DataConfig(source=str(folder), resolution=16)
    out = tmp_path / "new" / "out"
    report, splits = inspect_source(config, out)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["class_names"] == ["ahead", "stop"]
    assert report["splits"]["train"]["class_counts"] == [4, 2]
    assert len(splits.train) == 6
    assert report["files"] == [str(out / "class_distribution.png"), str(out / "samples.png")]
    for path in report["files"]:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
            assert min(image.size) > 16
    assert report_lines(report)[-1] == f"Pictures: {', '.join(report['files'])}"


def test_without_a_place_no_picture_is_drawn(folder, tmp_path):
    report, _ = inspect_source(DataConfig(source=str(folder), resolution=16), None)
    assert "files" not in report
    assert [path.name for path in tmp_path.iterdir()] == ["signs"]


def test_an_unreadable_file_is_reported_not_raised(folder):
    (folder / "stop" / "1.png").write_bytes((folder / "stop" / "1.png").read_bytes()[:60])
    report, _ = inspect_source(DataConfig(source=str(folder), resolution=16), None)
    assert len(report["unreadable"]) == 1
    assert "1.png" in report["unreadable"][0]
    assert report["splits"]["train"]["class_counts"] == [4, 1]
