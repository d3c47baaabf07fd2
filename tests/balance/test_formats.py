import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

from signforge.balance.formats import detect_form, same_image
from signforge.errors import SignforgeError

PIXELS = torch.randint(0, 256, (3, 6, 5), dtype=torch.uint8, generator=torch.Generator())


def as_numpy(image):
    return image.permute(1, 2, 0).numpy().copy()


# One real image in each form, made by other people's code where there is some.
FORMS = {
    "uint8 tensor": PIXELS,
    "float32": TF.convert_image_dtype(PIXELS, torch.float32),
    "float16": TF.convert_image_dtype(PIXELS, torch.float32).half(),
    "PIL": TF.to_pil_image(PIXELS),
    "numpy": as_numpy(PIXELS),
}


@pytest.mark.parametrize("name", FORMS)
def test_rendering_gives_the_form_that_was_detected(name):
    image = FORMS[name]
    form = detect_form([(image, 1)])
    rendered = form.render_image(PIXELS.clone())
    assert type(rendered) is type(image)
    assert form.size == (6, 5)
    assert np.array_equal(np.asarray(rendered), np.asarray(image))
    assert getattr(rendered, "dtype", None) == getattr(image, "dtype", None)


@pytest.mark.parametrize(
    "label", [3, torch.tensor(3), torch.tensor(3, dtype=torch.int32), np.int64(3)]
)
def test_labels_keep_their_type(label):
    rendered = detect_form([(PIXELS, label)]).render_label(2)
    assert type(rendered) is type(label)
    assert int(rendered) == 2
    assert getattr(rendered, "dtype", None) == getattr(label, "dtype", None)


def test_images_of_several_sizes_have_no_common_size():
    small, large = Image.new("RGB", (4, 4)), Image.new("RGB", (9, 8))
    assert detect_form([(small, 0), (small, 1)]).size == (4, 4)
    assert detect_form([(small, 0), (large, 1)]).size is None


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            torch.zeros(3, 4, 4) - 1.2,
            r"values from -1.2 to -1.2, outside \[0, 1\].* transform=\.\.\.",
        ),
        (torch.full((3, 4, 4), 255.0), r"outside \[0, 1\]"),
        (torch.full((3, 4, 4), torch.nan), r"outside \[0, 1\]"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "torch.int64: uint8 or floats"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), r"shape \(4, 4, 3\): \(3, H, W\)"),
        (torch.zeros(1, 4, 4, dtype=torch.uint8), r"shape \(1, 4, 4\): \(3, H, W\)"),
        (Image.new("L", (4, 4)), "PIL images of mode L: convert them to RGB"),
        (np.zeros((3, 4, 4), dtype=np.uint8), r"uint8 \(H, W, 3\) is needed"),
        (np.zeros((4, 4, 3), dtype=np.float32), "numpy images of float32"),
        ("stop.png", "images as str"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_forms_that_cannot_be_matched(image, message):
    with pytest.raises(SignforgeError, match=message):
        detect_form([(image, 0)])


@pytest.mark.parametrize("name", ["images", "labels"])
def test_tensors_on_another_device_are_refused(name):
    # "meta" is the one device besides the CPU that every machine has
    there = torch.device("meta")
    image = PIXELS.to(there) if name == "images" else PIXELS
    label = torch.tensor(1, device=there) if name == "labels" else torch.tensor(1)
    with pytest.raises(SignforgeError, match=rf"gives {name} on meta, .* on the CPU \(\.cpu\(\)"):
        detect_form([(PIXELS, torch.tensor(1)), (image, label)])


def test_items_of_different_forms():
    with pytest.raises(SignforgeError, match="as PIL with int labels and as uint8 tensor with int"):
        detect_form([(Image.new("RGB", (4, 4)), 0), (PIXELS, 1)])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_tensors_of_any_type_are_compared(dtype):
    image = PIXELS.to(dtype)
    other = image.clone()
    assert same_image(image, other)
    other[0, 0, 0] += 2
    assert not same_image(image, other)
