import pytest
import torch

from signforge.config import DataConfig
from signforge.data import prepare
from signforge.data.prepare import (
    download_if_asked,
    load_prepared_splits,
    unreadable_sentence,
)
from signforge.errors import SignforgeError


def test_one_unreadable_file_is_one_sentence():
    sentence = unreadable_sentence(("a/b.png is truncated; replace or remove it.",))
    assert sentence == "a/b.png is truncated; replace or remove it."


def test_several_unreadable_files_are_counted():
    sentence = unreadable_sentence(("a.png is empty; remove it.", "b.png ...", "c.png ..."))
    assert sentence == (
        "a.png is empty; remove it; 2 more files are unreadable, see `signforge data inspect`."
    )


@pytest.fixture
def folder(tmp_path, draw, encode):
    root = tmp_path / "signs"
    for place, name in enumerate(("ahead", "stop")):
        (root / name).mkdir(parents=True)
        for i in range(10):
            (root / name / f"{i}.png").write_bytes(encode(draw(100 * place + i), "PNG"))
    return root


def test_all_three_splits_are_there_disjoint_and_explained(folder):
    prepared = load_prepared_splits(DataConfig(source=str(folder), resolution=16))
    names = [set(split.names) for split in (prepared.train, prepared.val, prepared.test)]
    assert sum(map(len, names)) == len(set.union(*names)) == 20
    for split in (prepared.train, prepared.val, prepared.test):
        assert split.class_names == ("ahead", "stop")
        assert split.class_counts.min() > 0
    assert any(note.startswith("Cut test from train") for note in prepared.notes)
    assert any(note.startswith("Cut val from train") for note in prepared.notes)


def test_the_same_seed_cuts_the_same_and_another_does_not(folder):
    def train_names(seed: int) -> tuple[str, ...]:
        config = DataConfig(source=str(folder), resolution=16, split_seed=seed)
        return load_prepared_splits(config).train.names

    assert train_names(0) == train_names(0)
    assert train_names(0) != train_names(1)


def test_notes_of_the_reader_come_first(folder, monkeypatch):
    original = prepare.load_splits

    def with_note(config, *, track):
        splits = original(config, track=track)
        return type(splits)(train=splits.train, notes=("from the reader",))

    monkeypatch.setattr(prepare, "load_splits", with_note)
    prepared = load_prepared_splits(DataConfig(source=str(folder), resolution=16))
    assert prepared.notes[0] == "from the reader"
    assert len(prepared.notes) > 1


def test_a_truncated_file_stops_everything_and_is_named(folder):
    path = folder / "stop" / "3.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(SignforgeError, match=r"3\.png.*; replace or remove it\.$") as error:
        load_prepared_splits(DataConfig(source=str(folder), resolution=16))
    assert "\n" not in str(error.value)


def test_the_demo_keeps_physical_signs_apart():
    config = DataConfig(source="demo", resolution=8, demo_scale=0.03)
    prepared = load_prepared_splits(config)
    groups = [
        set(zip(split.labels.tolist(), split.groups.tolist(), strict=True))
        for split in (prepared.train, prepared.val)
    ]
    assert not groups[0] & groups[1]
    assert prepared.train.images.dtype == torch.uint8


def test_nothing_is_downloaded_unasked():
    config = DataConfig(source="somewhere")
    assert download_if_asked(config, download=False) is config


@pytest.mark.parametrize("source", ["demo", "plugin:mine:here"])
def test_a_download_needs_a_folder(source):
    with pytest.raises(SignforgeError, match=f"--download needs a folder .* not '{source}'"):
        download_if_asked(DataConfig(source=source), download=True)


def test_a_download_points_the_config_at_what_it_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "download_gtsrb", lambda path: path / "gtsrb")
    config = DataConfig(source=str(tmp_path), split_seed=3)
    downloaded = download_if_asked(config, download=True)
    assert downloaded == DataConfig(source=str(tmp_path / "gtsrb"), split_seed=3)


def test_only_the_named_classes_are_prepared():
    config = DataConfig(source="demo", resolution=8, demo_scale=0.03, classes=("stop", "17"))
    prepared = load_prepared_splits(config)
    for split in (prepared.train, prepared.val, prepared.test):
        assert split.class_names == ("Stop", "No entry")
        assert set(split.labels.tolist()) == {0, 1}
    note = "Only 2 of 43 classes are used, numbered anew from 0: Stop (14), No entry (17)."
    assert note in prepared.notes


def test_a_class_that_the_source_lacks_is_named():
    config = DataConfig(source="demo", resolution=8, demo_scale=0.03, classes=("stpo",))
    with pytest.raises(SignforgeError, match=r"no class 'stpo'.*did you mean 'Stop'"):
        load_prepared_splits(config)
