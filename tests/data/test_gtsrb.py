import csv
import shutil
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from signforge.config import DataConfig
from signforge.data.archive import FolderTree
from signforge.data.gtsrb import download_gtsrb, list_gtsrb
from signforge.data.images import UNKNOWN_GROUP, LabeledSplits
from signforge.data.load import load_splits
from signforge.data.names import GTSRB_CLASS_COUNTS, GTSRB_CLASS_NAMES
from signforge.errors import SignforgeError


def load(path: Path, resolution: int = 12, crop: str = "full"):
    return load_splits(DataConfig(source=str(path), resolution=resolution, crop=crop))


def test_names_and_counts() -> None:
    assert len(GTSRB_CLASS_NAMES) == len(set(GTSRB_CLASS_NAMES)) == 43
    assert len(GTSRB_CLASS_COUNTS) == 43
    assert sum(GTSRB_CLASS_COUNTS) == 39_209
    assert GTSRB_CLASS_NAMES[14] == "Stop"


def test_tree_gives_images_labels_tracks_and_names(tmp_path: Path, make_gtsrb, draw) -> None:
    splits = load(make_gtsrb(tmp_path / "x"))
    train, test = splits.train, splits.test
    assert train.labels.tolist() == [0] * 6 + [14] * 6 + [33] * 6
    assert train.groups.tolist() == [number for number in range(6) for _ in range(3)]
    assert train.names[7] == "Final_Training/Images/00014/00000_00001.ppm"
    assert train.class_names == GTSRB_CLASS_NAMES
    seeds = [c * 100 + t * 10 + f for c in (0, 14, 33) for t in range(2) for f in range(3)]
    for image, seed in zip(train.images, seeds, strict=True):
        assert np.array_equal(image.numpy(), draw(seed).transpose(2, 0, 1))
    assert test is not None
    assert test.labels.tolist() == [0, 14, 33, 14]
    assert test.groups.tolist() == [UNKNOWN_GROUP] * 4
    assert test.names[3] == "Final_Test/Images/00003.ppm"
    assert splits.val is None
    assert splits.unreadable == ()
    assert len(splits.notes) == 1
    assert splits.notes[0].startswith("No training image of class 1, 2, 3")


def test_zips_tree_and_every_outer_folder_agree(tmp_path: Path, make_gtsrb, zip_official) -> None:
    tree = make_gtsrb(tmp_path / "tree")
    expected = load(tree)
    zips = zip_official(tree, tmp_path / "zips")
    inner = tmp_path / "inner"
    shutil.copytree(tree / "GTSRB", inner)
    shutil.copy(tree / "GT-final_test.csv", inner / "Final_Test/Images/GT-final_test.csv")
    unpacked = tmp_path / "unpacked"
    shutil.copytree(
        tree / "GTSRB/Final_Training", unpacked / "GTSRB_Final_Training_Images/GTSRB/Final_Training"
    )
    shutil.copytree(
        tree / "GTSRB/Final_Test", unpacked / "GTSRB_Final_Test_Images/GTSRB/Final_Test"
    )
    (unpacked / "GTSRB_Final_Test_GT").mkdir()
    shutil.copy(tree / "GT-final_test.csv", unpacked / "GTSRB_Final_Test_GT/GT-final_test.csv")
    for source in (zips, inner, unpacked):
        splits = load(source)
        assert splits.train.fingerprint == expected.train.fingerprint
        assert splits.train.names == expected.train.names
        assert splits.test is not None
        assert splits.test.fingerprint == expected.test.fingerprint
        assert splits.test.names == expected.test.names


def test_one_training_zip_or_the_class_folders_alone(tmp_path, make_gtsrb, zip_official) -> None:
    tree = make_gtsrb(tmp_path / "tree")
    zips = zip_official(tree, tmp_path / "zips")
    expected = load(tree).train.fingerprint
    for source in (
        zips / "GTSRB_Final_Training_Images.zip",
        tree / "GTSRB/Final_Training/Images",
        tree / "GTSRB/Final_Training",
    ):
        splits = load(source)
        assert splits.train.fingerprint == expected
        assert splits.test is None
        assert any("No test images" in note for note in splits.notes)


def test_missing_test_zips_are_noted(tmp_path: Path, make_gtsrb, zip_official) -> None:
    zips = zip_official(make_gtsrb(tmp_path / "tree"), tmp_path / "zips")
    (zips / "GTSRB_Final_Test_GT.zip").unlink()
    splits = load(zips)
    # GT-final_test.test.csv is still there, inside the images zip: it must not pass as truth.
    assert splits.test is None
    assert any("Test images have no labels" in note for note in splits.notes)


