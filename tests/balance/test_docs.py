"""docs/balance.md: its code runs, its tests and files exist."""

import re
from pathlib import Path

import pytest

from signforge.config import GanConfig
from signforge.gan.sampler import GeneratorCard, build_generator, load_sampler, save_sampler

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "balance.md").read_text(encoding="utf-8")

SMALLER = {
    "cuda": "cpu",
    "num_workers=2": "num_workers=0",
    "pin_memory=True": "pin_memory=False",
    "resnet18": "test_resnet",
    "steps=600": "steps=2",
}
"""What a test without a GPU and with little time has in place of what the page says."""


@pytest.fixture
def run(make_real, tmp_path) -> Path:
    """A run directory whose generator was never trained."""
    config = GanConfig(z_dim=4, base_channels=4, embedding_dim=4)
    real = make_real()
    card = GeneratorCard(
        gan=config,
        resolution=8,
        class_names=real.class_names,
        class_counts=tuple(real.class_counts.tolist()),
        train_fingerprint=real.fingerprint,
        seen_kimg=0.0,
        seconds=0.0,
        weights_sha256="",
    )
    save_sampler(tmp_path, build_generator(config, num_classes=4, resolution=8), card)
    return tmp_path


@pytest.mark.filterwarnings("ignore:The gate:UserWarning")
def test_the_code_runs(make_real, run):
    real = make_real()
    variables: dict[str, object] = {
        "real": real,
        "rows": {"image": list(real.images), "label": real.targets},
        "my_sampler": load_sampler(run, "cpu"),
    }
    code = "".join(re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL))
    for written, ours in {"runs/gan": str(run), **SMALLER}.items():
        assert written in code
        code = code.replace(written, ours)
    exec(compile(code, "balance.md", "exec"), variables)
    assert variables["train"].epoch == 1
    assert variables["gate"].real_acceptance.shape == (4,)


def test_tests_that_it_names_exist():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert named
    assert [name for name in named if not any(f"def {name}(" in text for text in sources)] == []


def test_data_sets_that_it_names_are_those_of_the_tests():
    builders = (ROOT / "tests" / "support" / "real_datasets.py").read_text(encoding="utf-8")
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and line.count("|") == 4]
    named = {name for row in rows for name in re.findall(r"`([a-z_0-9]+)`", row.split("|")[3])}
    written = set(re.findall(r"^def (\w+)\(\w+: Path\) -> Case:", builders, flags=re.MULTILINE))
    assert written
    assert {name for name in named if not name.startswith("test_")} - {"datasets"} == written


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert targets
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []


def test_anchors_are_headings():
    headings = re.findall(r"^#+ (.+)$", TEXT, flags=re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-").replace("?", "") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= anchors
