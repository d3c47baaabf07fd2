import dataclasses

import numpy as np
import pytest

from signforge.benchmark.clusters import GroupedPredictions, measure_clustering
from signforge.benchmark.folder import (
    read_target,
    write_groups,
    write_predictions,
    write_target,
)
from signforge.benchmark.runner import run_benchmark
from signforge.benchmark.statistics import compare
from signforge.benchmark.summary import epoch_counts, rare_first, summarise, summarise_run
from signforge.errors import SignforgeError
from support.benchmark_runs import write_run


def row(name, seed, preds, target, **more):
    recall = [(preds[target == c] == c).mean() for c in range(3)]
    return {
        "arm": name,
        "seed": seed,
        "val_macro_accuracy": np.mean(recall),
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
    # 200, 50 and 5 training images: the shot groups are the three classes.
    groups = {"many": np.array([0]), "medium": np.array([1]), "few": np.array([2])}
    expected = compare(of["synthetic"], of["real"], target, groups=groups, resamples=300)
    assert synthetic.versus_real == expected
    assert synthetic.over_real == expected.figures["macro_accuracy"]
    assert synthetic.class_gains == expected.classes
    for name in ("top1", "worst_class_recall", "many", "medium", "few"):
        difference = getattr(synthetic, name).mean - getattr(summary.arms[0], name).mean
        assert synthetic.versus_real.figures[name].mean == pytest.approx(difference)
    assert synthetic.over_cheap.mean == pytest.approx(
        synthetic.macro_accuracy.mean - summary.arms[1].macro_accuracy.mean
    )
    assert len(synthetic.class_gains) == 3
    assert summary.arms[0].over_real is None
    assert summary.arms[1].over_cheap is None
    assert summary.verdict.startswith("Use `synthetic`")


def test_contenders_are_chosen_on_validation_never_on_the_test(measured):
    rows, preds, target, arms = measured
    weak = [
        {**r, "val_macro_accuracy": 0.99 if r["arm"] == "weighted" else r["val_macro_accuracy"]}
        for r in rows
    ]
    summary = summarised((weak, preds, target, arms))
    by_name = {found.arm: found for found in summary.arms}
    assert by_name["oversample"].macro_accuracy.mean > by_name["weighted"].macro_accuracy.mean
    assert summary.best_cheap == "weighted"
    assert summary.best_generative == "synthetic"
    assert "over the best cheap remedy, `weighted`" in summary.verdict
    assert by_name["oversample"].over_cheap.mean > 0
    better_test = [{**r, "macro_accuracy": 1.0} if r["arm"] == "oversample" else r for r in weak]
    assert summarised((better_test, preds, target, arms)).best_cheap == "weighted"


def test_contenders_are_chosen_over_the_seeds_that_all_of_them_have(measured):
    rows, preds, target, arms = measured
    level = {("oversample", 0): 0.8, ("oversample", 1): 0.7, ("oversample", 2): 0.1}
    level |= {("weighted", 0): 0.75, ("weighted", 1): 0.65}
    some = [
        {**r, "val_macro_accuracy": level.get((r["arm"], r["seed"]), 0.5)}
        for r in rows
        if (r["arm"], r["seed"]) != ("weighted", 2)
    ]
    assert summarised((some, preds, target, arms)).best_cheap == "oversample"


def test_an_arm_tried_with_one_seed_takes_no_place_from_one_with_more(measured):
    rows, preds, target, arms = measured
    some = [
        {**r, "val_macro_accuracy": 1.0} if r["arm"] == "weighted" else r
        for r in rows
        if (r["arm"], r["seed"]) not in (("weighted", 1), ("weighted", 2))
    ]
    assert summarised((some, preds, target, arms)).best_cheap == "oversample"
    alone = [r for r in some if r["seed"] == 0]
    assert summarised((alone, preds, target, arms)).best_cheap == "weighted"


def test_an_arm_that_shares_no_seed_with_real_hides_no_other(measured):
    rows, preds, target, arms = measured
    moved = [
        {**r, "seed": r["seed"] + 9, "val_macro_accuracy": 1.0} if r["arm"] == "weighted" else r
        for r in rows
    ]
    preds = {(arm, seed + 9 * (arm == "weighted")): p for (arm, seed), p in preds.items()}
    summary = summarised((moved, preds, target, arms))
    assert summary.best_cheap == "oversample"
    assert summary.arms[2].over_real is None


def test_without_a_remedy_there_is_no_contender(measured):
    rows, preds, target, _ = measured
    summary = summarised((rows, preds, target, ("real",)))
    assert summary.best_cheap is None
    assert summary.best_generative is None
    assert summary.verdict.startswith("No remedy was compared")
    alone = summarised((rows, preds, target, ("oversample", "synthetic")))
    assert alone.verdict.startswith("No remedy was compared")
    assert alone.arms[1].over_cheap is not None


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


def test_costs_and_gates_of_rows_that_know_them(measured):
    rows, preds, target, arms = measured
    assert summarised(measured).arms[3].gate_seconds == 0
    assert summarised(measured).arms[3].acceptance == (None, None, None)
    assert summarised(measured).arms[3].oversampled_counts == ()
    gated = [
        {
            **r,
            "gate_seconds": 30.0,
            "acceptance": [0.2 * r["seed"], 1.0 if r["seed"] else None, None],
            "oversampled_counts": [r["seed"], 0, 7],
        }
        for r in rows
    ]
    found = summarised((gated, preds, target, arms)).arms[3]
    assert found.gate_seconds == 30
    assert found.acceptance == (pytest.approx(0.2), 1.0, None)
    assert found.oversampled_counts == (1, 0, 7)


def test_arms_that_show_the_same_counts_share_a_series(measured):
    rows, preds, target, arms = measured
    filled = {"oversample": [200, 200, 200], "synthetic": [200, 200, 200]}
    some = [{**r, "class_counts": filled.get(r["arm"], [200, 50, 5])} for r in rows]
    summary = summarised((some, preds, target, arms))
    assert epoch_counts(summary) == {
        "real, weighted": (200, 50, 5),
        "oversample, synthetic": (200, 200, 200),
    }
    assert rare_first(summary) == [2, 1, 0]


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


def test_groups_of_the_test_are_used_if_known_and_those_of_validation_if_not(tmp_path):
    write_run(tmp_path, seeds=1)
    alone = summarise_run(tmp_path)
    assert alone.clustering is None
    # Validation images in groups of four that fare alike, as rows of this version keep them.
    target = np.repeat(np.arange(len(alone.class_names)), 40)
    groups = np.arange(len(target)) // 4
    rng = np.random.default_rng(0)
    preds = {}
    for arm in alone.arms:
        right = (rng.random(len(target)) < 0.7)[groups]
        preds[arm.arm, 0] = np.where(right, target, (target + 1) % len(alone.class_names))
        write_predictions(tmp_path, arm.arm, 0, preds[arm.arm, 0], "val")
    write_target(tmp_path, target, "val")
    write_groups(tmp_path, groups, "val")
    by_val = summarise_run(tmp_path)
    known = measure_clustering(GroupedPredictions(preds, target, groups), "real", "val")
    assert by_val.clustering == known
    effect = known.design_effect(1)
    assert 3 < effect < 5
    for before, after in zip(alone.arms[1:], by_val.arms[1:], strict=True):
        assert after.over_real.mean == before.over_real.mean
        ratio = after.over_real.image_sd / before.over_real.image_sd
        assert ratio == pytest.approx(effect**0.5, rel=0.15)

    test = read_target(tmp_path)
    write_groups(tmp_path, np.arange(len(test)), "test")
    by_test = summarise_run(tmp_path)
    assert by_test.clustering.split == "test"
    assert by_test.clustering.groups == len(test)
    assert by_test.clustering.one_seed == pytest.approx(1, rel=0.2)


def test_a_seed_that_was_trained_twice_counts_once(tmp_path):
    write_run(tmp_path, seeds=2)
    once = summarise_run(tmp_path)
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(2 * rows.read_bytes())
    assert summarise_run(tmp_path) == once
    assert {arm.seeds for arm in once.arms} == {(0, 1)}
