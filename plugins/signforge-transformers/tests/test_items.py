"""The batches that PixelCollator makes of every form of images."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from signforge_transformers import DictItems, PixelCollator
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import ViTImageProcessorPil

from signforge import SignforgeError
from support import SIDE, labeled_images, make_train

IMAGE = labeled_images(seed=0).images[0]
PIXELS = IMAGE.permute(1, 2, 0).numpy()
WANTED = IMAGE.float() / 255


@pytest.mark.parametrize(
    "image",
    [IMAGE, WANTED, WANTED.double(), PIXELS, Image.fromarray(PIXELS)],
    ids=["uint8", "float32", "float64", "numpy", "PIL"],
)
def test_every_form_becomes_the_same_floats(image: Any) -> None:
    batch = PixelCollator()([{"pixel_values": image, "labels": 2}] * 2)
    assert batch["pixel_values"].dtype == torch.float32
    assert torch.equal(batch["pixel_values"], torch.stack([WANTED, WANTED]))
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [2, 2]


@pytest.mark.parametrize("label", [1, np.int64(1), torch.tensor(1)])
def test_every_form_of_label_becomes_int64(label: Any) -> None:
    batch = PixelCollator()([{"pixel_values": IMAGE, "labels": label}])
    assert torch.equal(batch["labels"], torch.tensor([1]))


def test_a_processor_gets_the_images_as_they_are() -> None:
    processor = ViTImageProcessorPil(
        size={"height": 16, "width": 16}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    batch = PixelCollator(processor)([{"pixel_values": IMAGE, "labels": 0}] * 2)
    expected = processor(images=[Image.fromarray(PIXELS)] * 2, return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, 16, 16)
    assert torch.equal(batch["pixel_values"], expected["pixel_values"])


def test_a_processor_that_rescales_refuses_floats() -> None:
    collator = PixelCollator(ViTImageProcessorPil())
    with pytest.raises(SignforgeError, match="do_rescale=False"):
        collator([{"pixel_values": WANTED, "labels": 0}])


def test_images_of_several_sizes_are_an_error() -> None:
    items = [{"pixel_values": torch.zeros(3, side, side), "labels": 0} for side in (SIDE, 9)]
    with pytest.raises(SignforgeError, match=r"\(3, 8, 8\), \(3, 9, 9\).*transform"):
        PixelCollator()(items)


def test_items_are_those_of_the_data_set() -> None:
    dataset = make_train()
    items = DictItems(dataset)
    assert len(items) == len(dataset)
    order = [0, len(items) - 1, 5]
    loader: DataLoader[dict[str, Tensor]] = DataLoader(
        items, batch_size=3, sampler=order, collate_fn=PixelCollator()
    )
    (batch,) = loader
    for row, index in enumerate(order):
        image, label = dataset[index]
        assert torch.equal(items[index]["pixel_values"], image)
        assert torch.equal(batch["pixel_values"][row], image.float() / 255)
        assert batch["labels"][row] == label


def test_set_epoch_reaches_the_data_set_and_passes_others_by() -> None:
    dataset = make_train()
    DictItems(dataset).set_epoch(2)
    assert dataset.epoch == 2
    DictItems(labeled_images(seed=0)).set_epoch(2)
