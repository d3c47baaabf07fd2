from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from signforge.benchmark.arms import (
    ARMS,
    ArmContext,
    RepeatSampler,
    needs_generator,
    select_arms,
)
from signforge.config import BalanceConfig
from signforge.errors import SignforgeError


def context(sampler=None, seed=0, **balance):
    return ArmContext(seed=seed, sampler=sampler, balance=BalanceConfig(**balance))


def test_real_is_the_data_untouched(splits):
    setup = ARMS["real"](splits.train, context())
    assert setup.dataset is splits.train
    assert setup.sampler is None
    assert setup.class_counts == tuple(splits.train.class_counts.tolist())
    assert not setup.uses_generator


@pytest.mark.parametrize("balance", [{}, {"max_synthetic_fraction": 0.5}])
def test_oversample_shows_the_same_classes_as_synthetic(splits, sampler, balance):
    repeated = ARMS["oversample"](splits.train, context(**balance))
    synthetic = ARMS["synthetic"](splits.train, context(sampler, **balance))
    assert repeated.class_counts == synthetic.class_counts
    assert synthetic.uses_generator
    assert not repeated.uses_generator
    shown = Counter(splits.train.labels[list(repeated.sampler)].tolist())
    assert tuple(shown[c] for c in range(4)) == repeated.class_counts
    drawn = Counter(int(synthetic.dataset[i][1]) for i in range(len(synthetic.dataset)))
    assert tuple(drawn[c] for c in range(4)) == synthetic.class_counts


@settings(deadline=None, max_examples=50)
@given(
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    extra=st.lists(st.integers(0, 50), min_size=6, max_size=6),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 5),
)
def test_repetitions_are_even_and_complete(counts, extra, seed, epoch):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    targets = torch.tensor([n + more for n, more in zip(counts, extra, strict=False)])
    sampler = RepeatSampler(labels, targets, seed=seed)
    sampler.set_epoch(epoch)
    indices = list(sampler)
    assert len(indices) == len(sampler) == int(targets.sum())
    assert torch.bincount(labels[indices], minlength=len(counts)).equal(targets)
    times = torch.bincount(torch.tensor(indices), minlength=len(labels))
    for label in range(len(counts)):
        of_class = times[labels == label]
        assert int(of_class.max()) - int(of_class.min()) <= 1
        assert int(of_class.min()) >= 1


def test_epochs_differ_and_repeat_by_seed():
    labels = torch.tensor([0] * 20 + [1] * 3)
    targets = torch.tensor([20, 20])

    def order(seed, epoch):
        sampler = RepeatSampler(labels, targets, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    # The images of the partial repetition change between epochs too.
    partial = {tuple(Counter(order(0, epoch))[20 + i] for i in range(3)) for epoch in range(20)}
    assert len(partial) > 1


def test_a_class_without_images_cannot_be_repeated():
    with pytest.raises(SignforgeError, match="Class 1 has no real image"):
        RepeatSampler(torch.tensor([0, 0]), torch.tensor([2, 2]), seed=0)


def test_synthetic_needs_a_generator(splits):
    with pytest.raises(SignforgeError, match="generator"):
        ARMS["synthetic"](splits.train, context())
    assert needs_generator(("real", "synthetic+mine"))
    assert not needs_generator(("real", "oversample"))


def test_unknown_arms_are_named_with_the_known_ones():
    with pytest.raises(
        SignforgeError,
        match=r"'oversampel' \(did you mean oversample\?\): the arms are real, oversample",
    ):
        select_arms(["real", "oversampel"])
    with pytest.raises(SignforgeError, match="No arm"):
        select_arms([])


def test_a_users_own_arm_is_one_more_function():
    def halved(train, context):
        return ARMS["real"](train.subset(torch.arange(0, len(train), 2)), context)

    arms = {**ARMS, "halved": halved}
    assert select_arms(["halved", "real", "halved"], arms) == {
        "halved": halved,
        "real": ARMS["real"],
    }
    assert "halved" not in ARMS
