"""Hugging Face image data sets as Datasets of (image, label) and as LabeledImages."""

from collections.abc import Sequence
from typing import Any

import datasets
from PIL import Image
from torch.utils.data import Dataset

from signforge import LabeledImages, SignforgeError, from_dataset
from signforge.data.decode import as_rgb
from signforge.data.images import UNKNOWN_GROUP


class ImageLabelPairs(Dataset[tuple[Image.Image, int]]):
    """``rows`` as a map-style Dataset of (PIL RGB image, int), for SyntheticBalancedDataset.

    rows: one split. Its formats and transforms are left out.
    image_column, label_column: by default the only columns of type Image and ClassLabel.
    class_names: the classes in the order that labels are to count them, the generator's for
        example. By default that of the ClassLabel, which in some copies of GTSRB is
        lexicographic: label 2 is the class "10".

    class_names, targets: names by label, and the label of each row.

    Raises SignforgeError where a column cannot be told, names do not fit, or a row has no label.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        *,
        image_column: str | None = None,
        label_column: str | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(rows, datasets.Dataset):
            raise SignforgeError(
                f"rows is a {type(rows).__name__}: give one split as a datasets.Dataset, such as "
                'load_dataset(..., split="train"), not streamed.'
            )
        self.image_column = _find_column(rows, datasets.Image, image_column)
        label_column = _find_column(rows, datasets.ClassLabel, label_column)
        stored_names = tuple(rows.features[label_column].names)
        self.class_names = tuple(class_names) if class_names is not None else stored_names
        unknown = [name for name in stored_names if name not in self.class_names]
        if unknown:
            raise SignforgeError(
                f"class_names has no {unknown[0]!r}, which is a class of column {label_column!r}."
            )
        new_labels = [self.class_names.index(name) for name in stored_names]
        rows = rows.with_format(None)
        stored = rows.select_columns([label_column])[:][label_column]
        for index, label in enumerate(stored):
            if label is None or label < 0:
                raise SignforgeError(f"Row {index} has no label in column {label_column!r}.")
        self.targets = [new_labels[label] for label in stored]
        self._images = rows.select_columns([self.image_column])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        (item,) = self.__getitems__([index])
        return item

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Image.Image, int]]:
        """The items at ``indices``, read by one call."""
        labels = [self.targets[index] for index in indices]  # an IndexError ends plain iteration
        images = self._images[list(indices)][self.image_column]
        for index, image in zip(indices, images, strict=True):
            if image is None:
                raise SignforgeError(f"Row {index} has no image in column {self.image_column!r}.")
        return [
            (as_rgb(image, f"Row {index}"), label)
            for index, image, label in zip(indices, images, labels, strict=True)
        ]


def to_labeled_images(
    rows: datasets.Dataset,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    class_names: Sequence[str] | None = None,
    group_column: str | None = None,
    resolution: int | None = None,
) -> LabeledImages:
    """``rows`` decoded and resized, to train a GAN on or to split by group.

    group_column: tells which images of a class show one physical sign; numbers, text or dates,
        and None where it is not known.
    resolution: height and width in pixels; by default the height of the first image.

    Raises SignforgeError as ImageLabelPairs does, and for groups that are lists or the like.
    """
    pairs = ImageLabelPairs(
        rows, image_column=image_column, label_column=label_column, class_names=class_names
    )
    groups = None
    if group_column is not None:
        _require_column(rows, group_column)
        values = rows.with_format(None).select_columns([group_column])[:][group_column]
        groups = _number_groups(pairs.targets, values, group_column)
    return from_dataset(
        pairs,
        class_names=pairs.class_names,
        groups=groups,
        resolution=resolution,
        source=f"Hugging Face data set {rows.info.dataset_name or ''}".strip(),
    )


def _number_groups(targets: list[int], values: Sequence[Any], column: str) -> list[int]:
    """One number for each value within a class; UNKNOWN_GROUP for None."""
    numbers: dict[tuple[int, Any], int] = {}
    groups = []
    for index, (target, value) in enumerate(zip(targets, values, strict=True)):
        try:
            number = numbers.setdefault((target, value), len(numbers))
        except TypeError:
            raise SignforgeError(
                f"Row {index} has a {type(value).__name__} in column {column!r}, which cannot be "
                "a group: give a column of numbers or text."
            ) from None
        groups.append(UNKNOWN_GROUP if value is None else number)
    return groups


def _find_column(rows: datasets.Dataset, kind: type, name: str | None) -> str:
    """``name``, or the only column of this kind."""
    found = [column for column, feature in rows.features.items() if isinstance(feature, kind)]
    if name is not None:
        _require_column(rows, name)
        if name not in found:
            raise SignforgeError(
                f"Column {name!r} is {type(rows.features[name]).__name__}, not {kind.__name__}: "
                f"convert it by rows.cast_column({name!r}, datasets.{kind.__name__}(...))."
            )
        return name
    if len(found) != 1:
        raise SignforgeError(
            f"The data set has {len(found)} columns of type {kind.__name__} among "
            f"{', '.join(rows.column_names)}: name one by image_column= or label_column=, or "
            f"convert one by rows.cast_column(name, datasets.{kind.__name__}(...))."
        )
    return str(found[0])


def _require_column(rows: datasets.Dataset, name: str) -> None:
    if name not in rows.column_names:
        raise SignforgeError(
            f"There is no column {name!r}; the columns are {', '.join(rows.column_names)}."
        )
