import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from torchvision.transforms.functional import to_tensor

from signforge.data.encode import class_folders, encode_png
from signforge.errors import SignforgeError


def read(png: bytes) -> torch.Tensor:
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        assert image.mode == "RGB"
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.fixture
def pixels() -> torch.Tensor:
    """Every value of a byte, in another place in each channel."""
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    return torch.cat([values, values.flip(1), values.flip(2)])


def test_every_form_of_an_image_gives_the_same_file(pixels: torch.Tensor) -> None:
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    forms = [pixels, array, np.asfortranarray(array), Image.fromarray(array), to_tensor(array)]
    forms += [to_tensor(array).to(dtype) for dtype in (torch.float64, torch.float16)]
    files = {encode_png(form) for form in forms}
    assert len(files) == 1
    assert torch.equal(read(files.pop()), pixels)


def test_what_an_image_carries_besides_pixels_is_left_out(pixels: torch.Tensor) -> None:
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image.info |= {"icc_profile": b"secret", "gamma": 0.5, "dpi": (7, 7)}
    text = PngImagePlugin.PngInfo()
    text.add_text("author", "secret")
    assert encode_png(image) == encode_png(pixels)


def test_a_grey_picture_becomes_rgb() -> None:
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    assert torch.equal(read(encode_png(grey)), torch.arange(64).view(1, 8, 8).expand(3, -1, -1))


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1, 8, 8, dtype=torch.uint8),
        torch.zeros(8, 8, dtype=torch.uint8),
        torch.zeros(3, 8, 8, dtype=torch.int64),
        torch.full((3, 8, 8), 1.5),
        torch.full((3, 8, 8), torch.nan),
        np.zeros((3, 8, 8), dtype=np.uint8),
        np.zeros((8, 8, 3)),
        "a picture",
    ],
)
def test_anything_else_is_refused(image: object) -> None:
    with pytest.raises(SignforgeError, match="An image to be saved is a"):
        encode_png(image)


def test_folders_are_named_by_id_and_name() -> None:
    names = ("Stop", "Speed limit (20km/h)", "../..", "CON", "停车", "a" * 99)
    assert class_folders(names) == (
        "00000_Stop",
        "00001_Speed-limit-20km-h",
        "00002_class",
        "00003_CON",
        "00004_class",
        f"00005_{'a' * 60}",
    )


@settings(deadline=None)
@given(st.lists(st.text(), min_size=1, max_size=150))
def test_folders_sort_in_label_order_and_suit_any_file_system(names: list[str]) -> None:
    folders = class_folders(names)
    assert sorted(folders) == list(folders)
    assert len({folder.lower() for folder in folders}) == len(names)
    for folder in folders:
        assert folder.replace("_", "").replace("-", "").isalnum()
        assert folder.isascii()
        assert len(folder) <= 66


def test_more_classes_than_five_digits_still_sort() -> None:
    folders = class_folders(["x"] * 100_001)
    assert folders[2] == "000002_x"
    assert sorted(folders) == list(folders)
