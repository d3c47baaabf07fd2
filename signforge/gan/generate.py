"""Images of chosen classes as PNG files, with a grid of them."""

from collections.abc import Sequence
from pathlib import Path

import torch

from signforge.data.charts import save_image_grid
from signforge.data.encode import class_folders, encode_png
from signforge.files import write_atomically
from signforge.gan.run import row_names
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress

GRID_IMAGES = 100


def generate_images(
    sampler: ClassConditionalSampler,
    labels: Sequence[int],
    num: int,
    out: Path,
    *,
    seed: int = 0,
    track: Track = no_progress,
) -> list[Path]:
    """Writes ``num`` PNG files of each class below ``out`` and ``out/grid.png``.

    A file's name holds class, seed and number, so another seed adds files and replaces none.
    Returns the files of images, class by class.
    """
    files: list[Path] = []
    grid = []
    folders = class_folders(sampler.class_names)
    for label in track(labels, "Drawing", len(labels)):
        images = sampler.sample(torch.full((num,), label, dtype=torch.int64), seed)
        for index, image in enumerate(images):
            path = out / folders[label] / f"{label:05d}_seed{seed}_{index:05d}.png"
            write_atomically(path, encode_png(image))
            files.append(path)
        grid.append(images[:GRID_IMAGES])
    names = row_names(sampler.class_names)
    if len(labels) == 1:
        rows = list(torch.split(grid[0], 10))
        save_image_grid(out / "grid.png", rows, [names[labels[0]], *[""] * (len(rows) - 1)])
    else:
        save_image_grid(
            out / "grid.png", [row[:10] for row in grid], [names[label] for label in labels]
        )
    return files
