"""Fixtures that every room's tests may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real GTSRB files that SIGNFORGE_DATA points at; skips without it."""
    value = os.environ.get("SIGNFORGE_DATA")
    if not value:
        pytest.skip("SIGNFORGE_DATA is not set: it names the folder that holds gtsrb/")
    root = Path(value)
    if not (root / "gtsrb").is_dir():
        pytest.skip(f"SIGNFORGE_DATA={value} holds no folder gtsrb/")
    return root
