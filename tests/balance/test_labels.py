from array import array
from collections import UserList, deque
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from signforge.balance.labels import find_labels, known_class_names, spot_indices
from signforge.errors import SignforgeError

LABELS = [2, 0, 1, 1, 2, 0, 0, 1, 2, 2, 1, 0]


class Plain(Dataset):
    """Twelve items; keeps its labels only in the attribute asked for, and counts its reads."""

    def __init__(self, attribute=None, values=None, labels=LABELS):
        self.own = labels
        self.reads = 0
        if attribute:
            setattr(self, attribute, values)

    def __len__(self):
        return len(self.own)

    def __getitem__(self, index):
        self.reads += 1
        return torch.zeros(3, 4, 4, dtype=torch.uint8), self.own[index]


PAIRS = [(f"{i}.png", label) for i, label in enumerate(LABELS)]


@pytest.mark.parametrize(
    ("attribute", "values"),
    [
        ("targets", LABELS),
        ("targets", torch.tensor(LABELS)),
        ("targets", torch.tensor(LABELS, dtype=torch.uint8)),
        ("labels", np.array(LABELS, dtype=np.int16)),
        ("_samples", PAIRS),
        ("samples", PAIRS),
    ],
)
def test_stored_labels_are_found_without_reading_all(attribute, values):
    data = Plain(attribute, values)
    found = find_labels(data)
    assert found.dtype == torch.int64
    assert found.tolist() == LABELS
    assert data.reads == len({*spot_indices(12), 0, 1, 2}) < 12  # and the first of each class


@pytest.mark.parametrize(
    ("attribute", "values"),
    [
        (None, None),
        ("labels", dict(enumerate("abcdefghijkl"))),
        ("samples", 12),
        ("targets", ["a"] * 12),
        ("targets", torch.rand(12)),
        ("targets", np.array([None] * 12)),
        ("labels", ["stop", "yield", "no entry"]),
        ("targets", LABELS[:5]),
    ],
)
def test_what_holds_no_label_per_item_is_passed_over_for_one_pass(attribute, values):
    data = Plain(attribute, values)
    seen = []

    def track(items, description, total):
        seen.append((description, total))
        return iter(items)

    assert find_labels(data, track=track).tolist() == LABELS
    assert data.reads == 12
    assert seen == [("Reading labels", 12)]


class Column(Sequence):
    """As a data frame or ``datasets`` hands out one."""

    def __len__(self):
        return len(LABELS)

    def __getitem__(self, index):
        return LABELS[index]


def test_explicit_labels_come_first_in_any_integer_form():
    data = Plain("targets", [0] * 12)
    for labels in (
        LABELS,
        tuple(LABELS),
        torch.tensor(LABELS),
        np.array(LABELS),
        array("q", LABELS),
        deque(LABELS),
        UserList(LABELS),
        Column(),
        map(np.int64, LABELS),
    ):
        assert find_labels(data, labels).tolist() == LABELS


def test_wrappers_are_looked_through():
    inner = Plain("targets", LABELS)
    picked = Subset(Subset(inner, [11, 2, 5, 4]), [3, 0])
    tensors = TensorDataset(torch.zeros(3, 3, 4, 4), torch.tensor([5, 4, 3]))
    joined = ConcatDataset([picked, tensors, inner])
    assert find_labels(joined).tolist() == [2, 0, 5, 4, 3, *LABELS]
    # torch's Subset takes any sequence of indices, tensors included
    assert find_labels(Subset(inner, torch.tensor([1, 2]))).tolist() == [0, 1]


def test_a_part_without_stored_labels_means_one_pass():
    assert find_labels(ConcatDataset([Plain("targets", LABELS), Plain()])).tolist() == LABELS * 2


@pytest.mark.parametrize("place", [0, 11])
def test_labels_that_the_items_contradict(place):
    wrong = list(LABELS)
    wrong[place] = 1 - LABELS[place] if LABELS[place] < 2 else 0
    message = f"says that item {place} has label {wrong[place]}, but the item itself has"
    with pytest.raises(SignforgeError, match="targets of Plain " + message):
        find_labels(Plain("targets", wrong))
    with pytest.raises(SignforgeError, match="labels= of Plain " + message):
        find_labels(Plain(), wrong)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:-1], "holds 11 labels, but the data set has 12 items"),
        ([0.0] * 12, "one integer per item"),
        ([True] * 12, "one integer per item"),
        (np.zeros((12, 1), dtype=int), "one integer per item"),
        (deque([0.0] * 12), "one integer per item"),
        ("201120012210", "one integer per item"),
        (dict.fromkeys(range(12)), "one integer per item"),
        (set(range(12)), "one integer per item"),
        (12, "one integer per item"),
    ],
)
def test_bad_explicit_labels(labels, message):
    with pytest.raises(SignforgeError, match=message):
        find_labels(Plain(), labels)


def test_bad_items():
    with pytest.raises(SignforgeError, match=r"Item 0 .* label 'stop', which is not an integer"):
        find_labels(Plain(labels=["stop"]))
    with pytest.raises(SignforgeError, match=r"Item 1 has label -1; labels start at 0"):
        find_labels(Plain(labels=[0, -1]))
    with pytest.raises(SignforgeError, match=r"not a pair \(image, label\) but a tuple of 3"):
        find_labels(TensorDataset(*[torch.zeros(2, dtype=torch.int64)] * 3))


def test_iterable_datasets_are_refused():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(SignforgeError, match="Stream has no length: a map-style Dataset"):
        find_labels(Stream())


def test_known_class_names():
    named = Plain("classes", ["a", "b", "c"])
    assert known_class_names(named) == ("a", "b", "c")
    assert known_class_names(Subset(ConcatDataset([named, named]), [0])) == ("a", "b", "c")
    assert known_class_names(ConcatDataset([named, Plain()])) is None
    assert known_class_names(Plain()) is None


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 1000])
def test_spot_indices(n):
    indices = spot_indices(n)
    assert len(indices) == min(n, 8) == len(set(indices))
    assert indices[:1] + indices[-1:] == ([0, n - 1] if n else [])


class Remapped(Subset):
    """A part whose items have other labels than those that it wraps."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image, {0: 0, 1: 0, 2: 2}[label]

    def __getitems__(self, indices):
        return [self[index] for index in indices]


@pytest.mark.parametrize("kind", ["target_transform", "subset"])
def test_labels_that_items_get_only_when_they_are_read_are_read(kind):
    """Also where only a class that no spot check sees is another."""
    labels = [0] * 400 + [1] + [0] * 400 + [2]
    wanted = [0] * 801 + [2]
    if kind == "subset":
        data = Remapped(Plain("targets", labels, labels), range(802))
    else:
        data = Plain("targets", labels, wanted)
        data.target_transform = {0: 0, 1: 0, 2: 2}.get
    assert find_labels(data).tolist() == wanted


def test_one_item_of_each_class_is_looked_at():
    stored = [0] * 400 + [1] * 2 + [0] * 400
    with pytest.raises(SignforgeError, match=r"says that item 400 has label 1, .* itself has 0"):
        find_labels(Plain("targets", stored, [0] * 802))


def test_a_label_of_one_number_in_a_list_is_no_label():
    """It would not collate with the labels of synthetic items, which are numbers."""
    labels = torch.tensor(LABELS)[:, None]
    with pytest.raises(SignforgeError, match="which is not an integer"):
        find_labels(TensorDataset(torch.zeros(12, 3, 4, 4, dtype=torch.uint8), labels))
