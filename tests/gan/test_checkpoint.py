import errno
import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from signforge.errors import SignforgeError
from signforge.gan.checkpoint import (
    MANIFEST,
    STATE,
    Progress,
    TrainingState,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from signforge.gan.ema import ema_copy


def make_state(seed: int, width: int = 3) -> TrainingState:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
        discriminator = nn.Linear(width, 1)
    state = TrainingState(
        generator=generator,
        discriminator=discriminator,
        ema=ema_copy(generator),
        generator_optimizer=torch.optim.Adam(generator.parameters()),
        discriminator_optimizer=torch.optim.Adam(discriminator.parameters()),
    )
    train_a_little(state, seed)
    return state


def train_a_little(state: TrainingState, seed: int) -> None:
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(seed))
    for optimizer in state.optimizers().values():
        optimizer.zero_grad()
    state.discriminator(state.generator(x)).square().mean().backward()
    for optimizer in state.optimizers().values():
        optimizer.step()


def content(state: TrainingState) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, module in state.modules().items():
        tensors |= {f"{name}.{key}": value.clone() for key, value in module.state_dict().items()}
    for name, optimizer in state.optimizers().items():
        for index, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{index}.{key}": v.clone() for key, v in moments.items()}
    return tensors


def assert_same(left: TrainingState, right: TrainingState) -> None:
    one, two = content(left), content(right)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def entries(run: Path) -> list[str]:
    """All that lies in checkpoints/, hidden names too."""
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def at(kimg: int) -> Progress:
    return Progress(step=kimg * 10, seen_images=kimg * 1000, seconds=kimg * 1.5)


def test_everything_comes_back_and_training_goes_on_the_same(tmp_path):
    saved, loaded = make_state(1), make_state(2)
    folder = save_checkpoint(tmp_path, saved, at(3), keep=2)
    assert folder == tmp_path / "checkpoints" / "000003kimg"
    assert load_checkpoint(folder, loaded) == at(3)
    assert_same(saved, loaded)
    for state in (saved, loaded):
        train_a_little(state, seed=7)
    assert_same(saved, loaded)


def test_consecutive_checkpoints_differ(tmp_path):
    state = make_state(1)
    first = save_checkpoint(tmp_path, state, at(1), keep=2)
    train_a_little(state, seed=3)
    second = save_checkpoint(tmp_path, state, at(2), keep=2)
    assert (first / STATE).read_bytes() != (second / STATE).read_bytes()


def test_only_the_newest_are_kept_in_order(tmp_path):
    state = make_state(1)
    for kimg in (1, 2, 10, 100):
        save_checkpoint(tmp_path, state, at(kimg), keep=2)
    assert [folder.name for folder in list_checkpoints(tmp_path)] == ["000010kimg", "000100kimg"]
    assert entries(tmp_path) == ["000010kimg", "000100kimg"]


def test_a_checkpoint_of_the_same_kimg_is_replaced(tmp_path):
    state = make_state(1)
    save_checkpoint(tmp_path, state, at(1), keep=2)
    train_a_little(state, seed=3)
    folder = save_checkpoint(tmp_path, state, Progress(11, 1100, 9.0), keep=2)
    loaded = make_state(2)
    assert load_checkpoint(folder, loaded).seen_images == 1100
    assert_same(state, loaded)
    assert list_checkpoints(tmp_path) == [folder]


def test_the_manifest_is_json_with_progress_and_hash(tmp_path):
    folder = save_checkpoint(tmp_path, make_state(1), at(4), keep=1)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["progress"] == {"step": 40, "seen_images": 4000, "seconds": 6.0}
    assert len(manifest["sha256"]) == 64


@pytest.mark.parametrize("place", [0, 100, -1])
def test_one_flipped_byte_is_one_clear_error(tmp_path, place):
    folder = save_checkpoint(tmp_path, make_state(1), at(1), keep=1)
    damaged = bytearray((folder / STATE).read_bytes())
    damaged[place] ^= 1
    (folder / STATE).write_bytes(damaged)
    state = make_state(2)
    before = content(state)
    with pytest.raises(SignforgeError, match=r"000001kimg cannot be resumed \(SHA-256 differs"):
        load_checkpoint(folder, state)
    after = content(state)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    "manifest",
    ["", "{", "[]", "null", "{}", '{"progress": {"step": 1, "x": 2}}', '{"progress": 3}', "\x80"],
)
def test_a_damaged_manifest_is_one_clear_error(tmp_path, manifest):
    folder = save_checkpoint(tmp_path, make_state(1), at(1), keep=1)
    (folder / MANIFEST).write_bytes(manifest.encode("latin-1"))
    with pytest.raises(SignforgeError, match="000001kimg cannot be resumed"):
        load_checkpoint(folder, make_state(2))


def test_a_missing_state_is_one_clear_error(tmp_path):
    folder = save_checkpoint(tmp_path, make_state(1), at(1), keep=1)
    (folder / STATE).unlink()
    with pytest.raises(SignforgeError, match=r"cannot be resumed .*delete it to go on"):
        load_checkpoint(folder, make_state(2))


def test_other_networks_are_one_clear_error(tmp_path):
    folder = save_checkpoint(tmp_path, make_state(1), at(1), keep=1)
    with pytest.raises(SignforgeError, match="cannot be resumed") as error:
        load_checkpoint(folder, make_state(2, width=5))
    assert "\n" not in str(error.value)


def test_a_full_disk_leaves_no_partial_checkpoint_and_keeps_the_old_ones(tmp_path, monkeypatch):
    state = make_state(1)
    old = save_checkpoint(tmp_path, state, at(1), keep=1)
    calls = []

    def fails_at_the_manifest(_descriptor: int) -> None:
        calls.append(_descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails_at_the_manifest)
    with pytest.raises(SignforgeError, match="No space left on device"):
        save_checkpoint(tmp_path, state, at(2), keep=1)
    assert entries(tmp_path) == [old.name]
    assert load_checkpoint(old, make_state(2)) == at(1)


def test_a_killed_save_is_no_checkpoint_and_the_next_one_clears_it(tmp_path, monkeypatch):
    state = make_state(1)
    old = save_checkpoint(tmp_path, state, at(1), keep=2)

    def killed(_source: Path, _target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, state, at(2), keep=2)
    assert list_checkpoints(tmp_path) == [old]
    new = save_checkpoint(tmp_path, state, at(2), keep=2)
    assert entries(tmp_path) == [old.name, new.name]


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert list_checkpoints(tmp_path / "absent") == []
