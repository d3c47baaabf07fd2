import errno
import os
import stat
import subprocess

import pytest

from signforge.errors import SignforgeError
from signforge.files import remove_leftovers, sha256, write_atomically

FULL = r"Cannot write .*file: No space left on device; free some space there and run it again\."


def test_sha256_is_the_published_test_vector():
    assert sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_content_is_written_and_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    for content in (b"first", b"", bytes(range(256))):
        write_atomically(path, content)
        assert path.read_bytes() == content
        assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SignforgeError, match=FULL):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    path = tmp_path / "file"
    seen = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(path.exists()), fsync(fd)))
    write_atomically(path, b"new")
    assert seen == [False, True]  # then the folder, which holds the name


def test_folders_that_are_made_on_the_way_are_on_the_disk(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.fstat(fd).st_ino), fsync(fd)))
    write_atomically(tmp_path / "a" / "b" / "file", b"new")
    inodes = [path.stat().st_ino for path in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")]
    assert [inode for inode in synced if inode in inodes] == inodes


@pytest.mark.skipif(os.name == "nt", reason="POSIX")
def test_a_file_system_that_cannot_sync_folders_is_good_enough(tmp_path, monkeypatch):
    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", only_files)
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    no_process = 9_999_999  # above what Linux gives out
    (tmp_path / f".file.{no_process}.tmp").write_bytes(b"half")
    (tmp_path / ".folder.tmp").mkdir()
    (tmp_path / ".folder.tmp" / "inside").touch()
    for name in ("file", "file.tmp", ".hidden"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "file", "file.tmp"]
    remove_leftovers(tmp_path / "absent")


def test_only_what_has_the_name_asked_for_is_removed(tmp_path):
    for name in (".mine-1.9999999.tmp", ".mine-2.tmp", ".other.9999999.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, "mine-*")
    assert [path.name for path in tmp_path.iterdir()] == [".other.9999999.tmp"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX")
def test_what_a_living_process_is_writing_is_left_to_it(tmp_path):
    own, anothers = (tmp_path / f".file.{pid}.tmp" for pid in (os.getpid(), os.getppid()))
    for path in (own, anothers):
        path.write_bytes(b"half")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [anothers.name]


@pytest.mark.parametrize("below", ["x", "sub/x"])
def test_a_file_in_place_of_a_folder_is_one_sentence(tmp_path, below):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SignforgeError, match="Cannot write "):
        write_atomically(tmp_path / "file" / below, b"new")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_in_place_of_the_file_is_one_sentence(tmp_path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(SignforgeError, match=r"Cannot write .*folder: "):
        write_atomically(tmp_path / "folder", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_file_mode_follows_the_umask(tmp_path):
    plain = tmp_path / "plain"
    subprocess.run(["touch", str(plain)], check=True)
    write_atomically(tmp_path / "atomic", b"")
    assert (tmp_path / "atomic").stat().st_mode == plain.stat().st_mode