def test_torchvision_tree_labels_by_number(tmp_path: Path, make_gtsrb) -> None:
    root = tmp_path / "root"
    make_gtsrb(root / "gtsrb", training="GTSRB/Training")
    for source in (root, root / "gtsrb"):
        splits = load(source)
        # torchvision itself numbers the sorted folders, 0, 1, 2: wrong where classes are missing.
        assert sorted(set(splits.train.labels.tolist())) == [0, 14, 33]
        assert splits.test is not None
        assert splits.test.labels.tolist() == [0, 14, 33, 14]
        assert splits.train.names[0] == "Training/00000/00000_00000.ppm"
        assert any("older training set" in note for note in splits.notes)


def test_roi_crop_and_scaled_roi(tmp_path: Path, make_gtsrb, draw) -> None:
    root = make_gtsrb(tmp_path / "x")
    cropped = load(root, resolution=8, crop="roi").train.images[0]
    region = Image.fromarray(draw(0)[1:11, 2:10])
    reference = np.asarray(region.resize((8, 8), Image.Resampling.BILINEAR))
    assert np.array_equal(cropped.numpy(), reference.transpose(2, 0, 1))

    table = root / "GTSRB/Final_Training/Images/00000/GT-00000.csv"
    table.write_text(table.read_text().replace(";12;12;2;1;10;11;", ";48;24;8;4;40;20;"))
    cropped = load(root, resolution=8, crop="roi").train.images[0]
    assert np.array_equal(cropped.numpy(), draw(0)[2:10, 2:10].transpose(2, 0, 1))


def test_roi_without_a_table_is_an_error(tmp_path: Path, make_gtsrb) -> None:
    root = make_gtsrb(tmp_path / "x")
    (root / "GTSRB/Final_Training/Images/00014/GT-00014.csv").unlink()
    assert len(load(root).train) == 18
    with pytest.raises(SignforgeError, match="no region of interest"):
        load(root, crop="roi")


def test_truncated_image_is_reported_and_the_rest_loaded(tmp_path, make_gtsrb, own_cache) -> None:
    root = make_gtsrb(tmp_path / "x")
    bad = root / "GTSRB/Final_Training/Images/00014/00001_00001.ppm"
    bad.write_bytes(bad.read_bytes()[:100])
    splits = load(root)
    assert len(splits.train) == 17
    assert len(splits.unreadable) == 1
    assert "Final_Training/Images/00014/00001_00001.ppm" in splits.unreadable[0]
    assert "truncated" in splits.unreadable[0]
    assert splits.train.labels.tolist() == [0] * 6 + [14] * 5 + [33] * 6
    assert list(own_cache.iterdir()) == []


def swap(folder: Path, old: str, new: str) -> None:
    table = folder / "GT-00014.csv"
    table.write_text(table.read_text().replace(old, new, 1))


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda f: (f / "00000_00001.ppm").unlink(),
            r"GT-00014\.csv, 00000_00001\.ppm: the file is",
        ),
        (lambda f: swap(f, "11;14", "11;43"), r"ClassId '43', outside 0\.\.42"),
        (lambda f: swap(f, "11;14", "11;-1"), r"ClassId '-1', outside 0\.\.42"),
        (lambda f: swap(f, "11;14", f"11;{'1' * 5000}"), r"ClassId '1+', outside 0\.\.42"),
        (lambda f: swap(f, "11;14", "11;\u0661"), r"ClassId '\u0661', outside 0\.\.42"),
        (lambda f: swap(f, "11;14", "11;13"), "lies in the folder of class 14"),
        (lambda f: swap(f, "12;12;2", "12;x;2"), "not a whole number"),
        (lambda f: swap(f, "2;1;10", "2;1;13"), "does not lie in the image"),
        (
            lambda f: swap(f, "12;12;2;1;10;11", f"{'9' * 400};12;{'1' * 400};1;{'2' * 400};11"),
            "does not lie in the image",
        ),
        (lambda f: swap(f, "11;14", "11"), "fields instead of"),
        (lambda f: swap(f, "00000_00001", "00000_00000"), "twice"),
        (lambda f: swap(f, "Filename", "File"), "no column Filename"),
        (lambda f: f.rename(f.parent / "00043"), "00043 is outside"),
        (empty, "00014 has no image"),
    ],
)
def test_structural_problems_are_one_sentence(tmp_path: Path, make_gtsrb, edit, message) -> None:
    root = make_gtsrb(tmp_path / "x")
    edit(root / "GTSRB/Final_Training/Images/00014")
    with pytest.raises(SignforgeError, match=message) as error:
        load(root)
    assert "\n" not in str(error.value)


def test_test_table_that_names_a_missing_file(tmp_path: Path, make_gtsrb) -> None:
    root = make_gtsrb(tmp_path / "x")
    (root / "GTSRB/Final_Test/Images/00002.ppm").unlink()
    with pytest.raises(
        SignforgeError, match=r"GT-final_test\.csv, 00002\.ppm: the file is missing"
    ):
        load(root)


