import numpy as np
import pytest
from scipy import stats

from signforge.balance.decision import ValidationGroups, class_gains, decide
from signforge.errors import SignforgeError

CLASSES, SEEDS = 40, 3


def make_groups(counts, size=30):
    """``counts[c]`` groups of class c, ``size`` images each."""
    labels = np.repeat(np.arange(len(counts)), counts)
    return ValidationGroups(labels, np.full(len(labels), size))


def simulate(rng, groups, gain, *, recall=0.7, group_sd=0.1, seed_sd=0.03):
    """Recalls (remedy, baseline) whose true gain is ``gain[c]``, with noise of groups and seeds."""
    labels, shape = groups.labels, (SEEDS, len(groups.labels))
    noise = (
        rng.normal(0, group_sd, shape[1]) + rng.normal(0, seed_sd, (SEEDS, len(gain)))[:, labels]
    )
    noise = noise + rng.normal(0, 0.02, shape)
    difference = gain[labels] + noise
    return recall + difference / 2, recall - difference / 2


def test_the_variance_is_that_of_a_two_way_layout():
    # All classes alike, so pooling is plain averaging: compare with the mean squares of numpy.
    rng = np.random.default_rng(0)
    classes, per_class, seeds = 30, 6, 4
    groups = make_groups([per_class] * classes)
    difference = (
        rng.normal(0, 0.08, (1, classes, per_class))
        + rng.normal(0, 0.05, (seeds, classes, 1))
        + rng.normal(0, 0.03, (seeds, classes, per_class))
    )
    flat = difference.reshape(seeds, -1)
    gains = class_gains(0.5 + flat / 2, 0.5 - flat / 2, groups, classes)
    assert gains.gain == pytest.approx(difference.mean((0, 2)))
    assert gains.per_seed == pytest.approx(difference.mean(2))

    spread = 0.25  # the mean over both arms is exactly 0.5
    between = difference.mean(0).var(1, ddof=1).sum() * (per_class - 1)
    weight = classes * (per_class - 1)
    of_groups = (between + 2 * spread) / (weight + 1) / per_class
    residual = (
        difference
        - difference.mean(0, keepdims=True)
        - difference.mean(2, keepdims=True)
        + difference.mean((0, 2), keepdims=True)
    )
    residual_ms = (residual**2).sum() / (weight * (seeds - 1))
    of_seeds = (difference.mean(2).var(0, ddof=1).mean() - residual_ms / per_class) / seeds
    assert gains.group_variance == pytest.approx(of_groups)
    assert gains.standard_error == pytest.approx((of_groups + of_seeds) ** 0.5)


def test_classes_count_by_their_spread_and_their_groups():
    """The formulas of the docstring, class by class, for classes that differ in both."""
    rng = np.random.default_rng(9)
    counts, recalls, seeds = [1, 3, 8], [0.9, 0.6, 0.4], 4
    groups = make_groups(counts, size=20)
    difference = (
        np.array([0.3, -0.25, 0.2])[groups.labels]
        + rng.normal(0, 0.05, len(groups.labels))
        + rng.normal(0, 0.15, (seeds, 3))[:, groups.labels]
        + rng.normal(0, 0.03, (seeds, len(groups.labels)))
    )
    middle = np.array(recalls)[groups.labels]
    gains = class_gains(middle + difference / 2, middle - difference / 2, groups, 3)

    of_class = [difference[:, groups.labels == c] for c in range(3)]
    images = 20 * np.array(counts)
    p = (images * recalls + 0.5) / (images + 1)  # half an image away from 0 and 1
    h = p * (1 - p)
    gain = np.array([d.mean() for d in of_class])
    between = sum(((d.mean(0) - d.mean()) ** 2).sum() for d in of_class)
    freedom = sum(h[c] * (counts[c] - 1) for c in range(3))
    w = (between + 2 * h.mean()) / (freedom + h.mean())  # one more degree, at its largest
    residuals = [d - d.mean(0) - d.mean(1, keepdims=True) + d.mean() for d in of_class]
    residual = sum((r**2).sum() for r in residuals) / (freedom * (seeds - 1))
    over_seeds = sum(d.mean(1).var(ddof=1) for d in of_class)
    b = (over_seeds - sum(h[c] * residual / counts[c] for c in range(3))) / h.sum()
    unit = w / np.array(counts) + b / seeds
    # gain ** 2 is h (A + unit) on average: both sides summed with weights 1 / unit.
    a = ((gain**2 / unit).sum() - h.sum()) / (h / unit).sum()
    assert min(a, b) > 0
    assert gains.gain == pytest.approx(gain)
    assert gains.group_variance == pytest.approx(h * w / counts)
    assert gains.standard_error == pytest.approx((h * unit) ** 0.5)
    kept = a / (a + unit)
    assert gains.posterior_mean == pytest.approx(kept * gain)
    assert gains.posterior_sd == pytest.approx((h * unit * kept) ** 0.5)


