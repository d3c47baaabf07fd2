import json
from pathlib import Path

import pytest
import torch

from signforge.data.checks import Duplicate, find_duplicates, inspect_splits
from signforge.data.images import UNKNOWN_GROUP, LabeledImages, LabeledSplits


def make_images(split: str, labels: list[int], groups: list[int], seed: int) -> LabeledImages:
    rng = torch.Generator().manual_seed(seed)
    n = len(labels)
    return LabeledImages(
        images=torch.randint(256, (n, 3, 8, 8), generator=rng, dtype=torch.uint8),
        labels=torch.tensor(labels),
        groups=torch.tensor(groups),
        class_names=("cat", "dog", "eel"),
        names=tuple(f"{split}/{i}.png" for i in range(n)),
        source="made",
    )


@pytest.fixture
def splits() -> LabeledSplits:
    train = make_images("train", [0, 0, 0, 0, 1, 1, 2], [1, 1, 2, 2, 3, 3, UNKNOWN_GROUP], seed=0)
    test = make_images("test", [0, 1, 2], [UNKNOWN_GROUP] * 3, seed=1)
    return LabeledSplits(
        train=train, test=test, notes=("a note",), unreadable=("train/x.png is truncated.",)
    )


def test_clean_splits_have_no_duplicates(splits):
    assert find_duplicates(splits) == []


def test_report_has_sizes_counts_and_groups(splits):
    report = inspect_splits(splits, "made")
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["num_classes"] == 3
    assert report["class_names"] == ["cat", "dog", "eel"]
    assert report["imbalance_ratio"] == 4
    assert report["shot_groups"] == ["few", "few", "few"]
    assert list(report["splits"]) == ["train", "test"]
    train, test = report["splits"]["train"], report["splits"]["test"]
    assert (train["images"], train["groups"], train["class_counts"]) == (7, 3, [4, 2, 1])
    assert (test["images"], test["groups"], test["class_counts"]) == (3, None, [1, 1, 1])
    assert report["duplicates"] == {"within": [], "across": []}
    assert report["unreadable"] == ["train/x.png is truncated."]
    assert report["notes"] == ["a note"]


def test_class_without_images_has_no_finite_ratio():
    report = inspect_splits(LabeledSplits(train=make_images("train", [0, 1], [1, 2], 0)), "made")
    assert report["imbalance_ratio"] is None


def test_equal_pixels_are_found_within_and_across_splits(splits):
    train, test = splits.train, splits.test
    assert test is not None
    train.images[3] = train.images[1]
    test.images[0] = train.images[1]
    test.images[1] = train.images[6]
    assert find_duplicates(splits) == [
        Duplicate({"train": ("train/1.png", "train/3.png"), "test": ("test/0.png",)}, ("cat",)),
        Duplicate({"train": ("train/6.png",), "test": ("test/1.png",)}, ("dog", "eel")),
    ]
    duplicates = inspect_splits(splits, "made")["duplicates"]
    assert duplicates["within"] == [
        {"split": "train", "class": "cat", "files": ["train/1.png", "train/3.png"]}
    ]
    assert duplicates["across"] == [
        {
            "class": "cat",
            "files": {"train": ["train/1.png", "train/3.png"], "test": ["test/0.png"]},
        },
        {
            "class": None,
            "classes": ["dog", "eel"],
            "files": {"train": ["train/6.png"], "test": ["test/1.png"]},
        },
    ]


def test_one_changed_pixel_is_no_duplicate(splits):
    splits.train.images[1] = splits.train.images[0]
    splits.train.images[1, 2, 7, 7] ^= 1
    assert find_duplicates(splits) == []


def test_images_that_share_storage_are_read_right():
    """A channels-last or expanded tensor must be compared by its values."""
    train = make_images("train", [0, 1], [1, 2], 0)
    strided = train.images.to(memory_format=torch.channels_last)
    view = LabeledImages(
        strided, train.labels, train.groups, train.class_names, ("a", "b"), "strided"
    )
    found = find_duplicates(LabeledSplits(train=train, test=view))
    assert [d.files["test"] for d in found] == [("a",), ("b",)]


@pytest.mark.slow
def test_leaked_images_of_gtsrb_are_named(data_root: Path):
    from signforge.config import DataConfig
    from signforge.data.load import load_splits

    splits = load_splits(DataConfig(source=str(data_root / "gtsrb")))
    duplicates = find_duplicates(splits)
    report = inspect_splits(splits, "gtsrb")
    assert report["splits"]["train"]["images"] == 39_209
    assert report["splits"]["train"]["groups"] == 1_307
    assert report["splits"]["test"]["images"] == 12_630
    assert report["splits"]["test"]["groups"] is None
    across = report["duplicates"]["across"]
    assert len(across) <= len(duplicates)
    leaked = [name for entry in across for name in entry["files"]["test"]]
    assert sorted(Path(name).stem for name in leaked) == sorted(
        ["02291", "11906", "04548", "09384", "03546", "03594", "09575", "00666"]
    )
    for entry in across:
        assert entry["class"] == report["class_names"][14]
        assert all("00023_" in name for name in entry["files"]["train"])
