"""What the README shows must be what the project does."""

import re
from pathlib import Path

import pytest
import torch

from signforge.benchmark.markdown import report_markdown
from signforge.benchmark.record import read_record
from signforge.benchmark.summary import summarise_run
from signforge.config import DataConfig, GanConfig, preset_names
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


@pytest.mark.parametrize("results", RESULTS.values())
def test_published_results_are_those_of_their_rows(results: str) -> None:
    folder = ROOT / results
    summary, record = summarise_run(folder), read_record(folder)
    written = (folder / "results.md").read_text(encoding="utf-8")
    assert report_markdown(summary, record) == written
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
