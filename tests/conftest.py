"""Fixtures that every room's tests may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real GTSRB files that SIGNFORGE_DATA points at; skips without it."""
    value = os.environ.get("SIGNFORGE_DATA")
    if not value:
        pytest.skip("SIGNFORGE_DATA is not set: it names the folder that holds gtsrb/")
    root = Path(value).resolve()
    if not (root / "gtsrb").is_dir():
        pytest.skip(f"SIGNFORGE_DATA={value} holds no folder gtsrb/")
    return root


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads, which crawl where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def own_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A new current folder, and a new cache, for the commands that a module runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGNFORGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.chdir(tmp_path_factory.mktemp("here"))
        yield
