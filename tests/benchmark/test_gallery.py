import json

import numpy as np
import pytest
import torch

from signforge.benchmark.gallery import COLUMNS, most_changed, read_gallery, save_gallery
from signforge.benchmark.summary import summarise_run
from signforge.data.decode import decode_image
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from support.benchmark_runs import write_run

ARMS = ("real", "oversample", "synthetic")


class Replay:
    """Draws training images of the class, darker by one: the nearest is the one it came from."""

    fingerprint = "replay"

    def __init__(self, train: LabeledImages) -> None:
        self.train = train

    def images(self, label: int) -> torch.Tensor:
        return self.train.images[self.train.labels == label][[5, 3, 0, 1, 2, 4, 5, 5]]

    def sample(self, labels: torch.Tensor, seed: int) -> torch.Tensor:
        assert (len(labels), seed) == (COLUMNS, 0)
        return (self.images(int(labels[0])).int() - 1).clamp(0).to(torch.uint8)


def tiles(png: bytes) -> list[torch.Tensor]:
    """The images of a strip, uint8 (3, 16, 16)."""
    strip = torch.from_numpy(np.array(decode_image(png, "strip"))).permute(2, 0, 1)
    assert strip.shape[1] == 16
    return [strip[:, :, left : left + 16] for left in range(0, strip.shape[2], 17)]


def test_the_strips_hold_real_synthetic_and_nearest_images(tmp_path, splits):
    sampler = Replay(splits.train)
    save_gallery(tmp_path, sampler, splits.train, [3, 0])
    found = read_gallery(tmp_path, "replay")
    assert list(found) == [3, 0]
    for label, pictures in found.items():
        own = splits.train.images[splits.train.labels == label]
        real = tiles(pictures.real)
        assert len(real) == min(COLUMNS, len(own))
        assert torch.equal(real[0], own[0])
        assert torch.equal(real[-1], own[-1])
        assert torch.equal(torch.stack(tiles(pictures.nearest)), sampler.images(label))
        drawn = sampler.sample(torch.full((COLUMNS,), label), 0)
        assert torch.equal(torch.stack(tiles(pictures.synthetic)), drawn)


def test_other_classes_and_other_generators_leave_nothing_behind(tmp_path, splits):
    sampler = Replay(splits.train)
    save_gallery(tmp_path, sampler, splits.train, [0, 1])
    (tmp_path / "gallery" / "notes.txt").write_text("mine")
    save_gallery(tmp_path, sampler, splits.train, [1])
    names = {path.name for path in (tmp_path / "gallery").iterdir()}
    assert names == {
        "00001-nearest.png",
        "00001-real.png",
        "00001-synthetic.png",
        "gallery.json",
        "notes.txt",
    }
    assert read_gallery(tmp_path, "another") == {}
    assert read_gallery(tmp_path / "nowhere", "replay") == {}


def test_a_lost_file_is_named(tmp_path, splits):
    save_gallery(tmp_path, Replay(splits.train), splits.train, [2])
    (tmp_path / "gallery" / "00002-real.png").unlink()
    with pytest.raises(SignforgeError, match=r"00002-real\.png"):
        read_gallery(tmp_path, "replay")


def test_the_same_pictures_are_drawn_again(tmp_path, splits):
    sampler = Replay(splits.train)
    for name in ("a", "b"):
        save_gallery(tmp_path / name, sampler, splits.train, [1])
    files = [sorted((tmp_path / name / "gallery").iterdir()) for name in ("a", "b")]
    assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]
    index = json.loads((tmp_path / "a" / "gallery" / "gallery.json").read_text())
    assert index["train"] == splits.train.fingerprint


def test_classes_that_changed_most(tmp_path):
    planted = {("synthetic", 0): 0.95, ("synthetic", 1): 0.85, ("synthetic", 2): 0.2}
    write_run(tmp_path / "run", arms=ARMS, accuracy=planted)
    gained, lost = most_changed(summarise_run(tmp_path / "run"))
    assert gained[:2] == [0, 1]
    assert lost[0] == 2
    assert set(gained).isdisjoint(lost)
    write_run(tmp_path / "cheap", arms=("real", "oversample"))
    assert most_changed(summarise_run(tmp_path / "cheap")) == ([], [])
