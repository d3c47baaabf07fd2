from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset

from signforge.data.images import UNKNOWN_GROUP, LabeledImages, LabeledSplits
from signforge.errors import SignforgeError


def make(n: int = 6, size: int = 4) -> LabeledImages:
    rng = torch.Generator().manual_seed(0)
    return LabeledImages(
        images=torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=rng),
        labels=torch.arange(n) % 3,
        groups=torch.arange(n) // 2,
        class_names=("cat", "dog", "eel"),
        names=tuple(f"{i}.png" for i in range(n)),
        source="made",
    )


def test_it_is_a_map_style_data_set():
    images = make()
    assert len(images) == 6
    image, label = images[4]
    assert torch.equal(image, images.images[4])
    assert label == 1
    assert isinstance(label, int)
    assert (images.num_classes, images.resolution) == (3, 4)
    assert images.targets == [0, 1, 2, 0, 1, 2]
    assert len(list(images)) == 6


@pytest.mark.parametrize("indices", [[], [3], [5, 0, 0, 2], [-1, 1]])
def test_a_batch_is_its_items(indices):
    images = make()
    batch = images.__getitems__(indices)
    assert len(batch) == len(indices)
    for (image, label), index in zip(batch, indices, strict=True):
        assert torch.equal(image, images[index][0])
        assert label == images[index][1]
        assert type(label) is int


def test_a_loader_gives_the_same_through_a_subset():
    images = make()
    batches = list(DataLoader(Subset(images, [5, 3, 1]), batch_size=2))
    assert torch.equal(torch.cat([batch[0] for batch in batches]), images.images[[5, 3, 1]])
    assert torch.cat([batch[1] for batch in batches]).tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("images", torch.zeros(6, 3, 4, 4), "images must be uint8 of shape .*, got torch.float32"),
        ("images", torch.zeros(6, 1, 4, 4, dtype=torch.uint8), r"got .*\(6, 1, 4, 4\)"),
        ("images", torch.zeros(6, 3, 4, dtype=torch.uint8), r"got .*\(6, 3, 4\)"),
        ("labels", torch.zeros(6), "labels must be int64"),
        ("labels", torch.zeros(5, dtype=torch.int64), r"labels must be int64 of shape \(6,\)"),
        ("labels", torch.zeros(6, 1, dtype=torch.int64), "labels must be int64"),
        ("groups", torch.zeros(6, dtype=torch.int32), "groups must be int64"),
        ("groups", torch.zeros(7, dtype=torch.int64), "groups must be int64"),
        ("names", ("a",), "6 images but 1 names"),
        (
            "labels",
            torch.tensor([0, 1, 3, 0, 9, 0]),
            r"2\.png has label 3, outside 0\.\.2; correct",
        ),
        ("labels", torch.tensor([0, 1, 2, -1, 0, 0]), r"3\.png has label -1, outside 0\.\.2"),
    ],
)
def test_what_is_not_as_promised_is_refused_with_its_source(field, value, message):
    with pytest.raises(SignforgeError, match=f"^made: .*{message}"):
        replace(make(), **{field: value})


def test_counts_have_a_place_for_every_class():
    images = replace(make(), class_names=("cat", "dog", "eel", "fox"))
    assert images.class_counts.tolist() == [2, 2, 2, 0]
    assert images.class_counts.dtype == torch.int64


def test_a_subset_keeps_order_names_groups_and_all_classes():
    images = make()
    subset = images.subset(torch.tensor([4, 1, 1]))
    assert torch.equal(subset.images, images.images[[4, 1, 1]])
    assert subset.labels.tolist() == [1, 1, 1]
    assert subset.groups.tolist() == [2, 0, 0]
    assert subset.names == ("4.png", "1.png", "1.png")
    assert subset.class_names == images.class_names
    assert subset.class_counts.tolist() == [0, 3, 0]
    assert subset.source == "made"


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_the_fingerprint_changes_with_any_pixel_label_or_group(data):
    images = make()
    field = data.draw(st.sampled_from(["images", "labels", "groups"]))
    values = getattr(images, field).clone()
    flat = values.view(-1)
    place = data.draw(st.integers(0, len(flat) - 1))
    if field == "images":
        flat[place] ^= data.draw(st.integers(1, 255))
    elif field == "labels":
        flat[place] = (flat[place] + data.draw(st.integers(1, 2))) % 3
    else:
        flat[place] += data.draw(st.sampled_from([-(2**40), -1, 1, 2**40]))
    assert replace(images, **{field: values}).fingerprint != images.fingerprint


def test_the_fingerprint_knows_order_classes_and_shape_but_no_names():
    images = make()
    same = replace(images, names=tuple("abcdef"), source="elsewhere")
    assert same.fingerprint == images.fingerprint
    assert images.subset(torch.arange(6)).fingerprint == images.fingerprint
    strided = images.images.contiguous(memory_format=torch.channels_last)
    assert replace(images, images=strided).fingerprint == images.fingerprint
    others = [
        images.subset(torch.tensor([1, 0, 2, 3, 4, 5])),
        images.subset(torch.arange(5)),
        replace(images, class_names=("cat", "dog", "eels")),
        replace(images, class_names=("cat", "dog", "eel", "fox")),
        replace(images, images=images.images[:, :, :2, :2]),
    ]
    prints = {other.fingerprint for other in others}
    assert len(prints) == len(others)
    assert images.fingerprint not in prints


def test_no_image_at_all_is_a_valid_split():
    empty = make().subset(torch.empty(0, dtype=torch.int64))
    assert len(empty) == 0
    assert empty.class_counts.tolist() == [0, 0, 0]
    assert len(empty.fingerprint) == 64
    assert empty.fingerprint != make().fingerprint


def test_examples_are_spread_over_each_class():
    images = make(30)
    rows = images.examples(3)
    for label, row in enumerate(rows):
        own = images.images[images.labels == label]
        assert torch.equal(row, own[[0, 4, 9]])
    assert [len(row) for row in images.examples(50)] == [10, 10, 10]
    only_dogs = images.subset((images.labels == 1).nonzero().squeeze(1))
    assert [len(row) for row in only_dogs.examples(2)] == [0, 2, 0]


def test_splits_are_named_in_order_and_absent_ones_left_out():
    images = make()
    assert list(LabeledSplits(train=images).named()) == ["train"]
    full = LabeledSplits(train=images, val=images, test=images)
    assert list(full.named()) == ["train", "val", "test"]
    assert list(LabeledSplits(train=images, test=images).named()) == ["train", "test"]


def test_an_unknown_group_is_no_group_number():
    assert UNKNOWN_GROUP < 0
