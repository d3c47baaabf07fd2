"""What is written, that readers find it again, and that no kill or foreign file spoils it."""

import json
import os
import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.config import DataConfig
from signforge.data.load import load_splits
from signforge.errors import SignforgeError
from signforge.export.images import export_images
from signforge.export.manifest import read_manifest

REQUEST = {"seed": 0, "config": {"balance": {"refresh": 0.25}}, "splits": ["train"]}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``, hidden ones too, with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes when a file is written again."""
    found = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {str(path): (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}


def pixels(image: object) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def even_sums(images: Tensor, _labels: Tensor) -> Tensor:
    """A gate that keeps about half of the samples."""
    return images.flatten(1).long().sum(1) % 2 == 0


@pytest.fixture
def balanced(make_real, make_sampler) -> SyntheticBalancedDataset:
    """36 items of 4 classes: real, synthetic, and real ones in place of rejected samples."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return SyntheticBalancedDataset(
            make_real(),
            make_sampler(),
            gate=even_sums,
            gate_attempts=1,
            min_acceptance=0,
        )


def export(data: SyntheticBalancedDataset, out: Path, **request: object):
    return export_images({"train": data}, out, request={**REQUEST, **request})


# --- reading it back -----------------------------------------------------------------------------


def test_image_folder_reads_back_every_pixel_and_label(balanced, make_real, tmp_path) -> None:
    val = make_real(counts=(1, 2, 1, 1))
    report = export_images({"train": balanced, "val": val}, tmp_path / "out", request=REQUEST)
    assert report.written == 41
    assert not report.was_complete
    rows = read_manifest(tmp_path / "out/manifest.csv")
    assert len(rows) == 41
    for split, data in (("train", balanced), ("val", val)):
        folder = ImageFolder(str(tmp_path / "out" / split))
        assert folder.classes == ["00000_stop", "00001_yield", "00002_no-entry", "00003_ahead"]
        index_of = {row.file: i for i, row in enumerate(r for r in rows if r.split == split)}
        assert len(folder) == len(data) == len(index_of)
        for (path, _), (image, label) in zip(folder.samples, folder, strict=True):
            index = index_of[Path(path).relative_to(tmp_path / "out").as_posix()]
            assert torch.equal(pixels(image), data[index][0])
            assert label == data.targets[index]


@pytest.mark.parametrize("inner", ["", "train"])
def test_our_own_reader_reads_it_back(balanced, tmp_path, monkeypatch, inner) -> None:
    monkeypatch.setenv("SIGNFORGE_CACHE", str(tmp_path / "cache"))
    export(balanced, tmp_path / "out")
    source = tmp_path / "out" / inner
    splits = load_splits(DataConfig(source=str(source), resolution=8))
    assert (splits.val, splits.test, splits.unreadable) == (None, None, ())
    assert splits.train.class_counts.tolist() == [9, 9, 9, 9]
    index_of = {row.file: i for i, row in enumerate(read_manifest(tmp_path / "out/manifest.csv"))}
    for position, name in enumerate(splits.train.names):
        file = (source / name).relative_to(tmp_path / "out").as_posix()
        image, label = balanced[index_of[file]]
        assert torch.equal(splits.train.images[position], image)
        assert splits.train.labels[position] == label


def test_twelve_classes_keep_their_labels(make_real, make_sampler, tmp_path) -> None:
    names = tuple(str(20 - label) for label in range(12))
    data = SyntheticBalancedDataset(
        make_real(counts=(2, *[1] * 11), class_names=names), make_sampler(class_names=names)
    )
    export(data, tmp_path)
    folder = ImageFolder(str(tmp_path / "train"))
    assert [name.partition("_")[2] for name in folder.classes] == list(names)
    assert folder.targets == sorted(data.targets)


def test_items_of_any_form_give_the_same_files(make_real, make_sampler, tmp_path) -> None:
    real = make_real()
    for form in ("tensor", "PIL", "float"):
        (tmp_path / form).mkdir()
    export(SyntheticBalancedDataset(real, make_sampler()), tmp_path / "tensor")
    folder = ImageFolder(str(tmp_path / "tensor/train"))
    as_pil = [(image.copy(), label) for image, label in folder]
    as_float = [(pixels(image).float() / 255, label) for image, label in as_pil]
    names = real.class_names
    for form, items in (("PIL", as_pil), ("float", as_float)):
        data = SyntheticBalancedDataset(items, make_sampler(), class_names=names)  # type: ignore[arg-type]
        export(data, tmp_path / form)
    assert tree(tmp_path / "PIL") == tree(tmp_path / "float")
    contents = [set(tree(tmp_path / form / "train").values()) for form in ("tensor", "PIL")]
    assert contents[0] == contents[1]


