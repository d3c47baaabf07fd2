import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.export.manifest import (
    ManifestRow,
    count_origins,
    manifest_csv,
    manifest_rows,
    read_manifest,
)


def even_sums(images: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
    """A gate that keeps about half of the samples."""
    return images.flatten(1).long().sum(1) % 2 == 0


def grouped(real: LabeledImages) -> LabeledImages:
    groups = torch.arange(len(real)) // 2 + 100
    fields = ("images", "labels", "class_names", "names", "source")
    return LabeledImages(groups=groups, **{name: getattr(real, name) for name in fields})


def test_real_images_alone(make_real) -> None:
    real = grouped(make_real())
    rows = manifest_rows("val", real)
    assert [row.label for row in rows] == real.labels.tolist()
    assert [row.group for row in rows] == real.groups.tolist()
    assert [row.source_index for row in rows] == list(range(20))
    assert {(row.split, row.origin) for row in rows} == {("val", "real")}
    label = int(real.labels[7])
    folder = ("00000_stop", "00001_yield", "00002_no-entry", "00003_ahead")[label]
    assert rows[7].file == f"val/{folder}/real_000007.png"
    assert rows[7].class_name == real.class_names[label]


def test_a_balanced_data_set_row_by_row(make_real, make_sampler) -> None:
    real = grouped(make_real())
    with pytest.warns(UserWarning, match="gate rejected every draw"):
        data = SyntheticBalancedDataset(
            real, make_sampler(), gate=even_sums, gate_attempts=1, min_acceptance=0
        )
    rows = manifest_rows("train", data)
    assert len(rows) == len(data) == 36
    assert [row.label for row in rows] == data.targets
    for index, row in enumerate(rows):
        assert row.file.endswith(f"/{row.origin}_{index:06d}.png")
        assert (row.origin == "synthetic") == data.is_synthetic(index)
        assert (row.origin == "real") == (index < len(real))
        if row.source_index is None:
            assert row.origin == "synthetic"
            assert row.group is None
        else:
            assert torch.equal(data[index][0], real.images[row.source_index])
            assert row.group == real.groups[row.source_index]
    counts = count_origins(rows)["train"]
    assert [of["real"] for of in counts.values()] == [5, 9, 2, 4]
    stand_ins = [of["oversampled"] for of in counts.values()]
    assert stand_ins == data.oversampled_counts.tolist()
    assert 0 < sum(stand_ins) < 16
    assert all(sum(of.values()) == 9 for of in counts.values())


def test_groups_that_nobody_knows_are_left_empty(make_real, make_sampler) -> None:
    real = make_real()
    assert {row.group for row in manifest_rows("train", real)} == {None}
    plain = TensorDataset(real.images, real.labels)
    data = SyntheticBalancedDataset(plain, make_sampler())
    assert {row.group for row in manifest_rows("train", data)} == {None}


def test_an_empty_class_is_refused(make_real) -> None:
    with pytest.raises(SignforgeError, match=r"Class 2 \('no entry'\) has no image in test"):
        manifest_rows("test", make_real(counts=(1, 2, 0, 3)))


# Text, or what Python makes of a folder name in any bytes. Python 3.11 does not quote "\r".
folder_name = (st.text() | st.binary().map(os.fsdecode)).map(lambda name: name.replace("\r", ""))
row = st.builds(
    ManifestRow,
    file=st.text("ab_/é,\"' \n", min_size=1).map(lambda name: f"train/{name.replace('/', '')}/x"),
    split=st.just("train"),
    label=st.integers(0, 10**6),
    class_name=folder_name,
    origin=st.sampled_from(("real", "synthetic", "oversampled")),
    source_index=st.none() | st.integers(0, 10**9),
    group=st.none() | st.integers(0, 10**9),
)


@settings(deadline=None)
@given(st.lists(row, max_size=5))
def test_a_manifest_is_read_as_written(tmp_path_factory, rows: list[ManifestRow]) -> None:
    path = tmp_path_factory.mktemp("manifest") / "manifest.csv"
    path.write_bytes(manifest_csv(rows))
    assert read_manifest(path) == rows


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"file,label\n",
        manifest_csv([]) + b"train/a/b.png,train,zero,a,real,0,\n",
        manifest_csv([]) + b"train/a/b.png,train,0,a,invented,0,\n",
        manifest_csv([]) + b"b.png,train,0,a,real,0,\n",
        manifest_csv([]) + b"train/a/b.png,train,0\n",
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.csv"
    with pytest.raises(SignforgeError, match="Cannot read"):
        read_manifest(path)
    path.write_bytes(content)
    with pytest.raises(SignforgeError, match="is not the manifest of an export"):
        read_manifest(path)
