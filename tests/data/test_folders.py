import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset
from torchvision.datasets import ImageFolder

from signforge.config import DataConfig
from signforge.data.folders import from_dataset
from signforge.data.load import load_splits
from signforge.errors import SignforgeError


def load(path: Path, **options: object):
    return load_splits(
        DataConfig.model_validate({"source": str(path), "resolution": 12, **options})
    )


@pytest.fixture
def make_folders(draw, encode):
    """make_folders(root, {class: count}) writes PNG files; one of each class in a subfolder."""

    def _make(root: Path, counts: dict[str, int]) -> Path:
        for number, (name, count) in enumerate(counts.items()):
            (root / name / "deep/er").mkdir(parents=True)
            for index in range(count):
                inner = "deep/er/" if index == 0 else ""
                data = encode(draw(number * 100 + index), "PNG")
                (root / name / f"{inner}{index}.PNG").write_bytes(data)
        return root

    return _make


def test_agrees_with_image_folder(tmp_path: Path, make_folders) -> None:
    root = make_folders(tmp_path / "x", {"dog": 2, "Cat": 3, "10": 1, "9": 2})
    (root / "notes.txt").write_text("not a class")
    train = load(root).train
    reference = ImageFolder(str(root))
    assert list(train.class_names) == reference.classes
    expected = {
        Path(path).relative_to(root).as_posix(): (np.asarray(Image.open(path)), label)
        for path, label in reference.samples
    }
    assert set(train.names) == set(expected)
    for name, image, label in zip(train.names, train.images, train.labels, strict=True):
        pixels, reference_label = expected[name]
        assert int(label) == reference_label
        assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels)
    assert set(train.groups.tolist()) == {-1}


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Valid"])
def test_splits_beside_each_other(tmp_path: Path, make_folders, val: str) -> None:
    for split in ("train", "test", val):
        make_folders(tmp_path / split, {"a": 2, "b": 1})
    (tmp_path / "extra").mkdir()
    splits = load(tmp_path)
    assert {name: len(images) for name, images in splits.named().items()} == dict.fromkeys(
        ("train", "val", "test"), 3
    )
    assert splits.train.class_names == ("a", "b")
    assert splits.notes == ("extra/ is neither train, val nor test and is left out.",)


def test_train_and_test_in_one_outer_folder(tmp_path: Path, make_folders) -> None:
    make_folders(tmp_path / "wrap/train", {"a": 2, "b": 1})
    make_folders(tmp_path / "wrap/test", {"a": 1, "b": 1})
    splits = load(tmp_path)
    assert splits.test is not None
    assert (len(splits.train), len(splits.test)) == (3, 2)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"train": {"a": 1, "b": 1}, "test": {"a": 1}}, "class b is not in both train and test"),
        ({"train": {"a": 1}, "val": {"a": 1, "c": 1}}, "class c is not in both train and val"),
        ({"train": {"a": 1}, "val": {"a": 1}, "valid": {"a": 1}}, "both val data"),
        ({"test": {"a": 1}}, "no train folder"),
        ({"train": {"a": 1, "b": 0}}, "class folder train/b has no image"),
        ({"x": {"a": 0}, "y": {"a": 1}}, "class folder x has no image"),
        ({"x": {}, "y": {}}, "holds no data set|has no image"),
    ],
)
def test_problems_are_one_sentence(tmp_path: Path, make_folders, folders, message: str) -> None:
    for split, counts in folders.items():
        (tmp_path / split).mkdir()
        make_folders(tmp_path / split, counts)
    with pytest.raises(SignforgeError, match=message) as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


def test_number_folders_are_noted(tmp_path: Path, make_folders) -> None:
    splits = load(make_folders(tmp_path / "x", {"1": 1, "10": 1, "2": 1}))
    assert splits.train.class_names == ("1", "10", "2")
    assert "label 1 is class '10'" in splits.notes[0]


def test_roi_needs_regions(tmp_path: Path, make_folders) -> None:
    with pytest.raises(SignforgeError, match="use crop full"):
        load(make_folders(tmp_path / "x", {"a": 1, "b": 1}), crop="roi")


