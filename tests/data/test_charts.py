import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from signforge.data import charts
from signforge.data.charts import (
    LAYOUT,
    MAX_ROWS,
    image_grid,
    load_image_grid,
    rows_that_fit,
    save_class_distribution,
    save_image_grid,
    spread,
)
from signforge.data.decode import MAX_PIXELS
from signforge.errors import SignforgeError


def solid(count: int, value: int, size: int = 8) -> torch.Tensor:
    return torch.full((count, 3, size, size), value, dtype=torch.uint8)


def read(path: Path) -> np.ndarray:
    with Image.open(path, formats=("PNG",)) as image:
        return np.asarray(image.convert("RGB"))


def test_grid_puts_each_image_in_its_place():
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 4, 6)
    grid = image_grid([images[:3], images[3:]], gap=2)
    assert grid.dtype == torch.uint8
    assert grid.shape == (3, 2 * 6, 3 * 8)
    assert torch.equal(grid[:, 0:4, 8:14], images[1])
    assert torch.equal(grid[:, 6:10, 0:6], images[3])
    assert (grid[:, :, 6:8] == 255).all()
    assert (grid[:, 6:, 16:] == 255).all()


def test_grid_allows_a_row_without_images_but_not_none_at_all():
    grid = image_grid([solid(0, 0), solid(1, 7)], gap=0)
    assert grid.shape == (3, 16, 8)
    assert (grid[:, :8] == 255).all()
    with pytest.raises(SignforgeError, match="no image"):
        image_grid([solid(0, 0)])


def test_saved_grid_holds_every_image_enlarged_and_the_names(tmp_path):
    path = tmp_path / "new" / "grid.png"
    colors = torch.tensor([[200, 0, 0], [0, 200, 0]], dtype=torch.uint8)
    rows = [colors[r].view(1, 3, 1, 1).expand(count, 3, 8, 8) for r, count in enumerate((2, 3))]
    save_image_grid(path, rows, ["first", "a much longer name"], scale=3)
    pixels = read(path)
    starts = []
    for color, count in zip(colors.numpy(), (2, 3), strict=True):
        ys, xs = (pixels == color).all(2).nonzero()
        assert len(ys) == count * 24 * 24
        assert (pixels[ys.min() : ys.min() + 24, xs.min() : xs.min() + 24] == color).all()
        starts.append((ys.min(), xs.min()))
    assert starts[0][1] == starts[1][1]
    for top, left in starts:
        assert (pixels[top : top + 24, :left] < 100).any()


def test_titles_stand_above_their_share_of_the_columns(tmp_path):
    plain, titled = tmp_path / "plain.png", tmp_path / "titled.png"
    rows = [solid(4, 90, size=32)] * 3
    save_image_grid(plain, rows, ["a", "b", "c"])
    save_image_grid(titled, rows, ["a", "b", "c"], ["real", "synthetic"])
    without, with_titles = read(plain), read(titled)
    header = with_titles.shape[0] - without.shape[0]
    assert header > 10
    dark = (with_titles[:header] < 128).all(2).any(0).nonzero()[0]
    middle = with_titles.shape[1] / 2
    assert dark.min() < middle < dark.max()


def test_unequal_names_and_titles_are_refused(tmp_path):
    with pytest.raises(SignforgeError, match="2 rows needs as many names, got 1"):
        save_image_grid(tmp_path / "g.png", [solid(1, 0)] * 2, ["a"])
    with pytest.raises(SignforgeError, match="3 columns cannot be shared evenly by 2"):
        save_image_grid(tmp_path / "g.png", [solid(3, 0)], ["a"], ["real", "synthetic"])


@pytest.mark.parametrize("num_classes", [1, 43, 300])
def test_distribution_grows_with_the_classes(tmp_path, num_classes):
    path = tmp_path / "chart.png"
    counts = {"train": torch.arange(num_classes) + 5, "test": torch.arange(num_classes) + 1}
    save_class_distribution(path, counts, [f"class {c}" for c in range(num_classes)], "made")
    pixels = read(path)
    assert pixels.shape[0] > 20 * num_classes
    is_bar = (pixels == (0x2F, 0x6D, 0xB5)).all(2).any(1)
    assert is_bar.sum() > 5 * num_classes


def test_bars_are_as_long_as_their_counts(tmp_path):
    path = tmp_path / "chart.png"
    save_class_distribution(path, {"train": torch.tensor([100, 25])}, ["a", "b"], "made")
    is_bar = (read(path) == (0x2F, 0x6D, 0xB5)).all(2)
    filled = is_bar.sum(1)
    lengths = [int(np.median(part[part > 50])) for part in np.array_split(filled, 2)]
    assert lengths[0] / lengths[1] == pytest.approx(4, rel=0.1)


def test_class_names_with_a_dollar_are_plain_text(tmp_path):
    path = tmp_path / "chart.png"
    save_class_distribution(path, {"train": torch.tensor([3])}, [r"costs $\frac$"], "$ {x $")
    assert path.stat().st_size > 0


