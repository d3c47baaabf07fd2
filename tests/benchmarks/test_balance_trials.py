import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from signforge.balance.decision import ValidationGroups
from signforge.balance.plan import BalancePlan
from signforge.config_file import dump_config, load_config
from signforge.data.prepare import load_prepared_splits
from signforge.errors import SignforgeError
from support.tiny_runs import load_script, tiny_config

SMALL = ["--classifier", "test_resnet", "--steps", "2", "--gate-steps", "2"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("balance_trials")


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return load_script("trial_tables")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trials") / "out"


@pytest.fixture(scope="module")
def common(run: Path, out: Path) -> list[str]:
    return ["--data", "demo", "--run", str(run), "--out", str(out), *SMALL]


@pytest.fixture(scope="module")
def rows(script: ModuleType, common: list[str], out: Path) -> list[dict[str, Any]]:
    """Two seeds of what the plan needs, and the plan."""
    variants = ["--variants", "synthetic-0.5,plan", "--plan-from", "synthetic-0.5"]
    script.main([*common, *variants, "--seeds", "2"])
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def test_each_variant_and_seed_is_trained_once(
    script: ModuleType, rows: list[dict[str, Any]], common: list[str], out: Path
) -> None:
    first = [(row["arm"], row["seed"]) for row in rows[:6]]
    names = ("real", "oversample", "synthetic-0.5")
    assert first == [(name, seed) for seed in (0, 1) for name in names]
    plans = [(row["arm"], row["seed"]) for row in rows[6:]]
    with_remedy = [n for n in script.HALVES if BalancePlan.load(out / f"{n}.yaml").counts()]
    assert plans == [(name, seed) for name in with_remedy for seed in (0, 1)]
    before = (out / "rows.jsonl").read_text()
    script.main([*common, "--variants", "real,oversample", "--seeds", "2"])
    assert (out / "rows.jsonl").read_text() == before


def test_no_row_owes_anything_to_the_test_split(rows: list[dict[str, Any]]) -> None:
    splits = load_prepared_splits(tiny_config().data)
    for row in rows:
        assert row["train_fingerprint"] == splits.train.fingerprint
        assert row["val_fingerprint"] == splits.val.fingerprint
        assert splits.test.fingerprint not in json.dumps(row)
        assert row["val_images"] == len(splits.val)
        assert row["hardware"]["threads"] >= 1
        assert row["command"].startswith("python benchmarks/balance_trials.py --data demo")


def test_the_cap_holds(rows: list[dict[str, Any]]) -> None:
    counts = load_prepared_splits(tiny_config().data).train.class_counts.tolist()
    drawn = next(row for row in rows if row["arm"] == "synthetic-0.5")
    assert drawn["synthetic_counts"] == [min(n, max(counts) - n) for n in counts]
    assert sum(drawn["oversampled_counts"]) == 0


def test_a_gated_variant_tells_its_acceptance(
    script: ModuleType, rows: list[dict[str, Any]], common: list[str], out: Path
) -> None:
    assert rows
    # One step of a classifier is never sure: all classes fall below the floor, which is said.
    with pytest.warns(UserWarning, match="acceptance|accept|keeps"):
        script.main([*common, "--variants", "gated-0.9", "--seeds", "1"])
    row = json.loads((out / "rows.jsonl").read_text().splitlines()[-1])
    assert (row["arm"], row["seed"]) == ("gated-0.9", 0)
    assert row["oversampled_counts"] == row["synthetic_counts"]
    header, _, *lines = (out / "classes.md").read_text().splitlines()
    assert "gated-0.9: accepted (real)" in header
    assert len([line for line in lines if line.startswith("|")]) == 43


def test_the_tables_come_from_the_folder_alone(
    script: ModuleType, rows: list[dict[str, Any]], out: Path
) -> None:
    assert rows
    table = (out / "table.md").read_text()
    (out / "table.md").unlink()
    script.main(["--out", str(out), "--tables"])
    assert (out / "table.md").read_text() == table
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    names = [line.split("|")[1].strip() for line in lines[2:]]
    assert [n for n in names if not n.startswith("gated")] == [
        "real", "oversample", "synthetic-0.5", "plan",
    ]  # fmt: skip


def test_a_table_needs_no_baseline_yet(
    script: ModuleType, rows: list[dict[str, Any]], out: Path, tmp_path: Path
) -> None:
    (tmp_path / "validation.json").write_bytes((out / "validation.json").read_bytes())
    drawn = next(row for row in rows if row["arm"] == "synthetic-0.5")
    (tmp_path / "rows.jsonl").write_text(json.dumps(drawn) + "\n")
    line = script.write_tables(tmp_path).splitlines()[2]
    assert [cell.strip() for cell in line.split("|")[7:10]] == ["", "", ""]
    assert "| - |" in (tmp_path / "classes.md").read_text()


def test_a_plan_is_scored_on_the_half_that_it_was_not_chosen_on(tables: ModuleType) -> None:
    groups = ValidationGroups(np.array([0, 0, 1, 1]), np.array([2, 2, 2, 2]))
    validation = tables.Validation(("a", "b"), (5, 6), groups, np.array([0, 1, 0, 1]))
    rows = {
        "plan-0": [{"seed": 0, "group_hits": [0, 2, 0, 1]}],
        "plan-1": [{"seed": 0, "group_hits": [1, 0, 2, 0]}],
    }
    recalls = tables.recalls_of(rows, validation)
    assert recalls["plan"].tolist() == [[0.5, 1.0, 1.0, 0.5]]


def test_halves_split_every_class_and_depend_on_nothing_else(script: ModuleType) -> None:
    labels = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 1])
    groups = ValidationGroups(labels, np.ones_like(labels))
    halves = script.group_halves(groups)
    for label in range(6):
        assert abs(2 * halves[labels == label].sum() - (labels == label).sum()) <= 1
    assert halves.sum() == 8
    assert script.group_halves(groups).tolist() == halves.tolist()


