import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from signforge.data.prepare import load_prepared_splits
from signforge.errors import SignforgeError
from support.tiny_runs import load_script, tiny_config

ARMS = ("real", "synthetic_tenth_relit+logit_adjustment")
SMALL = ["classifier.name=test_resnet", "classifier.steps=2", "balance.gate_tau=0"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("arm_trials")


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_each_arm_and_seed_is_scored_on_validation_once(
    script: ModuleType, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [word for change in SMALL for word in ("--set", change)]
    command = ["--data", "demo", "--run", str(run), "--out", str(tmp_path), *changes]
    script.main([*command, "--arms", ",".join(ARMS), "--seeds", "2"])
    rows = rows_in(tmp_path)
    assert [(row["arm"], row["seed"]) for row in rows] == [(a, s) for s in (0, 1) for a in ARMS]
    val = load_prepared_splits(tiny_config().data).val
    assert {row["val_fingerprint"] for row in rows} == {val.fingerprint}
    assert {row["val_images"] for row in rows} == {len(val)}
    script.main([*command, "--arms", ARMS[0], "--seeds", "2"])
    assert rows_in(tmp_path) == rows
    capsys.readouterr()

    script.main(["--out", str(tmp_path), "--tables"])
    table = (tmp_path / "table.md").read_text()
    assert capsys.readouterr().out.strip() in table
    means = [sum(r["macro_accuracy"] for r in rows if r["arm"] == arm) / 2 for arm in ARMS]
    for arm, mean in zip(ARMS, means, strict=True):
        assert f"| {arm} | {100 * mean:.2f} ± " in table


def test_rows_of_other_settings_are_no_further_seeds(
    script: ModuleType, run: Path, tmp_path: Path
) -> None:
    changes = [word for change in SMALL for word in ("--set", change)]
    command = ["--data", "demo", "--run", str(run), "--out", str(tmp_path), *changes]
    script.main([*command, "--arms", ",".join(ARMS)])
    script.main([*command, "--arms", ARMS[0], "--set", "classifier.steps=3"])
    lines = (tmp_path / "table.md").read_text().splitlines()[2:5]
    assert [line.split(" | ")[0] for line in lines] == [
        f"| {ARMS[0]} (classifier.steps=2)",
        f"| {ARMS[1]} (classifier.steps=2)",
        f"| {ARMS[0]} (classifier.steps=3)",
    ]
    assert all(line.endswith("| 1 |") for line in lines)


def test_what_is_missing_is_said(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SignforgeError, match="Give --data and --run"):
        script.main(["--out", str(tmp_path)])
    with pytest.raises(SignforgeError, match="holds no trials"):
        script.main(["--out", str(tmp_path), "--tables"])
    with pytest.raises(SignforgeError, match="did you mean synthetic"):
        script.main(["--out", str(tmp_path), "--data", "demo", "--run", ".", "--arms", "sinthetic"])
