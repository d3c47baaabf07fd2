import math
from collections import Counter, defaultdict
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from signforge.config import DataConfig
from signforge.data.images import UNKNOWN_GROUP, LabeledImages, LabeledSplits
from signforge.data.splits import (
    imbalance_ratio,
    limit_groups,
    long_tail,
    prepare_splits,
    shot_group,
    split_by_group,
)
from signforge.errors import SignforgeError

SEEDS = st.integers(0, 2**31)


def make_images(group_sizes: list[list[int]], *, known: bool = True) -> LabeledImages:
    """group_sizes[c] lists the sizes of the groups of class c; images hold their own index."""
    labels, groups = [], []
    for label, sizes in enumerate(group_sizes):
        for place, size in enumerate(sizes):
            labels += [label] * size
            groups += [label * 1000 + place if known else UNKNOWN_GROUP] * size
    n = len(labels)
    pixels = torch.arange(n, dtype=torch.int64)[:, None] // torch.tensor([1, 256, 65536]) % 256
    return LabeledImages(
        images=pixels.to(torch.uint8)[:, :, None, None].expand(n, 3, 8, 8).contiguous(),
        labels=torch.tensor(labels, dtype=torch.int64),
        groups=torch.tensor(groups, dtype=torch.int64),
        class_names=tuple(f"class {c}" for c in range(len(group_sizes))),
        names=tuple(f"{i:05d}.png" for i in range(n)),
        source="made",
    )


def group_sizes(min_groups: int = 1) -> st.SearchStrategy[list[list[int]]]:
    sizes = st.lists(st.integers(1, 9), min_size=min_groups, max_size=7)
    return st.lists(sizes, min_size=1, max_size=5)


def attainable(sizes: list[int], target: float, most: int) -> float:
    """Reference by brute force: the smallest distance to target that any choice reaches."""
    sums = {sum(choice) for k in range(1, len(sizes) + 1) for choice in combinations(sizes, k)}
    return min(abs(s - target) for s in sums if s <= most)


@settings(deadline=None, max_examples=60)
@given(sizes=group_sizes(), fraction=st.floats(0.05, 0.95), seed=SEEDS)
def test_split_is_a_partition_by_whole_groups_nearest_to_the_fraction(sizes, fraction, seed):
    images = make_images(sizes)
    kept, held_out = split_by_group(images, holdout_fraction=fraction, seed=seed)
    assert sorted(kept.names + held_out.names) == sorted(images.names)
    assert not set(kept.groups.tolist()) & set(held_out.groups.tolist())
    for label, of_class in enumerate(sizes):
        assert kept.class_counts[label] > 0
        count = int(held_out.class_counts[label])
        if len(of_class) == 1:
            assert count == 0
        else:
            total = sum(of_class)
            distance = abs(count - fraction * total)
            assert distance == attainable(of_class, fraction * total, total - 1)


@settings(deadline=None, max_examples=30)
@given(sizes=group_sizes(), seed=SEEDS, order_seed=SEEDS)
def test_split_does_not_depend_on_image_order(sizes, seed, order_seed):
    images = make_images(sizes)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(order_seed))
    _, held_out = split_by_group(images, holdout_fraction=0.3, seed=seed)
    _, again = split_by_group(images.subset(order), holdout_fraction=0.3, seed=seed)
    assert set(held_out.names) == set(again.names)


def test_seed_decides_which_groups_are_held_out():
    images = make_images([[30] * 10, [30] * 10])
    chosen = {
        tuple(split_by_group(images, holdout_fraction=0.2, seed=seed)[1].groups.unique().tolist())
        for seed in range(8)
    }
    assert len(chosen) > 1
    first, again = (split_by_group(images, holdout_fraction=0.2, seed=3) for _ in range(2))
    assert first[1].fingerprint == again[1].fingerprint


def test_unknown_groups_are_split_image_by_image():
    images = make_images([[50], [10]], known=False)
    kept, held_out = split_by_group(images, holdout_fraction=0.2, seed=0)
    assert held_out.class_counts.tolist() == [10, 2]
    assert kept.class_counts.tolist() == [40, 8]


def test_large_classes_of_single_images_are_split_quickly():
    images = make_images([[20_000]], known=False)
    _, held_out = split_by_group(images, holdout_fraction=0.25, seed=0)
    assert len(held_out) == 5_000