def test_shrinkage_is_that_of_james_and_stein_where_classes_are_alike():
    rng = np.random.default_rng(1)
    groups = make_groups([5] * CLASSES)
    truth = rng.normal(0, 0.1, CLASSES)
    gains = class_gains(*simulate(rng, groups, truth), groups, CLASSES)
    variance = gains.standard_error[0] ** 2
    assert gains.standard_error**2 == pytest.approx(variance)
    kept = 1 - CLASSES * variance / (gains.gain**2).sum()
    assert 0.3 < kept < 1
    assert gains.posterior_mean == pytest.approx(kept * gains.gain)
    assert gains.posterior_sd == pytest.approx((kept * variance) ** 0.5)
    assert gains.probability == pytest.approx(
        stats.norm.cdf(gains.posterior_mean / gains.posterior_sd)
    )


def test_a_probability_of_gain_means_what_it_says():
    # Of the classes that are said to gain with probability 0.8 to 0.9, 80 to 90 % must gain.
    rng = np.random.default_rng(2)
    said, true = [], []
    for _ in range(60):
        groups = make_groups(rng.integers(1, 9, CLASSES))
        truth = rng.normal(0, 0.06, CLASSES)
        gains = class_gains(*simulate(rng, groups, truth), groups, CLASSES)
        said.append(gains.probability)
        true.append(truth > 0)
    said, true = np.concatenate(said), np.concatenate(true)
    for low, high in ((0.1, 0.2), (0.4, 0.6), (0.8, 0.9), (0.95, 1.0)):
        within = (said >= low) & (said <= high)
        assert within.sum() > 50
        assert true[within].mean() == pytest.approx(said[within].mean(), abs=0.07)


@pytest.mark.parametrize("most_groups", [2, 9])
def test_where_nothing_helps_hardly_any_class_gets_a_remedy(most_groups):
    rng = np.random.default_rng(3)
    remedies = []
    for _ in range(60):
        groups = make_groups(rng.integers(1, most_groups + 1, CLASSES))
        arms = {"real": None}
        for name in ("synthetic", "oversample"):
            arms[name], arms["real"] = simulate(rng, groups, np.zeros(CLASSES))
        remedies += [d.remedy for d in decided(arms, groups)]
    # Each remedy by itself would be taken for 20 % of the classes if nothing were shrunk.
    assert np.mean([remedy != "nothing" for remedy in remedies]) < 0.08


def test_planted_gains_are_found_and_losses_refused():
    rng = np.random.default_rng(4)
    counts = rng.integers(2, 9, CLASSES)
    groups = make_groups(counts)
    truth = np.where(np.arange(CLASSES) < 10, 0.25, np.where(np.arange(CLASSES) < 20, -0.25, 0.0))
    found = np.zeros((0, CLASSES), dtype=bool)
    for _ in range(20):
        remedy, real = simulate(rng, groups, truth)
        decisions = decided({"real": real, "synthetic": remedy}, groups)
        found = np.vstack([found, [[d.remedy == "synthetic" for d in decisions]]])
    assert found[:, :10].mean() > 0.9
    assert found[:, 10:20].mean() < 0.01
    assert found[:, 20:].mean() < 0.25


def test_a_class_at_the_ceiling_does_not_hide_others_and_is_left_alone():
    rng = np.random.default_rng(5)
    groups = make_groups([4] * CLASSES)
    hard = groups.labels < 8
    remedy, real = simulate(rng, groups, np.where(np.arange(CLASSES) < 8, 0.2, 0.0))
    remedy[:, ~hard], real[:, ~hard] = 1.0, 1.0
    decisions = decided({"real": real, "synthetic": remedy}, groups)
    assert sum(d.remedy == "synthetic" for d in decisions[:8]) >= 6
    assert all(d.remedy == "nothing" for d in decisions[8:])


def decided(arms, groups, **options):
    given = {
        "class_names": [str(label) for label in range(CLASSES)],
        "real_counts": [100] * CLASSES,
        "targets": [400] * CLASSES,
    }
    return decide(arms, groups, **(given | options))


@pytest.fixture
def helpful():
    """All classes gain from samples, and a little less from oversampling."""
    rng = np.random.default_rng(6)
    groups = make_groups([5] * CLASSES)
    synthetic, real = simulate(rng, groups, np.full(CLASSES, 0.3), group_sd=0.02)
    return {"real": real, "synthetic": synthetic, "oversample": synthetic - 0.1}, groups


