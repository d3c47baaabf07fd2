"""A training with its trackers; probes have tests of their own, and so do trackers."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from signforge.data.prepare import load_prepared_splits
from signforge.errors import SignforgeError
from signforge.evaluate.observed import train_observed
from signforge.gan import trackers, training
from support.tiny_runs import tiny_config


def test_a_tracker_that_cannot_be_opened_ends_the_run_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_run: Path, _known: str | None) -> Any:
        raise RuntimeError("No API key configured.")

    monkeypatch.setattr(trackers, "check_trackers", lambda _names: None)
    monkeypatch.setitem(trackers._START, "wandb", refuse)
    monkeypatch.setitem(sys.modules, "accelerate", SimpleNamespace(PartialState=lambda: None))
    monkeypatch.setattr(training, "train_guide", pytest.fail)
    config = tiny_config()
    config = config.model_copy(
        update={"gan": config.gan.model_copy(update={"trackers": ("wandb",)})}
    )
    run = tmp_path / "run"
    with pytest.raises(SignforgeError, match="wandb cannot be opened: No API key configured"):
        train_observed(config, load_prepared_splits(config.data), run)
    assert not run.exists()