def test_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "grid.png"
    with pytest.raises(SignforgeError, match="Cannot write"):
        save_image_grid(path, [solid(1, 0)], ["a"])
    with pytest.raises(SignforgeError, match="Cannot write"):
        save_class_distribution(path, {"train": torch.tensor([1])}, ["a"], "made")


@pytest.mark.parametrize(
    ("scale", "titles"), [(1, None), (2, None), (3, None), (3, ("real", "synthetic"))]
)
def test_images_can_be_taken_out_of_a_saved_grid(tmp_path, scale, titles):
    rng = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, 256, (n, 3, 5, 5), generator=rng).to(torch.uint8) for n in (4, 2, 0)]
    names = ["0 stop", "1 [y] $w$", "2 é"]
    save_image_grid(tmp_path / "grid.png", rows, names, titles, scale=scale)
    loaded, loaded_names = load_image_grid(tmp_path / "grid.png")
    assert loaded_names == names
    assert [row.shape for row in loaded] == [row.shape for row in rows]
    assert all(torch.equal(a, b) for a, b in zip(loaded, rows, strict=True))


# --- more than fits ------------------------------------------------------------------------------


def test_spread_holds_both_ends():
    assert spread("abcdefg", 3) == ["a", "d", "g"]
    assert spread("ab", 3) == ["a", "b"]
    assert spread("ab", 1) == ["a"]
    assert spread("", 3) == []


@pytest.mark.parametrize("count", [1, 43, 64, 65, 1000, 10_000])
@pytest.mark.parametrize("side", [8, 64, 256, 1024])
def test_as_many_rows_as_can_be_decoded_again(count, side):
    fitting = rows_that_fit(count, 12, side, side)
    assert len(fitting) == len(set(fitting)) <= min(count, MAX_ROWS)
    assert fitting == sorted(fitting)
    assert fitting[0] == 0
    assert fitting[-1] == count - 1 or len(fitting) == 1
    assert len(fitting) * (side + 1) * 12 * (side + 1) < MAX_PIXELS
    if side <= 128:
        assert len(fitting) == min(count, MAX_ROWS)


def test_a_single_image_is_always_shown():
    assert rows_that_fit(3, 1, 10**5, 10**5) == [0]


def test_a_grid_of_too_many_rows_shows_some_that_its_names_tell(tmp_path):
    rows = [solid(1, r % 256) if r % 2 else solid(0, 0) for r in range(1001)]
    save_image_grid(tmp_path / "grid.png", rows, [f"{r} name" for r in range(1001)])
    loaded, names = load_image_grid(tmp_path / "grid.png")
    ids = [int(name.removesuffix(" name")) for name in names]
    assert len(ids) == MAX_ROWS
    assert (ids[0], ids[-1]) == (1, 999)
    assert np.diff(ids).max() <= 18
    assert all(torch.equal(row, rows[r]) for row, r in zip(loaded, ids, strict=True))


@pytest.mark.parametrize(
    ("pixels", "count", "scale"), [(10**7, 6, 2), (300_000, 6, 1), (10**5, 4, 1)]
)
def test_a_large_grid_loses_scale_first_then_rows(tmp_path, monkeypatch, pixels, count, scale):
    monkeypatch.setattr(charts, "MAX_PIXELS", pixels)
    rows = [solid(4, r, size=64) for r in range(6)]
    save_image_grid(tmp_path / "grid.png", rows, [str(r) for r in range(6)], scale=2)
    height, width, _ = read(tmp_path / "grid.png").shape
    assert height * width <= pixels
    assert height == count * 65 * scale + 12
    loaded, names = load_image_grid(tmp_path / "grid.png")
    assert len(names) == count
    assert all(torch.equal(row, rows[int(name)]) for row, name in zip(loaded, names, strict=True))


GOOD = {"top": 0, "left": 0, "height": 2, "width": 2, "scale": 1, "images": [2]}


@pytest.mark.parametrize(
    "changes",
    [
        {"images": [10**12]},
        {"images": [2] * 10},
        {"images": [-1]},
        {"images": []},
        {"height": 10**9},
        {"height": -5},
        {"scale": "x"},
        {"scale": None},
        {"row_names": []},
        {"left": 10**9},
    ],
)
def test_a_grid_that_lies_about_its_layout_is_one_sentence(tmp_path, changes):
    text = PngInfo()
    text.add_text(LAYOUT, json.dumps({**GOOD, "row_names": ["a"], **changes}))
    Image.new("RGB", (8, 4)).save(tmp_path / "grid.png", pnginfo=text)
    with pytest.raises(SignforgeError, match=r"grid\.png is no image grid"):
        load_image_grid(tmp_path / "grid.png")


def test_pictures_that_are_no_grids(tmp_path):
    Image.new("RGB", (8, 4)).save(tmp_path / "grid.png")
    with pytest.raises(SignforgeError, match="is no image grid"):
        load_image_grid(tmp_path / "grid.png")
    with pytest.raises(SignforgeError, match="Cannot read"):
        load_image_grid(tmp_path / "absent.png")
