from pathlib import Path

import numpy as np
import pytest

from signforge.config import DataConfig
from signforge.data.load import load_splits
from signforge.errors import SignforgeError

HEADER = "Width,Height,Roi.X1,Roi.Y1,Roi.X2,Roi.Y2,ClassId,Path"


@pytest.fixture
def kaggle(tmp_path: Path, draw, encode):
    """Classes 3 and 20, tracks 0 and 1 of 2 frames, 3 test images; Path as ``prefix`` + path."""

    def _make(prefix: str = "", folder: str = "Train") -> Path:
        root = tmp_path / "kaggle"
        lines = [HEADER]
        for label in (20, 3):
            (root / folder / str(label)).mkdir(parents=True)
            for track in range(2):
                for frame in range(2):
                    name = f"{label:05d}_{track:05d}_{frame:05d}.png"
                    pixels = draw(label * 100 + track * 10 + frame)
                    (root / folder / str(label) / name).write_bytes(encode(pixels, "PNG"))
                    lines.append(f"12,12,2,1,10,11,{label},{prefix}Train/{label}/{name}")
        (root / "Train.csv").write_text("\n".join(lines) + "\n")
        lines = [HEADER]
        (root / "Test").mkdir()
        for index, label in enumerate((3, 20, 3)):
            (root / f"Test/{index:05d}.png").write_bytes(encode(draw(9000 + index), "PNG"))
            lines.append(f"12,12,2,1,10,11,{label},{prefix}Test/{index:05d}.png")
        (root / "Test.csv").write_text("\n".join(lines) + "\n")
        return root

    return _make


def load(path: Path, crop: str = "full", resolution: int = 12):
    return load_splits(DataConfig(source=str(path), resolution=resolution, crop=crop))


def test_images_labels_tracks_and_test(kaggle, draw) -> None:
    splits = load(kaggle())
    train, test = splits.train, splits.test
    assert train.labels.tolist() == [20] * 4 + [3] * 4
    assert train.groups.tolist() == [2, 2, 3, 3, 0, 0, 1, 1]
    assert np.array_equal(train.images[1].permute(1, 2, 0).numpy(), draw(2001))
    assert train.names[1] == "Train/20/00020_00000_00001.png"
    assert test is not None
    assert test.labels.tolist() == [3, 20, 3]
    assert test.groups.tolist() == [-1, -1, -1]
    assert splits.notes == ()


@pytest.mark.parametrize("prefix", ["C:\\data\\", "../input/gtsrb/", "/home/x/", "./"])
def test_paths_that_do_not_resolve_are_found_by_name(kaggle, prefix: str) -> None:
    expected = load(kaggle())
    (tmp := Path(expected.train.source.split(" (")[0]) / "Train.csv").write_text(
        tmp.read_text().replace(",Train/", f",{prefix}Train/")
    )
    splits = load(tmp.parent)
    assert splits.train.fingerprint == expected.train.fingerprint
    assert any("do not resolve as written" in note for note in splits.notes) == (prefix != "./")


def test_paths_in_another_case(kaggle) -> None:
    splits = load(kaggle(folder="train"))
    assert len(splits.train) == 8
    assert splits.train.names[0].startswith("train/20/")
    assert "8 paths in Train.csv" in splits.notes[0]


def test_roi(kaggle, draw) -> None:
    root = kaggle()
    table = root / "Train.csv"
    table.write_text(table.read_text().replace("12,12,2,1,10,11", "12,12,2,1,10,9"))
    table = root / "Test.csv"
    table.write_text(table.read_text().replace("12,12,2,1,10,11", "12,12,2,1,10,9"))
    train = load(root, crop="roi", resolution=8).train
    assert np.array_equal(train.images[0].permute(1, 2, 0).numpy(), draw(2000)[1:9, 2:10])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",3,Train/3/", ",43,Train/3/", r"ClassId '43', outside 0\.\.42"),
        ("00003_00000_00000.png", "00003_00009_00000.png", "the file is missing"),
        ("00003_00000_00000.png", "00003_00000_00001.png", "two lines name the file"),
    ],
)
def test_problems_are_one_sentence(kaggle, old: str, new: str, message: str) -> None:
    root = kaggle()
    table = root / "Train.csv"
    table.write_text(table.read_text().replace(old, new, 1))
    with pytest.raises(SignforgeError, match=message) as error:
        load(root)
    assert "Train.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_without_test_table(kaggle) -> None:
    root = kaggle()
    (root / "Test.csv").unlink()
    splits = load(root)
    assert splits.test is None
    assert "No Test.csv" in splits.notes[0]
