"""The embedded default data set: traffic signs drawn in code, no download.

43 classes in the order of GTSRB with its class counts times a scale, as frames of single physical
signs under varied pose and light. A stand-in to try everything on, not a benchmark of its own.
"""

from collections.abc import Iterator

import numpy as np
import torch

from signforge.data.demo_scene import PhysicalSign, draw_frame, draw_physical_sign
from signforge.data.images import LabeledImages, LabeledSplits
from signforge.data.names import GTSRB_CLASS_COUNTS, GTSRB_CLASS_NAMES
from signforge.errors import SignforgeError
from signforge.progress import Track, no_progress

# fmt: off
GTSRB_TEST_COUNTS: tuple[int, ...] = (
    60, 720, 750, 450, 660, 630, 150, 450, 450, 480, 660, 420, 690, 720, 270, 210, 150, 360, 390,
    60, 90, 90, 120, 150, 90, 480, 180, 60, 150, 90, 150, 270, 60, 210, 120, 390, 120, 60, 690, 90,
    90, 60, 90,
)
# fmt: on
"""Images a class in GTSRB's official test set."""

GTSRB_FRAMES_PER_GROUP = 30
MIN_TRAIN_IMAGES = 9
MIN_TEST_IMAGES = 4
MIN_FRAMES_PER_GROUP = 3
TRAIN, TEST = 0, 1
GROUPS_PER_CLASS = 1_000
"""Group numbers are label * GROUPS_PER_CLASS + group, those of test above those of train."""


def draw_demo(
    *, scale: float, resolution: int, seed: int = 0, track: Track = no_progress
) -> LabeledSplits:
    """Train and test with GTSRB's class counts times ``scale``; val is for the caller to cut.

    A physical sign in train gives 30 * scale frames, so that a class has about as many signs as
    in GTSRB; in test every image is a sign of its own, as if seen once. An image depends on
    (seed, split, class, sign, frame, resolution) alone: a larger scale adds images and changes
    none.

    Raises SignforgeError if ``scale`` is not in (0, 1] or ``resolution`` not in 8..1024.
    """
    if not 0 < scale <= 1:
        raise SignforgeError(f"demo_scale must be above 0 and at most 1, got {scale}.")
    if not 8 <= resolution <= 1024:
        raise SignforgeError(f"The demo's resolution must be 8 to 1024 pixels, got {resolution}.")
    frames = max(MIN_FRAMES_PER_GROUP, round(GTSRB_FRAMES_PER_GROUP * scale))
    train_counts = [max(round(n * scale), MIN_TRAIN_IMAGES) for n in GTSRB_CLASS_COUNTS]
    test_counts = [max(round(n * scale), MIN_TEST_IMAGES) for n in GTSRB_TEST_COUNTS]
    return LabeledSplits(
        train=_draw_split(TRAIN, train_counts, frames, resolution, seed, track),
        test=_draw_split(TEST, test_counts, 1, resolution, seed, track),
        notes=("The demo's signs are drawn in code; figures on them say nothing about GTSRB.",),
    )


def _draw_split(
    split: int, counts: list[int], frames_per_group: int, resolution: int, seed: int, track: Track
) -> LabeledImages:
    name = ("train", "test")[split]
    total = sum(counts)
    images = torch.empty((total, 3, resolution, resolution), dtype=torch.uint8)
    keys: list[tuple[int, int, int]] = []
    places = track(_places(counts, frames_per_group), f"drawing {name} signs", total)
    sign: PhysicalSign | None = None
    for index, (label, group, frame) in enumerate(places):
        if frame == 0:
            sign = draw_physical_sign(label, _rng(seed, split, label, group, 0), resolution)
        assert sign is not None
        rng = _rng(seed, split, label, group, 1 + frame)
        pixels = np.array(draw_frame(sign, frame, rng, resolution))
        images[index] = torch.from_numpy(pixels).permute(2, 0, 1)
        keys.append((label, group, frame))
    first = split * GROUPS_PER_CLASS * len(counts)
    return LabeledImages(
        images=images,
        labels=torch.tensor([label for label, _, _ in keys], dtype=torch.int64),
        groups=torch.tensor([first + c * GROUPS_PER_CLASS + g for c, g, _ in keys]),
        class_names=GTSRB_CLASS_NAMES,
        names=tuple(f"demo/{name}/{c:05d}/{g:05d}_{f:05d}" for c, g, f in keys),
        source="demo",
    )


def _places(counts: list[int], frames_per_group: int) -> Iterator[tuple[int, int, int]]:
    for label, count in enumerate(counts):
        for index in range(count):
            yield label, *divmod(index, frames_per_group)


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)
