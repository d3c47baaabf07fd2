import numpy as np
import pytest
from scipy import stats

from signforge.benchmark.statistics import (
    METRICS,
    compare,
    holm,
    paired_class_gains,
    paired_gain,
    recall_metric,
)
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
    assert (gain.mean, gain.low, gain.high, gain.seeds) == (0, 0, 0, seeds)
    assert (gain.p, gain.image_sd, gain.seed_sd) == (1, 0, None if seeds == 1 else 0)
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


@pytest.mark.parametrize(("seeds", "sure"), [(2, 0), (5, 1)])
def test_a_gain_in_one_class_is_found_in_that_class_alone(seeds, sure):
    rng = np.random.default_rng(2)
    target = np.repeat(np.arange(CLASSES), 200)
    base = noisy_predictions(rng, target, 0.7, seeds)
    arm = base.copy()
    arm[:, target == 4] = noisy_predictions(rng, target[target == 4], 0.9, seeds)
    gains = paired_class_gains(arm, base, target, resamples=500)
    # A class needs three seeds at least and Holm's correction before it is called.
    assert [gain.sure for gain in gains] == [0, 0, 0, 0, sure, 0, 0, 0, 0, 0]
    assert [gain.direction for gain in gains][:4] == [0, 0, 0, 0]
    assert (gains[3].low, gains[3].high, gains[3].p, gains[3].p_holm) == (0, 0, 1, 1)
    assert gains[4].p_holm == pytest.approx(min(CLASSES * gains[4].p, 1))
    whole = paired_gain(arm, base, target, resamples=500)
    assert whole.mean == pytest.approx(gains[4].mean / CLASSES)
    only = paired_gain(arm, base, target, classes=np.array([4]), resamples=500)
    assert only.mean == pytest.approx(gains[4].mean)
    exchanged = paired_class_gains(base, arm, target, resamples=500)
    assert [gain.sure for gain in exchanged] == [0, 0, 0, 0, -sure, 0, 0, 0, 0, 0]


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
    target = np.repeat(np.arange(4), 100)
    false_alarms = 0
    for number in range(comparisons):
        one, two = (noisy_predictions(rng, target, 0.7, seeds, seed_spread=0.1) for _ in range(2))
        gain = paired_gain(one, two, target, resamples=200, seed=number)
        false_alarms += gain.direction != 0
    assert 0.015 <= false_alarms / comparisons <= 0.05 + 2.5 * 0.0154


@pytest.mark.parametrize("swapped", [False, True])
def test_the_worst_class_is_covered_where_arms_have_different_profiles(swapped):
    # One class at 0.5 against ten: the worst of ten looks about ten points worse than it is.
    # Percentiles alone hold the true difference, zero, in 55 % of cases.
    comparisons, images = 200, 60
    rng = np.random.default_rng(10)
    target = np.repeat(np.arange(CLASSES), images)
    one_bad = np.where(target == 0, 0.5, 0.9)
    all_bad = np.full(len(target), 0.5)
    held = 0
    for number in range(comparisons):
        pair = [noisy_predictions(rng, target, level, 1) for level in (one_bad, all_bad)]
        arm, base = reversed(pair) if swapped else pair
        gain = paired_gain(
            arm, base, target, metric="worst_class_recall", resamples=400, seed=number
        )
        held += gain.low <= 0 <= gain.high
    assert held / comparisons >= 0.87


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


def pair_that_differs_by(difference):
    """(arm, baseline, target) of images that both get right, or one alone: +1 the arm, -1 the
    baseline. difference: (seeds, N) of -1, 0 and 1."""
    target = np.arange(difference.shape[1]) % 2
    arm, base = (np.where(sign * difference < 0, 1 - target, target) for sign in (1, -1))
    return arm, base, target


def image_sd_of(difference):
    return paired_gain(*pair_that_differs_by(difference), metric="top1", resamples=4000).image_sd


def test_what_images_do_to_all_seeds_alike_is_told_from_what_they_do_to_one():
    alike = np.tile([[1, 1, -1, -1]], (3, 500))
    one = image_sd_of(alike[:1])
    assert one == pytest.approx(2000**-0.5, rel=0.05)
    assert image_sd_of(alike) == pytest.approx(one, rel=0.05)
    # Columns in which no seed goes with another.
    apart = np.repeat([[1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]], 2, axis=1)
    apart = np.tile(apart, 250)
    assert image_sd_of(apart) < 0.3 * one
    # Half of the images alike: half of one seed's variance.
    half = np.concatenate([alike[:, :1000], apart[:, :1000]], axis=1)
    assert image_sd_of(half) == pytest.approx(0.5**0.5 * one, rel=0.04)


def test_what_images_do_to_each_seed_by_itself_counts_once():
    """It is part of the spread between seeds already, so that their t interval is the whole."""
    rng = np.random.default_rng(14)
    difference = rng.choice([-1, 1], (3, 4000))
    gain = paired_gain(*pair_that_differs_by(difference), metric="top1", resamples=4000)
    reach = stats.t.ppf(0.975, 2) * gain.seed_sd / 3**0.5
    assert reach > 1.5 * 1.96 * (3 * 4000) ** -0.5  # more than images alone would give
    assert gain.high - gain.mean == pytest.approx(reach, rel=0.02)
    assert gain.mean - gain.low == pytest.approx(reach, rel=0.02)


