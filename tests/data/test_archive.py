import os
import stat
import zipfile
from pathlib import Path

import pytest

from signforge.data import archive
from signforge.data.archive import FolderTree, ZipTree, children
from signforge.errors import SignforgeError


def write_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return path


def test_folder_and_zip_of_it_give_the_same_tree(tmp_path: Path) -> None:
    entries = {"a/1.txt": b"one", "a/b/2.txt": b"two", "top.txt": b"3", ".hidden/x": b"no"}
    folder = tmp_path / "folder"
    for name, data in entries.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    path = write_zip(tmp_path / "x.zip", {**entries, "__MACOSX/a/._1.txt": b"no"})
    with FolderTree(folder) as tree, ZipTree([path]) as zipped:
        assert tree.names() == zipped.names() == ("a/1.txt", "a/b/2.txt", "top.txt")
        assert tree.folders() == zipped.folders() == ("a", "a/b")
        for name in tree.names():
            assert tree.read(name) == zipped.read(name) == entries[name]
        assert children(tree.names(), "") == ["top.txt"]
        assert children(tree.names(), "a") == ["a/1.txt"]


def test_several_zips_are_one_tree_and_a_name_in_both_is_refused(tmp_path: Path) -> None:
    first = write_zip(tmp_path / "1.zip", {"a": b"1"})
    second = write_zip(tmp_path / "2.zip", {"b": b"2"})
    with ZipTree([first, second]) as tree:
        assert tree.read("a") + tree.read("b") == b"12"
    with pytest.raises(SignforgeError, match="a appears twice"):
        ZipTree([first, write_zip(tmp_path / "3.zip", {"a": b"x"})])


@pytest.mark.parametrize(
    "name",
    ["../evil.ppm", "/etc/evil", "/", "a/../../evil", "a\\..\\evil", "C:/x", "c:x", "./C:/x", "C:"],
)
def test_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    path = write_zip(tmp_path / "slip.zip", {"ok.txt": b"", name: b"x"})
    with pytest.raises(SignforgeError, match="outside the archive"):
        ZipTree([path])


def test_the_root_itself_and_names_with_a_colon_are_no_danger(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as file:
        for folder in ("./", "./Speed: 30/"):
            file.writestr(zipfile.ZipInfo(folder), b"")
        file.writestr("./Speed: 30/1.ppm", b"one")
        file.writestr("10:30/2.ppm", b"two")
    with ZipTree([path]) as tree:
        assert tree.folders() == ("10:30", "Speed: 30")
        assert tree.names() == ("10:30/2.ppm", "Speed: 30/1.ppm")
        assert tree.read("Speed: 30/1.ppm") == b"one"


def test_links_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/link.ppm")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    with pytest.raises(SignforgeError, match=r"a/link\.ppm is a link"):
        ZipTree([tmp_path / "link.zip"])

    secret = tmp_path / "secret.txt"
    secret.write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.ppm").symlink_to(secret)
    with pytest.raises(SignforgeError, match=r"link\.ppm is a link"):
        FolderTree(folder)


def test_a_folder_that_becomes_a_link_later_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.txt").write_text("secret")
    inner = tmp_path / "root/inner"
    inner.mkdir(parents=True)
    (inner / "x.txt").write_text("fine")
    tree = FolderTree(tmp_path / "root")
    (inner / "x.txt").unlink()
    inner.rmdir()
    inner.symlink_to(outside)
    with pytest.raises(SignforgeError, match="leads outside"):
        tree.read("inner/x.txt")


def test_the_cap_counts_actual_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILE_BYTES", 1000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/big").write_bytes(b"0" * 1001)
    (tmp_path / "folder/fits").write_bytes(b"0" * 1000)
    path = write_zip(tmp_path / "bomb.zip", {"big": b"0" * 100_000})
    tree = FolderTree(tmp_path / "folder")
    assert len(tree.read("fits")) == 1000
    with pytest.raises(SignforgeError, match="big is larger"):
        tree.read("big")
    with ZipTree([path]) as zipped, pytest.raises(SignforgeError, match="big is larger"):
        zipped.read("big")


def test_unknown_names_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    tree = FolderTree(tmp_path / "f")
    (tmp_path / "above.txt").write_text("x")
    with pytest.raises(SignforgeError, match="no file"):
        tree.read("../above.txt")


def test_bad_zips(tmp_path: Path) -> None:
    whole = write_zip(tmp_path / "whole.zip", {"a": os.urandom(500), "b": b"2"}).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.zip").write_text("not a zip")
    for name in ("cut.zip", "text.zip"):
        with pytest.raises(SignforgeError, match=f"{name} is not a whole zip"):
            ZipTree([tmp_path / name])
    broken = bytearray(whole)
    broken[60] ^= 0xFF
    (tmp_path / "crc.zip").write_bytes(broken)
    with ZipTree([tmp_path / "crc.zip"]) as tree, pytest.raises(SignforgeError, match="a is damag"):
        tree.read("a")


def test_stamps_tell_a_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before = FolderTree(tmp_path).stamps()
    os.utime(tmp_path / "a", ns=(5, 5))
    after = FolderTree(tmp_path).stamps()
    assert before != after
    assert after == [("a", 1, 5)]
