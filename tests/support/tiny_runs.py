"""The scripts of benchmarks/ as modules, and the smallest config on the demo to run them with."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from signforge.config import Config
from signforge.config_file import validate

BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")


def load_script(name: str) -> ModuleType:
    """The script as a module; it finds its neighbours as it does when it is run."""
    if BENCHMARKS not in sys.path:
        sys.path.append(BENCHMARKS)
    return importlib.import_module(name)


def tiny_config() -> Config:
    """Four steps of a GAN that can hardly draw, on 900 or so images of 16x16 pixels."""
    values: dict[str, Any] = {
        "data": {"source": "demo", "resolution": 16, "demo_scale": 0.02},
        "gan": {
            "z_dim": 8,
            "guide_steps": 3,
            "probe_every_kimg": None,
            "base_channels": 4,
            "embedding_dim": 4,
            "batch_size": 8,
            "total_kimg": 0.032,
            "status_every_kimg": 0.016,
            "precision": "fp32",
            "device": "cpu",
        },
    }
    return validate(values, "tiny")
