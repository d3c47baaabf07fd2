"""Reader of the pickled GTSRB that Udacity made known: train.p, valid.p and test.p.

One dict a file: ``features`` uint8 (N, H, W, 3) RGB, ``labels`` (N,), and, where present,
``sizes`` (N, 2) and ``coords`` (N, 4), the original width, height and region. The files have no
tracks; those of training and validation are found again from class runs and image sizes.
"""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from signforge.data.decode import Roi, fit_image
from signforge.data.images import UNKNOWN_GROUP, LabeledImages, LabeledSplits
from signforge.data.names import GTSRB_CLASS_NAMES
from signforge.data.unpickle import load_array_dict
from signforge.errors import SignforgeError
from signforge.progress import Track, no_progress

PICKLE_SUFFIXES = (".p", ".pkl", ".pickle")
FRAMES_PER_TRACK = 30

_STEMS = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}
_KEYS = frozenset({"features", "labels", "sizes", "coords"})
# GTSRB's tracks: between neighbouring frames the logarithm of the area changes by 0.08 on
# average, from one track to the next by 2.1.
_MAX_STEP_WITHIN = 0.25
_MIN_STEP_RATIO = 4.0

Array = npt.NDArray[Any]


def find_pickles(folder: Path) -> dict[str, Path]:
    """train.p, valid.p and test.p of ``folder`` by split; empty if there is no train.p."""
    found: dict[str, Path] = {}
    for split, stems in _STEMS.items():
        places = [folder / f"{stem}{suffix}" for stem in stems for suffix in PICKLE_SUFFIXES]
        path = next((place for place in places if place.is_file()), None)
        if path is not None:
            found[split] = path
    return found if "train" in found else {}


def read_pickles(
    path: Path, *, resolution: int, crop: Literal["full", "roi"], track: Track = no_progress
) -> LabeledSplits:
    """The splits of a folder with train.p and others, or one pickle as training data.

    Raises SignforgeError for anything but the four arrays, a label outside 0..42, and
    ``crop="roi"`` without sizes and coords.
    """
    files = find_pickles(path) if path.is_dir() else {"train": path}
    splits: dict[str, LabeledImages] = {}
    notes: list[str] = []
    next_group = 0
    for split, file in files.items():
        arrays = _load(file)
        labels = arrays["labels"].astype(np.int64)
        groups = np.full(len(labels), UNKNOWN_GROUP, dtype=np.int64)
        if split != "test":
            groups, unknown = rebuild_tracks(labels, arrays.get("sizes"))
            notes.append(_track_note(file, unknown, groups))
            groups[groups != UNKNOWN_GROUP] += next_group
            next_group = max(next_group, int(groups.max()) + 1)
        images = _fit(file, arrays, resolution, crop, track)
        splits[split] = LabeledImages(
            images=torch.from_numpy(images),
            labels=torch.from_numpy(labels),
            groups=torch.from_numpy(groups),
            class_names=GTSRB_CLASS_NAMES,
            names=tuple(f"{file.name}[{index}]" for index in range(len(labels))),
            source=f"{path} ({split})" if path.is_dir() else str(path),
        )
    return LabeledSplits(
        train=splits["train"],
        val=splits.get("val"),
        test=splits.get("test"),
        notes=tuple(notes),
    )


def rebuild_tracks(
    labels: npt.NDArray[np.int64], sizes: Array | None
) -> tuple[npt.NDArray[np.int64], tuple[int, ...]]:
    """Groups int64 (N,) for images in GTSRB's order, and the classes where they stay unknown.

    A class is cut into tracks of 30 frames (one of 29 where the count says so, as in class 33)
    if its images form one run, and the original ``sizes`` (N, 2) run smoothly within the tracks
    and jump between them, as a sign does that a car drives up to.
    """
    groups = np.full(len(labels), UNKNOWN_GROUP, dtype=np.int64)
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    ends = np.append(starts[1:], len(labels))
    runs_of_class = np.bincount(labels[starts], minlength=len(GTSRB_CLASS_NAMES))
    areas = None if sizes is None else np.log(np.maximum(sizes, 1).astype(np.float64)).sum(axis=1)
    unknown: set[int] = set()
    next_group = 0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        label = int(labels[start])
        lengths = None
        if areas is not None and runs_of_class[label] == 1:
            lengths = _track_lengths(areas[start:end])
        if lengths is None:
            unknown.add(label)
            continue
        groups[start:end] = next_group + np.repeat(np.arange(len(lengths)), lengths)
        next_group += len(lengths)
    return groups, tuple(sorted(unknown))


