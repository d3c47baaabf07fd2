import json
import math
from dataclasses import asdict, fields

import numpy as np
import pytest
import torch
from PIL import Image

from signforge.data.charts import save_image_grid
from signforge.errors import SignforgeError
from signforge.gan.film import MAX_FRAMES, PANELS, read_metrics, save_curves, save_film
from signforge.gan.metrics import Status
from support.statuses import make_status


def line(seen_kimg, **values):
    return asdict(make_status(seen_kimg, **values))


def write_metrics(run, lines):
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(value) + "\n" for value in lines))


def write_grids(run, kimgs, rows=3, columns=4, size=8, noise=False):
    """Grid k is all of brightness ~ 10 k, so frames can be told apart; or noise."""
    rng = torch.Generator().manual_seed(0)
    for number, kimg in enumerate(kimgs):
        shape = (columns, 3, size, size)
        images = [
            torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
            if noise
            else torch.full(shape, 10 * number + r, dtype=torch.uint8)
            for r in range(rows)
        ]
        path = run / "samples" / f"{kimg:06d}kimg.png"
        save_image_grid(path, images, [f"{r} sign" for r in range(rows)])


def frames(path):
    with Image.open(path, formats=("GIF",)) as film:
        assert film.info["loop"] == 0
        for number in range(film.n_frames):
            film.seek(number)
            yield np.asarray(film.convert("RGB"))


def size_of(path):
    with Image.open(path, formats=("PNG",)) as image:
        image.load()
        return image.size


# --- metrics -------------------------------------------------------------------------------------


def test_metrics_skip_what_a_kill_cut_off(tmp_path):
    write_metrics(tmp_path, [line(4), line(8)])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"seen_kimg": 12, "discrimi')
    assert [value["seen_kimg"] for value in read_metrics(tmp_path / "metrics.jsonl")] == [4, 8]
    assert read_metrics(tmp_path / "absent.jsonl") == []


def test_metrics_after_a_rollback_replace_the_lines_before_it(tmp_path):
    write_metrics(tmp_path, [line(4), line(8, fd=9.0), line(12), line(8, fd=1.0), line(10)])
    kept = [(value["seen_kimg"], value["fd"]) for value in read_metrics(tmp_path / "metrics.jsonl")]
    assert kept == [(4, None), (8, 1.0), (10, None)]


# --- curves --------------------------------------------------------------------------------------


def test_every_panel_shows_keys_that_a_status_has():
    shown = [key for _, keys in PANELS for key in keys]
    assert len(shown) == len(set(shown))
    assert set(shown) <= {field.name for field in fields(Status)}


@pytest.mark.parametrize("count", [0, 1, 2, 200])
def test_curves_of_any_length(tmp_path, count):
    write_metrics(tmp_path, [line(4.0 * n, fd=50.0 / (n + 1)) for n in range(count)])
    path = save_curves(tmp_path)
    assert path == tmp_path / "curves.png"
    assert min(size_of(path)) > 100


def test_curves_of_a_run_without_metrics(tmp_path):
    assert save_curves(tmp_path).is_file()


def test_curves_stand_unusable_numbers(tmp_path):
    write_metrics(tmp_path, [line(1, generator_loss=math.nan), line(2, fd=math.inf), line(3)])
    save_curves(tmp_path)


def test_probe_values_get_panels_of_their_own(tmp_path):
    write_metrics(tmp_path / "a", [line(1), line(2)])
    probed = {"label_agreement": 0.9, "worst_class_label_agreement": 0.5, "fd": 20.0}
    write_metrics(tmp_path / "b", [line(1), line(2, **probed)])
    without, probed_size = (size_of(save_curves(tmp_path / name)) for name in "ab")
    assert probed_size[1] > without[1]


def test_a_rollback_is_drawn(tmp_path):
    write_metrics(tmp_path / "a", [line(1), line(2), line(3)])
    write_metrics(tmp_path / "b", [line(1), line(2, rollbacks=1), line(3, rollbacks=1)])
    a, b = ((save_curves(tmp_path / name)).read_bytes() for name in "ab")
    assert a != b


# --- film ----------------------------------------------------------------------------------------


def test_no_film_without_grids(tmp_path):
    assert save_film(tmp_path) is None
    assert not (tmp_path / "film.gif").exists()


def test_one_frame_for_each_grid_in_the_order_of_kimg(tmp_path):
    write_grids(tmp_path, [0, 40, 120])
    assert save_film(tmp_path) == tmp_path / "film.gif"
    seen = list(frames(tmp_path / "film.gif"))
    assert len(seen) == 3
    first_tile = [int(frame[30, 30, 0]) for frame in seen]
    assert first_tile == sorted(first_tile)
    assert len(set(first_tile)) == 3
    captions = [frame[:17] for frame in seen]
    assert (captions[0] != captions[1]).any()
    assert (captions[1] != captions[2]).any()


def test_a_single_grid_is_a_film_of_one_frame(tmp_path):
    write_grids(tmp_path, [7], rows=1)
    save_film(tmp_path)
    assert len(list(frames(tmp_path / "film.gif"))) == 1
    assert min(size_of(tmp_path / "film.png")) > 50


def test_the_strip_holds_one_column_for_each_time(tmp_path):
    write_grids(tmp_path, range(0, 50, 10), size=32)
    save_film(tmp_path)
    width, height = size_of(tmp_path / "film.png")
    assert width > 5 * 96
    assert height > 3 * 96
    with Image.open(tmp_path / "film.png") as image:
        values = set(np.asarray(image)[60, 70:, 0].tolist())
    assert {0, 10, 20, 30, 40} <= values


@pytest.mark.parametrize(("rows", "columns", "size"), [(43, 3, 32), (1, 12, 32), (20, 2, 80)])
def test_a_film_of_pure_noise_stays_below_two_megabytes(tmp_path, rows, columns, size):
    write_grids(tmp_path, range(MAX_FRAMES + 1), rows, columns, size, noise=True)
    path = save_film(tmp_path)
    assert path.stat().st_size < 2_000_000
    assert len(list(frames(path))) == MAX_FRAMES


def test_other_pictures_in_the_folder_are_left_out(tmp_path):
    write_grids(tmp_path, [1], rows=2)  # another set of classes
    write_grids(tmp_path, [2, 3])
    folder = tmp_path / "samples"
    Image.new("RGB", (9, 9)).save(folder / "000001kimg.png.png")
    Image.new("RGB", (9, 9)).save(folder / "000004kimg.png")
    (folder / "000005kimg.png").write_bytes(b"not an image")
    (folder / "lastkimg.png").write_bytes(b"")
    save_film(tmp_path)
    assert len(list(frames(tmp_path / "film.gif"))) == 2


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(SignforgeError, match=r"Cannot write .*curves\.png"):
        save_curves(tmp_path)