def test_other_image_formats_are_reported_not_skipped(tmp_path, make_folders, draw, encode) -> None:
    root = make_folders(tmp_path / "x", {"a": 1, "b": 1})
    (root / "a/old.bmp").write_bytes(encode(draw(1), "BMP"))
    splits = load(root)
    assert len(splits.train) == 2
    assert len(splits.unreadable) == 1
    assert "a/old.bmp" in splits.unreadable[0]


class Pairs(Dataset):
    def __init__(self, items: list) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):  # type: ignore[no-untyped-def]
        return self.items[index]


def test_from_dataset_takes_pil_bytes_and_floats_alike(draw) -> None:
    pixels = draw(5, 10, 10)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    items = [(Image.fromarray(pixels), 2), (tensor, torch.tensor(0)), (tensor.float() / 255, 1)]
    images = from_dataset(Pairs(items))
    assert images.labels.tolist() == [2, 0, 1]
    assert images.class_names == ("0", "1", "2")
    for image in images.images:
        assert torch.equal(image, tensor)
    assert from_dataset(Pairs(items), resolution=8).images.shape == (3, 3, 8, 8)
    named = from_dataset(Pairs(items), class_names=["x", "y", "z"], groups=[4, 4, 5], source="mine")
    assert named.class_names == ("x", "y", "z")
    assert named.groups.tolist() == [4, 4, 5]
    assert named.names[1] == "mine[1]"


def test_from_dataset_of_image_folder_keeps_classes(tmp_path: Path, make_folders) -> None:
    root = make_folders(tmp_path / "x", {"dog": 2, "cat": 3})
    images = from_dataset(ImageFolder(str(root)))
    assert images.class_names == ("cat", "dog")
    assert images.class_counts.tolist() == [3, 2]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((torch.zeros(3, 8, 8) - 1, 0), "take the normalisation out"),
        ((torch.zeros(3, 8, 8, dtype=torch.int64), 0), "must be uint8 or float"),
        ((torch.zeros(2, 8, 8), 0), "must be PIL or a tensor"),
        (("a.png", 0), "must be PIL or a tensor"),
        ((torch.zeros(3, 8, 8), "stop"), "must be a whole number"),
        ((torch.zeros(3, 8, 8), -1), "whole number from 0"),
        (torch.zeros(3, 8, 8), "not a pair"),
        ((torch.full((3, 8, 8), float("nan")), 0), "the image holds NaN; correct it"),
        ((torch.zeros(3, 0, 8), 0), "no pixels, it is 8x0"),
        ((torch.zeros(3, 8, 0, dtype=torch.uint8), 0), "no pixels, it is 0x8"),
        ((Image.new("RGB", (0, 8)), 0), "no pixels, it is 0x8"),
        ((torch.zeros(3, 8, 8), float("inf")), "must be a whole number, got inf"),
        ((torch.zeros(3, 8, 8), torch.tensor([0, 1])), "must be a whole number, got tensor"),
        ((torch.zeros(3, 8, 8), 10**19), "the label is 10000000000000000000; labels are class ids"),
        ((torch.zeros(3, 8, 8), 10**6), "the label is 1000000; labels are class ids"),
    ],
)
def test_from_dataset_names_the_item(item: object, message: str) -> None:
    with pytest.raises(SignforgeError, match=message) as error:
        from_dataset(Pairs([(torch.zeros(3, 8, 8), 0), item]))
    assert "Pairs[1]" in str(error.value)


def test_from_dataset_of_tensor_dataset_and_empty() -> None:
    data = TensorDataset(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))
    assert from_dataset(data).class_counts.tolist() == [2, 2]
    with pytest.raises(SignforgeError, match="empty"):
        from_dataset(Pairs([]))


@pytest.mark.parametrize("channels_first", [False, True])
def test_npz(tmp_path: Path, draw, channels_first: bool) -> None:
    images = np.stack([draw(i, 12, 12) for i in range(4)])
    stored = images.transpose(0, 3, 1, 2) if channels_first else images
    labels = np.array([0, 1, 1, 0])
    np.savez(
        tmp_path / "x.npz",
        images=stored,
        labels=labels,
        groups=[0, 1, 1, 2],
        class_names=["a", "b"],
    )
    train = load(tmp_path / "x.npz").train
    assert np.array_equal(train.images.permute(0, 2, 3, 1).numpy(), images)
    assert train.labels.tolist() == labels.tolist()
    assert train.groups.tolist() == [0, 1, 1, 2]
    assert train.class_names == ("a", "b")


