import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from signforge.data.cache import CacheKey, default_cache_folder, make_key, open_cached, write_cached
from signforge.data.images import LabeledImages, LabeledSplits

KEY = CacheKey(origin="a" * 64, state="b" * 64)


def make_splits(seed: int = 0, val: bool = False) -> LabeledSplits:
    rng = torch.Generator().manual_seed(seed)

    def images(n: int) -> LabeledImages:
        return LabeledImages(
            images=torch.randint(0, 256, (n, 3, 8, 8), generator=rng).to(torch.uint8),
            labels=torch.arange(n) % 2,
            groups=torch.arange(n) - 1,
            class_names=("Überholen <b>", "x"),
            names=tuple(f"ü/{i}.png" for i in range(n)),
            source="here",
        )

    return LabeledSplits(
        train=images(6), val=images(3) if val else None, test=images(2), notes=("A note.",)
    )


@pytest.mark.parametrize("val", [False, True])
def test_round_trip(tmp_path: Path, val: bool) -> None:
    splits = make_splits(val=val)
    write_cached(tmp_path / "new/folder", KEY, splits)
    again = open_cached(tmp_path / "new/folder", KEY)
    assert again is not None
    assert again.notes == splits.notes
    assert again.named().keys() == splits.named().keys()
    for name, images in splits.named().items():
        other = again.named()[name]
        assert other.fingerprint == images.fingerprint
        assert (other.names, other.class_names, other.source) == (
            images.names,
            images.class_names,
            images.source,
        )
    assert len(list((tmp_path / "new/folder").iterdir())) == 2


def test_it_is_memory_mapped(tmp_path: Path) -> None:
    write_cached(tmp_path, KEY, make_splits())
    again = open_cached(tmp_path, KEY)
    assert again is not None
    with Path("/proc/self/maps").open() as maps:
        assert any(str(tmp_path) in line for line in maps)


def test_writing_into_opened_images_leaves_the_file_alone(tmp_path: Path) -> None:
    write_cached(tmp_path, KEY, make_splits())
    first = open_cached(tmp_path, KEY)
    assert first is not None
    first.train.images.zero_()
    second = open_cached(tmp_path, KEY)
    assert second is not None
    assert second.train.fingerprint == make_splits().train.fingerprint


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def rename_image(path: Path) -> None:
    manifest = json.loads(path.read_text())
    manifest["body"]["splits"]["train"]["names"][0] = "other"
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [
        ("safetensors", flip),
        ("safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("safetensors", lambda path: path.write_bytes(b"")),
        ("safetensors", lambda path: path.unlink()),
        ("json", rename_image),
        ("json", lambda path: path.write_text("{")),
        ("json", lambda path: path.write_text("[]")),
        ("json", lambda path: path.write_text("null")),
        ("json", lambda path: path.write_bytes(b"\xff\xfe")),
        ("json", lambda path: path.unlink()),
    ],
)
def test_damage_is_not_trusted(tmp_path: Path, suffix: str, damage: Callable) -> None:
    write_cached(tmp_path, KEY, make_splits())
    assert open_cached(tmp_path, KEY) is not None
    (path,) = tmp_path.glob(f"*.{suffix}")
    damage(path)
    assert open_cached(tmp_path, KEY) is None


def test_another_state_replaces_and_another_origin_stays(tmp_path: Path) -> None:
    newer = CacheKey(origin=KEY.origin, state="c" * 64)
    other = CacheKey(origin="d" * 64, state=KEY.state)
    write_cached(tmp_path, KEY, make_splits(1))
    assert open_cached(tmp_path, newer) is None
    assert open_cached(tmp_path, other) is None
    write_cached(tmp_path, newer, make_splits(2))
    write_cached(tmp_path, other, make_splits(3))
    assert open_cached(tmp_path, KEY) is None
    opened = open_cached(tmp_path, newer)
    assert opened is not None
    assert opened.train.fingerprint == make_splits(2).train.fingerprint
    assert len(list(tmp_path.iterdir())) == 4


def test_an_interrupted_write_leaves_no_file(tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_cached(tmp_path, KEY, make_splits())
    assert list(tmp_path.iterdir()) == []


def test_key_depends_on_options_and_files() -> None:
    base = make_key({"source": "/x", "resolution": 32}, [("a", 1, 2)])
    assert base == make_key({"resolution": 32, "source": "/x"}, [("a", 1, 2)])
    resized = make_key({"source": "/x", "resolution": 48}, [("a", 1, 2)])
    assert resized.origin != base.origin
    assert resized.state != base.state
    for stamps in ([("a", 1, 3)], [("a", 2, 2)], [("b", 1, 2)], [("a", 1, 2), ("b", 1, 2)]):
        changed = make_key({"source": "/x", "resolution": 32}, stamps)
        assert changed.origin == base.origin
        assert changed.state != base.state


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNFORGE_CACHE", "/a/b")
    assert default_cache_folder() == Path("/a/b")
    monkeypatch.delenv("SIGNFORGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_folder() == Path("/xdg/signforge")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache_folder() == Path.home() / ".cache/signforge"
