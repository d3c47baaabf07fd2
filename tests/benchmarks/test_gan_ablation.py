from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from signforge.config import GanConfig
from signforge.config_file import dump_config
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
    out = tmp_path / "out"
    text = (out / "table.md").read_text()
    table = text.partition("\n\n")[0] + "\n"
    assert table.count("\n") == 4
    assert capsys.readouterr().out.endswith(table)
    assert all(row["command"] in text for row in rows)
    assert (out / "ablation-0.016kimg.png").read_bytes().startswith(b"\x89PNG")
    script.main(["--report", "--out", str(out)])
    assert capsys.readouterr().out == table
    assert (out / "table.md").read_text() == text


def a_row(variant: str, fd_ratio: float, judge: str = "a") -> dict[str, Any]:
    return {
        "variant": variant,
        "kimg": 45.0,
        "seen_kimg": 45.0,
        "gan_seconds": 90.0,
        "fd_ratio": fd_ratio,
        "kid": 0.002,
        "macro_label_agreement": 0.9,
        "worst_class": 3,
        "worst_class_label_agreement": 0.5,
        "gan": {"seed": 0},
        "extractor_sha256": judge,
    }


def test_the_smallest_distance_stands_first(script: ModuleType) -> None:
    table = script.ablation_table([a_row("recipe", 2.0), a_row("gSR 0.5", 1.5)]).splitlines()
    assert table[2] == "| gSR 0.5 | 0 | 45 | 500 | 1.50 | 2.0 | 90.0 % | 3: 50 % |"
    assert table[3].startswith("| recipe | 0 | 45 |")


def test_the_plot_has_a_dot_a_run_and_a_band_of_the_recipe(script: ModuleType) -> None:
    rows = [a_row("recipe", 2.0), a_row("recipe", 2.5), a_row("gSR 0.5", 1.5)]
    axes = script.plot(rows).axes[0]
    dots = sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines)
    assert dots == [(1.5, 1), (2.0, 0), (2.5, 0)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["recipe", "gSR 0.5"]
    band = axes.patches[0]
    assert (band.get_x(), band.get_x() + band.get_width()) == (2.0, 2.5)


def test_rows_of_two_judges_are_refused(script: ModuleType, tmp_path: Path) -> None:
    for judge in "ab":
        script.append_row(tmp_path / "rows.jsonl", a_row("recipe", 2.0, judge))
    with pytest.raises(SignforgeError, match="different judges"):
        script.main(["--report", "--out", str(tmp_path)])


def test_without_data_there_is_nothing_to_train_on(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SignforgeError, match="Give --data, or --report"):
        script.main(["--out", str(tmp_path)])
