import time

import numpy as np
import pytest

from signforge.benchmark.statistics import Gain, paired_class_gains, paired_gain, recall_metric
from signforge.errors import SignforgeError

CLASSES = 10


def noisy_predictions(rng, target, accuracy, seeds, seed_spread=0.0):
    """(seeds, N) predictions, right with the given probability, which shifts from seed to seed.

    accuracy: one number, or one per image.
    """
    shift = rng.normal(0, seed_spread, (seeds, 1)) if seed_spread else 0.0
    right = rng.random((seeds, len(target))) < np.clip(accuracy + shift, 0, 1)
    return np.where(right, target, (target + 1) % (target.max() + 1))


@pytest.mark.parametrize("metric", ["top1", "macro_accuracy", "worst_class_recall"])
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_identical_arms_differ_by_exactly_nothing(metric, seeds):
    rng = np.random.default_rng(0)
    target = np.repeat(np.arange(CLASSES), 20)
    preds = noisy_predictions(rng, target, 0.8, seeds, seed_spread=0.1)
    gain = paired_gain(preds, preds.copy(), target, metric=metric, resamples=200)
    assert gain == Gain(mean=0.0, low=0.0, high=0.0, seeds=seeds)
    assert gain.direction == 0


@pytest.mark.parametrize(("shift", "direction"), [(0.05, 1), (-0.05, -1)])
def test_a_planted_gain_is_found_and_covered(shift, direction):
    rng = np.random.default_rng(1)
    target = np.repeat(np.arange(CLASSES), 300)
    base = noisy_predictions(rng, target, 0.80, 3, seed_spread=0.005)
    arm = noisy_predictions(rng, target, 0.80 + shift, 3, seed_spread=0.005)
    for metric in ("top1", "macro_accuracy"):
        gain = paired_gain(arm, base, target, metric=metric)
        assert gain.low < shift < gain.high
        assert gain.direction == direction


def test_a_gain_in_one_class_is_found_in_that_class_alone():
    rng = np.random.default_rng(2)
    target = np.repeat(np.arange(CLASSES), 200)
    base = noisy_predictions(rng, target, 0.7, 3)
    arm = base.copy()
    arm[:, target == 4] = noisy_predictions(rng, target[target == 4], 0.9, 3)
    gains = paired_class_gains(arm, base, target, resamples=500)
    assert [gain.direction for gain in gains] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert gains[3] == Gain(0.0, 0.0, 0.0, 3)
    whole = paired_gain(arm, base, target, resamples=500)
    assert whole.mean == pytest.approx(gains[4].mean / CLASSES)
    only = paired_gain(arm, base, target, classes=np.array([4]), resamples=500)
    assert only.mean == pytest.approx(gains[4].mean)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("seed_spread", [0.0, 0.1])
def test_two_copies_of_one_arm_are_rarely_told_apart(seeds, seed_spread):
    comparisons = 200
    rng = np.random.default_rng(3)
    target = np.repeat(np.arange(5), 60)
    difficulty = rng.beta(4, 1, len(target))
    false_alarms = 0
    for number in range(comparisons):
        one, two = (
            noisy_predictions(rng, target, difficulty, seeds, seed_spread) for _ in range(2)
        )
        gain = paired_gain(one, two, target, resamples=200, seed=number)
        false_alarms += gain.direction != 0
    # 5 % nominal; 200 comparisons at 5 % have a standard error of 1.5 points.
    assert false_alarms / comparisons <= 0.05 + 2.5 * 0.0154


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seed_noise_alone_is_called_about_as_often_as_promised(seeds):
    # Whole-model shifts that dwarf image noise leave no room for conservatism: drawing seeds with
    # replacement and normal quantiles call a difference in 28, 20 and 18 % of these cases.
    comparisons = 200
    rng = np.random.default_rng(4)
    target = np.repeat(np.arange(4), 200)
    false_alarms = 0
    for number in range(comparisons):
        one, two = (noisy_predictions(rng, target, 0.7, seeds, seed_spread=0.1) for _ in range(2))
        gain = paired_gain(one, two, target, resamples=200, seed=number)
        false_alarms += gain.direction != 0
    assert 0.015 <= false_alarms / comparisons <= 0.10


def test_one_seed_agrees_with_the_closed_form():
    # Stratified resampling of a paired difference d: variance sum_c (n_c / N)^2 var(d_c) / n_c.
    rng = np.random.default_rng(5)
    target = np.repeat(np.arange(CLASSES), rng.integers(50, 400, CLASSES))
    base = noisy_predictions(rng, target, 0.80, 1)
    arm = noisy_predictions(rng, target, 0.85, 1)
    gain = paired_gain(arm, base, target, metric="top1", resamples=20_000)
    difference = (arm == target).astype(float)[0] - (base == target)[0]
    variance = (
        sum((target == c).sum() * difference[target == c].var() for c in range(CLASSES))
        / len(target) ** 2
    )
    assert gain.mean == pytest.approx(difference.mean())
    assert (gain.high - gain.low) / 2 == pytest.approx(1.96 * variance**0.5, rel=0.03)


def test_the_interval_follows_from_the_seed_alone():
    rng = np.random.default_rng(6)
    target = np.repeat(np.arange(CLASSES), 50)
    arm, base = (noisy_predictions(rng, target, 0.8, 3) for _ in range(2))
    first = paired_gain(arm, base, target, resamples=300, seed=7)
    assert paired_gain(arm, base, target, resamples=300, seed=7) == first
    assert paired_gain(arm, base, target, resamples=300, seed=8) != first
    swapped = paired_gain(base, arm, target, resamples=300, seed=7)
    assert swapped.mean == pytest.approx(-first.mean)


def test_metrics_agree_with_scikit_learn():
    from sklearn.metrics import accuracy_score, recall_score

    rng = np.random.default_rng(8)
    target = np.repeat(np.arange(CLASSES), rng.integers(5, 60, CLASSES))
    preds = rng.integers(0, CLASSES, len(target))
    per_class = recall_score(target, preds, average=None)
    counts = np.bincount(target)
    assert recall_metric("top1", counts)(per_class) == pytest.approx(accuracy_score(target, preds))
    assert recall_metric("macro_accuracy", counts)(per_class) == pytest.approx(per_class.mean())
    assert recall_metric("worst_class_recall", counts)(per_class) == per_class.min()


def test_full_size_takes_seconds():
    rng = np.random.default_rng(9)
    target = rng.integers(0, 43, 12_630)
    arm, base = (noisy_predictions(rng, target, 0.9, 5) for _ in range(2))
    started = time.perf_counter()
    paired_gain(arm, base, target, resamples=2000)
    assert time.perf_counter() - started < 10


def test_no_interval_promises_more_than_a_share_can_gain():
    target = np.repeat(np.arange(2), 5)
    base = np.zeros((2, 10), np.int64)
    arm = np.stack([target, base[0]])
    gain = paired_class_gains(arm, base, target, resamples=200)[1]
    assert gain == Gain(mean=0.5, low=-1.0, high=1.0, seeds=2)


def test_what_cannot_be_paired_is_refused():
    target = np.array([0, 0, 1, 1])
    preds = np.zeros((2, 4), np.int64)
    with pytest.raises(SignforgeError, match="one shape"):
        paired_gain(preds, preds[:1], target)
    with pytest.raises(SignforgeError, match="one shape"):
        paired_gain(preds, preds, target[:3])
    with pytest.raises(SignforgeError, match="Class 1 has no test image"):
        paired_gain(preds, preds, np.array([0, 0, 2, 2]))
