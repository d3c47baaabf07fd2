import numpy as np
import pytest
import torch
from PIL import Image

from signforge.data.charts import load_image_grid
from signforge.errors import SignforgeError
from signforge.gan.generate import generate_images


def pixels(path) -> torch.Tensor:
    with Image.open(path, formats=("PNG",)) as image:
        assert image.mode == "RGB"
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_files_are_the_pixels_of_the_sampler_named_by_class_seed_and_number(make_sampler, tmp_path):
    sampler = make_sampler(class_names=("stop", "no/../entry", "7"))
    files = generate_images(sampler, [2, 1], 3, tmp_path, seed=5)
    assert [path.relative_to(tmp_path).as_posix() for path in files] == [
        "00002_7/00002_seed5_00000.png",
        "00002_7/00002_seed5_00001.png",
        "00002_7/00002_seed5_00002.png",
        "00001_no-entry/00001_seed5_00000.png",
        "00001_no-entry/00001_seed5_00001.png",
        "00001_no-entry/00001_seed5_00002.png",
    ]
    for label, start in ((2, 0), (1, 3)):
        expected = sampler.sample(torch.full((3,), label), 5)
        for index in range(3):
            assert torch.equal(pixels(files[start + index]), expected[index])
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert written == {*files, tmp_path / "grid.png"}


def test_another_seed_adds_files_and_replaces_none(make_sampler, tmp_path):
    first = generate_images(make_sampler(), [0], 4, tmp_path, seed=0)
    before = [path.read_bytes() for path in first]
    second = generate_images(make_sampler(), [0], 4, tmp_path, seed=1)
    assert not set(first) & set(second)
    assert [path.read_bytes() for path in first] == before
    assert len(list(tmp_path.glob("*/*.png"))) == 8


@pytest.mark.parametrize(("labels", "num", "tiles"), [([0], 23, 23), ([0, 1, 2], 12, 30)])
def test_the_grid_shows_the_images(make_sampler, tmp_path, labels, num, tiles):
    files = generate_images(make_sampler(), labels, num, tmp_path)
    first_ten = [file for c in range(len(labels)) for file in files[c * num :][:10]]
    wanted = files if len(labels) == 1 else first_ten
    assert len(wanted) == tiles
    shown = torch.cat(load_image_grid(tmp_path / "grid.png")[0])
    assert torch.equal(shown, torch.stack([pixels(file) for file in wanted]))


def test_a_grid_of_many_classes_shows_some_and_says_which(make_sampler, tmp_path):
    sampler = make_sampler(class_names=tuple(f"kind {label}" for label in range(100)))
    labels = list(range(10, 100))
    files = generate_images(sampler, labels, 1, tmp_path)
    assert len(files) == 90
    rows, names = load_image_grid(tmp_path / "grid.png")
    assert (len(names), names[0], names[-1]) == (64, "10 kind 10", "99 kind 99")
    for row, name in zip(rows, names, strict=True):
        assert torch.equal(row[0], pixels(files[int(name.split()[0]) - 10]))


def test_progress_is_reported_class_by_class(make_sampler, tmp_path):
    seen = []

    def track(items, description, total):
        seen.append((description, total))
        yield from items

    generate_images(make_sampler(), [0, 1], 1, tmp_path, track=track)
    assert seen == [("Drawing", 2)]


def test_a_place_that_cannot_be_written_is_one_sentence(make_sampler, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SignforgeError, match=r"Cannot write .*seed0_00000\.png: "):
        generate_images(make_sampler(), [0], 1, tmp_path / "file")