@pytest.mark.parametrize("seeds", [2, 3])
def test_the_interval_covers_no_gain_in_about_95_of_100_cases(
    tables: ModuleType, seeds: int
) -> None:
    rng = np.random.default_rng(seeds)
    labels = np.repeat(np.arange(12), rng.integers(1, 9, 12))
    groups = ValidationGroups(labels, np.full(len(labels), 30))
    validation = tables.Validation(tuple("abcdefghijkl"), (9,) * 12, groups, labels % 2)
    cases, missed = 300, 0
    for _ in range(cases):
        ours, theirs = (
            0.8 + rng.normal(0, 0.05, (1, len(labels))) + rng.normal(0, 0.01, (seeds, len(labels)))
            + rng.normal(0, 0.01, (seeds, 1))
            for _ in range(2)
        )  # fmt: skip
        gain = tables.mean_gain(ours, theirs, validation)
        assert gain.low <= gain.mean <= gain.high
        missed += not gain.low <= 0 <= gain.high
    assert missed / cases <= 0.05 + 2.5 * 0.0126


def test_what_cannot_be_run_is_one_sentence(
    script: ModuleType, rows: list[dict[str, Any]], common: list[str], run: Path, tmp_path: Path
) -> None:
    assert rows

    def refused(match: str, *args: str) -> None:
        with pytest.raises(SignforgeError, match=match):
            script.main([*args])

    refused("Unknown variant 'synthetic'", *common, "--variants", "synthetic")
    refused("end within the first epoch", *common, "--variants", "refresh-0")
    refused("holds trials with another classifier", *common, "--steps", "3")
    refused("holds no trials", "--out", str(tmp_path), "--tables")
    refused("Give --data and --run", "--out", str(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    for file in ("generator.json", "generator.safetensors"):
        (other / file).write_bytes((run / file).read_bytes())
    config = load_config(run / "config.yaml", [("data.split_seed", 3)])
    (other / "config.yaml").write_text(dump_config(config))
    args = ["--data", "demo", "--run", str(other), "--out", str(tmp_path / "new"), *SMALL]
    refused("trained on other images", *args)
