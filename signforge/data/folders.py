"""Readers of class folders (torchvision's ImageFolder rules), torch Datasets and npz files.

A class is a folder, classes are numbered in name order, and images may lie at any depth below;
train/ with test/ or val/ beside it are splits.
"""

import lzma
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from signforge.data.archive import FileTree, children
from signforge.data.decode import as_rgb, fit_image
from signforge.data.images import UNKNOWN_GROUP, LabeledImages, LabeledSplits
from signforge.data.listing import ImageEntry, Listing
from signforge.errors import SignforgeError
from signforge.progress import Track, no_progress

MAX_ARRAY_BYTES = 16 * 2**30
"""Largest array that is read from an npz file."""
MOST_LABELS = 10**6

# ImageFolder's list: other formats than ours are listed too, so that they are reported.
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"})
_SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


class MapDataset(Protocol):
    """A map-style Dataset of (image, int), such as torchvision's."""

    def __getitem__(self, index: int, /) -> Any: ...

    def __len__(self) -> int: ...


def list_class_folders(tree: FileTree) -> Listing | None:
    """Images by class folder; None if ``tree`` holds no folders.

    Raises SignforgeError for a class folder without image, splits whose classes differ, and
    test/ or val/ without train/.
    """
    base = _descend(tree)
    folders = children(tree.folders(), base)
    if not folders or not any(_is_image(name) for name in tree.names()):
        if folders:
            raise SignforgeError(
                f"{tree.source}: class folder {folders[0]} has no image; fill it or remove it."
            )
        return None
    splits: dict[str, str] = {}
    for folder in folders:
        split = _SPLIT_FOLDERS.get(PurePosixPath(folder).name.lower())
        if split in splits:
            raise SignforgeError(
                f"{tree.source}: {splits[split]} and {folder} are both {split} data; keep one."
            )
        if split is not None:
            splits[split] = folder
    if not splits:
        splits = {"train": base}
    if "train" not in splits:
        raise SignforgeError(
            f"{tree.source} has {', '.join(splits.values())} but no train folder beside it."
        )
    notes = [
        f"{folder}/ is neither train, val nor test and is left out."
        for folder in folders
        if base not in splits.values() and folder not in splits.values()
    ]
    classes = {split: _classes(tree, folder) for split, folder in splits.items()}
    for split, names in classes.items():
        different = sorted(set(names) ^ set(classes["train"]))
        if different:
            raise SignforgeError(
                f"{tree.source}: class {different[0]} is not in both {splits['train']} and "
                f"{splits[split]}; all splits need the same class folders."
            )
    class_names = classes["train"]
    if any(name.isdigit() and name != str(label) for label, name in enumerate(class_names)) and all(
        name.isdigit() for name in class_names
    ):
        notes.append(
            "Class folders are numbers; labels follow their order by name (as ImageFolder does), "
            f"so label 1 is class {class_names[min(1, len(class_names) - 1)]!r}."
        )
    entries = {split: _entries(tree, folder, class_names) for split, folder in splits.items()}
    return Listing(
        class_names,
        train=entries["train"],
        val=entries.get("val", ()),
        test=entries.get("test", ()),
        notes=tuple(notes),
    )


