import dataclasses

import numpy as np
import pytest

from signforge.benchmark.runner import run_benchmark
from signforge.benchmark.statistics import Gain, paired_gain
from signforge.benchmark.summary import ArmSummary, Spread, summarise, summarise_run, verdict
from signforge.errors import SignforgeError

UP, DOWN, NONE = (0.01, 0.004, 0.016), (-0.01, -0.016, -0.004), (0.003, -0.004, 0.011)


def gain(figures, seeds=3):
    return None if figures is None else Gain(*figures, seeds=seeds)


def arm(name, macro, over_real=None, over_cheap=None, seeds=3):
    blank = Spread(0.5, 0.1)
    return ArmSummary(
        arm=name,
        seeds=tuple(range(seeds)),
        top1=blank,
        macro_accuracy=Spread(macro, 0.01),
        worst_class_recall=blank,
        many=blank,
        medium=None,
        few=None,
        per_class_recall=(0.5,),
        class_counts=(10,),
        uses_generator=name.startswith("synthetic"),
        gan_seconds=0.0,
        classifier_seconds=1.0,
        over_real=gain(over_real, seeds),
        over_cheap=gain(over_cheap, seeds),
        class_gains=(),
    )


def test_a_generator_that_beats_everything_is_recommended():
    arms = [arm("real", 0.9), arm("oversample", 0.9, NONE), arm("synthetic", 0.91, UP, UP)]
    assert verdict(arms, "oversample") == (
        "Use `synthetic`: macro accuracy +1.00 points (95 % interval +0.40 to +1.60, over 3 seeds "
        "and test images) over plain training (`real`), and +1.00 points (95 % interval +0.40 to "
        "+1.60, over 3 seeds and test images) over the best cheap remedy, `oversample`."
    )


def test_a_cheap_remedy_that_is_as_good_is_preferred():
    arms = [arm("real", 0.9), arm("oversample", 0.909, UP), arm("synthetic", 0.91, UP, NONE)]
    said = verdict(arms, "oversample")
    assert said.startswith("Use `oversample`: macro accuracy +1.00 points")
    assert "`synthetic` is not measurably better than it (+0.30 points" in said


def test_a_cheap_remedy_that_is_best_is_recommended_alone():
    arms = [arm("real", 0.9), arm("oversample", 0.92, UP), arm("synthetic", 0.91, UP, DOWN)]
    said = verdict(arms, "oversample")
    assert said.startswith("Use `oversample`: macro accuracy +1.00 points")
    assert "synthetic" not in said


def test_a_generator_that_beats_real_but_not_the_cheap_arm_for_sure_says_both():
    arms = [arm("real", 0.9), arm("oversample", 0.905, NONE), arm("synthetic", 0.91, UP, NONE)]
    said = verdict(arms, "oversample")
    assert said.startswith("Use `synthetic`")
    assert "though it is not measurably better than the best cheap remedy, `oversample`" in said


def test_without_a_cheap_arm_the_generator_is_compared_with_real_alone():
    said = verdict([arm("real", 0.9), arm("synthetic", 0.91, UP, seeds=1)], None)
    assert said.startswith("Use `synthetic`")
    assert "over test images only" in said
    assert "cheap" not in said


def test_no_measurable_difference_is_an_answer():
    arms = [arm("real", 0.9), arm("oversample", 0.89, DOWN), arm("synthetic", 0.905, NONE, UP)]
    said = verdict(arms, "oversample")
    assert said.startswith("No measurable difference: no remedy raised macro accuracy")
    assert "`synthetic`, changed it by +0.30 points (95 % interval -0.40 to +1.10" in said


def test_losing_arms_are_named_as_losing():
    arms = [arm("real", 0.9), arm("oversample", 0.88, DOWN), arm("synthetic", 0.89, DOWN, NONE)]
    assert verdict(arms, "oversample").startswith(
        "Use plain training (`real`): every remedy made macro accuracy worse, the best of them, "
        "`synthetic`, by -1.00 points"
    )


def test_nothing_to_compare_is_said():
    assert verdict([arm("real", 0.9)], None).startswith("No remedy was compared")
    assert verdict([arm("oversample", 0.9)], "oversample").startswith("No remedy was compared")