def test_an_epoch_is_written_as_it_is(balanced, tmp_path) -> None:
    export(balanced, tmp_path / "0", epoch=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the gate may now reject in more classes
        balanced.set_epoch(4)
    export(balanced, tmp_path / "4", epoch=4)
    first, later = tree(tmp_path / "0/train"), tree(tmp_path / "4/train")
    real = {name for name in first if "/real_" in name}
    assert len(real) == 20
    assert all(first[name] == later[name] for name in real)
    assert first != later


def test_the_record_says_what_is_there(balanced, tmp_path) -> None:
    report = export_images({"train": balanced}, tmp_path, request=REQUEST, facts={"gate": None})
    record = json.loads((tmp_path / "export.json").read_text())
    assert record["format"] == "signforge-export-1"
    assert record["complete"] is True
    assert record["request"] == REQUEST
    assert record["facts"] == {"gate": None}
    assert record["counts"] == report.counts
    stand_ins = int(balanced.oversampled_counts.sum())
    assert report.total("train", "real") == 20
    assert report.total("train", "oversampled") == stand_ins > 0
    assert report.total("train", "synthetic") == 16 - stand_ins
    assert sum(report.counts["train"]["00002_no-entry"].values()) == 9


# --- once more -----------------------------------------------------------------------------------


def test_a_finished_export_is_left_alone(balanced, tmp_path) -> None:
    first = export(balanced, tmp_path)
    before = stamps(tmp_path)
    again = export(balanced, tmp_path)
    assert (again.was_complete, again.written) == (True, 0)
    assert again.counts == first.counts
    assert stamps(tmp_path) == before


def test_only_what_is_missing_or_wrong_is_written(balanced, tmp_path) -> None:
    export(balanced, tmp_path)
    whole, before = tree(tmp_path), stamps(tmp_path)
    lost, cut, changed = sorted((tmp_path / "train").glob("*/*.png"))[3:30:9]
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:40])
    changed.write_bytes(
        whole[str(sorted((tmp_path / "train").glob("*/*.png"))[0].relative_to(tmp_path))]
    )
    assert export(balanced, tmp_path).written == 3
    assert tree(tmp_path) == whole
    rewritten = {str(path) for path in (lost, cut, changed)}
    rewritten |= {str(tmp_path / name) for name in ("export.json", "manifest.csv")}
    assert {path for path, stamp in stamps(tmp_path).items() if before[path] != stamp} == rewritten


def test_complete_is_what_the_record_says(balanced, tmp_path) -> None:
    """Killed between the last image and the last line, nothing is missing but the record."""
    export_images({"train": balanced}, tmp_path, request=REQUEST, facts={"gate": None})
    whole, path = tree(tmp_path), tmp_path / "export.json"
    unfinished = {**json.loads(path.read_text()), "complete": False, "counts": {}, "facts": {}}
    path.write_text(json.dumps(unfinished))
    again = export_images({"train": balanced}, tmp_path, request=REQUEST, facts={"gate": None})
    assert (again.was_complete, again.written) == (False, 0)
    assert tree(tmp_path) == whole


