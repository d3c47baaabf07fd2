import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from signforge.data.prepare import load_prepared_splits
from signforge.errors import SignforgeError
from support.tiny_runs import load_script, tiny_config

JUDGE = ["--judge-classifier", "test_resnet", "--judge-steps", "8"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("gan_quality")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judge")


@pytest.fixture(scope="module")
def rows(script: ModuleType, run: Path, judge: Path) -> list[dict[str, Any]]:
    """On validation with CAS, again without, and on the test split with another n."""
    out, table = judge.parent / "rows.jsonl", judge.parent / "table.md"
    common = ["--data", "demo", "--run", str(run), "--judge", str(judge), "--out", str(out)]
    common += [*JUDGE, "--table", str(table)]
    script.main([*common, "--cas-steps", "4", "--cas-learning-rate", "0.01"])
    script.main(common)
    script.main([*common, "--split", "test", "--n", "1000"])
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert table.read_text() == script.quality_table(written)
    return written


def test_a_row_holds_every_figure_beside_its_floor(rows: list[dict[str, Any]]) -> None:
    splits = load_prepared_splits(tiny_config().data)
    first, second, on_test = rows
    assert (first["split"], first["n"], first["n_reference"]) == ("val", *[len(splits.val)] * 2)
    assert (on_test["split"], on_test["n"], on_test["n_reference"]) == (
        "test", 1000, len(splits.test),
    )  # fmt: skip
    for row in rows:
        assert row["samples"].keys() == row["floor"].keys()
        # A GAN of four steps draws noise: every figure must say so.
        assert row["fd_ratio"] == pytest.approx(row["samples"]["fd"] / row["floor"]["fd"])
        assert row["fd_ratio"] > 2
        assert row["samples"]["kid"] > row["floor"]["kid"]
        for name in ("coverage", "density", "class_coverage"):
            assert row["samples"][name] < row["floor"][name]
        assert row["label_agreement"]["macro"] < 0.2
        assert len(row["label_agreement"]["per_class"]) == 43
        assert len(row["samples"]["fd_per_class"]) == 43
        assert row["samples"]["class_count"] == row["floor"]["class_count"] > 10
        assert row["memorization"]["pixels"]["macro_share"] < 0.5
        assert row["commit"] is None or len(row["commit"]) == 40
        assert row["versions"]["torch"]
        assert row["hardware"]["cores"] >= 1
        assert row["command"].startswith("python benchmarks/gan_quality.py --data demo")
    assert first["judge"] == second["judge"]
    for name in ("samples", "floor", "label_agreement", "memorization"):
        assert first[name] == second[name]
    assert second["cas"] is None
    assert first["cas"]["steps"] == 4
    assert first["cas"]["real"]["top1"] - first["cas"]["synthetic"]["top1"] == first["cas"]["gap"]


def test_the_table_has_a_floor_for_each_split(
    script: ModuleType, rows: list[dict[str, Any]]
) -> None:
    lines = script.quality_table(rows).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "real training images", "tiny", "tiny", "real training images", "tiny",
    ]  # fmt: skip


def test_real_images_were_classified_once(rows: list[dict[str, Any]], judge: Path) -> None:
    assert len(rows) == 3
    kept = sorted(path.name for path in judge.iterdir())
    assert [name for name in kept if name.startswith("cas-real")] == ["cas-real-val-4-seed0.json"]
    classifier = json.loads((judge / "cas-real-val-4-seed0.json").read_text())["made_from"][
        "classifier"
    ]
    assert (classifier["steps"], classifier["learning_rate"]) == (4, 0.01)
    assert len([name for name in kept if name.startswith("features-")]) == 3


def test_what_does_not_fit_is_one_sentence(
    script: ModuleType,
    run: Path,
    judge: Path,
    rows: list[dict[str, Any]],  # noqa: ARG001  (the judge exists once they do)
    tmp_path: Path,
) -> None:
    common = ["--data", "demo", "--run", str(run), "--judge", str(judge)]
    common += ["--out", str(tmp_path / "rows.jsonl"), "--judge-classifier", "test_resnet"]
    with pytest.raises(SignforgeError, match=r"other steps \(8\) than these \(9\)"):
        script.main([*common, "--judge-steps", "9"])
    card = json.loads((run / "generator.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.yaml", "generator.safetensors"):
        (other / name).write_bytes((run / name).read_bytes())
    (other / "generator.json").write_text(json.dumps({**card, "train_fingerprint": "ab" * 32}))
    common[3] = str(other)
    with pytest.raises(SignforgeError, match="other was trained on other images"):
        script.main([*common, "--judge-steps", "8"])
    assert not (tmp_path / "rows.jsonl").exists()