def test_a_class_of_fewer_images_than_the_design_effect_counts_as_one():
    rng = np.random.default_rng(13)
    target = np.repeat([0, 1], [10, 500])
    arm, base = (noisy_predictions(rng, target, 0.6, 1) for _ in range(2))
    gains = paired_class_gains(arm, base, target, design_effect=50, resamples=4000)
    changed = ((arm == target) != (base == target))[0]
    for label, worth in ((0, 1), (1, 10)):
        gain, share = gains[label], changed[target == label].mean()
        assert gain.image_sd == pytest.approx((share / worth) ** 0.5, rel=0.05)
        assert -1 <= gain.low <= gain.mean <= gain.high <= 1


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


def test_full_size_has_the_gain_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(9)
    target = rng.integers(0, 43, 12_630)
    arm, base = (noisy_predictions(rng, target, 0.9, 5) for _ in range(2))
    gain = paired_gain(arm, base, target, metric="macro_accuracy", resamples=2000)
    expected = [
        balanced_accuracy_score(target, a) - balanced_accuracy_score(target, b)
        for a, b in zip(arm, base, strict=True)
    ]
    assert gain.mean == pytest.approx(np.mean(expected))
    assert gain.low < gain.mean < gain.high


def test_no_interval_promises_more_than_a_share_can_gain():
    target = np.repeat(np.arange(2), 5)
    base = np.zeros((2, 10), np.int64)
    arm = np.stack([target, base[0]])
    gain = paired_class_gains(arm, base, target, resamples=200)[1]
    assert (gain.mean, gain.low, gain.high) == (0.5, -1.0, 1.0)


def test_one_comparison_gives_the_figures_that_each_metric_gives_alone():
    rng = np.random.default_rng(10)
    target = np.repeat(np.arange(CLASSES), 40)
    arm, base = (noisy_predictions(rng, target, 0.8, 3, seed_spread=0.05) for _ in range(2))
    few = np.array([1, 5])
    found = compare(arm, base, target, groups={"few": few}, resamples=200, seed=3)
    assert list(found.figures) == [*METRICS, "few"]
    for metric in METRICS:
        alone = paired_gain(arm, base, target, metric=metric, resamples=200, seed=3)
        assert same_gain(found.figures[metric], alone)
    alone = paired_gain(arm, base, target, classes=few, resamples=200, seed=3)
    assert same_gain(found.figures["few"], alone)
    classes = paired_class_gains(arm, base, target, resamples=200, seed=3)
    assert all(map(same_gain, found.classes, classes))


def same_gain(one, two):
    return list(vars(one).values()) == pytest.approx(list(vars(two).values()))


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_p_is_below_5_percent_exactly_where_the_interval_excludes_zero(seeds):
    rng = np.random.default_rng(11)
    target = np.repeat(np.arange(20), 30)
    level = np.repeat(rng.uniform(0, 0.5, 20), 30)
    called = 0
    for number in range(5):
        base = noisy_predictions(rng, target, 0.5, seeds)
        arm = noisy_predictions(rng, target, 0.5 + level, seeds)
        for gain in paired_class_gains(arm, base, target, resamples=200, seed=number):
            assert (gain.p < 0.05) == (gain.direction != 0)
            assert 0 < gain.p <= gain.p_holm <= 1
            called += gain.direction != 0
    assert 10 < called < 95


def test_a_few_images_that_all_changed_for_the_better_are_no_proof():
    # McNemar: five changes in one direction have z = 5 ** 0.5 (the exact test gives p = 0.0625).
    target = np.repeat(np.arange(2), [5, 100])
    base = np.where(target == 0, 1, target)[None]
    gain = paired_class_gains(target[None], base, target, resamples=4000)[0]
    assert gain.mean == 1
    assert gain.p == pytest.approx(2 * stats.norm.sf(5**0.5), rel=0.2)
    single = np.array([0, *[1] * 50])
    gain = paired_class_gains(single[None], np.ones((1, 51), int), single)[0]
    assert gain.direction == 0


def test_with_many_images_it_is_students_t_test_over_seeds():
    target = np.repeat(np.arange(8), 1000)
    rng = np.random.default_rng(12)
    arm, base = (noisy_predictions(rng, target, 0.5, 4, seed_spread=0.1) for _ in range(2))
    gain = paired_gain(arm, base, target, metric="top1", resamples=2000)
    per_seed = (arm == target).mean(1) - (base == target).mean(1)
    assert gain.seed_sd == pytest.approx(per_seed.std(ddof=1))
    expected = stats.ttest_1samp(per_seed, 0)
    low, high = expected.confidence_interval(0.95)
    assert gain.low == pytest.approx(low, rel=0.03)
    assert gain.high == pytest.approx(high, rel=0.03)
    assert gain.p == pytest.approx(expected.pvalue, rel=0.05)


def test_holm_agrees_with_its_published_example():
    # Holm's step-down: sorted p times (m - rank + 1), running maximum, at most 1.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_cannot_be_paired_is_refused():
    target = np.array([0, 0, 1, 1])
    preds = np.zeros((2, 4), np.int64)
    with pytest.raises(SignforgeError, match="one shape"):
        paired_gain(preds, preds[:1], target)
    with pytest.raises(SignforgeError, match="one shape"):
        paired_gain(preds, preds, target[:3])
    with pytest.raises(SignforgeError, match="Class 1 has no test image"):
        paired_gain(preds, preds, np.array([0, 0, 2, 2]))