def test_class_folders_without_gtsrb_tables_are_not_gtsrb(tmp_path: Path, draw, encode) -> None:
    (tmp_path / "00000").mkdir()
    (tmp_path / "00000/a.ppm").write_bytes(encode(draw(1)))
    assert list_gtsrb(FolderTree(tmp_path)) is None


def test_download_asks_torchvision_for_both_splits(tmp_path: Path, monkeypatch) -> None:
    asked = []

    def fetch(root: Path, split: str, download: bool) -> None:
        asked.append((root, split, download))

    def fail(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torchvision.datasets, "GTSRB", fetch)
    assert download_gtsrb(tmp_path) == tmp_path
    assert asked == [(tmp_path, "train", True), (tmp_path, "test", True)]
    monkeypatch.setattr(torchvision.datasets, "GTSRB", fail)
    with pytest.raises(SignforgeError, match="check the network"):
        download_gtsrb(tmp_path)


def test_native_sizes_and_roi_to_the_pixel(data_root: Path) -> None:
    root = data_root / "gtsrb-native"
    splits = load(root, resolution=32, crop="roi")
    full = load(root, resolution=48, crop="full")
    assert (len(splits.train), len(splits.test)) == (516, 300)
    assert len(set(splits.train.groups.tolist())) == 129
    assert splits.unreadable == ()
    rows: dict[str, dict[str, str]] = {}
    for table in [*root.glob("GTSRB/Final_Training/Images/*/GT-*.csv"), root / "GT-final_test.csv"]:
        parent = (
            "Final_Test/Images"
            if "test" in table.name
            else f"Final_Training/Images/{table.parent.name}"
        )
        with table.open() as file:
            for row in csv.DictReader(file, delimiter=";"):
                rows[f"{parent}/{row['Filename']}"] = row
    margins = []
    for cropped, whole in ((splits.train, full.train), (splits.test, full.test)):
        for index, name in enumerate(cropped.names):
            row = rows[name]
            with Image.open(root / "GTSRB" / name) as image:
                size = (int(row["Width"]), int(row["Height"]))
                assert image.size == size
                box = tuple(int(row[f"Roi.{key}"]) for key in ("X1", "Y1", "X2", "Y2"))
                region = image.crop(box).resize((32, 32), Image.Resampling.BILINEAR)
                stretched = image.resize((48, 48), Image.Resampling.BILINEAR)
            assert np.array_equal(
                cropped.images[index].permute(1, 2, 0).numpy(), np.asarray(region)
            )
            assert np.array_equal(
                whole.images[index].permute(1, 2, 0).numpy(), np.asarray(stretched)
            )
            assert int(row["ClassId"]) == int(cropped.labels[index])
            margins.append((box[0] - (size[0] - box[2]), box[1] - (size[1] - box[3])))
    # With exclusive upper bounds the margins are equal most often, and inclusive ones are not.
    equal = np.mean(np.array(margins) == 0)
    assert equal > 0.4
    assert equal > 3 * np.mean(np.array(margins) == -1)


def test_native_crop_at_own_size_is_the_slice(data_root: Path) -> None:
    # A region that is square needs no resize, so its pixels are those of the file.
    root = data_root / "gtsrb-native"
    tree = FolderTree(root)
    listing = list_gtsrb(tree)
    assert listing is not None
    square = next(
        entry
        for entry in listing.train
        if entry.roi is not None and entry.roi.x2 - entry.roi.x1 == entry.roi.y2 - entry.roi.y1
    )
    roi = square.roi
    assert roi is not None
    with Image.open(root / square.path) as image:
        expected = np.asarray(image)[roi.y1 : roi.y2, roi.x1 : roi.x2]
    splits = load(root, resolution=roi.x2 - roi.x1, crop="roi")
    index = splits.train.names.index(square.name)
    assert np.array_equal(splits.train.images[index].permute(1, 2, 0).numpy(), expected)


@pytest.mark.slow
def test_real_zips(real_splits: LabeledSplits) -> None:
    splits = real_splits
    train, test = splits.train, splits.test
    assert test is not None
    assert (len(train), len(test)) == (39_209, 12_630)
    assert train.num_classes == 43
    assert tuple(train.class_counts.tolist()) == GTSRB_CLASS_COUNTS
    assert len(train.groups.unique()) == 1307
    sizes = torch.bincount(train.groups)
    assert sorted(set(sizes.tolist())) == [29, 30]
    assert int((sizes == 29).sum()) == 1
    assert int(train.labels[train.groups == int(sizes.argmin())][0]) == 33
    assert (int(test.class_counts.min()), int(test.class_counts.max())) == (60, 750)
    assert splits.notes == splits.unreadable == ()
    index = dict(zip(train.names, train.images, strict=True))
    leaked = test.images[test.names.index("Final_Test/Images/02291.ppm")]
    frames = [index[f"Final_Training/Images/00014/00023_{frame:05d}.ppm"] for frame in range(30)]
    assert any(torch.equal(leaked, frame) for frame in frames)
