"""The scripts import one another as siblings, as they do when they are run."""

import sys
from pathlib import Path

import pytest

from signforge.config_file import dump_config
from signforge.data.prepare import load_prepared_splits
from signforge.gan.training import train_cgan
from support.tiny_runs import tiny_config

SCRIPTS = str(Path(__file__).resolve().parents[2] / "benchmarks")
if SCRIPTS not in sys.path:
    sys.path.insert(0, SCRIPTS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished GAN of four steps on demo data, with the config that made it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    config = tiny_config()
    train_cgan(config.gan, load_prepared_splits(config.data).train, folder)
    (folder / "config.yaml").write_text(dump_config(config))
    return folder
