import errno
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
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
    best_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_ema,
    save_checkpoint,
)
from signforge.gan.ema import ema_copy
from signforge.gan.metrics import ProbeValues, StepMeans
from support.interruptions import Killed, interrupted


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


def judged(kimg: int, fd: float, *, probe_kimg: int | None = None) -> Progress:
    """At ``kimg``, with a probe that ran at ``probe_kimg``, here and now by default."""
    values = ProbeValues(0.75, 0.5, 1, (1.0, 0.5), fd, None, (1,))
    probe_step = 10 * (kimg if probe_kimg is None else probe_kimg)
    return replace(at(kimg), probe=values, probe_step=probe_step)


def names(run: Path) -> list[str]:
    return [folder.name for folder in list_checkpoints(run)]


def test_everything_comes_back_and_training_goes_on_the_same(tmp_path):
    saved, loaded = make_state(1), make_state(2)
    folder = save_checkpoint(tmp_path, saved, at(3), keep=2)
    assert folder == tmp_path / "checkpoints" / "000003.000kimg"
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
    assert names(tmp_path) == entries(tmp_path) == ["000010.000kimg", "000100.000kimg"]


def test_a_copy_that_the_user_set_aside_is_no_checkpoint_and_is_left_alone(tmp_path):
    state = make_state(1)
    first = save_checkpoint(tmp_path, state, at(1), keep=2)
    copy = first.with_name(f"mine-{first.name}")
    shutil.copytree(first, copy)
    for kimg in (2, 3, 4):
        save_checkpoint(tmp_path, state, at(kimg), keep=2)
    assert names(tmp_path) == ["000003.000kimg", "000004.000kimg"]
    assert (copy / "manifest.json").is_file()
    assert (copy / "state.safetensors").is_file()


def test_checkpoints_of_the_same_kimg_stand_beside_each_other(tmp_path):
    state = make_state(1)
    save_checkpoint(tmp_path, state, at(1), keep=2)
    train_a_little(state, seed=3)
    folder = save_checkpoint(tmp_path, state, Progress(11, 1100, 9.0), keep=2)
    assert names(tmp_path) == ["000001.000kimg", "000001.100kimg"]
    loaded = make_state(2)
    assert load_checkpoint(folder, loaded).seen_images == 1100
    assert_same(state, loaded)


def test_what_becomes_known_of_a_saved_state_is_noted_and_the_state_left_alone(tmp_path):
    state = make_state(1)
    folder = save_checkpoint(tmp_path, state, at(1), keep=2)
    before = (folder / STATE).stat().st_ino
    later = replace(judged(1, fd=3.5), rollbacks=1)
    assert save_checkpoint(tmp_path, state, later, keep=2) == folder
    assert load_checkpoint(folder, make_state(2)) == later
    assert (folder / STATE).stat().st_ino == before
    assert names(tmp_path) == entries(tmp_path) == ["000001.000kimg"]


def test_every_bit_of_what_a_status_line_is_owed_comes_back(tmp_path):
    sums = StepMeans(0.1 + 0.2, 1e-310, -1 / 3, 2.0**60 + 1 / 7)
    progress = replace(at(1), status_step=7, status_seconds=1 / 3, step_sums=sums, samples_step=9)
    folder = save_checkpoint(tmp_path, make_state(1), progress, keep=1)
    assert load_checkpoint(folder, make_state(2)) == progress


def test_a_manifest_of_version_1_goes_on_from_its_step(tmp_path):
    folder = save_checkpoint(tmp_path, make_state(1), at(4), keep=1)
    manifest = json.loads((folder / MANIFEST).read_text()) | {"format_version": 1}
    manifest["progress"] = {"step": 40, "seen_images": 4000, "seconds": 6.0}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    progress = load_checkpoint(folder, make_state(2))
    assert (progress.step, progress.seen_images, progress.seconds) == (40, 4000, 6.0)
    assert (progress.status_step, progress.samples_step, progress.probe_step) == (40, 40, 40)
    assert progress.fd is None


def test_the_best_is_kept_beside_the_newest(tmp_path):
    state = make_state(1)
    fds = {1: 9.0, 2: 4.0, 3: float("nan"), 4: 4.0, 5: 7.0, 6: 8.0}
    for kimg, fd in fds.items():
        save_checkpoint(tmp_path, state, judged(kimg, fd), keep=2)
    assert best_checkpoint(tmp_path) == tmp_path / "checkpoints" / "000002.000kimg"
    assert entries(tmp_path) == ["000002.000kimg", "000005.000kimg", "000006.000kimg"]
    save_checkpoint(tmp_path, state, judged(7, 3.0), keep=2)
    assert entries(tmp_path) == ["000006.000kimg", "000007.000kimg"]


def test_a_distance_counts_only_for_the_state_it_was_measured_at(tmp_path):
    state = make_state(1)
    assert best_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, state, at(1), keep=9)
    save_checkpoint(tmp_path, state, judged(3, 1.0, probe_kimg=2), keep=9)
    assert best_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, state, judged(4, float("inf")), keep=9)
    assert best_checkpoint(tmp_path) is None
    folder = save_checkpoint(tmp_path, state, judged(5, 50.0), keep=9)
    assert best_checkpoint(tmp_path) == folder


def test_the_averaged_generator_comes_back_alone(tmp_path):
    saved, other = make_state(1), make_state(2)
    folder = save_checkpoint(tmp_path, saved, at(1), keep=1)
    assert load_ema(folder, other.ema) == at(1)
    ema = saved.ema.state_dict()
    assert all(torch.equal(value, ema[key]) for key, value in other.ema.state_dict().items())
    (folder / STATE).write_bytes(b"")
    with pytest.raises(SignforgeError, match="cannot be resumed"):
        load_ema(folder, other.ema)


