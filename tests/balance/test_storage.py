import copy
import gc
import math
import multiprocessing
import os
import pickle
import resource
from contextlib import contextmanager
from multiprocessing import resource_sharer
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch

from signforge.balance import storage
from signforge.balance.storage import allocate_images
from signforge.errors import SignforgeError

DESCRIPTORS = Path("/proc/self/fd")
BYTES = 4 * 3 * 8 * 10
in_proc = pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="looks into Linux's /proc")


def allocate(tmp_path, **options):
    return allocate_images(4, (8, 10), folder=tmp_path, **options)


def open_files(mark) -> set[Path]:
    """The descriptors of this process whose file has ``mark`` in its name."""
    found = [path for path in DESCRIPTORS.iterdir() if path.is_symlink()]
    return {path for path in found if str(mark) in str(path.readlink())}


def mappings(mark) -> int:
    return Path("/proc/self/maps").read_text().count(str(mark))


@contextmanager
def refuse_large_files():
    """The system's own refusal, as of a full disk, beyond 100 bytes a file.

    No fixture: pytest would write its progress, perhaps to a file, while the limit holds.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("cap", "place"),
    [(4096, "memory"), (BYTES / 2**20, "memory"), ((BYTES - 1) / 2**20, "file"), (0, "file")],
)
def test_what_exceeds_the_cap_is_a_file(tmp_path, cap, place):
    images = allocate(tmp_path, memory_cap_mib=cap)
    assert images.place == place
    assert images.tensor.shape == (4, 3, 8, 10)
    assert images.tensor.dtype == torch.uint8
    assert not images.tensor.any()
    images.tensor[2] = 9
    assert int(images.tensor.sum()) == 9 * 240


@in_proc
@pytest.mark.parametrize("cap", [0, 1])
def test_its_room_is_reserved_has_no_name_and_is_given_back(tmp_path, cap):
    mark = "signforge-pool" if cap else tmp_path
    gc.collect()  # what other tests left must not go while we count
    files, maps = open_files(mark), mappings(mark)
    images = allocate_images(1000, (8, 8), folder=tmp_path, memory_cap_mib=cap)
    assert list(tmp_path.iterdir()) == []
    descriptors = open_files(mark) - files
    assert all(path.stat().st_blocks * 512 >= 1000 * 192 for path in descriptors)
    tensor = images.tensor
    del images
    assert len(open_files(mark) - files) < len(descriptors)
    tensor.fill_(3)
    assert mappings(mark) == maps + 1
    del tensor
    assert mappings(mark) == maps
    assert open_files(mark) == files


def test_the_system_has_a_temporary_folder_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(SignforgeError, match="missing"):
        allocate_images(4, (8, 8), memory_cap_mib=0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert allocate_images(4, (8, 8), memory_cap_mib=0).place == "file"


@in_proc
@pytest.mark.parametrize("cap", [0, 1])
def test_multiprocessing_hands_over_the_memory_itself(tmp_path, cap):
    mark = "signforge-pool" if cap else tmp_path
    gc.collect()
    maps = mappings(mark)
    images = allocate(tmp_path, memory_cap_mib=cap)
    try:
        twin = pickle.loads(ForkingPickler.dumps(images))
        grandchild = pickle.loads(ForkingPickler.dumps(twin))
    finally:
        resource_sharer.stop(5)
    assert mappings(mark) == maps + 3
    assert [each.is_own for each in (images, twin, grandchild)] == [True, False, False]
    images.tensor[1] = 5
    assert torch.equal(twin.tensor, images.tensor)
    assert twin.place == images.place
    del images, twin
    assert int(grandchild.tensor.sum()) == 5 * 240


@pytest.mark.parametrize("cap", [0, 1])
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_any_other_copy_is_independent(tmp_path, cap, duplicate):
    images = allocate(tmp_path, memory_cap_mib=cap)
    images.tensor.fill_(7)
    twin = duplicate(images)
    assert twin.is_own
    images.tensor[0] = 1
    assert torch.equal(twin.tensor, torch.full((4, 3, 8, 10), 7, dtype=torch.uint8))


def test_copies_of_images_on_a_device_are_black_and_small():
    images = allocate_images(10**6, (32, 32), device="meta")
    assert images.place == "device"
    assert images.tensor.device.type == "meta"
    message = pickle.dumps(images)
    assert len(message) < 2000
    twin = pickle.loads(message)
    assert twin.tensor.shape == (10**6, 3, 32, 32)
    assert not twin.tensor[torch.tensor([0, 999_999])].any()


@pytest.mark.filterwarnings("ignore:.*multi-threaded")
def test_a_forked_process_does_not_own_what_it_inherits(tmp_path):
    images = allocate(tmp_path)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(images.is_own))
    child.start()
    child.join()
    assert answers.get() is False
    assert images.is_own


def test_no_images_at_all(tmp_path):
    for cap in (0, 1):
        images = allocate_images(0, (8, 8), memory_cap_mib=cap, folder=tmp_path)
        assert images.tensor.shape == (0, 3, 8, 8)
        twin = pickle.loads(ForkingPickler.dumps(images))
        assert twin.tensor.shape == (0, 3, 8, 8)
        assert (images.is_own, twin.is_own) == (True, False)


@pytest.mark.parametrize("cap", [-1, math.nan])
def test_bad_cap(tmp_path, cap):
    with pytest.raises(SignforgeError, match="memory_cap_mib must be 0 or more"):
        allocate(tmp_path, memory_cap_mib=cap)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_bad_folder(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(SignforgeError, match=rf"folder .*/{name} \(.*\): give pool_folder"):
        allocate(tmp_path / name, memory_cap_mib=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"memory_cap_mib": math.inf},
            r"images in memory \(.* GiB are free\): lower memory_cap",
        ),
        ({"memory_cap_mib": 0}, r"in /.* \(.* GiB are free\): give a pool_folder on a larger disk"),
        ({"device": "meta"}, "in meta .*: use pool_device='cpu' or ask for fewer"),
    ],
    ids=["memory", "file", "device"],
)
def test_more_than_there_is_room_for(tmp_path, options, message):
    with pytest.raises(SignforgeError, match=message):
        allocate_images(2**40, (2**16, 2**16), folder=tmp_path, **options)


@in_proc
@pytest.mark.parametrize("cap", [0, 1])
def test_room_that_the_system_refuses(tmp_path, cap):
    mark = "signforge-pool" if cap else tmp_path
    gc.collect()
    files = open_files(mark)
    refused = pytest.raises(SignforgeError, match=r"No room for .* \(File too large\): ")
    with refused, refuse_large_files():
        allocate(tmp_path, memory_cap_mib=cap)
    assert open_files(mark) == files


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_CGROUP", tmp_path)
    used, dropped = 3 * BYTES, BYTES
    (tmp_path / "memory.current").write_text(f"{used}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {dropped}\nactive_file 2\n")
    for limit in ("max", str(used - dropped + BYTES)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert allocate(tmp_path).place == "memory"
    (tmp_path / "memory.max").write_text(f"{used - dropped + BYTES - 1}\n")
    with pytest.raises(SignforgeError, match="in memory"):
        allocate(tmp_path)


def test_without_the_calls_that_only_linux_has(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delattr(os, "memfd_create", raising=False)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    for cap in (0, 1):
        images = allocate(tmp_path, memory_cap_mib=cap)
        images.tensor.fill_(2)
        assert int(images.tensor.sum()) == 2 * BYTES


def test_where_descriptors_do_not_travel_torch_shares(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_DESCRIPTORS_TRAVEL", False)
    images = allocate(tmp_path, memory_cap_mib=0)
    assert images.place == "memory"
    assert images.tensor.is_shared()
    with pytest.raises(SignforgeError, match="in shared memory"):
        allocate_images(2**40, (2**16, 2**16))