def test_group_that_spans_classes_is_refused():
    images = make_images([[2], [2]])
    shared = LabeledImages(
        images.images, images.labels, torch.tensor([0, 7, 7, 8]), images.class_names,
        images.names, images.source,
    )  # fmt: skip
    with pytest.raises(SignforgeError, match="group 7 holds images of two classes"):
        split_by_group(shared, holdout_fraction=0.5, seed=0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, math.nan])
def test_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(SignforgeError, match="between 0 and 1"):
        split_by_group(make_images([[2, 2]]), holdout_fraction=fraction, seed=0)


@settings(deadline=None, max_examples=60)
@given(
    sizes=group_sizes(),
    ratio=st.floats(1, 200),
    profile=st.sampled_from(["exp", "step"]),
    seed=SEEDS,
)
def test_long_tail_keeps_whole_groups_nearest_to_the_target(sizes, ratio, profile, seed):
    images = make_images(sizes)
    tail = long_tail(images, imbalance_ratio=ratio, profile=profile, seed=seed)
    whole = Counter(images.groups.tolist())
    assert all(whole[group] == n for group, n in Counter(tail.groups.tolist()).items())
    counts = [sum(of_class) for of_class in sizes]
    classes = len(counts)
    ranked = sorted(range(classes), key=lambda label: (-counts[label], label))
    for rank, label in enumerate(ranked):
        if profile == "exp":
            target = max(counts) * ratio ** (-rank / max(classes - 1, 1))
        else:
            target = max(counts) / (ratio if rank >= math.ceil(classes / 2) else 1)
        distance = abs(int(tail.class_counts[label]) - target)
        nearest = attainable(sizes[label], target, counts[label])
        assert distance == pytest.approx(nearest, abs=1e-6)


def test_long_tail_of_single_images_has_the_exact_profile():
    images = make_images([[100]] * 5, known=False)
    exp = long_tail(images, imbalance_ratio=100, seed=0)
    assert exp.class_counts.tolist() == [100, 32, 10, 3, 1]
    assert imbalance_ratio(exp.class_counts) == 100
    step = long_tail(images, imbalance_ratio=10, profile="step", seed=0)
    assert step.class_counts.tolist() == [100, 100, 100, 10, 10]


def test_long_tail_leaves_an_absent_class_absent():
    tail = long_tail(make_images([[40] * 5, [], [10] * 5]), imbalance_ratio=10, seed=0)
    assert tail.class_counts.tolist() == [200, 0, 20]


def test_ratio_below_1_is_refused():
    for ratio in (0.5, float("nan")):
        with pytest.raises(SignforgeError, match=f"at least 1, got {ratio}"):
            long_tail(make_images([[2]]), imbalance_ratio=ratio, seed=0)


def test_imbalance_ratio_and_shot_groups():
    counts = torch.tensor([101, 100, 20, 19])
    assert imbalance_ratio(counts) == pytest.approx(101 / 19)
    assert shot_group(counts) == ["many", "medium", "medium", "few"]
    assert imbalance_ratio(torch.tensor([3, 0])) == math.inf


def test_prepare_cuts_what_the_source_lacks_and_says_so():
    source = make_images([[10] * 10, [10] * 5])
    prepared = prepare_splits(
        DataConfig(test_fraction=0.2, val_fraction=0.25, imbalance_ratio=6),
        LabeledSplits(train=source),
    )
    assert prepared.test.class_counts.tolist() == [20, 10]
    assert prepared.val.class_counts.tolist() == [20, 10]
    assert prepared.train.class_counts.tolist() == [60, 10]
    assert [note.split(" from")[0] for note in prepared.notes] == [
        "Cut test", "Cut val", "Cut train",
    ]  # fmt: skip
    in_split = defaultdict(set)
    for name in ("train", "val", "test"):
        for group in getattr(prepared, name).groups.tolist():
            in_split[group].add(name)
    assert all(len(names) == 1 for names in in_split.values())


def test_each_cut_has_a_share_of_its_own():
    source = make_images([[10] * 10, [5] * 20])
    config = DataConfig(test_fraction=0.1, val_fraction=0.4)
    prepared = prepare_splits(config, LabeledSplits(train=source))
    assert prepared.test.class_counts.tolist() == [10, 10]
    # 0.4 of the 90 that are left, in whole groups.
    assert prepared.val.class_counts.tolist() == [40, 35]
    assert prepared.train.class_counts.tolist() == [50, 55]


