"""Environment variables -> settings."""

from pathlib import Path

import pytest
from signforge_timm.settings import settings_from_environment

from signforge import SignforgeError


def test_nothing_set():
    settings = settings_from_environment("demo", {})
    assert settings.config.data.source == "demo"
    assert settings.generator is None
    assert settings.gate is None


def test_config_of_the_run_then_changes_then_the_source():
    given = {
        "SIGNFORGE_GENERATOR": "runs/gan",
        "SIGNFORGE_SET": "balance.refresh=0.5 'data.classes=[Stop, Yield]' data.source=nowhere",
    }
    settings = settings_from_environment("elsewhere", given)
    assert settings.generator == Path("runs/gan")
    assert settings.config.data.resolution == 16
    assert settings.config.balance.refresh == 0.5
    assert settings.config.data.classes == ("Stop", "Yield")
    assert settings.config.data.source == "elsewhere"
    assert settings_from_environment(None, given).config.data.source == "nowhere"


def test_config_in_place_of_the_run():
    given = {"SIGNFORGE_GENERATOR": "runs/gan", "SIGNFORGE_CONFIG": "demo"}
    assert settings_from_environment("demo", given).config.data.resolution == 32


@pytest.mark.parametrize(("text", "gate"), [("0.5", 0.5), ("1", 1.0), ("runs", Path("runs"))])
def test_gate(text, gate):
    assert settings_from_environment("demo", {"SIGNFORGE_GATE": text}).gate == gate


@pytest.mark.parametrize("text", ["0", "1.5", "nan", "no-such-folder"])
def test_wrong_gate(text):
    with pytest.raises(SignforgeError, match=f"SIGNFORGE_GATE={text} is neither a threshold"):
        settings_from_environment("demo", {"SIGNFORGE_GATE": text})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("balance.refesh=1", "did you mean balance.refresh"),
        ("balance.refresh", "write section.key=value"),
        ("'balance.refresh=1", "No closing quotation"),
    ],
)
def test_wrong_changes(text, message):
    with pytest.raises(SignforgeError, match=message):
        settings_from_environment("demo", {"SIGNFORGE_SET": text})
