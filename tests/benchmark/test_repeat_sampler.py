from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from signforge.benchmark.repeat_sampler import RepeatSampler
from signforge.errors import SignforgeError


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