def _track_lengths(areas: npt.NDArray[np.float64]) -> list[int] | None:
    """Lengths of the tracks in one class's run of log areas (n,); None where they do not fit."""
    count, rest = divmod(len(areas) + 1, FRAMES_PER_TRACK)
    steps = np.abs(np.diff(areas))
    if rest == 1:
        candidates = [[FRAMES_PER_TRACK] * count]
    elif rest == 0:
        whole = [FRAMES_PER_TRACK] * count
        candidates = [
            [*whole[:short], FRAMES_PER_TRACK - 1, *whole[short + 1 :]] for short in range(count)
        ]
    else:
        return None
    lengths = max(candidates, key=lambda lengths: _boundary_steps(steps, lengths).sum())
    between = _boundary_steps(steps, lengths)
    within = (steps.sum() - between.sum()) / (len(steps) - len(between))
    smooth = within <= _MAX_STEP_WITHIN
    jumps = len(between) == 0 or between.mean() >= _MIN_STEP_RATIO * within
    return lengths if smooth and jumps else None


def _boundary_steps(steps: npt.NDArray[np.float64], lengths: list[int]) -> npt.NDArray[np.float64]:
    boundaries: npt.NDArray[np.int64] = np.cumsum(lengths)[:-1] - 1
    return steps[boundaries]


def _load(file: Path) -> dict[str, Array]:
    arrays = load_array_dict(file)
    missing = {"features", "labels"} - arrays.keys()
    if missing or not arrays.keys() <= _KEYS:
        raise SignforgeError(
            f"{file} has the keys {', '.join(sorted(arrays)) or '(none)'}; it needs features and "
            "labels, and may have sizes and coords."
        )
    features, labels = arrays["features"], arrays["labels"]
    if features.dtype != np.uint8 or features.ndim != 4 or features.shape[3] != 3:
        raise SignforgeError(
            f"{file}: features must be uint8 of shape (N, H, W, 3), got {features.dtype} of shape "
            f"{features.shape}."
        )
    n = len(features)
    if features.size == 0:
        raise SignforgeError(f"{file} holds no image.")
    for key, shape in (("labels", (n,)), ("sizes", (n, 2)), ("coords", (n, 4))):
        array = arrays.get(key)
        if array is not None and (array.shape != shape or array.dtype.kind not in "iu"):
            raise SignforgeError(
                f"{file}: {key} must be whole numbers of shape {shape}, got {array.dtype} of "
                f"shape {array.shape}."
            )
    last = len(GTSRB_CLASS_NAMES) - 1
    outside = np.flatnonzero((labels < 0) | (labels > last))
    if len(outside):
        first = int(outside[0])
        raise SignforgeError(
            f"{file}: labels[{first}] is {int(labels[first])}, outside 0..{last}; correct it."
        )
    return arrays


def _fit(
    file: Path,
    arrays: dict[str, Array],
    resolution: int,
    crop: Literal["full", "roi"],
    track: Track,
) -> npt.NDArray[np.uint8]:
    features = arrays["features"]
    if crop == "roi" and not {"sizes", "coords"} <= arrays.keys():
        raise SignforgeError(f"{file} has no sizes and coords to crop by; use crop full.")
    if crop == "full" and features.shape[1:3] == (resolution, resolution):
        return np.ascontiguousarray(features.transpose(0, 3, 1, 2))
    images = np.empty((len(features), 3, resolution, resolution), dtype=np.uint8)
    for index in track(range(len(features)), f"Resizing {file.name}", len(features)):
        roi = _roi(file, arrays, index) if crop == "roi" else None
        images[index] = fit_image(Image.fromarray(features[index]), roi, resolution)
    return images


def _roi(file: Path, arrays: dict[str, Array], index: int) -> Roi:
    width, height = arrays["sizes"][index].tolist()
    x1, y1, x2, y2 = arrays["coords"][index].tolist()
    if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
        raise SignforgeError(f"{file}: coords[{index}] do not lie in the image; correct them.")
    return Roi(width, height, x1, y1, x2, y2)


def _track_note(file: Path, unknown: tuple[int, ...], groups: npt.NDArray[np.int64]) -> str:
    tracks = int(groups.max()) + 1
    if not unknown:
        return f"{file.name} has no tracks; {tracks:,} were rebuilt from its order and sizes."
    classes = "all classes" if tracks == 0 else f"class {', '.join(map(str, unknown))}"
    return (
        f"{file.name} has no tracks and those of {classes} could not be rebuilt from its order "
        "and sizes: a validation split cut from it may hold frames of signs that training sees."
    )
