import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from signforge.benchmark.confusion import confusion_changes, confusion_shares


def test_shares_are_sklearns():
    rng = np.random.default_rng(0)
    target, preds = rng.integers(0, 5, 400), rng.integers(0, 5, (3, 400))
    shares = confusion_shares(preds.astype(np.int16), target.astype(np.int16), 5)
    for found, row in zip(shares, preds, strict=True):
        expected = confusion_matrix(target, row, labels=range(5), normalize="true")
        np.testing.assert_allclose(found, expected)


def test_a_class_without_images_has_zeros():
    shares = confusion_shares(np.array([[0, 2]]), np.array([0, 2]), 3)
    assert shares[0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_the_largest_changes_come_first():
    target = np.repeat([0, 1, 2], 10)
    baseline = np.stack([target, target])
    baseline[:, :4] = 1  # four of class 0 are taken for class 1
    arm = np.stack([target, target])
    arm[:, 10:12] = 2  # now none of these, but two of class 1 for class 2
    arm[0, 20] = 0  # and in one seed one of class 2 for class 0
    found = confusion_changes(arm, baseline, target, 3)
    assert [(c.label, c.taken_for) for c in found] == [(0, 1), (1, 2), (2, 0)]
    assert [c.change for c in found] == pytest.approx([-0.4, 0.2, 0.05])
    assert [c.seeds_agreeing for c in found] == [2, 2, 1]
    assert {(c.images, c.seeds) for c in found} == {(10, 2)}
    assert confusion_changes(arm, baseline, target, 3, top=1) == found[:1]


def test_no_change_is_no_pair():
    target = np.array([0, 0, 1, 1])
    same = np.array([[0, 1, 1, 0]])
    assert confusion_changes(same, same, target, 2) == []
    # 1/3 and 2/3 in turns: sums in floating point that do not cancel out exactly.
    three = np.zeros(3, int)
    first = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    assert confusion_changes(first, first[[1, 2, 0]], three, 2) == []
