import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from signforge.benchmark.confusion import confusion_changes


def test_changes_are_those_of_sklearns_matrices():
    rng = np.random.default_rng(0)
    target = np.concatenate([np.arange(5), rng.integers(0, 5, 400)])
    arm, baseline = rng.integers(0, 5, (2, 3, 405)).astype(np.int16)
    after, before = (
        np.mean([confusion_matrix(target, row, normalize="true") for row in preds], axis=0)
        for preds in (arm, baseline)
    )
    found = confusion_changes(arm, baseline, target, 5, top=99)
    assert len(found) == np.count_nonzero(np.abs(after - before)[~np.eye(5, dtype=bool)] > 1e-9)
    for pair in found:
        cell = (pair.label, pair.taken_for)
        assert (pair.arm, pair.baseline) == pytest.approx((after[cell], before[cell]))
    sizes = [abs(pair.change) for pair in found]
    assert sizes == pytest.approx(sorted(sizes, reverse=True))


def test_very_many_classes_take_little_room():
    """A full matrix would hold 10^10 cells."""
    target = np.array([7, 7, 99_999])
    arm, baseline = np.array([[7, 5, 99_999]]), np.array([[7, 7, 0]])
    found = confusion_changes(arm, baseline, target, 100_000)
    assert [(c.label, c.taken_for, c.change) for c in found] == [(99_999, 0, -1.0), (7, 5, 0.5)]


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
