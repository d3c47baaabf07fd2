import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from signforge.config import DataConfig
from signforge.data import load as load_module
from signforge.data.images import LabeledSplits
from signforge.data.load import load_splits
from signforge.errors import SignforgeError

T = TypeVar("T")


def load(path: Path | str, **options: object) -> LabeledSplits:
    return load_splits(
        DataConfig.model_validate({"source": str(path), "resolution": 12, **options})
    )


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(load_module, "decode_listing", fail)


def test_second_load_comes_from_the_cache(tmp_path: Path, make_gtsrb, monkeypatch) -> None:
    root = make_gtsrb(tmp_path / "x")
    first = load(root)
    forbid_decoding(monkeypatch)
    second = load(root)
    assert second.train.fingerprint == first.train.fingerprint
    assert second.train.names == first.train.names
    assert second.notes == first.notes
    with pytest.raises(AssertionError, match="decoded again"):
        load(root, resolution=16)
    with pytest.raises(AssertionError, match="decoded again"):
        load(root, crop="roi")


def test_a_changed_file_is_decoded_again(tmp_path: Path, make_gtsrb, draw, encode) -> None:
    root = make_gtsrb(tmp_path / "x")
    first = load(root)
    changed = root / "GTSRB/Final_Training/Images/00000/00000_00000.ppm"
    changed.write_bytes(encode(draw(777)))
    os.utime(changed, ns=(1, 1))
    second = load(root)
    assert torch.equal(second.train.images[0], torch.from_numpy(draw(777)).permute(2, 0, 1))
    assert torch.equal(second.train.images[1:], first.train.images[1:])


def test_a_damaged_cache_is_rebuilt(tmp_path: Path, make_gtsrb, own_cache: Path) -> None:
    root = make_gtsrb(tmp_path / "x")
    expected = load(root).train.fingerprint
    (path,) = own_cache.glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert load(root).train.fingerprint == expected
    assert path.read_bytes() == whole


def test_an_unwritable_cache_costs_only_a_note(tmp_path: Path, make_gtsrb) -> None:
    root = make_gtsrb(tmp_path / "x")
    blocked = tmp_path / "file"
    blocked.write_text("")
    config = DataConfig(source=str(root), resolution=12)
    splits = load_splits(config, cache_dir=blocked / "cache")
    assert len(splits.train) == 18
    assert "cannot be written" in splits.notes[-1]


def test_an_unknown_home_folder_costs_only_a_note(tmp_path: Path, make_gtsrb, monkeypatch) -> None:
    monkeypatch.setenv("SIGNFORGE_CACHE", "~no-such-user/cache")
    monkeypatch.chdir(tmp_path)
    splits = load(make_gtsrb(tmp_path / "x"))
    assert len(splits.train) == 18
    assert splits.notes[-1].startswith("Decoded images are not kept: there is no home folder")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_cached_source_is_called_as_it_is_now(tmp_path: Path, make_gtsrb, monkeypatch) -> None:
    root = make_gtsrb(tmp_path / "x")
    assert load(root).train.source == f"{root} (train)"
    forbid_decoding(monkeypatch)
    (tmp_path / "link").symlink_to(root)
    assert load(tmp_path / "link").train.source == f"{tmp_path / 'link'} (train)"
    monkeypatch.chdir(root)
    again = load(".")
    assert again.test is not None
    assert (again.train.source, again.test.source) == (". (train)", ". (test)")


def test_progress_is_reported(tmp_path: Path, make_gtsrb) -> None:
    seen: dict[str, int] = {}

    def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        for item in items:
            seen[description] = seen.get(description, 0) + 1
            yield item
        assert seen[description] == total

    config = DataConfig(source=str(make_gtsrb(tmp_path / "x")), resolution=12)
    load_splits(config, track=track)
    assert seen == {"Decoding train images": 18, "Decoding test images": 4}


def test_a_zip_of_class_folders(tmp_path: Path, draw, encode) -> None:
    with zipfile.ZipFile(tmp_path / "signs.zip", "w") as archive:
        for split, n in (("train", 3), ("test", 2)):
            for label in ("a", "b"):
                for index in range(n):
                    archive.writestr(f"signs/{split}/{label}/{index}.ppm", encode(draw(index)))
    splits = load(tmp_path / "signs.zip")
    assert splits.test is not None
    assert (len(splits.train), len(splits.test)) == (6, 4)


def bad_sources(root: Path) -> dict[str, tuple[Path, str]]:
    """What users get wrong, each with the sentence that tells them."""
    for name in ("empty", "texts", "noimage/a", "noimage/b"):
        (root / name).mkdir(parents=True)
    (root / "texts/readme.txt").write_text("x")
    (root / "noimage/a/x.txt").write_text("x")
    (root / "x.tar").write_text("x")
    (root / "bad.zip").write_text("x")
    with zipfile.ZipFile(root / "empty.zip", "w"):
        pass
    return {
        "missing": (root / "missing", "does not exist"),
        "empty": (root / "empty", "is empty; accepted"),
        "empty.zip": (root / "empty.zip", "is empty; accepted"),
        "texts": (root / "texts", "holds no data set; accepted"),
        "noimage": (root / "noimage", "class folder a has no image"),
        "x.tar": (root / "x.tar", "is not a data set; accepted"),
        "bad.zip": (root / "bad.zip", "not a whole zip"),
    }


@pytest.mark.parametrize(
    "kind", ["missing", "empty", "empty.zip", "texts", "noimage", "x.tar", "bad.zip"]
)
def test_bad_sources_are_one_sentence(tmp_path: Path, kind: str) -> None:
    path, message = bad_sources(tmp_path)[kind]
    with pytest.raises(SignforgeError, match=message) as error:
        load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_readable_names_the_first_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(b"no")
    with pytest.raises(SignforgeError, match=r"no readable training image: a/x\.png"):
        load(tmp_path)


@pytest.mark.parametrize("source", ["demo", "plugin:any:/data"])
def test_a_source_without_regions_cannot_be_cropped_to_them(source: str) -> None:
    with pytest.raises(
        SignforgeError, match=f"^{source} has no regions of interest to crop to; use crop full.$"
    ):
        load(source, crop="roi")


def test_demo_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = pytest.importorskip("signforge.data.demo")
    first = load("demo", resolution=16, demo_scale=0.005)
    assert first.test is not None
    assert first.train.resolution == 16
    monkeypatch.setattr(demo, "draw_demo", None)
    second = load("demo", resolution=16, demo_scale=0.005)
    assert second.train.fingerprint == first.train.fingerprint
    with pytest.raises(TypeError):
        load("demo", resolution=16, demo_scale=0.006)