def test_prepare_leaves_the_splits_of_the_source_alone():
    train, val, test = (make_images([[size] * 2] * 2) for size in (3, 4, 5))
    prepared = prepare_splits(DataConfig(), LabeledSplits(train=train, val=val, test=test))
    assert (prepared.train, prepared.val, prepared.test) == (train, val, test)
    assert prepared.notes == ()


def test_prepare_names_classes_that_cannot_be_split():
    source = make_images([[10] * 3, [10] * 2, [10]])
    with pytest.raises(
        SignforgeError, match=r"takes 3 groups .* class 1 \(2\), class 2 \(1\); add more"
    ):
        prepare_splits(DataConfig(), LabeledSplits(train=source))


@pytest.mark.parametrize("lacking", ["train", "val", "test"])
def test_prepare_names_classes_that_a_split_lacks(lacking):
    full, partial = make_images([[10] * 3, [10] * 3]), make_images([[10] * 3, []])
    splits = dict.fromkeys(("train", "val", "test"), full) | {lacking: partial}
    with pytest.raises(SignforgeError, match=f"{lacking} has no image of class 1; add"):
        prepare_splits(DataConfig(), LabeledSplits(**splits))


def test_prepare_tells_of_unknown_groups():
    source = make_images([[20], [20]], known=False)
    prepared = prepare_splits(DataConfig(), LabeledSplits(train=source))
    assert "image by image" in prepared.notes[0]


@settings(deadline=None, max_examples=60)
@given(sizes=group_sizes(min_groups=2), seed=SEEDS, order_seed=SEEDS)
def test_limit_groups_keeps_whole_groups_nested_by_the_limit(sizes, seed, order_seed):
    images = make_images(sizes)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(order_seed))
    kept_before: set[str] = set()
    for limit in range(1, len(sizes[0]) + 1):
        kept = limit_groups(images, {0: limit}, seed)
        assert kept.class_counts.tolist()[1:] == images.class_counts.tolist()[1:]
        groups = kept.groups[kept.labels == 0].unique().tolist()
        assert len(groups) == limit
        assert int(kept.class_counts[0]) == sum(sizes[0][group] for group in groups)
        assert kept_before <= set(kept.names)
        kept_before = set(kept.names)
        again = limit_groups(images.subset(order), {0: limit}, seed)
        assert set(again.names) == kept_before
    assert len(kept_before) == len(images)


def test_limit_groups_of_one_class_does_not_depend_on_the_others():
    images = make_images([[3] * 8, [4] * 8, [2] * 8])
    alone = limit_groups(images, {1: 2}, seed=5)
    together = limit_groups(images, {2: 3, 1: 2, 0: 1}, seed=5)
    groups = [set(kept.groups[kept.labels == 1].tolist()) for kept in (alone, together)]
    assert groups[0] == groups[1]
    assert together.class_counts.tolist() == [3, 8, 6]
    seeds = {
        tuple(limit_groups(images, {1: 2}, seed=seed).groups.unique().tolist()) for seed in range(9)
    }
    assert len(seeds) > 1


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({0: 3}, "class class 0 has 2 groups, so 1 to 2 of them can be kept, not 3"),
        ({0: 0}, "not 0"),
        ({2: 1}, "there is no class 2"),
    ],
)
def test_limit_groups_that_cannot_be(limits, message):
    with pytest.raises(SignforgeError, match=message):
        limit_groups(make_images([[2, 2], [3]]), limits, seed=0)


@pytest.mark.parametrize("sizes", [[1, 1, 8], [2, 2, 2, 30], [5, 5, 5], [1, 2, 40, 3]])
def test_the_first_of_two_cuts_leaves_groups_for_the_second(sizes):
    """Also where the share is met best by all groups but one."""
    images = make_images([sizes, [4] * 10])
    found = prepare_splits(DataConfig(), LabeledSplits(train=images))
    for split in (found.train, found.val, found.test):
        assert int(split.class_counts.min()) > 0
    groups = [set(split.groups.tolist()) for split in (found.train, found.val, found.test)]
    assert set.union(*groups) == set(images.groups.tolist())
    assert sum(map(len, groups)) == len(set(images.groups.tolist()))