def from_dataset(
    dataset: MapDataset,
    *,
    class_names: Sequence[str] | None = None,
    groups: Sequence[int] | None = None,
    resolution: int | None = None,
    source: str | None = None,
    track: Track = no_progress,
) -> LabeledImages:
    """Decodes any map-style Dataset of (image, int) into LabeledImages.

    An image is PIL, a uint8 tensor (C, H, W), or a float tensor (C, H, W) in [0, 1], with C of 1
    or 3; it is resized to ``resolution`` (default: the height of the first image). class_names
    default to ``dataset.classes``, or to the numbers; groups (N,) to unknown.

    Raises SignforgeError, naming the index, for an item that is something else.
    """
    source = source or type(dataset).__name__
    if len(dataset) == 0:
        raise SignforgeError(f"{source} is empty.")
    arrays: list[npt.NDArray[np.uint8]] = []
    labels: list[int] = []
    for index in track(range(len(dataset)), f"Reading {source}", len(dataset)):
        item = dataset[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise SignforgeError(f"{source}[{index}] is not a pair (image, label).")
        image = _to_pil(item[0], f"{source}[{index}]")
        resolution = resolution or image.height
        arrays.append(fit_image(image, None, resolution))
        labels.append(_to_label(item[1], f"{source}[{index}]"))
    if class_names is None:
        class_names = getattr(dataset, "classes", None) or [str(i) for i in range(max(labels) + 1)]
    return LabeledImages(
        images=torch.from_numpy(np.stack(arrays)),
        labels=torch.tensor(labels, dtype=torch.int64),
        groups=_groups_or_unknown(groups, len(labels), source),
        class_names=tuple(map(str, class_names)),
        names=tuple(f"{source}[{index}]" for index in range(len(labels))),
        source=source,
    )


def read_npz(
    path: Path, *, resolution: int, crop: Literal["full", "roi"], track: Track = no_progress
) -> LabeledSplits:
    """Training images of an npz: ``images`` uint8 (N, H, W, 3) or (N, 3, H, W), ``labels`` (N,),
    and, where present, ``groups`` (N,) and ``class_names`` (C,).

    Raises SignforgeError for missing keys, other shapes, object arrays and damaged files.
    """
    if crop == "roi":
        raise SignforgeError(f"{path} has no regions of interest to crop to; use crop full.")
    arrays = _load_npz(path)
    for key in ("images", "labels"):
        if key not in arrays:
            raise SignforgeError(f"{path} has no array {key!r}; it needs images and labels.")
    images, labels = arrays["images"], arrays["labels"]
    if images.ndim == 4 and images.shape[-1] != 3 and images.shape[1] == 3:
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not images.size:
        raise SignforgeError(
            f"{path}: images must be uint8 of shape (N, H, W, 3), got {images.dtype} of shape "
            f"{images.shape}."
        )
    n = len(images)
    for key in ("labels", "groups"):
        array = arrays.get(key, labels)
        if array.shape != (n,) or array.dtype.kind not in "iu":
            raise SignforgeError(f"{path}: {key} must be whole numbers of shape ({n},).")
    if int(labels.min()) < 0:
        raise SignforgeError(f"{path}: labels[{int(labels.argmin())}] is negative; correct it.")
    if int(labels.max()) >= MOST_LABELS:
        raise SignforgeError(
            f"{path}: labels[{int(labels.argmax())}] is {int(labels.max())}; labels are class ids "
            "from 0."
        )
    names = arrays.get("class_names", np.arange(int(labels.max()) + 1))
    if names.ndim != 1:
        raise SignforgeError(
            f"{path}: class_names must be of shape (number of classes,), got {names.shape}."
        )
    pixels = np.empty((n, 3, resolution, resolution), dtype=np.uint8)
    for index in track(range(n), f"Reading {path.name}", n):
        pixels[index] = fit_image(Image.fromarray(images[index]), None, resolution)
    train = LabeledImages(
        images=torch.from_numpy(pixels),
        labels=torch.from_numpy(labels.astype(np.int64)),
        groups=_groups_or_unknown(arrays.get("groups"), n, str(path)),
        class_names=tuple(
            name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
            for name in names.tolist()
        ),
        names=tuple(f"{path.name}[{index}]" for index in range(n)),
        source=str(path),
    )
    return LabeledSplits(train=train)


def _load_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_ARRAY_BYTES:
                raise SignforgeError(f"{path} is larger than {MAX_ARRAY_BYTES // 2**30} GiB.")
        with np.load(path, allow_pickle=False) as arrays:
            loaded = {key: arrays[key] for key in arrays.files}
    except SignforgeError:
        raise
    except (
        OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, MemoryError,
        RuntimeError,  # an encrypted member, or one that is compressed in another way
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())
        raise SignforgeError(f"{path} is not a readable npz of plain arrays: {reason}.") from None
    for key, array in loaded.items():
        if not isinstance(array, np.ndarray):
            raise SignforgeError(f"{path}: {key} is no array; write the file with numpy.savez.")
    return loaded


def _groups_or_unknown(
    groups: Sequence[int] | npt.NDArray[Any] | None, n: int, source: str
) -> Tensor:
    if groups is None:
        return torch.full((n,), UNKNOWN_GROUP, dtype=torch.int64)
    if isinstance(groups, np.ndarray):  # torch would let large uint64 become negative
        groups = groups.tolist()
    try:
        return torch.as_tensor(groups, dtype=torch.int64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise SignforgeError(
            f"{source}: groups must be whole numbers below 2**63, one an image; correct them."
        ) from None


def _descend(tree: FileTree) -> str:
    """The folder that the data set starts in: archives often wrap everything in one folder."""
    base = ""
    while True:
        folders = children(tree.folders(), base)
        if len(folders) != 1 or PurePosixPath(folders[0]).name.lower() in _SPLIT_FOLDERS:
            return base
        if not children(tree.folders(), folders[0]):
            return base
        base = folders[0]


def _classes(tree: FileTree, folder: str) -> tuple[str, ...]:
    """Class names in ImageFolder's order."""
    found = tuple(sorted(PurePosixPath(name).name for name in children(tree.folders(), folder)))
    if not found:
        raise SignforgeError(f"{tree.source}: {folder or 'it'} holds no class folders.")
    for name in found:
        if not _is_text(name):
            raise SignforgeError(
                f"{tree.source}: the name of class folder {name!r} is not UTF-8; rename it."
            )
    return found


def _is_text(name: str) -> bool:
    """Whether it can be written; the bytes of a file name need not be text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _entries(tree: FileTree, folder: str, classes: tuple[str, ...]) -> tuple[ImageEntry, ...]:
    prefix = f"{folder}/" if folder else ""
    labels = {name: label for label, name in enumerate(classes)}
    entries = []
    for path in tree.names():
        inner = path.removeprefix(prefix)
        if not path.startswith(prefix) or "/" not in inner or not _is_image(path):
            continue
        entries.append(ImageEntry(path, path, labels[inner.split("/")[0]], UNKNOWN_GROUP))
    seen = {entry.label for entry in entries}
    empty = next((name for name, label in labels.items() if label not in seen), None)
    if empty is not None:
        raise SignforgeError(
            f"{tree.source}: class folder {prefix}{empty} has no image; fill it or remove it."
        )
    return tuple(entries)


def _is_image(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() in _SUFFIXES


def _to_pil(image: Any, where: str) -> Image.Image:
    if isinstance(image, Image.Image):
        _require_pixels(image.size, where)
        return as_rgb(image, where)
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] not in (1, 3):
        raise SignforgeError(
            f"{where}: the image must be PIL or a tensor of shape (3, H, W), got "
            f"{tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__}."
        )
    _require_pixels((image.shape[2], image.shape[1]), where)
    if image.is_floating_point():
        if bool(image.isnan().any()):
            raise SignforgeError(f"{where}: the image holds NaN; correct it or leave it out.")
        if float(image.min()) < 0 or float(image.max()) > 1:
            raise SignforgeError(
                f"{where}: a float image must lie in [0, 1]; take the normalisation out of the "
                "data set's transform."
            )
        image = image.mul(255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise SignforgeError(f"{where}: the image must be uint8 or float, got {image.dtype}.")
    return Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())


def _require_pixels(size: tuple[int, int], where: str) -> None:
    if 0 in size:
        raise SignforgeError(
            f"{where}: the image has no pixels, it is {size[0]}x{size[1]}; leave it out."
        )


def _to_label(label: Any, where: str) -> int:
    try:
        number = int(label)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # that of a tensor of several
        raise SignforgeError(f"{where}: the label must be a whole number, got {label!r}.") from None
    if number < 0 or number != label:
        raise SignforgeError(f"{where}: the label must be a whole number from 0, got {label!r}.")
    if number >= MOST_LABELS:
        raise SignforgeError(f"{where}: the label is {label!r}; labels are class ids from 0.")
    return number
