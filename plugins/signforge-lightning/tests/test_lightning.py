"""What the plugin leans on in Lightning, and which releases it refuses."""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def test_lightning_still_counts_processed_epochs() -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    try:
        processed = trainer.fit_loop.epoch_progress.current.processed
    except AttributeError as error:
        pytest.fail(f"Lightning moved the epoch that callback.current_epoch reads: {error}")
    assert processed == 0


@pytest.mark.parametrize("package", ["lightning", "pytorch-lightning"])
def test_the_compromised_releases_are_excluded(package: str) -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    requirements = [Requirement(line) for line in project["dependencies"]]
    (ours,) = [requirement for requirement in requirements if requirement.name == package]
    for release in ("2.6.2", "2.6.3"):
        assert release not in ours.specifier
    assert version(package) in ours.specifier
