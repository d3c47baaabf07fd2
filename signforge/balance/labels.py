"""What a map-style Dataset says about its items: their labels and the names of the classes.

Labels are read where data sets usually keep them and compared with real items; never guessed.
"""

import operator
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from signforge.errors import SignforgeError
from signforge.progress import Track, no_progress

_SPOT_CHECKS = 8
_CLASSES_CHECKED = 100


def find_labels(
    dataset: Dataset[Any],
    labels: Iterable[int] | Tensor | np.ndarray[Any, Any] | None = None,
    *,
    track: Track = no_progress,
) -> Tensor:
    """The label of every item of ``dataset``: int64 (N,), all >= 0.

    Taken from ``labels``; else from ``targets``, ``_samples``, ``samples`` or ``labels`` of the
    data set, through Subset, ConcatDataset and TensorDataset; else, and where something such as a
    ``target_transform`` changes what is kept there, by reading every item once.

    Raises SignforgeError if ``labels`` has another length or holds something other than
    integers, if a few items (first, last, some between, one of each class up to 100 classes) carry
    other labels than those found, or if items are not (image, label).
    """
    n = _length(dataset)
    if labels is not None:
        found = _as_labels(_listed(labels))
        if found is None:
            raise SignforgeError("labels= must hold one integer per item of the data set.")
        if len(found) != n:
            raise SignforgeError(
                f"labels= holds {len(found)} labels, but the data set has {n} items."
            )
        origin = "labels="
    else:
        origin, found = _stored_labels(dataset, n)
    if found is None:
        items = track(range(n), "Reading labels", n)
        found = torch.tensor([item_label(dataset[i], i) for i in items], dtype=torch.int64)
    else:
        for index in sorted({*spot_indices(n), *_first_of_each_class(found)}):
            actual = item_label(dataset[index], index)
            if actual != int(found[index]):
                raise SignforgeError(
                    f"{origin} of {type(dataset).__name__} says that item {index} has label "
                    f"{int(found[index])}, but the item itself has {actual}; pass labels= with "
                    "the labels that the items have."
                )
    if n and int(found.min()) < 0:
        index = int(found.argmin())
        raise SignforgeError(f"Item {index} has label {int(found[index])}; labels start at 0.")
    return found


def known_class_names(dataset: Dataset[Any]) -> tuple[str, ...] | None:
    """``class_names`` or ``classes`` of the data set or of what it wraps; None if it has none."""
    for attribute in ("class_names", "classes"):
        names = getattr(dataset, attribute, None)
        if isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names):
            return tuple(names)
    if isinstance(dataset, Subset):
        return known_class_names(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        parts = {known_class_names(part) for part in dataset.datasets}
        return parts.pop() if len(parts) == 1 else None
    return None


def spot_indices(n: int) -> list[int]:
    """At most 8 indices of 0..n-1, with the first and the last, evenly spread."""
    last = n - 1
    return sorted({round(k * last / (_SPOT_CHECKS - 1)) for k in range(_SPOT_CHECKS) if n})


def item_label(item: object, index: int) -> int:
    """The label of an (image, label) item; anything else raises SignforgeError."""
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise SignforgeError(
            f"Item {index} of the data set is not a pair (image, label) but "
            f"{_described(item)}; wrap the data set so that it gives pairs."
        )
    label = _as_int(item[1])
    if label is None:
        raise SignforgeError(
            f"Item {index} of the data set has the label {item[1]!r}, which is not an integer."
        )
    return label


def _length(dataset: Dataset[Any]) -> int:
    try:
        return len(dataset)  # type: ignore[arg-type]
    except TypeError:
        raise SignforgeError(
            f"{type(dataset).__name__} has no length: a map-style Dataset of (image, label) is "
            "needed, with __len__ and __getitem__."
        ) from None


def _first_of_each_class(labels: Tensor) -> list[int]:
    """At most 100 indices."""
    order = labels.argsort(stable=True)
    ordered = labels[order]
    first = torch.ones(len(labels), dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return order[first][:_CLASSES_CHECKED].tolist()


def _changes_items(dataset: Dataset[Any]) -> bool:
    """Whether items may carry other labels than the data set, or what it wraps, keeps."""
    if getattr(dataset, "target_transform", None) is not None:
        return True
    wrappers = [kind for kind in (Subset, ConcatDataset) if isinstance(dataset, kind)]
    return any(type(dataset).__getitem__ is not kind.__getitem__ for kind in wrappers)


def _stored_labels(dataset: Dataset[Any], n: int) -> tuple[str, Tensor | None]:
    if _changes_items(dataset):
        return "", None
    if isinstance(dataset, Subset):
        origin, inner = _stored_labels(dataset.dataset, _length(dataset.dataset))
        rows = torch.tensor(list(dataset.indices), dtype=torch.int64)
        return origin, None if inner is None else inner[rows]
    if isinstance(dataset, ConcatDataset):
        stored = [_stored_labels(part, _length(part)) for part in dataset.datasets]
        tensors = [inner for _, inner in stored if inner is not None]
        complete = len(tensors) == len(stored)
        return stored[0][0], torch.cat(tensors) if complete else None
    if isinstance(dataset, TensorDataset):
        return "The second tensor", _as_labels(dataset.tensors[-1])
    for attribute in ("targets", "_samples", "samples", "labels"):
        values = getattr(dataset, attribute, None)
        if attribute.endswith("samples"):
            values = _second_of_pairs(values)
        found = _as_labels(values)
        if found is not None and len(found) == n:
            return attribute, found
    return "", None


def _second_of_pairs(values: object) -> list[object] | None:
    if not isinstance(values, (list, tuple)):
        return None
    if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in values):
        return None
    return [pair[1] for pair in values]


def _listed(labels: object) -> object:
    """A list of what is given in order, such as a column of a table; else ``labels`` itself."""
    if isinstance(labels, (Tensor, np.ndarray, list, tuple, str, Mapping, Set)):
        return labels
    return list(labels) if isinstance(labels, Iterable) else labels


def _as_labels(values: object) -> Tensor | None:
    """int64 (N,) if ``values`` is a sequence of integers, else None."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ndarray):
        integral = values.ndim == 1 and values.dtype.kind in "iu"
        return torch.from_numpy(values.astype(np.int64)) if integral else None
    if not isinstance(values, (list, tuple, range)):
        return None
    if set(map(type, values)) == {int}:  # a million of them take a tenth of the time
        return torch.tensor(values, dtype=torch.int64)
    labels = [_as_int(value) for value in values]
    if any(label is None for label in labels):
        return None
    return torch.tensor(labels, dtype=torch.int64)


def _as_int(value: object) -> int | None:
    if isinstance(value, bool) or getattr(value, "ndim", 0) != 0:  # (1,) would not collate with int
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _described(item: object) -> str:
    if isinstance(item, (tuple, list)):
        return f"a {type(item).__name__} of {len(item)}"
    return f"a {type(item).__name__}"
