"""A/A and planted gains: how often the benchmark calls a difference where there is none, or one.

The fits are resampled from the published predictions of `real` on GTSRB's test images.
"""

from pathlib import Path

import numpy as np
import pytest

from signforge.benchmark.folder import read_rows
from signforge.benchmark.run_clustering import clustering_of_run
from signforge.benchmark.summary import summarise
from support.tiny_runs import load_script

RUN = Path(__file__).parents[2] / "benchmarks/results/gtsrb"
COMPARISONS = 200


def most(comparisons, share=0.05):
    """What a share of so many comparisons stays below in 99 % of cases."""
    return share + 2.5 * (share * (1 - share) / comparisons) ** 0.5


@pytest.fixture(scope="module")
def script():
    return load_script("aa_simulation")


@pytest.fixture(scope="module")
def fits(script):
    """Those of `real`, at every other image: as much to learn from, at half the time."""
    found = script.read_fits(RUN, "real")
    return script.CachedFits(found.correct[:, ::2], found.target[::2])


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_two_copies_of_real_are_called_different_in_five_percent_of_cases(script, fits, seeds):
    found = script.simulate(fits, seeds=seeds, gain=0.0, comparisons=COMPARISONS, resamples=100)
    calls = {
        name: np.mean([one.figures[name].direction != 0 for one in found])
        for name in found[0].figures
    }
    calls["any class"] = np.mean([any(gain.sure for gain in one.classes) for one in found])
    assert max(calls.values()) <= most(COMPARISONS), calls
    # Not by being silent.
    assert calls["top1"] + calls["macro_accuracy"] > 0, calls


def test_a_planted_gain_of_known_size_is_found_and_covered(script, fits):
    planted, comparisons = 0.03, 60
    found = script.simulate(fits, seeds=5, gain=planted, comparisons=comparisons, resamples=100)
    macro = [one.figures["macro_accuracy"] for one in found]
    assert np.mean([gain.mean for gain in macro]) == pytest.approx(planted, abs=0.002)
    assert np.mean([gain.direction > 0 for gain in macro]) > 0.8
    missed = np.mean([not gain.low < planted < gain.high for gain in macro])
    assert missed <= most(comparisons)


@pytest.mark.parametrize("seeds", [3, 5])
def test_by_the_design_effect_of_the_reports_a_planted_gain_is_found_too(script, seeds):
    """And copies are told apart no more often than they should: on all images, as in a report."""
    whole = script.read_fits(RUN, "real")
    effect = clustering_of_run(RUN, read_rows(RUN)).design_effect(seeds)
    assert effect > 5
    options = {"seeds": seeds, "comparisons": 40, "resamples": 100, "design_effect": effect}
    found = script.simulate(whole, gain=0.02, **options)
    macro = [one.figures["macro_accuracy"] for one in found]
    assert np.mean([gain.direction > 0 for gain in macro]) > 0.8
    assert all(gain.low < 0.02 < gain.high for gain in macro)
    none = script.simulate(whole, gain=0.0, **options)
    assert np.mean([one.figures["macro_accuracy"].direction != 0 for one in none]) <= most(40)


def test_the_script_writes_one_line_a_number_of_seeds_and_gain(script, tmp_path):
    out = tmp_path / "aa.md"
    script.main(
        ["--run", str(RUN), "--seeds", "2,3", "--gains", "0,3", "--comparisons", "2",
         "--resamples", "50", "--out", str(out)]
    )  # fmt: skip
    lines = [line for line in out.read_text().splitlines() if line.startswith("| ")][2:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    effect = f"{clustering_of_run(RUN, read_rows(RUN)).design_effect(2):.1f}"
    assert [line[:3] for line in cells] == [
        [seeds, gain, each] for seeds in "23" for each in ("1.0", effect) for gain in "03"
    ]
    assert all(0 <= float(cell) <= 100 for line in cells for cell in line[2:])
    with pytest.raises(script.SignforgeError, match="30 points cannot be planted"):
        script.main(["--run", str(RUN), "--gains", "30", "--comparisons", "1", "--out", str(out)])
    with pytest.raises(script.SignforgeError, match="0 fits of the arm nothing"):
        script.read_fits(RUN, "nothing")


def test_many_useless_remedies_do_not_make_a_verdict():
    rng = np.random.default_rng(8)
    target = np.repeat(np.arange(5), 60)
    arms = ("real", "a", "b", "synthetic")
    comparisons, blamed = 80, 0
    for _ in range(comparisons):
        rows, preds = [], {}
        for arm in arms:
            for seed in range(3):
                right = rng.random(300) < 0.8 + rng.normal(0, 0.03)
                preds[arm, seed] = np.where(right, target, (target + 1) % 5)
                rows.append(row(arm, seed, right, target, rng.random()))
        summary = summarise(
            rows,
            preds,
            target,
            arms=arms,
            class_names=tuple("abcde"),
            train_counts=(200,) * 5,
            resamples=60,
        )
        blamed += summary.verdict.startswith("Use ")
    assert blamed / comparisons <= most(comparisons)


def row(arm, seed, right, target, val_macro_accuracy):
    recall = np.bincount(target, right) / np.bincount(target)
    return {
        "arm": arm,
        "seed": seed,
        "val_macro_accuracy": val_macro_accuracy,
        "top1": right.mean(),
        "macro_accuracy": recall.mean(),
        "worst_class_recall": recall.min(),
        "many": recall.mean(),
        "medium": None,
        "few": None,
        "per_class_recall": recall.tolist(),
        "class_counts": [200] * 5,
        "uses_generator": arm.startswith("synthetic"),
        "gan_seconds": 0.0,
        "classifier_seconds": 1.0,
    }
