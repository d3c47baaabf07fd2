"""A generator made by README's first command, and what train.py does before its first epoch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from support import code_blocks, run_bash


@pytest.fixture(scope="session")
def readme_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the first command of README was run: it holds runs/gan."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGNFORGE_CACHE", str(folder / "cache"))
        done = run_bash(code_blocks("bash")[0], folder)
        assert done.returncode == 0, done.stderr
        yield folder


@pytest.fixture(autouse=True)
def in_readme_folder(readme_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths as in README, its generator, and no other setting."""
    monkeypatch.chdir(readme_folder)
    for name in ("CONFIG", "SET", "GATE"):
        monkeypatch.delenv(f"SIGNFORGE_{name}", raising=False)
    monkeypatch.setenv("SIGNFORGE_GENERATOR", "runs/gan")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