def test_the_larger_gain_wins_and_counts_follow(helpful):
    arms, groups = helpful
    for decision in decided(arms, groups):
        assert (decision.remedy, decision.count, decision.real_count) == ("synthetic", 400, 100)
        assert (decision.num_groups, decision.num_images) == (5, 150)
        gains = decision.evidence
        assert gains["synthetic"].gain - gains["oversample"].gain == pytest.approx(0.1, abs=1e-5)
        assert gains["synthetic"].probability > 0.99


def test_the_larger_gain_wins_whichever_remedy_it_is_of(helpful):
    arms, groups = helpful
    swapped = arms | {"synthetic": arms["oversample"], "oversample": arms["synthetic"]}
    decisions = decided(swapped, groups)
    assert all(d.evidence["synthetic"].probability > 0.9 for d in decisions)
    assert {d.remedy for d in decisions} == {"oversample"}


def test_a_class_that_the_gate_rejects_is_never_filled_with_samples(helpful):
    arms, groups = helpful
    acceptance = [0.05, 0.1, None] + [0.9] * (CLASSES - 3)
    decisions = decided(arms, groups, acceptance=acceptance, min_acceptance=0.1)
    assert [d.remedy for d in decisions[:3]] == ["oversample", "synthetic", "synthetic"]
    assert [d.acceptance for d in decisions] == acceptance
    only = {name: arms[name] for name in ("real", "synthetic")}
    assert decided(only, groups, acceptance=acceptance)[0].remedy == "nothing"


def test_a_class_that_nothing_is_added_to_gets_nothing(helpful):
    arms, groups = helpful
    targets = [100] + [400] * (CLASSES - 1)
    first, second = decided(arms, groups, targets=targets)[:2]
    assert (first.remedy, first.count) == ("nothing", 100)
    assert second.remedy == "synthetic"


def test_confidence_decides_how_much_evidence_it_takes():
    rng = np.random.default_rng(7)
    groups = make_groups([3] * CLASSES)
    remedy, real = simulate(rng, groups, rng.normal(0, 0.1, CLASSES))
    gains = class_gains(remedy, real, groups, CLASSES)
    numbers = []
    for confidence in (0.5, 0.8, 0.999):
        decisions = decided({"real": real, "synthetic": remedy}, groups, confidence=confidence)
        treated = [d.remedy == "synthetic" for d in decisions]
        assert treated == (gains.probability.round(6) >= confidence).tolist()
        numbers.append(sum(treated))
    assert CLASSES > numbers[0] > numbers[1] > numbers[2] == 0


def test_a_class_without_validation_groups_gets_nothing_and_changes_nothing(helpful):
    arms, groups = helpful
    rest = groups.labels != 3
    fewer = ValidationGroups(groups.labels[rest], groups.sizes[rest])
    decisions = decided({name: recall[:, rest] for name, recall in arms.items()}, fewer)
    assert (decisions[3].remedy, decisions[3].num_groups) == ("nothing", 0)
    assert decisions[3].evidence["synthetic"].probability == 0.5
    assert all(d.remedy == "synthetic" for d in decisions if d.name != "3")


@pytest.mark.parametrize("seeds", [1, 3])
def test_identical_arms_have_no_gain_and_no_remedy(seeds):
    groups = make_groups([1, 2, 3])
    recall = np.random.default_rng(8).random((seeds, 6))
    gains = class_gains(recall, recall.copy(), groups, 3)
    for values in (gains.gain, gains.posterior_mean, gains.posterior_sd):
        assert values.tolist() == [0, 0, 0]
    assert gains.probability.tolist() == [0.5, 0.5, 0.5]


def test_single_groups_say_nothing_of_their_own_variance():
    # Two lucky groups are no proof: without any repetition the largest variance is assumed.
    groups = make_groups([1, 1], size=10)
    gains = class_gains(np.array([[0.9, 0.5]]), np.array([[0.5, 0.5]]), groups, 2)
    p = (10 * 0.7 + 0.5) / 11
    assert gains.standard_error[0] == pytest.approx((2 * p * (1 - p)) ** 0.5)
    assert gains.probability.max() < 0.8


def test_shapes_that_do_not_fit_are_refused():
    groups = make_groups([1, 2])
    recall = np.ones((2, 3))
    for remedy, baseline in ((recall, recall[:1]), (recall[:, :2], recall[:, :2])):
        with pytest.raises(SignforgeError, match=r"shape \(seeds, groups\)"):
            class_gains(remedy, baseline, groups, 2)
    with pytest.raises(SignforgeError, match="no validation image or no seed"):
        class_gains(recall[:0], recall[:0], groups, 2)