def row(name, seed, preds, target, **more):
    recall = [(preds[target == c] == c).mean() for c in range(3)]
    return {
        "arm": name,
        "seed": seed,
        "top1": (preds == target).mean(),
        "macro_accuracy": np.mean(recall),
        "worst_class_recall": min(recall),
        "many": recall[0],
        "medium": recall[1],
        "few": recall[2],
        "per_class_recall": recall,
        "class_counts": [200, 50, 5],
        "uses_generator": name == "synthetic",
        "gan_seconds": 100.0 if name == "synthetic" else 0.0,
        "classifier_seconds": 10.0 + seed,
        **more,
    }


@pytest.fixture
def measured():
    rng = np.random.default_rng(0)
    target = np.repeat(np.arange(3), 100)
    accuracy = {"real": 0.7, "oversample": 0.72, "weighted": 0.6, "synthetic": 0.9}
    preds = {
        (name, seed): np.where(rng.random(300) < level, target, (target + 1) % 3)
        for name, level in accuracy.items()
        for seed in range(3)
    }
    rows = [row(name, seed, p, target) for (name, seed), p in preds.items()]
    return rows, preds, target, tuple(accuracy)


def summarised(measured, **changes):
    rows, preds, target, arms = measured
    options = {
        "arms": arms,
        "class_names": ("a", "b", "c"),
        "train_counts": (200, 50, 5),
        "resamples": 300,
        **changes,
    }
    return summarise(rows, preds, target, **options)


def test_figures_are_means_over_seeds_and_gains_are_paired(measured):
    rows, preds, target, arms = measured
    summary = summarised(measured)
    assert [found.arm for found in summary.arms] == list(arms)
    assert summary.best_cheap == "oversample"
    assert summary.test_counts == (100, 100, 100)
    synthetic = summary.arms[3]
    figures = [r["macro_accuracy"] for r in rows if r["arm"] == "synthetic"]
    assert synthetic.macro_accuracy.mean == pytest.approx(np.mean(figures))
    assert synthetic.macro_accuracy.std == pytest.approx(np.std(figures, ddof=1))
    assert synthetic.gan_seconds == 100
    assert synthetic.classifier_seconds == 11
    of = {name: np.stack([preds[name, s] for s in range(3)]) for name in arms}
    expected = paired_gain(of["synthetic"], of["real"], target, resamples=300)
    assert synthetic.over_real == expected
    assert synthetic.over_cheap.mean == pytest.approx(
        synthetic.macro_accuracy.mean - summary.arms[1].macro_accuracy.mean
    )
    assert len(synthetic.class_gains) == 3
    assert summary.arms[0].over_real is None
    assert summary.arms[1].over_cheap is None
    assert summary.verdict.startswith("Use `synthetic`")


def test_only_seeds_that_both_arms_have_are_paired(measured):
    rows, preds, target, arms = measured
    fewer = [r for r in rows if (r["arm"], r["seed"]) not in {("real", 0), ("synthetic", 2)}]
    summary = summarised((fewer, preds, target, arms))
    assert summary.arms[3].over_real.seeds == 1
    assert summary.arms[3].over_cheap.seeds == 2
    none = [r for r in rows if r["arm"] != "real" or r["seed"] == 0]
    none = [r for r in none if r["arm"] != "synthetic" or r["seed"] == 1]
    assert summarised((none, preds, target, arms)).arms[3].over_real is None


def test_one_seed_has_no_deviation_and_missing_groups_stay_missing(measured):
    rows, preds, target, arms = measured
    one = [{**r, "few": None} for r in rows if r["seed"] == 0]
    first = summarised((one, preds, target, arms)).arms[0]
    assert first.top1.std is None
    assert first.few is None


def test_no_row_is_an_error(measured):
    _, preds, target, arms = measured
    with pytest.raises(SignforgeError, match="no finished row"):
        summarised(([], preds, target, arms))


def test_a_run_directory_is_enough(config, splits, sampler, tmp_path):
    rows = run_benchmark(config, splits, sampler, tmp_path, gan_seconds=3.0)
    summary = summarise_run(tmp_path)
    assert summary.class_names == splits.train.class_names
    assert summary.train_counts == (120, 40, 24, 6)
    assert summary.test_counts == (30, 20, 20, 15)
    for found in summary.arms:
        values = [r["macro_accuracy"] for r in rows if r["arm"] == found.arm]
        assert found.macro_accuracy.mean == pytest.approx(np.mean(values))
    for found in summary.arms[1:]:
        difference = found.macro_accuracy.mean - summary.arms[0].macro_accuracy.mean
        # Rows are torchmetrics' figures, gains are made from the predictions: two ways, one value.
        assert found.over_real.mean == pytest.approx(difference, abs=1e-6)
    assert dataclasses.replace(summary) == summarise_run(tmp_path)
