import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from signforge.config import DataConfig
from signforge.data.archive import ZipTree
from signforge.data.gtsrb import find_zips, list_gtsrb
from signforge.data.images import LabeledSplits
from signforge.data.load import load_splits
from signforge.data.pickles import rebuild_tracks
from signforge.data.unpickle import load_array_dict
from signforge.errors import SignforgeError


def make_arrays(labels: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Images of noise; sizes grow within runs of 30 as those of GTSRB do."""
    rng = np.random.default_rng(seed)
    n = len(labels)
    edges = 25 + 3 * (np.arange(n) % 30)
    return {
        "coords": np.tile(np.array([5, 5, 20, 20], dtype=np.uint8), (n, 1)),
        "labels": np.array(labels, dtype=np.uint8),
        "features": rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8),
        "sizes": np.stack([edges, edges], axis=1).astype(np.uint8),
    }


def write(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def load(path: Path, **options: object) -> LabeledSplits:
    return load_splits(DataConfig.model_validate({"source": str(path), **options}))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    arrays = make_arrays([1] * 60 + [7] * 30)
    splits = load(write(tmp_path / "train.p", arrays, protocol))
    images = splits.train.images.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(images, arrays["features"])
    assert splits.train.labels.tolist() == arrays["labels"].tolist()
    assert splits.train.groups.tolist() == [0] * 30 + [1] * 30 + [2] * 30
    assert splits.train.names[3] == "train.p[3]"
    assert "3 were rebuilt" in splits.notes[0]


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_both_names_of_numpys_core(tmp_path: Path, core: bytes) -> None:
    arrays = make_arrays([1] * 30)
    data = pickle.dumps(arrays, protocol=2)
    assert b"cnumpy._core.multiarray\n" in data
    (tmp_path / "train.p").write_bytes(data.replace(b"cnumpy._core", b"c" + core))
    assert b"c" + core in (tmp_path / "train.p").read_bytes()
    images = load(tmp_path / "train.p").train.images.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(images, arrays["features"])


def test_fortran_order_and_big_endian(tmp_path: Path) -> None:
    arrays = make_arrays([1] * 30)
    expected = arrays["features"]
    arrays["features"] = np.asfortranarray(expected)
    arrays["labels"] = np.arange(30).astype(">i4")
    splits = load(write(tmp_path / "x.pkl", arrays))
    assert np.array_equal(splits.train.images.permute(0, 2, 3, 1).numpy(), expected)
    assert splits.train.labels.tolist() == list(range(30))


def test_folder_of_three(tmp_path: Path) -> None:
    write(tmp_path / "train.p", make_arrays([1] * 60, seed=1))
    write(tmp_path / "valid.p", make_arrays([1] * 30, seed=2))
    write(tmp_path / "test.p", make_arrays([5, 1, 5], seed=3))
    splits = load(tmp_path)
    assert splits.val is not None
    assert splits.test is not None
    assert splits.train.groups.tolist() == [0] * 30 + [1] * 30
    assert splits.val.groups.tolist() == [2] * 30
    assert splits.test.groups.tolist() == [-1] * 3
    assert splits.test.labels.tolist() == [5, 1, 5]
    assert (splits.train.source, splits.val.source) == (f"{tmp_path} (train)", f"{tmp_path} (val)")
    assert load(tmp_path / "train.p").train.source == str(tmp_path / "train.p")


def test_resize_and_roi(tmp_path: Path) -> None:
    arrays = make_arrays([1] * 2)
    arrays["sizes"][:] = 64
    arrays["coords"][:] = [8, 16, 40, 48]
    path = write(tmp_path / "train.p", arrays)
    cropped = load(path, crop="roi", resolution=16).train.images[1].permute(1, 2, 0).numpy()
    assert np.array_equal(cropped, arrays["features"][1, 8:24, 4:20])
    assert load(path, resolution=48).train.images.shape == (2, 3, 48, 48)
    del arrays["coords"]
    with pytest.raises(SignforgeError, match="no sizes and coords"):
        load(write(path, arrays), crop="roi")


def sentinel_pickles(sentinel: Path) -> dict[str, bytes]:
    command = f"touch {sentinel}"

    class Bomb:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return os.system, (command,)

    inside = make_arrays([1] * 30)
    return {
        "system, protocol 4": pickle.dumps(Bomb(), protocol=4),
        "system, protocol 0": pickle.dumps(Bomb(), protocol=0),
        "system in the dict": pickle.dumps({**inside, "sizes": Bomb()}, protocol=4),
        "system, INST": f"(S'{command}'\nios\nsystem\n.".encode(),
        "system, OBJ": f"(cos\nsystem\nS'{command}'\no.".encode(),
        "eval": b"cbuiltins\neval\n(S'1'\ntR.",
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__new__\x93.",
        "numpy prefix": b"cnumpy.testing._private.utils\nrunstring\n(S'1'\n}tR.",
        "persistent id": b"S'x'\nQ.",
    }


def test_sentinel_works(tmp_path: Path) -> None:
    sentinel = tmp_path / "ran"
    pickle.loads(sentinel_pickles(sentinel)["system, protocol 4"])
    assert sentinel.exists()


@pytest.mark.parametrize("kind", sorted(sentinel_pickles(Path("x"))))
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path: Path, kind: str) -> None:
    sentinel = tmp_path / "ran"
    (tmp_path / "train.p").write_bytes(sentinel_pickles(sentinel)[kind])
    with pytest.raises(SignforgeError, match="nothing was run") as error:
        load(tmp_path / "train.p")
    assert not sentinel.exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("opcode", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"])
def test_extension_opcodes_are_refused_even_when_their_cache_is_warm(
    tmp_path: Path, opcode: bytes
) -> None:
    import copyreg

    sentinel = tmp_path / "ran"
    copyreg.add_extension("os", "system", 1)
    try:
        data = b"\x80\x02" + opcode + b"X" + struct.pack("<I", len(f"touch {sentinel}"))
        data += f"touch {sentinel}".encode() + b"\x85R."
        pickle.loads(data)
        assert sentinel.exists()
        sentinel.unlink()
        (tmp_path / "train.p").write_bytes(data)
        with pytest.raises(SignforgeError, match=r"opcode EXT\d"):
            load(tmp_path / "train.p")
        assert not sentinel.exists()
    finally:
        copyreg.remove_extension("os", "system", 1)


def test_object_arrays_are_refused(tmp_path: Path) -> None:
    arrays = make_arrays([1] * 30)
    arrays["labels"] = np.array(["x"] * 30, dtype=object)
    with pytest.raises(SignforgeError, match="no objects"):
        load(write(tmp_path / "train.p", arrays))


def test_a_shape_that_claims_more_than_the_file_holds_allocates_nothing(tmp_path: Path) -> None:
    data = pickle.dumps(make_arrays([1] * 30), protocol=2)
    assert data.count(b"K\x1eK K K\x03t") == 1  # the tuple (30, 32, 32, 3)
    huge = data.replace(b"K\x1eK K K\x03t", b"J\xff\xff\xff\x7fK K K\x03t")
    (tmp_path / "train.p").write_bytes(huge)
    with pytest.raises(SignforgeError, match="does not fit its shape"):
        load(tmp_path / "train.p")
    (tmp_path / "train.p").write_bytes(b"\x80\x02}r\xff\xff\xff\xff.")
    with pytest.raises(SignforgeError, match="memo entry"):
        load(tmp_path / "train.p")


def named_again(calls: int) -> bytes:
    """A pickle that has one string of 1,000 letters encoded ``calls`` times."""
    text = b"X" + struct.pack("<I", 1000) + b"a" * 1000
    once = b"h\x00h\x01h\x02\x86R"  # the function, then both of its arguments
    latin1 = b"X\x06\x00\x00\x00latin1"
    head = b"\x80\x02c_codecs\nencode\nq\x00" + text + b"q\x01" + latin1 + b"q\x02"
    return head + b"](" + once * calls + b"e."


def arrays_of_one_string(arrays: int) -> bytes:
    """A pickle of so many arrays that share one Python 2 string of 1,000 letters."""
    text = b"T" + struct.pack("<i", 1000) + b"a" * 1000 + b"q\x00"
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1tRq\x01"
    make = b"cnumpy._core.multiarray\n_reconstruct\n)R"
    items = b"".join(
        b"X\x01\x00\x00\x00" + bytes([97 + i]) + make + b"(K\x01M\xe8\x03\x85h\x01K\x00h\x00tb"
        for i in range(arrays)
    )
    return b"\x80\x02" + text + dtype + b"}(" + items + b"u."


def test_a_string_that_is_encoded_again_and_again_is_refused(tmp_path: Path) -> None:
    """Each time costs eight bytes of the file and as much memory as the string is long."""
    path = tmp_path / "train.p"
    path.write_bytes(named_again(1))
    with pytest.raises(SignforgeError, match="does not hold one dict"):
        load(path)
    path.write_bytes(named_again(50))
    with pytest.raises(SignforgeError, match="asks for more bytes than it holds, which a file of"):
        load(path)


def test_arrays_that_share_a_string_have_no_more_bytes_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "train.p"
    path.write_bytes(arrays_of_one_string(1))
    assert load_array_dict(path)["a"].tobytes() == b"a" * 1000
    path.write_bytes(arrays_of_one_string(20))
    with pytest.raises(SignforgeError, match="asks for more bytes than it holds, which a file of"):
        load_array_dict(path)


def test_a_damaged_array_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "train.p"
    whole = arrays_of_one_string(1)
    long = b"\x8b" + struct.pack("<i", 4000) + b"\x7f" * 4000
    euro = "\u20ac" * 333 + "a"
    text = b"X" + struct.pack("<I", 1000) + euro.encode()
    for old, new in ((b"M\xe8\x03\x85", long + b"\x85"), (b"T\xe8\x03\0\0" + b"a" * 1000, text)):
        assert whole.count(old) == 1
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(SignforgeError, match=r"train\.p: a is a damaged array"):
            load_array_dict(path)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99, 0.99999])
def test_truncated(tmp_path: Path, share: float, protocol: int) -> None:
    path = write(tmp_path / "train.p", make_arrays([1] * 30), protocol)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SignforgeError, match=r"train\.p is truncated after"):
        load(path)


@pytest.mark.parametrize("data", [b"", b"hello world", b"P6 32 32 255\n", b"\x00" * 50])
def test_not_a_pickle(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "train.p").write_bytes(data)
    with pytest.raises(SignforgeError, match=r"not a pickle|truncated|never needs|is empty"):
        load(tmp_path / "train.p")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.full(30, 43, dtype=np.uint8)}, r"labels\[0\] is 43, outside 0\.\.42"),
        ({"labels": np.full(30, -1)}, r"labels\[0\] is -1, outside 0\.\.42"),
        ({"labels": np.zeros(29, dtype=np.uint8)}, "labels must be whole numbers of shape"),
        ({"labels": np.zeros(30)}, "labels must be whole numbers"),
        ({"labels": [0] * 30}, "not an array but list"),
        ({"features": np.zeros((30, 32, 32), dtype=np.uint8)}, "features must be uint8"),
        ({"features": np.zeros((30, 32, 32, 3))}, "features must be uint8"),
        ({"more": np.zeros(3)}, "has the keys"),
    ],
)
def test_content_that_does_not_fit(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(SignforgeError, match=message):
        load(write(tmp_path / "train.p", {**make_arrays([1] * 30), **change}))


def test_not_a_dict(tmp_path: Path) -> None:
    with pytest.raises(SignforgeError, match="one dict"):
        load(write(tmp_path / "train.p", [1, 2]))


def test_tracks_stay_unknown_where_order_or_counts_do_not_fit(tmp_path: Path) -> None:
    arrays = make_arrays([1] * 60 + [2] * 45 + [3] * 30 + [4] * 30 + [3] * 30)
    groups, unknown = rebuild_tracks(arrays["labels"].astype(np.int64), arrays["sizes"])
    assert unknown == (2, 3)
    assert groups.tolist()[:60] == [0] * 30 + [1] * 30
    assert set(groups.tolist()[60:135]) == {-1}
    splits = load(write(tmp_path / "train.p", arrays))
    assert "class 2, 3 could not be rebuilt" in splits.notes[0]

    order = np.random.default_rng(0).permutation(60)
    labels = np.ones(60, dtype=np.int64)
    groups, unknown = rebuild_tracks(labels, arrays["sizes"][:60][order])
    assert unknown == (1,)
    assert set(groups.tolist()) == {-1}
    assert rebuild_tracks(labels, None)[1] == (1,)


@pytest.mark.parametrize("short", [0, 1, 3])
def test_the_short_track_is_found_by_its_sizes(short: int) -> None:
    lengths = [30] * 4
    lengths[short] = 29
    edges = np.concatenate([25 + 3 * np.arange(length) for length in lengths])
    groups, unknown = rebuild_tracks(
        np.full(119, 33, dtype=np.int64), np.stack([edges, edges], axis=1)
    )
    assert unknown == ()
    assert np.bincount(groups).tolist() == lengths


@pytest.mark.slow
def test_pickles_written_from_the_zips_equal_the_zips(
    data_root: Path, real_splits: LabeledSplits, tmp_path: Path
) -> None:
    with ZipTree(find_zips(data_root / "gtsrb")) as tree:
        listing = list_gtsrb(tree)
    assert listing is not None
    for split, entries in (("train", listing.train), ("test", listing.test)):
        images = real_splits.named()[split]
        rois = [entry.roi for entry in entries]
        arrays = {
            "coords": np.array([(r.x1, r.y1, r.x2, r.y2) for r in rois if r], dtype=np.uint8),
            "labels": images.labels.numpy().astype(np.uint8),
            "features": np.ascontiguousarray(images.images.permute(0, 2, 3, 1).numpy()),
            "sizes": np.array([(r.width, r.height) for r in rois if r]),
        }
        write(tmp_path / f"{split}.p", arrays)
    splits = load(tmp_path)
    assert torch.equal(splits.train.images, real_splits.train.images)
    assert torch.equal(splits.train.labels, real_splits.train.labels)
    assert torch.equal(splits.train.groups, real_splits.train.groups)
    assert splits.test is not None
    assert real_splits.test is not None
    assert splits.test.fingerprint == real_splits.test.fingerprint
    assert splits.train.fingerprint == real_splits.train.fingerprint
    assert "1,307 were rebuilt" in splits.notes[0]