def test_what_another_gate_decided_is_cleared_away(balanced, tmp_path) -> None:
    export(balanced, tmp_path / "whole")
    export(balanced, tmp_path / "out")
    (tmp_path / "out/manifest.csv").unlink()
    stray = tmp_path / "out/train/00000_stop/synthetic_000003.png"
    stray.write_bytes(b"from a life whose gate judged otherwise")
    export(balanced, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


# --- killed --------------------------------------------------------------------------------------


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at(nth: int, moment: str) -> None:
    """Arms this process: SIGKILL around the ``nth`` rename, or inside the ``nth`` image."""
    calls = 0
    target = "write_bytes" if moment == "inside the image" else "replace"
    real: Callable[..., object] = getattr(Path, target)

    def call(path: Path, argument: object) -> object:
        nonlocal calls
        calls += 1
        if calls < nth:
            return real(path, argument)
        if moment == "inside the image":
            real(path, argument[: len(argument) // 2])  # type: ignore[index,arg-type]
        elif moment == "after the rename":
            real(path, argument)
        return die()

    setattr(Path, target, call)


def life(work: Callable[[], object]) -> int:
    """Runs ``work`` in a fork of this process; the signal that ended it, else 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the fork uses no thread
        child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_and_taken_up_again(balanced, tmp_path, seed) -> None:
    export(balanced, tmp_path / "whole")
    images = tree(tmp_path / "whole/train").items()
    rng = random.Random(seed)
    out = tmp_path / "out"
    for _ in range(4):
        moment = rng.choice(["before the rename", "after the rename", "inside the image"])
        nth = rng.randint(1, 8)

        def doomed(nth: int = nth, moment: str = moment) -> None:
            kill_at(nth, moment)
            export(balanced, out)

        assert life(doomed) == signal.SIGKILL, (nth, moment)
        assert tree(out / "train").items() <= images  # each is whole or not there
    assert export(balanced, out).was_complete is False
    assert tree(out) == tree(tmp_path / "whole")


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(balanced, tmp_path, monkeypatch) -> None:
    export(balanced, tmp_path / "whole")
    real, calls = Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        calls.append(path)
        if len(calls) > 10:
            real(path, content[:7])
            raise OSError(28, "No space left on device", str(path))
        return real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(SignforgeError, match=r"^Cannot write .*png: No space left .*again\.$"):
            export(balanced, tmp_path / "out")
    assert len(list((tmp_path / "out/train").glob("*/*.png"))) == 10
    assert not list((tmp_path / "out").glob(".*"))
    assert export(balanced, tmp_path / "out").written == 26
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["notes.txt", "train/00000_stop/real_000000.png"])
def test_a_folder_that_holds_something_else(balanced, tmp_path, file) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(SignforgeError, match=f"already holds {file.split('/')[0]} and is no"):
        export(balanced, tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "file",
    [
        "notes.txt",
        "mine/00000_stop/real_000000.png",
        "train/notes.txt",
        "train/mine/real_000000.png",
        "train/00000_stop/photo.png",
        "train/00000_stop/real_000000.jpg",
    ],
)
def test_something_else_in_an_unfinished_export(balanced, tmp_path, file) -> None:
    export(balanced, tmp_path)
    (tmp_path / "manifest.csv").unlink()
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(SignforgeError, match="which is no part of the export begun there") as said:
        export(balanced, tmp_path)
    assert file.startswith(str(said.value).split(" holds ")[1].split(",")[0])
    assert tree(tmp_path) == before


def test_hidden_files_are_in_nobodys_way(balanced, tmp_path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/HEAD").write_text("mine")
    export(balanced, tmp_path)
    (tmp_path / "train/.DS_Store").write_text("mine")
    (tmp_path / "manifest.csv").unlink()
    export(balanced, tmp_path)
    assert (tmp_path / ".git/HEAD").read_text() == (tmp_path / "train/.DS_Store").read_text()


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"seed": 1}, "(seed was 0, is 1)"),
        ({"config": {"balance": {"refresh": 0.5}}}, "(config.balance.refresh was 0.25, is 0.5)"),
        ({"splits": ["train", "val"]}, 'splits was ["train"], is ["train", "val"]'),
        ({"gate": "f" * 64}, '(gate was null, is "fffffffffffffff...)'),
        (
            {"a": 1, "b": 2, "c": 3, "d": 4},
            "(a was null, is 1; b was null, is 2; c was null, is 3; 1 more)",
        ),
    ],
)
def test_another_request_says_what_differs(balanced, tmp_path, other, says, complete) -> None:
    export(balanced, tmp_path)
    if not complete:
        (tmp_path / "manifest.csv").unlink()
    before = tree(tmp_path)
    with pytest.raises(SignforgeError, match="holds another export") as said:
        export(balanced, tmp_path, **other)
    assert says in str(said.value)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"format": "signforge-export-9"}',
        b'{"format": "signforge-export-1", "request": {}, "complete": 1}',
    ],
)
def test_a_record_that_is_none(balanced, tmp_path, content) -> None:
    (tmp_path / "export.json").write_bytes(content)
    with pytest.raises(SignforgeError, match="is not the record of an export"):
        export(balanced, tmp_path)
    assert tree(tmp_path) == {"export.json": content}


def test_out_is_a_file(balanced, tmp_path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SignforgeError, match=r"Cannot export to .*out: Not a directory"):
        export(balanced, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_data_that_cannot_be_files(balanced, make_real, tmp_path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SignforgeError, match=r"no image in val"):
        export_images({"val": make_real(counts=(1, 0, 1, 1))}, out, request={})
    with pytest.raises(SignforgeError, match="Cannot export split 'extra'"):
        export_images({"extra": balanced}, out, request={})
    with pytest.raises(SignforgeError, match="Cannot export"):
        export_images({}, out, request={})
    others = make_real(class_names=("a", "b", "c", "d"))
    with pytest.raises(SignforgeError, match="The classes of test are not"):
        export_images({"train": balanced, "test": others}, out, request={})
    balanced.transform = lambda image: image
    with pytest.raises(SignforgeError, match="has a transform"):
        export_images({"train": balanced}, out, request={})
    assert not out.exists()


def test_progress_is_reported(balanced, tmp_path) -> None:
    seen = []

    def track(items, description, total):
        seen.append((description, total))
        yield from items

    export_images({"train": balanced}, tmp_path, request={}, track=track)
    assert seen == [("Writing train", 1)]
