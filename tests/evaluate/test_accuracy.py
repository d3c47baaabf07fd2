import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, recall_score
from torch import Tensor

from signforge.errors import SignforgeError
from signforge.evaluate.accuracy import accuracy_report, per_class_recall


def guesses(n: int, num_classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Predictions that are right about half the time, and labels with every class."""
    rng = torch.Generator().manual_seed(seed)
    target = torch.cat([torch.arange(num_classes), torch.randint(num_classes, (n,), generator=rng)])
    wrong = torch.randint(num_classes, target.shape, generator=rng)
    return torch.where(torch.rand(target.shape, generator=rng) < 0.5, target, wrong), target


@settings(deadline=None, max_examples=50)
@given(n=st.integers(0, 300), num_classes=st.integers(2, 12), seed=st.integers(0, 10**6))
def test_agrees_with_sklearn(n: int, num_classes: int, seed: int) -> None:
    preds, target = guesses(n, num_classes, seed)
    report = accuracy_report(preds, target, torch.full((num_classes,), 50))
    recalls = recall_score(target, preds, average=None, labels=range(num_classes), zero_division=0)
    assert report.top1 == pytest.approx(accuracy_score(target, preds), rel=1e-12)
    assert report.per_class_recall == pytest.approx(recalls.tolist(), rel=1e-12)
    assert report.macro_accuracy == pytest.approx(recalls.mean(), rel=1e-12)
    assert report.worst_class_recall == pytest.approx(recalls.min(), rel=1e-12)
    assert report.worst_class == recalls.argmin()


def test_shot_groups_follow_the_training_counts() -> None:
    target = torch.arange(5).repeat_interleave(4)
    preds = target.clone()
    preds[0:3] = 1
    preds[4:6] = 0
    preds[8] = 0
    report = accuracy_report(preds, target, torch.tensor([19, 20, 100, 101, 5]))
    assert report.per_class_recall == (0.25, 0.5, 0.75, 1.0, 1.0)
    assert report.few == pytest.approx((0.25 + 1.0) / 2)
    assert report.medium == pytest.approx((0.5 + 0.75) / 2)
    assert report.many == 1.0


def test_empty_groups_are_none() -> None:
    report = accuracy_report(torch.arange(3), torch.arange(3), torch.full((3,), 500))
    assert (report.many, report.medium, report.few) == (1.0, None, None)


def test_a_class_never_predicted_still_counts_in_the_mean() -> None:
    preds, target = torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 0, 1])
    report = accuracy_report(preds, target, torch.tensor([9, 9]))
    assert report.top1 == 0.75
    assert report.macro_accuracy == 0.5


def test_report_is_ready_for_json() -> None:
    report = accuracy_report(torch.arange(3), torch.arange(3), torch.full((3,), 50))
    read = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert read == report.as_dict()
    assert read["per_class_recall"] == [1.0, 1.0, 1.0]


def test_absent_classes_are_named() -> None:
    with pytest.raises(SignforgeError, match=r"No image of class 1, 3 "):
        per_class_recall(torch.tensor([0, 1]), torch.tensor([0, 2]), 4)


@pytest.mark.parametrize(
    ("preds", "target", "message"),
    [
        ([0, 1], [0], "one length"),
        ([], [], "one length"),
        ([0, 2], [0, 1], r"Predictions must lie in 0\.\.1, got 2"),
        ([0, 1], [-1, 1], r"Labels must lie in 0\.\.1, got -1"),
    ],
)
def test_unfit_input_is_one_sentence(preds: list[int], target: list[int], message: str) -> None:
    tensors = [torch.tensor(values, dtype=torch.int64) for values in (preds, target)]
    with pytest.raises(SignforgeError, match=message):
        per_class_recall(*tensors, 2)
