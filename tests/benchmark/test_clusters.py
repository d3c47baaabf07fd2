import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from signforge.benchmark.clusters import (
    Clustering,
    GroupedPredictions,
    design_effect,
    measure_clustering,
)
from signforge.benchmark.statistics import paired_gain
from signforge.errors import SignforgeError

CLASSES, GROUPS_OF_CLASS, FRAMES = 6, 12, 30


def grouped_truth(classes=CLASSES, groups_of_class=GROUPS_OF_CLASS, frames=FRAMES):
    """Classes and groups of images, (N,) each."""
    target = np.repeat(np.arange(classes), groups_of_class * frames)
    return target, np.repeat(np.arange(classes * groups_of_class), frames)


def predictions(rng, target, right):
    """right: probability for each image, (N,)."""
    return np.where(rng.random(len(target)) < right, target, (target + 1) % (target.max() + 1))


def test_frames_that_all_agree_count_as_one():
    target, groups = grouped_truth()
    rng = np.random.default_rng(0)
    of_group = rng.choice([-1.0, 0.0, 1.0], groups.max() + 1)
    found = design_effect(of_group[groups][None], target, groups)
    # Kish: 1 + (frames - 1) * correlation, the correlation being 1; the finite numbers of groups
    # and frames add their own two corrections.
    singles, whole = len(target) / CLASSES - 1, GROUPS_OF_CLASS - 1
    expected = FRAMES * (GROUPS_OF_CLASS / whole) / ((singles + 1) / singles)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.5])
def test_it_agrees_with_kishs_closed_form(correlation):
    rng = np.random.default_rng(1)
    target, groups = grouped_truth(groups_of_class=400)
    shared = rng.standard_normal(groups.max() + 1)[groups]
    own = rng.standard_normal(len(target))
    values = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    found = design_effect(values[None], target, groups)
    assert found == pytest.approx(1 + (FRAMES - 1) * correlation, rel=0.06)


@given(st.integers(0, 2**32 - 1))
def test_it_does_not_depend_on_order_names_scale_or_constants(seed):
    rng = np.random.default_rng(seed)
    target, groups = grouped_truth(3, 4, 5)
    values = rng.standard_normal((2, len(target))) + rng.standard_normal(12)[groups]
    found = design_effect(values, target, groups)
    order = rng.permutation(len(target))
    assert design_effect(values[:, order], target[order], groups[order]) == pytest.approx(found)
    assert design_effect(values, target, 900 - 7 * groups) == pytest.approx(found)
    assert design_effect(3 * values + target, target, groups) == pytest.approx(found)
    assert found >= 1


def test_groups_of_one_image_stand_alone():
    rng = np.random.default_rng(2)
    target = np.repeat(np.arange(4), 50)
    assert design_effect(rng.standard_normal((3, 200)), target, np.arange(200)) == pytest.approx(1)


def test_what_does_not_tell_gives_none():
    target, groups = grouped_truth(3, 1, 10)
    assert design_effect(np.random.default_rng(3).random((1, 30)), target, groups) is None
    target, groups = grouped_truth()
    assert design_effect(np.zeros((1, len(target))), target, groups) is None
    only = GroupedPredictions({("real", 0): target}, target, groups)
    assert measure_clustering(only, "real", "val") is None
    apart = GroupedPredictions({("real", 0): target, ("arm", 1): target}, target, groups)
    assert measure_clustering(apart, "real", "val") is None


def test_it_is_measured_over_arms_and_the_seeds_that_both_have():
    rng = np.random.default_rng(4)
    target, groups = grouped_truth()
    right = rng.beta(2, 1, groups.max() + 1)[groups]
    names = [("real", 0), ("real", 1), ("arm", 0), ("arm", 1), ("other", 1), ("other", 7)]
    preds = {name: predictions(rng, target, right) for name in names}

    def gain(arm, seed):
        hits = [preds[name, seed] == target for name in (arm, "real")]
        return hits[0].astype(float) - hits[1]

    rows = np.stack([(gain("arm", 0) + gain("arm", 1)) / 2, gain("other", 1)])
    found = measure_clustering(GroupedPredictions(preds, target, groups), "real", "val")
    effect = design_effect(rows, target, groups)
    assert found == Clustering(effect, "val", CLASSES * GROUPS_OF_CLASS)


def clustered_pair(rng, target, groups, seeds):
    """Two arms that are equally good, each better on signs of its own."""
    arms = []
    for _ in range(2):
        right = np.clip(0.8 + 0.2 * rng.standard_normal(groups.max() + 1), 0, 1)[groups]
        arms.append(np.stack([predictions(rng, target, right) for _ in range(seeds)]))
    return arms


@pytest.mark.parametrize("seeds", [1, 3])
def test_arms_that_differ_by_sign_are_told_apart_only_if_frames_are_taken_as_images(seeds):
    comparisons = 200
    rng = np.random.default_rng(5)
    target, groups = grouped_truth()
    alarms = {"alone": 0, "grouped": 0}
    for number in range(comparisons):
        # The groups of the test are unknown; other signs of the same kind stand in for them.
        standing_in = clustered_pair(rng, target, groups, seeds)
        preds = {
            (arm, seed): row
            for arm, rows in zip(("arm", "real"), standing_in, strict=True)
            for seed, row in enumerate(rows)
        }
        known = measure_clustering(GroupedPredictions(preds, target, groups), "real", "val")
        arm, real = clustered_pair(rng, target, groups, seeds)
        for name, effect in (("alone", 1.0), ("grouped", known.design_effect)):
            gain = paired_gain(arm, real, target, design_effect=effect, resamples=300, seed=number)
            alarms[name] += gain.direction != 0
    assert alarms["alone"] / comparisons > 0.25
    # 5 % nominal; 200 comparisons at 5 % have a standard error of 1.5 points, and the effect is
    # an estimate from 72 signs.
    assert 0.01 <= alarms["grouped"] / comparisons <= 0.05 + 2.5 * 0.0154


@pytest.mark.parametrize("metric", ["top1", "macro_accuracy"])
def test_an_interval_from_images_is_wider_by_the_root(metric):
    rng = np.random.default_rng(6)
    target, _ = grouped_truth()
    arm, base = (predictions(rng, target, np.full(len(target), p))[None] for p in (0.85, 0.8))
    alone, grouped = (
        paired_gain(arm, base, target, metric=metric, design_effect=effect, resamples=20_000)
        for effect in (1.0, 9.0)
    )
    assert grouped.mean == alone.mean
    assert grouped.image_sd == pytest.approx(3 * alone.image_sd, rel=0.03)
    assert grouped.high - grouped.low == pytest.approx(3 * (alone.high - alone.low), rel=0.05)


def test_an_effect_below_one_is_refused():
    target, _ = grouped_truth()
    with pytest.raises(SignforgeError, match=r"at least 1, got 0\.5"):
        paired_gain(target[None], target[None], target, design_effect=0.5)
