"""Hugging Face data sets, made here, as pairs and as LabeledImages."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from signforge_transformers import ImageLabelPairs, to_labeled_images

from signforge import DataConfig, SignforgeError, SyntheticBalancedDataset, load_prepared_splits
from support import CLASS_NAMES, NoiseSampler, labeled_images

REAL = labeled_images(seed=100)
LEXICOGRAPHIC = sorted(str(number) for number in range(12))


def make_rows(names: tuple[str, ...] = CLASS_NAMES, **columns: Any) -> datasets.Dataset:
    """REAL with image, label and further columns."""
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in REAL.images]
    data = {"image": images, "label": REAL.targets, **columns}
    label = datasets.ClassLabel(names=list(names))
    features = {"image": datasets.Image(), "label": label}
    further = {name: datasets.Value("string") for name in columns}
    return datasets.Dataset.from_dict(data, features=datasets.Features({**features, **further}))


def small_rows(labels: list[Any], names: list[str]) -> datasets.Dataset:
    """One grey row of each label, as bright as the class's name says."""
    images = [
        Image.fromarray(
            np.full((4, 4), 20 * int(names[label]) if label and label > 0 else 0, np.uint8)
        )
        for label in labels
    ]
    features = {"pixels": datasets.Image(), "sign": datasets.ClassLabel(names=names)}
    return datasets.Dataset.from_dict(
        {"pixels": images, "sign": labels}, features=datasets.Features(features)
    )


def test_pairs_are_the_rows() -> None:
    pairs = ImageLabelPairs(make_rows())
    assert pairs.class_names == CLASS_NAMES
    assert pairs.targets == REAL.targets
    assert len(pairs) == len(REAL)
    for index, (image, label) in enumerate(pairs):
        assert label == REAL.targets[index]
        assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1), REAL.images[index])
    assert [label for _, label in pairs.__getitems__([31, 0])] == [REAL.targets[31], 0]


def test_a_selection_with_format_and_transform_gives_the_same_rows() -> None:
    rows = make_rows().select([30, 3]).with_transform(lambda _: {"label": [0, 0]})
    pairs = ImageLabelPairs(rows)
    assert pairs.targets == [REAL.targets[30], REAL.targets[3]]
    assert torch.equal(torch.from_numpy(np.array(pairs[0][0])).permute(2, 0, 1), REAL.images[30])


def test_pairs_fill_a_balanced_data_set() -> None:
    train = SyntheticBalancedDataset(ImageLabelPairs(make_rows()), NoiseSampler())
    assert train.class_counts.tolist() == [24, 24, 24]
    image, label = train[len(train) - 1]
    assert (image.mode, image.size, label) == ("RGB", (8, 8), 2)


def test_labels_follow_the_class_label_feature_and_not_the_number_in_the_name() -> None:
    rows = small_rows(list(range(12)), LEXICOGRAPHIC)
    pairs = ImageLabelPairs(rows)
    assert pairs.class_names[:4] == ("0", "1", "10", "11")
    for image, label in pairs:
        assert image.getpixel((0, 0)) == (20 * int(pairs.class_names[label]),) * 3


def test_labels_count_in_the_order_asked_for() -> None:
    numeric = [str(number) for number in range(12)]
    pairs = ImageLabelPairs(small_rows(list(range(12)), LEXICOGRAPHIC), class_names=numeric)
    assert pairs.class_names == tuple(numeric)
    assert pairs.targets == [int(name) for name in LEXICOGRAPHIC]
    for image, label in pairs:
        assert image.getpixel((0, 0)) == (20 * label,) * 3


def test_the_order_of_another_generator_is_caught() -> None:
    other = ("yield", "ahead", "stop")
    with pytest.raises(SignforgeError, match="Class 0 is 'yield' in the real data but 'ahead'"):
        SyntheticBalancedDataset(ImageLabelPairs(make_rows(other)), NoiseSampler())
    pairs = ImageLabelPairs(make_rows(other), class_names=CLASS_NAMES)
    train = SyntheticBalancedDataset(pairs, NoiseSampler())
    assert train.real_counts.tolist() == [6, 2, 24]


def test_labeled_images_are_the_rows() -> None:
    images = to_labeled_images(make_rows())
    assert torch.equal(images.images, REAL.images)
    assert torch.equal(images.labels, REAL.labels)
    assert images.class_names == CLASS_NAMES
    assert images.fingerprint == REAL.fingerprint


def test_groups_are_told_apart_by_class() -> None:
    tracks = [f"{index % 4:05d}" for index in range(len(REAL))]
    images = to_labeled_images(make_rows(track=tracks), group_column="track", resolution=16)
    assert images.resolution == 16
    expected = list(zip(REAL.targets, tracks, strict=True))
    for i, one in enumerate(expected):
        same = [one == other for other in expected]
        assert (images.groups == images.groups[i]).tolist() == same


def test_rows_without_a_group_are_of_unknown_group() -> None:
    tracks = [None if index % 3 == 0 else f"{index % 2}" for index in range(len(REAL))]
    groups = to_labeled_images(make_rows(track=tracks), group_column="track").groups.tolist()
    assert [group == -1 for group in groups] == [track is None for track in tracks]
    known = {
        (target, track): group
        for target, track, group in zip(REAL.targets, tracks, groups, strict=True)
        if track is not None
    }
    assert len(set(known.values())) == len(known)


def test_lists_cannot_be_groups() -> None:
    rows = make_rows()
    rows = rows.add_column("track", [[index] for index in range(len(rows))])
    with pytest.raises(SignforgeError, match="Row 0 has a list in column 'track', which cannot"):
        to_labeled_images(rows, group_column="track")


def test_an_npz_of_them_is_a_source_of_the_command_line(tmp_path: Path) -> None:
    images = to_labeled_images(make_rows())
    path = tmp_path / "signs.npz"
    np.savez(path, images=images.images, labels=images.labels, class_names=images.class_names)
    splits = load_prepared_splits(
        DataConfig(
            source=str(path), resolution=8, val_fraction=0.1, test_fraction=0.1, classes=("0", "1")
        )
    )
    assert splits.train.class_names == CLASS_NAMES[:2]


@pytest.mark.parametrize(
    ("make_pairs", "message"),
    [
        (lambda: ImageLabelPairs({"train": make_rows()}), "one split as a datasets.Dataset"),
        (lambda: ImageLabelPairs(make_rows().to_iterable_dataset()), "not streamed"),
        (
            lambda: ImageLabelPairs(make_rows(), label_column="lable"),
            "no column 'lable'.*image, label",
        ),
        (lambda: ImageLabelPairs(make_rows(), image_column="label"), "is ClassLabel, not Image"),
        (
            lambda: ImageLabelPairs(make_rows().remove_columns("label")),
            "0 columns of type ClassLabel",
        ),
        (lambda: ImageLabelPairs(make_rows(), class_names=("ahead", "stop")), "no 'yield'"),
        (lambda: ImageLabelPairs(small_rows([1, -1], ["0", "1"])), "Row 1 has no label"),
        (lambda: ImageLabelPairs(small_rows([1, None], ["0", "1"])), "Row 1 has no label"),
        (lambda: to_labeled_images(make_rows(), group_column="track"), "no column 'track'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(make_pairs: Any, message: str) -> None:
    with pytest.raises(SignforgeError, match=message):
        make_pairs()


def test_a_row_without_image_is_named() -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["stop"])}
    )
    rows = datasets.Dataset.from_dict({"image": [None], "label": [0]}, features=features)
    with pytest.raises(SignforgeError, match="Row 0 has no image"):
        ImageLabelPairs(rows)[0]
