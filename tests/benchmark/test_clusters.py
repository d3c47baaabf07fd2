import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signforge.benchmark.clusters import (
    GroupedPredictions,
    mean_variances,
    measure_clustering,
)
from signforge.benchmark.statistics import paired_gain
from signforge.errors import SignforgeError

CLASSES, GROUPS_OF_CLASS, FRAMES = 6, 12, 30


def grouped_truth(classes=CLASSES, groups_of_class=GROUPS_OF_CLASS, frames=FRAMES):
    """Classes and groups of images, (N,) each."""
    target = np.repeat(np.arange(classes), groups_of_class * frames)
    return target, np.repeat(np.arange(classes * groups_of_class), frames)


def design_effect(differences, target, groups):
    return mean_variances(differences, target, groups).design_effect


def predictions(rng, target, right):
    """right: probability for each image, (N,)."""
    return np.where(rng.random(len(target)) < right, target, (target + 1) % (target.max() + 1))


def test_frames_that_all_agree_count_as_one():
    target, groups = grouped_truth()
    rng = np.random.default_rng(0)
    of_group = rng.choice([-1.0, 0.0, 1.0], groups.max() + 1)
    found = design_effect(of_group[groups][None], target, groups)
    # Kish: 1 + (frames - 1) * correlation, the correlation being 1.
    assert found == pytest.approx(FRAMES, rel=1e-12)


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.5])
@pytest.mark.parametrize(("classes", "groups_of_class"), [(6, 400), (800, 2)])
def test_it_agrees_with_kishs_closed_form(correlation, classes, groups_of_class):
    rng = np.random.default_rng(1)
    target, groups = grouped_truth(classes, groups_of_class)
    shared = rng.standard_normal(groups.max() + 1)[groups]
    own = rng.standard_normal(len(target))
    values = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    found = design_effect(values[None], target, groups)
    assert found == pytest.approx(1 + (FRAMES - 1) * correlation, rel=0.15)


@settings(deadline=None)
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


def test_what_seeds_share_is_told_from_what_each_does_by_itself():
    # A difference by sign that all seeds share, and each seed's own luck with single images.
    rng = np.random.default_rng(4)
    target, groups = grouped_truth(20, 40)
    by_sign = rng.random(groups.max() + 1)[groups] < 0.5
    preds = {}
    for seed in range(4):
        shared = rng.random(len(target)) < 0.7
        preds["real", seed] = np.where(by_sign | shared, target, target + 1)
        preds["arm", seed] = np.where(~by_sign | shared, target, target + 1)
    found = measure_clustering(GroupedPredictions(preds, target, groups), "real", "val")
    assert (found.split, found.groups, found.arms) == ("val", 800, 1)
    # One image's difference has variance 0.3, of which 0.3 ** 2 is the sign's and shared.
    assert found.one_seed == pytest.approx(1 + (FRAMES - 1) * 0.3, rel=0.1)
    assert found.several_seeds == pytest.approx(FRAMES, rel=0.1)
    assert found.design_effect(1) == found.one_seed
    assert found.design_effect(2) == found.design_effect(5) == found.several_seeds

    one = {key: row for key, row in preds.items() if key[1] == 0}
    alone = measure_clustering(GroupedPredictions(one, target, groups), "real", "val")
    assert alone.several_seeds == alone.one_seed == pytest.approx(found.one_seed, rel=0.1)


def test_another_arm_is_the_reference_where_the_baseline_has_no_pair():
    rng = np.random.default_rng(7)
    target, groups = grouped_truth()
    right = rng.beta(2, 1, groups.max() + 1)[groups]
    names = [("real", 9), ("arm", 0), ("other", 0)]
    preds = {name: predictions(rng, target, right) for name in names}
    found = measure_clustering(GroupedPredictions(preds, target, groups), "real", "val")
    expected = (preds["other", 0] == target).astype(float) - (preds["arm", 0] == target)
    assert found.one_seed == design_effect(expected[None], target, groups)
    assert found.arms == 1


def test_images_of_unknown_group_are_left_out():
    rng = np.random.default_rng(8)
    target, groups = grouped_truth()
    values = rng.standard_normal((1, len(target))) + rng.standard_normal(72)[groups]
    some = np.where(rng.random(len(target)) < 0.3, -1, groups)
    known = some >= 0
    assert design_effect(values, target, some) == pytest.approx(
        design_effect(values[:, known], target[known], groups[known])
    )
    assert design_effect(values, target, np.where(target == 0, -1, groups)) > 1


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
        for name, effect in (("alone", 1.0), ("grouped", known.design_effect(seeds))):
            gain = paired_gain(arm, real, target, design_effect=effect, resamples=300, seed=number)
            alarms[name] += gain.direction != 0
    assert alarms["alone"] / comparisons > 0.25
    # 5 % nominal; 200 comparisons at 5 % have a standard error of 1.5 points, and the effect is
    # an estimate from 72 signs. With several seeds Student's t comes on top.
    assert (0.01 if seeds == 1 else 0) <= alarms["grouped"] / comparisons <= 0.05 + 2.5 * 0.0154


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
