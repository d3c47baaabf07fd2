"""The form in which a data set gives its items, so that synthetic items can take the same."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from signforge.balance.labels import spot_indices
from signforge.errors import SignforgeError

ImageKind = Literal["uint8 tensor", "float tensor", "PIL", "numpy"]
LabelKind = Literal["int", "tensor", "numpy"]

_WAY_OUT = "let the data set give PIL or uint8 images and pass the transform to "
_WAY_OUT += "SyntheticBalancedDataset(..., transform=...) instead."


@dataclass(frozen=True)
class ItemForm:
    """How images and labels of a data set are represented.

    size: (height, width) in pixels where the items looked at share one, else None.
    image_dtype, label_dtype: of tensors (torch) and of numpy labels; None for the other kinds.
    """

    image: ImageKind
    label: LabelKind
    size: tuple[int, int] | None
    image_dtype: torch.dtype | None = None
    label_dtype: torch.dtype | np.dtype[Any] | None = None

    def render(self, image: Tensor, label: int) -> tuple[Any, Any]:
        """uint8 (3, H, W), owned by the caller, and its label -> an item (image, label)."""
        return self.render_image(image), self.render_label(label)

    def render_batch(self, images: Tensor, labels: Tensor) -> list[tuple[Any, Any]]:
        """The same for uint8 (N, 3, H, W), owned by the caller, and int64 (N,)."""
        pairs = zip(images, labels.tolist(), strict=True)
        if self.image == "uint8 tensor" and self.label == "int":
            return list(pairs)
        return [self.render(image, label) for image, label in pairs]

    def render_image(self, image: Tensor) -> Any:
        """uint8 (3, H, W), owned by the caller -> the same picture in this form.

        Float tensors get values in [0, 1], numpy arrays and PIL images are H, W, RGB.
        """
        if self.image == "uint8 tensor":
            return image
        if self.image == "float tensor":
            return image.to(torch.float32).div(255).to(self.image_dtype)
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        return pixels if self.image == "numpy" else Image.fromarray(pixels)

    def render_label(self, label: int) -> Any:
        if self.label == "tensor":
            return torch.tensor(label, dtype=_torch_dtype(self.label_dtype))
        if self.label == "numpy":
            assert isinstance(self.label_dtype, np.dtype)
            return self.label_dtype.type(label)
        return label


def form_of_items(dataset: Dataset[Any]) -> ItemForm:
    """``detect_form`` of a few items of ``dataset``, which must not be empty.

    Warns, in the name of the caller's caller, where item 0 is another image each time.
    """
    n = len(dataset)  # type: ignore[arg-type]
    items = [dataset[index] for index in spot_indices(n)]
    form = detect_form(items)
    if not same_image(items[0][0], dataset[0][0]):
        warnings.warn(
            "The real data set gives another image each time item 0 is read, so it augments by "
            "itself, which synthetic images would miss; pass that augmentation as transform= to "
            "SyntheticBalancedDataset instead.",
            stacklevel=3,
        )
    return form


def detect_form(items: Sequence[Sequence[Any]]) -> ItemForm:
    """The form that all of ``items``, pairs (image, label), have.

    Images may be uint8 or float tensors (3, H, W), floats in [0, 1]; PIL images of mode RGB;
    uint8 numpy arrays (H, W, 3). Raises SignforgeError for any other form, for floats outside
    [0, 1] (which an earlier transform has normalised), for tensors that are not on the CPU, where
    synthetic items are made, and for items that differ in form.
    """
    forms = [_form_of(image, label) for image, label in items]
    first = forms[0]
    sizes = {form.size for form in forms}
    for form in forms:
        if (form.image, form.image_dtype, form.label) != (
            first.image,
            first.image_dtype,
            first.label,
        ):
            raise SignforgeError(
                f"The data set gives images as {first.image} with {first.label} labels and as "
                f"{form.image} with {form.label} labels; all items must have one form."
            )
    return ItemForm(
        image=first.image,
        label=first.label,
        size=first.size if len(sizes) == 1 else None,
        image_dtype=first.image_dtype,
        label_dtype=first.label_dtype,
    )


def same_image(one: Any, other: Any) -> bool:
    """Whether two images of one form are equal in every pixel."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)  # also of types that numpy lacks, such as bfloat16
    a, b = np.asarray(one), np.asarray(other)
    return a.shape == b.shape and bool((a == b).all())


def _form_of(image: Any, label: Any) -> ItemForm:
    for part, name in ((image, "images"), (label, "labels")):
        if isinstance(part, Tensor) and part.device.type != "cpu":
            raise SignforgeError(
                f"The data set gives {name} on {part.device}, with which synthetic items cannot "
                "share a batch: let it give tensors on the CPU (.cpu()) and move whole batches, or "
                "use OnDeviceLoader."
            )
    label_kind: LabelKind = "int"
    label_dtype: torch.dtype | np.dtype[Any] | None = None
    if isinstance(label, Tensor):
        label_kind, label_dtype = "tensor", label.dtype
    elif isinstance(label, np.generic):
        label_kind, label_dtype = "numpy", label.dtype
    if isinstance(image, Tensor):
        kind, size = _tensor_kind(image)
        return ItemForm(kind, label_kind, size, image.dtype, label_dtype)
    if isinstance(image, Image.Image):
        if image.mode != "RGB":
            raise SignforgeError(
                f"The data set gives PIL images of mode {image.mode}: convert them to RGB."
            )
        return ItemForm("PIL", label_kind, (image.height, image.width), None, label_dtype)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise SignforgeError(
                f"The data set gives numpy images of {image.dtype} and shape {image.shape}: "
                "uint8 (H, W, 3) is needed."
            )
        return ItemForm("numpy", label_kind, (image.shape[0], image.shape[1]), None, label_dtype)
    raise SignforgeError(
        f"The data set gives images as {type(image).__name__}: a PIL image, a uint8 tensor "
        "(3, H, W), a float tensor in [0, 1] or a uint8 numpy array (H, W, 3) is needed."
    )


def _tensor_kind(image: Tensor) -> tuple[ImageKind, tuple[int, int]]:
    if image.ndim != 3 or image.shape[0] != 3:
        raise SignforgeError(
            f"The data set gives tensors of shape {tuple(image.shape)}: (3, H, W) is needed."
        )
    size = (image.shape[1], image.shape[2])
    if image.dtype == torch.uint8:
        return "uint8 tensor", size
    if not image.is_floating_point():
        raise SignforgeError(
            f"The data set gives images of {image.dtype}: uint8 or floats in [0, 1] are needed."
        )
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        raise SignforgeError(
            f"The data set gives float images with values from {low:.3g} to {high:.3g}, outside "
            f"[0, 1], so synthetic images cannot be made alike; {_WAY_OUT}"
        )
    return "float tensor", size


def _torch_dtype(dtype: torch.dtype | np.dtype[Any] | None) -> torch.dtype:
    assert isinstance(dtype, torch.dtype)
    return dtype