def test_npz_problems(tmp_path: Path) -> None:
    images, labels = np.zeros((2, 8, 8, 3), dtype=np.uint8), np.array([0, 1])
    path = tmp_path / "x.npz"
    for content, message in (
        ({"images": images}, "no array 'labels'"),
        ({"images": images.astype(float), "labels": labels}, "images must be uint8"),
        ({"images": images, "labels": labels[:1]}, "labels must be whole numbers"),
        ({"images": images, "labels": -labels}, r"labels\[1\] is negative"),
        ({"images": images, "labels": labels.astype(object)}, "not a readable npz"),
        ({"images": images, "labels": labels, "class_names": np.array(["a"])}, "outside 0..0"),
    ):
        np.savez(path, **content)
        with pytest.raises(SignforgeError, match=message):
            load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SignforgeError, match="not a readable npz"):
        load(path)


def test_a_class_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    Image.new("RGB", (8, 8)).save(folder / "0.png")
    (tmp_path / "stop").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "stop/0.png")
    with pytest.raises(SignforgeError, match=r"class folder .* is not UTF-8; rename it"):
        load(tmp_path)


def test_sixteen_bit_images_of_a_data_set_are_refused() -> None:
    """Pillow would clip them to white."""
    deep = Image.fromarray(np.full((8, 8), 30_000, dtype=np.uint16))
    with pytest.raises(SignforgeError, match="has pixels of kind I;16; save it with 8 bits"):
        from_dataset([(deep, 0), (deep, 1)], resolution=8)


def test_more_npz_problems(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.array([0, 1, 10**13, 0]))
    with pytest.raises(SignforgeError, match=r"labels\[2\] is 10000000000000; labels are class"):
        load(path)
    names = np.array([b"Stop", b"Yield"])
    np.savez(path, images=images, labels=np.array([0, 1, 1, 0]), class_names=names)
    assert load(path).train.class_names == ("Stop", "Yield")
    np.savez_compressed(path, images=images, labels=np.array([0, 1, 1, 0]))
    content = bytearray(path.read_bytes())
    start = content.index(b"images.npy") + 40
    content[start : start + 30] = b"\xff" * 30
    path.write_bytes(content)
    with pytest.raises(SignforgeError, match="not a readable npz"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", b"no array")
        archive.writestr("labels", b"none either")
    with pytest.raises(SignforgeError, match="images is no array; write the file with numpy"):
        load(path)


@pytest.mark.parametrize(
    "groups",
    [[0, 2**63], np.array([0, 2**63], dtype=np.uint64), [0, None], [0, "a"], [[0], [1, 2]]],
)
def test_groups_that_are_no_numbers_are_one_sentence(groups) -> None:
    items = Pairs([(torch.zeros(3, 8, 8), 0)] * 2)
    with pytest.raises(SignforgeError, match="Pairs: groups must be whole numbers below") as error:
        from_dataset(items, groups=groups)
    assert "\n" not in str(error.value)


def test_arrays_of_an_npz_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    images, labels = np.zeros((2, 8, 8, 3), dtype=np.uint8), np.array([0, 1])
    for content, message in (
        ({"class_names": np.array("stop")}, r"class_names must be of shape .*, got \(\)"),
        ({"class_names": np.array([["a"], ["b"]])}, r"class_names must be .*, got \(2, 1\)"),
        ({"groups": np.array([0, 2**63], dtype=np.uint64)}, "groups must be whole numbers below"),
    ):
        np.savez(path, images=images, labels=labels, **content)
        with pytest.raises(SignforgeError, match=message) as error:
            load(path)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [(0, 1, "encrypted"), (2, 97, "compression method is not supported")],
)
def test_an_npz_whose_members_cannot_be_unpacked_is_one_sentence(
    tmp_path: Path, field: int, value: int, message: str
) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, images=np.zeros((2, 8, 8, 3), dtype=np.uint8), labels=np.array([0, 1]))
    content = bytearray(path.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # flags, then the method
        at = content.index(header) + flags + field
        content[at : at + 2] = value.to_bytes(2, "little")
    path.write_bytes(content)
    with pytest.raises(SignforgeError, match=f"not a readable npz of plain arrays: .*{message}"):
        load(path)
