"""Small synthetic data sets in the layouts that the readers accept."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from signforge.config import DataConfig
from signforge.data.images import LabeledSplits
from signforge.data.load import load_splits

HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or fills the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SIGNFORGE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def real_splits(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> LabeledSplits:
    """The official zips at 32 pixels, decoded once."""
    config = DataConfig(source=str(data_root / "gtsrb"), resolution=32)
    return load_splits(config, cache_dir=tmp_path_factory.mktemp("real"))


@pytest.fixture
def draw() -> Callable[..., np.ndarray]:
    """draw(seed, width=12, height=12) -> uint8 (height, width, 3) of noise."""

    def _draw(seed: int, width: int = 12, height: int = 12) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)

    return _draw


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """encode(pixels, format="PPM") -> the bytes of an image file."""

    def _encode(pixels: np.ndarray, format: str = "PPM") -> bytes:  # noqa: A002
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format=format)
        return file.getvalue()

    return _encode


@pytest.fixture
def make_gtsrb(draw: Callable[..., np.ndarray], encode: Callable[..., bytes]):
    """make_gtsrb(root) writes classes 0, 14 and 33 with 2 tracks of 3 frames and 4 test images in
    the official layout, extracted; image (class, track, frame) is draw(seed) with seed
    class * 100 + track * 10 + frame, test image i is draw(9000 + i) of class (0, 14, 33, 14)."""

    def _make(root: Path, training: str = "GTSRB/Final_Training/Images") -> Path:
        for label in (0, 14, 33):
            folder = root / training / f"{label:05d}"
            folder.mkdir(parents=True)
            lines = [HEADER]
            for track in range(2):
                for frame in range(3):
                    name = f"{track:05d}_{frame:05d}.ppm"
                    pixels = draw(label * 100 + track * 10 + frame)
                    (folder / name).write_bytes(encode(pixels))
                    lines.append(f"{name};12;12;2;1;10;11;{label}")
            (folder / f"GT-{label:05d}.csv").write_text("\n".join(lines) + "\n")
        test = root / "GTSRB/Final_Test/Images"
        test.mkdir(parents=True)
        lines = [HEADER]
        for index, label in enumerate((0, 14, 33, 14)):
            (test / f"{index:05d}.ppm").write_bytes(encode(draw(9000 + index)))
            lines.append(f"{index:05d}.ppm;12;12;2;1;10;11;{label}")
        without_labels = [line.rpartition(";")[0] for line in lines]
        (test / "GT-final_test.test.csv").write_text("\n".join(without_labels) + "\n")
        (root / "GT-final_test.csv").write_text("\n".join(lines) + "\n")
        return root

    return _make


@pytest.fixture
def zip_official() -> Callable[[Path, Path], Path]:
    """zip_official(extracted, folder) packs an official tree into the three official zips."""

    def _zip(extracted: Path, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        parts = {
            "GTSRB_Final_Training_Images.zip": "GTSRB/Final_Training",
            "GTSRB_Final_Test_Images.zip": "GTSRB/Final_Test",
            "GTSRB_Final_Test_GT.zip": "GT-final_test.csv",
        }
        for name, part in parts.items():
            with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in sorted(extracted.rglob("*")):
                    inner = path.relative_to(extracted).as_posix()
                    if path.is_file() and inner.startswith(part):
                        archive.write(path, inner)
        return folder

    return _zip