@pytest.mark.parametrize("place", [0, 100, -1])
def test_one_flipped_byte_is_one_clear_error(tmp_path, place):
    folder = save_checkpoint(tmp_path, make_state(1), at(1), keep=1)
    damaged = bytearray((folder / STATE).read_bytes())
    damaged[place] ^= 1
    (folder / STATE).write_bytes(damaged)
    state = make_state(2)
    before = content(state)
    with pytest.raises(SignforgeError, match=r"000001.000kimg cannot be resumed \(SHA-256 differs"):
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
    with pytest.raises(SignforgeError, match=r"000001\.000kimg cannot be resumed"):
        load_checkpoint(folder, make_state(2))


def test_a_missing_state_is_one_clear_error(tmp_path):
    folder = save_checkpoint(tmp_path, make_state(1), at(1), keep=1)
    (folder / STATE).unlink()
    with pytest.raises(SignforgeError, match=r"cannot be resumed .*delete it to go on"):
        load_checkpoint(folder, make_state(2))


def test_a_full_gpu_says_nothing_about_the_checkpoint(tmp_path, monkeypatch):
    state = make_state(1)
    folder = save_checkpoint(tmp_path, state, at(1), keep=1)

    def full(*_args, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("signforge.gan.checkpoint.restore_state", full)
    monkeypatch.setattr(nn.Module, "load_state_dict", full)
    with pytest.raises(torch.OutOfMemoryError):
        load_checkpoint(folder, state)
    with pytest.raises(torch.OutOfMemoryError):
        load_ema(folder, state.ema)


def test_other_networks_are_one_clear_error(tmp_path):
    folder = save_checkpoint(tmp_path, make_state(1), at(1), keep=1)
    with pytest.raises(SignforgeError, match="cannot be resumed") as error:
        load_checkpoint(folder, make_state(2, width=5))
    assert "\n" not in str(error.value)


# --- interrupted at every place ------------------------------------------------------------------


@pytest.mark.parametrize("error", [Killed(), OSError(errno.EIO, "Input/output error")])
@pytest.mark.parametrize(
    ("first", "second"),
    [(at(1), at(2)), (at(1), judged(1, 2.0)), (judged(1, 5.0), judged(2, 4.0))],
    ids=["new", "same state", "new best"],
)
def test_a_save_interrupted_at_every_write_leaves_a_checkpoint(
    tmp_path, monkeypatch, error, first, second
):
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)  # it only takes time here
    old, new, loaded, keep = make_state(1), make_state(1), make_state(2), 1
    if second.step > first.step:
        train_a_little(new, seed=3)
    for at_call in range(1, 100):
        run = tmp_path / str(at_call)
        save_checkpoint(run, old, first, keep)
        try:
            with interrupted(at_call, error) as calls:
                save_checkpoint(run, new, second, keep)
        except (Killed, SignforgeError):
            pass
        progress = load_checkpoint(list_checkpoints(run)[-1], loaded)
        assert progress in (first, second)
        assert_same(loaded, new if progress == second else old)
        for folder in list_checkpoints(run):
            load_checkpoint(folder, loaded)

        last = replace(second, step=30, seen_images=3000)
        folder = save_checkpoint(run, new, last, keep)
        assert load_checkpoint(folder, loaded) == last
        assert not [name for name in entries(run) if name.startswith(".")]
        assert len(list_checkpoints(run)) <= keep + 1
        if at_call > len(calls):
            break
    assert at_call > len(calls) >= 3
    assert {"open", "write", "fsync"} <= set(calls)


def test_a_failed_save_leaves_nothing_behind(tmp_path):
    state = make_state(1)
    old = save_checkpoint(tmp_path, state, at(1), keep=1)
    full = OSError(errno.ENOSPC, "No space left on device")
    for at_call in (1, 2, 3, 4, 5, 6, 7, 8):
        message = r"Cannot write .*000002.000kimg: No space left on device; free some space"
        with interrupted(at_call, full), pytest.raises(SignforgeError, match=message):
            save_checkpoint(tmp_path, state, at(2), keep=1)
        assert entries(tmp_path) == [old.name]
        assert load_checkpoint(old, make_state(2)) == at(1)


def test_a_file_size_limit_loses_nothing(tmp_path):
    """A full disk that needs no rights to make: the file system takes no more than so much."""
    state = make_state(1)
    old = save_checkpoint(tmp_path, state, at(1), keep=1)
    size = (old / STATE).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for most in (0, 1, size // 2, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
        try:
            with pytest.raises(SignforgeError, match="File too large; free some space") as caught:
                save_checkpoint(tmp_path, state, at(2), keep=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "\n" not in str(caught.value)
        assert entries(tmp_path) == [old.name]
        assert load_checkpoint(old, make_state(2)) == at(1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 256 KiB; skips where this user may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "signforge-test", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command to make a small disk with")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_really_full_disk_loses_nothing_and_can_go_on_once_there_is_room(small_disk):
    run, state = small_disk / "run", make_state(1)
    old = save_checkpoint(run, state, at(1), keep=1)
    ballast = small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(1024)):
            pass
    with pytest.raises(SignforgeError, match="No space left on device; free some space"):
        save_checkpoint(run, state, at(2), keep=1)
    assert entries(run) == [old.name]
    assert load_checkpoint(old, make_state(2)) == at(1)
    ballast.unlink()
    folder = save_checkpoint(run, state, at(2), keep=1)
    assert entries(run) == [folder.name]


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert list_checkpoints(tmp_path / "absent") == []
