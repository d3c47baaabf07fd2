import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from signforge.balance.folds import NO_FOLD, group_folds, single_group_classes
from signforge.data.images import UNKNOWN_GROUP, LabeledImages
from signforge.errors import SignforgeError


def make_images(labels, groups):
    n = len(labels)
    return LabeledImages(
        images=torch.zeros(n, 3, 8, 8, dtype=torch.uint8),
        labels=torch.tensor(labels, dtype=torch.int64),
        groups=torch.tensor(groups, dtype=torch.int64),
        class_names=tuple("abcd"),
        names=tuple(map(str, range(n))),
        source="test",
    )


# (class, group within it, -1 for unknown) of each image
images_of_groups = st.lists(
    st.tuples(st.integers(0, 3), st.integers(-1, 4)), min_size=1, max_size=60
).map(
    lambda pairs: make_images(
        [label for label, _ in pairs],
        [UNKNOWN_GROUP if group < 0 else 10 * label + group for label, group in pairs],
    )
)


@settings(deadline=None, max_examples=100)
@given(images_of_groups, st.integers(2, 5), st.integers(0, 99))
def test_no_group_is_broken_and_no_class_is_in_one_fold_alone(images, folds, seed):
    fold_of = group_folds(images, folds, seed=seed)
    single = single_group_classes(images)
    for label in range(4):
        rows = images.labels == label
        found = set(fold_of[rows].tolist())
        if int(rows.sum()) < 2:
            assert found <= {NO_FOLD}
        else:
            assert found <= set(range(folds))
            assert len(found) >= 2
    for group in set(images.groups.tolist()) - {UNKNOWN_GROUP}:
        rows = images.groups == group
        if int(images.labels[rows][0]) not in single:
            assert len(set(fold_of[rows].tolist())) == 1


def test_classes_are_cut_evenly_and_so_is_the_whole():
    labels = [label for label in range(4) for _ in range(3 * 30)]
    groups = [place // 30 for place in range(len(labels))]
    fold_of = group_folds(make_images(labels, groups), 2, seed=0)
    counts = [
        torch.bincount(fold_of[torch.tensor(labels) == label], minlength=2).tolist()
        for label in range(4)
    ]
    assert all(sorted(pair) == [30, 60] for pair in counts)
    assert torch.bincount(fold_of).tolist() == [180, 180]


@pytest.mark.parametrize("seed", range(8))
def test_large_groups_are_placed_first(seed):
    sizes = [10, 10, 40, 10, 10]
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    fold_of = group_folds(make_images([0] * 80, groups), 2, seed=seed)
    assert torch.bincount(fold_of).tolist() == [40, 40]


def test_the_choice_of_groups_is_drawn():
    images = make_images([0] * 20 + [1] * 20, list(range(40)))
    first = group_folds(images, 2, seed=0)
    assert torch.equal(first, group_folds(images, 2, seed=0))
    assert not torch.equal(first, group_folds(images, 2, seed=1))


def test_a_single_group_is_cut_into_runs():
    # neighbouring frames of a track look most alike
    images = make_images([0] * 7 + [1] * 2 + [2], [5] * 7 + [6, 7] + [UNKNOWN_GROUP])
    fold_of = group_folds(images, 3, seed=0).tolist()
    assert sorted(len(set(part)) for part in (fold_of[:3], fold_of[3:5], fold_of[5:7])) == [1] * 3
    assert len(set(fold_of[:7])) == 3
    assert fold_of[9] == NO_FOLD
    assert single_group_classes(images) == (0, 2)


def test_one_fold_is_no_cross_fitting():
    with pytest.raises(SignforgeError, match="at least 2 folds, got 1"):
        group_folds(make_images([0], [0]), 1, seed=0)
