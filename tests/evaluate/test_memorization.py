import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.evaluate.memorization import (
    MemorizationReport,
    memorization_report,
    nearest_in_class,
    pixels,
)

CLASSES, D = 3, 5


def labelled(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features around a point of their class, and the labels."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    return torch.randn(n, D, generator=rng) + labels[:, None], labels


def report(samples: Tensor, labels: Tensor, quantile: float = 0.05) -> MemorizationReport:
    train, control = labelled(600, 0), labelled(600, 1)
    return memorization_report(samples, labels, *train, *control, quantile=quantile)


def test_a_copycat_is_flagged() -> None:
    train, labels = labelled(600, 0)
    rows = torch.randperm(600, generator=torch.Generator().manual_seed(9))[:150]
    found = report(train[rows], labels[rows])
    assert found.macro_share == found.worst_class_share == 1.0
    assert found.per_class_share == (1.0,) * CLASSES
    assert found.median_ratio == pytest.approx(0, abs=1e-6)
    assert torch.equal(found.neighbours.indices, rows)


def test_a_slight_change_does_not_hide_a_copy() -> None:
    train, labels = labelled(600, 0)
    noise = 0.05 * torch.randn(600, D, generator=torch.Generator().manual_seed(5))
    assert report(train + noise, labels).macro_share > 0.95


@pytest.mark.parametrize("quantile", [0.05, 0.2])
def test_unseen_real_images_are_at_the_quantile(quantile: float) -> None:
    """4,000 draws each: the control's own quantile and the share have errors below a point."""
    train = labelled(1500, 0)
    found = memorization_report(*labelled(4000, 2), *train, *labelled(4000, 1), quantile=quantile)
    assert found.macro_share == pytest.approx(quantile, abs=0.02)
    assert found.median_ratio == pytest.approx(1, abs=0.05)


def test_one_class_that_is_copied_is_named() -> None:
    train, train_labels = labelled(600, 0)
    samples, labels = labelled(600, 2)
    samples[labels == 1] = train[train_labels == 1]
    found = report(samples, labels)
    assert (found.worst_class, found.worst_class_share) == (1, 1.0)
    assert found.per_class_share[0] < 0.15
    assert found.macro_share == pytest.approx(sum(found.per_class_share) / CLASSES)
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False)) == found.as_dict()
    assert "neighbours" not in found.as_dict()


def test_copies_in_the_control_leave_no_ratio() -> None:
    train = labelled(60, 0)
    found = memorization_report(*labelled(60, 2), *train, *train)
    assert found.median_ratio is None
    assert found.macro_share == 0


@settings(deadline=None, max_examples=30)
@given(n=st.integers(3, 40), m=st.integers(3, 40), seed=st.integers(0, 10**6))
def test_nearest_of_the_class_by_brute_force(n: int, m: int, seed: int) -> None:
    (queries, labels), (train, train_labels) = labelled(n, seed), labelled(m, seed + 1)
    found = nearest_in_class(queries, labels, train, train_labels)
    everything = torch.cdist(queries.double(), train.double())
    everything[labels[:, None] != train_labels] = torch.inf
    expected = everything.min(dim=1)
    torch.testing.assert_close(found.distances, expected.values, rtol=1e-6, atol=1e-6)
    assert torch.equal(found.indices, expected.indices)


def test_in_pixels(train: LabeledImages, reference: LabeledImages) -> None:
    assert pixels(train).shape == (160, 3 * 16 * 16)
    assert float(pixels(train).max()) <= 1
    assert torch.equal(pixels(train), pixels(train.images))
    found = memorization_report(
        pixels(train), train.labels, pixels(train), train.labels,
        pixels(reference), reference.labels,
    )  # fmt: skip
    assert found.macro_share == 1.0
    assert torch.equal(found.neighbours.indices, torch.arange(160))


def test_unfit_input_is_one_sentence() -> None:
    samples, labels = labelled(60, 2)
    with pytest.raises(SignforgeError, match="between 0 and 1"):
        report(samples, labels, quantile=1.0)
    with pytest.raises(SignforgeError, match="Class 2 has 0 samples and 200 control images"):
        report(samples[labels < 2], labels[labels < 2])
    with pytest.raises(SignforgeError, match="no training image of class 3"):
        nearest_in_class(samples, labels + 1, samples, labels)
