import json
import os
import subprocess
import sys
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
            source="here (train)",
        )

    return LabeledSplits(
        train=images(6), val=images(3) if val else None, test=images(2), notes=("A note.",)
    )


@pytest.mark.parametrize("val", [False, True])
def test_round_trip(tmp_path: Path, val: bool) -> None:
    splits = make_splits(val=val)
    write_cached(tmp_path / "new/folder", KEY, splits, "here")
    again = open_cached(tmp_path / "new/folder", KEY, "here")
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
    write_cached(tmp_path, KEY, make_splits(), "here")
    again = open_cached(tmp_path, KEY, "here")
    assert again is not None
    with Path("/proc/self/maps").open() as maps:
        assert any(str(tmp_path) in line for line in maps)


def test_writing_into_opened_images_leaves_the_file_alone(tmp_path: Path) -> None:
    write_cached(tmp_path, KEY, make_splits(), "here")
    first = open_cached(tmp_path, KEY, "here")
    assert first is not None
    first.train.images.zero_()
    second = open_cached(tmp_path, KEY, "here")
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
    write_cached(tmp_path, KEY, make_splits(), "here")
    assert open_cached(tmp_path, KEY, "here") is not None
    (path,) = tmp_path.glob(f"*.{suffix}")
    damage(path)
    assert open_cached(tmp_path, KEY, "here") is None


def test_another_state_replaces_and_another_origin_stays(tmp_path: Path) -> None:
    newer = CacheKey(origin=KEY.origin, state="c" * 64)
    other = CacheKey(origin="d" * 64, state=KEY.state)
    write_cached(tmp_path, KEY, make_splits(1), "here")
    assert open_cached(tmp_path, newer, "here") is None
    assert open_cached(tmp_path, other, "here") is None
    write_cached(tmp_path, newer, make_splits(2), "here")
    write_cached(tmp_path, other, make_splits(3), "here")
    assert open_cached(tmp_path, KEY, "here") is None
    opened = open_cached(tmp_path, newer, "here")
    assert opened is not None
    assert opened.train.fingerprint == make_splits(2).train.fingerprint
    assert len(list(tmp_path.iterdir())) == 4


def test_an_interrupted_write_leaves_no_file(tmp_path: Path, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_cached(tmp_path, KEY, make_splits(), "here")
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
    monkeypatch.setenv("SIGNFORGE_CACHE", "~/mine")
    assert default_cache_folder() == Path.home() / "mine"


def test_there_is_no_default_folder_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGNFORGE_CACHE", "~no-such-user/cache")
    assert default_cache_folder() is None
    for name in ("SIGNFORGE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_account(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", no_account)
    assert default_cache_folder() is None


def test_the_source_is_named_as_it_is_asked_for_now(tmp_path: Path) -> None:
    write_cached(tmp_path, KEY, make_splits(), "here")
    again = open_cached(tmp_path, KEY, "../there")
    assert again is not None
    assert {images.source for images in again.named().values()} == {"../there (train)"}


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_others_may_read_the_files_as_far_as_the_umask_lets_them(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    write_cached(tmp_path / "cache", KEY, make_splits(), "here")
    modes = {path.stat().st_mode for path in (tmp_path / "cache").iterdir()}
    assert modes == {plain.stat().st_mode}


def test_what_a_killed_process_left_is_removed_and_nothing_of_others(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from signforge.data import cache
cache._sha256_file = lambda path: os._exit(9)
cache._write_whole(Path(sys.argv[1]), lambda path: path.touch())
"""
    data_path = tmp_path / f"images-{'e' * 20}.safetensors"
    killed = subprocess.run([sys.executable, "-c", script, str(data_path)])
    assert killed.returncode == 9
    (leftover,) = tmp_path.iterdir()
    living = tmp_path / f".{data_path.name}.00000000.{os.getppid()}.tmp"
    others = tmp_path / ".bashrc.tmp"
    living.mkdir()
    others.touch()
    write_cached(tmp_path, KEY, make_splits(), "here")
    assert not leftover.exists()
    assert living.exists()
    assert others.exists()
