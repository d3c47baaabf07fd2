from pathlib import Path
from types import ModuleType

import pytest

from signforge.config import GanConfig, dump_config
from signforge.errors import SignforgeError
from support.tiny_runs import load_script, tiny_config


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("gan_ablation")


def test_every_variant_changes_the_recipe_and_nothing_else(script: ModuleType) -> None:
    base = GanConfig()
    plain = script.variant_config(base, "recipe", 90, 3).model_dump()
    assert plain["total_kimg"] == 90
    assert plain["learning_rate_decay_from_kimg"] == 45
    assert plain["seed"] == 3
    for name, changes in script.VARIANTS.items():
        varied = script.variant_config(base, name, 90, 3).model_dump()
        differing = {key for key in plain if plain[key] != varied[key]}
        assert differing == set(changes), name


def test_an_unknown_variant_is_one_sentence(script: ModuleType) -> None:
    with pytest.raises(SignforgeError, match="No variant 'magic'; there are: recipe, "):
        script.variant_config(GanConfig(), "magic", 90, 0)


def test_variants_are_measured_once_and_tabled(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(dump_config(tiny_config()))
    command = ["--data", "demo", "--config", str(config), "--out", str(tmp_path / "out")]
    command += ["--kimg", "0.016", "--judge-classifier", "test_resnet", "--judge-steps", "4"]
    script.main([*command, "--variants", "recipe"])
    script.main([*command, "--variants", "recipe", "LeCam 0.1"])
    script.main([*command, "--variants", "recipe"])  # its table has the rows of all calls
    rows = script.read_rows(tmp_path / "out" / "rows.jsonl")
    assert [row["variant"] for row in rows] == ["recipe", "LeCam 0.1"]
    assert rows[1]["gan"]["lecam_weight"] == 0.1
    assert rows[0]["sampler_fingerprint"] != rows[1]["sampler_fingerprint"]
    assert rows[0]["extractor_sha256"] == rows[1]["extractor_sha256"]
    assert rows[0]["command"].startswith("python benchmarks/gan_ablation.py --data demo")
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.count("\n") == 4
    assert capsys.readouterr().out.endswith(table)
