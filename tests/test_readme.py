"""What the README shows must be what the project does."""

import re
from pathlib import Path

import pytest
import torch

from signforge.benchmark.markdown import report_markdown
from signforge.benchmark.record import read_record
from signforge.benchmark.summary import summarise_run
from signforge.config import DataConfig, GanConfig
from signforge.config_file import preset_names
from signforge.data.demo import draw_demo
from signforge.data.prepare import load_prepared_splits
from signforge.gan.training import train_cgan

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_picture_and_link_is_there() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


RESULTS = {
    "gtsrb": "benchmarks/results/gtsrb",
    "ratio100": "benchmarks/results/gtsrb-ratio100",
}


@pytest.mark.parametrize(("block", "results"), RESULTS.items())
def test_tables_are_the_ones_that_the_benchmark_wrote(block: str, results: str) -> None:
    shown = README.split(f"<!-- {block}-begin -->")[1].split(f"<!-- {block}-end -->")[0]
    table = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(table) >= 5
    written = (ROOT / results / "results.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in table if line not in written] == []


DRAWN = re.compile(r"([+-]\d+\.\d+) to ([+-]\d+\.\d+)|p = (\d(?:\.\d+)?)")
"""What resampling of test images decides: the bounds of intervals, and p-values."""
LEEWAY = 0.3
"""Of an interval's width. Other random numbers move a bound by a quarter of it at most (two or
three of the 2,000 resamples decide it where a class has few images), and p by 0.01."""


def undrawn(report: str) -> str:
    """All of it that must be the same to the letter."""
    return DRAWN.sub("#", report)


def drawn_alike(one: str, other: str) -> bool:
    """Whether bounds and p-values of two reports may differ by random numbers alone."""
    for ours, theirs in zip(DRAWN.findall(one), DRAWN.findall(other), strict=True):
        (low, high, p), (low_2, high_2, p_2) = (
            [float(number or 0) for number in found] for found in (ours, theirs)
        )
        leeway = 0.05 + LEEWAY * max(high - low, high_2 - low_2)
        if max(abs(low - low_2), abs(high - high_2)) > leeway or abs(p - p_2) > 0.05:
            return False
    return True


def test_only_what_is_drawn_may_differ_between_reports() -> None:
    report = "real +1.30 points (95 % interval -2.75 to +5.39, p = 0.19, over 2 seeds)"
    for other, same in (
        (report.replace("5.39", "6.10").replace("0.19", "0.21"), True),
        (report.replace("5.39", "10.10"), False),
        (report.replace("0.19", "0.29"), False),
        (report.replace("1.30", "1.31"), False),
        (report.replace("2 seeds", "3 seeds"), False),
        (report.replace("points", "point"), False),
    ):
        assert (undrawn(report) == undrawn(other) and drawn_alike(report, other)) == same


@pytest.mark.parametrize("results", RESULTS.values())
def test_published_results_are_those_of_their_rows(results: str) -> None:
    folder = ROOT / results
    summary, record = summarise_run(folder), read_record(folder)
    written = (folder / "results.md").read_text(encoding="utf-8")
    now = report_markdown(summary, record)
    assert undrawn(now) == undrawn(written)
    assert drawn_alike(now, written)
    table = written.split("\n\n")[2]
    assert table in (ROOT / "docs/benchmark.md").read_text(encoding="utf-8")


def test_presets_are_named() -> None:
    assert [name for name in preset_names() if f"`{name}`" not in README] == []


@pytest.mark.slow
def test_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNFORGE_CACHE", str(tmp_path / "cache"))
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    train = load_prepared_splits(DataConfig(source="demo")).train
    assert len(train) < len(draw_demo(scale=0.1, resolution=32).train)
    run = tmp_path / "generator"
    train_cgan(GanConfig(base_channels=4, guide_steps=3, total_kimg=0.5), train, run)
    for written, ours in (("runs/demo/generator", str(run)), ("range(5)", "range(1)")):
        assert written in code
        code = code.replace(written, ours)
    variables: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), variables)
    loss = variables["loss"]
    assert isinstance(loss, torch.Tensor)
    assert loss.item() < 6
