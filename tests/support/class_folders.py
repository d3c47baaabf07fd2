"""A labelled data set as users have it: one folder of PNG files a class."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 16


def write_tinted_classes(root: Path, counts: Mapping[str, int]) -> Path:
    """Up to three classes of noise, each with another color channel bright; returns ``root``."""
    rng = np.random.default_rng(0)
    for channel, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 120, (SIDE, SIDE, 3), dtype=np.uint8)
            pixels[:, :, channel] += 120
            Image.fromarray(pixels).save(root / name / f"{index:03d}.png")
    return root
