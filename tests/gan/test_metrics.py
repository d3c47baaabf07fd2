import errno
import json
import os
import resource
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from signforge.errors import SignforgeError
from signforge.gan.metrics import (
    WALL_CLOCK_KEYS,
    ProbeValues,
    Progress,
    Status,
    StepMeans,
    append_status,
    forget_after,
    peak_memory_mib,
    summarise_steps,
)
from support.fresh_memory import fresh_block

PROBE = ProbeValues(0.75, 0.5, 1, (1.0, 0.5, 0.75), 12.5, 1.25, (1,))


def status(seen_kimg: float) -> Status:
    return Status(seen_kimg, 1.0, 100.0, 1.3, 0.7, 0.1, -0.1, 1e-3, 2e-3, 300.0)


def at(seen_images: int, status_images: int | None = None) -> Progress:
    """With batches of 100, and the last status line at ``status_images``."""
    written = seen_images if status_images is None else status_images
    return Progress(seen_images // 100, seen_images, status_step=written // 100)


def test_a_status_holds_means_over_the_steps_since_the_last_one():
    progress = Progress(
        step=10,
        seen_images=640,
        seconds=7.04,
        rollbacks=1,
        status_step=6,
        status_seconds=5.04,
        step_sums=StepMeans(8.0, 12.0, -4.0, 2.0),
    )
    found = asdict(summarise_steps(progress, (0.25, 0.5), 300.04))
    assert found == {
        "seen_kimg": 0.64,
        "seconds": 7.0,
        "images_per_second": 128.0,
        "discriminator_loss": 2.0,
        "generator_loss": 3.0,
        "real_logits_mean": -1.0,
        "fake_logits_mean": 0.5,
        "generator_learning_rate": 0.25,
        "discriminator_learning_rate": 0.5,
        "memory_mib": 300.0,
        "rollbacks": 1,
        "label_agreement": None,
        "worst_class_label_agreement": None,
        "fd": None,
        "fd_ratio": None,
        "collapsed_classes": None,
        "worst_class": None,
        "pace_images_per_second": 90.9,
    }
    assert found.keys() >= WALL_CLOCK_KEYS


def test_a_status_holds_the_newest_probe_values():
    progress = Progress(step=10, seen_images=640, probe_step=3, probe=PROBE)
    found = summarise_steps(progress, (0.25, 0.5), 300.0)
    assert (found.label_agreement, found.worst_class_label_agreement) == (0.75, 0.5)
    assert (found.fd, found.fd_ratio, found.collapsed_classes) == (12.5, 1.25, (1,))


def test_a_distance_belongs_to_the_state_that_was_probed():
    assert Progress().fd is None
    assert Progress(step=3, probe_step=3, probe=PROBE).fd == 12.5
    assert Progress(step=4, probe_step=3, probe=PROBE).fd is None


def test_peak_memory_is_that_of_this_process():
    fresh_block(2**28)  # given back at once: what is held now is not the peak
    peak = peak_memory_mib(torch.device("cpu"))
    assert 256 < peak < 100_000
    kernel = Path("/proc/self/status")
    if not kernel.is_file():
        pytest.skip("only Linux has a file that tells what a process took")
    told = dict(line.split(":", 1) for line in kernel.read_text().splitlines())
    peak_kib = int(told["VmHWM"].removesuffix("kB"))
    assert peak == pytest.approx(peak_kib / 2**10, rel=0.05)


def test_lines_that_resume_writes_again_are_dropped_and_so_is_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for seen in (1.0, 2.0, 3.0):
        append_status(path, status(seen))
    with path.open("a") as file:
        file.write('{"seen_kimg": 1.5')
    forget_after(path, at(2000))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["seen_kimg"] for line in lines] == [1.0, 2.0]


def test_a_line_that_the_saved_state_had_still_to_write_is_dropped(tmp_path):
    """It was written after the run was resumed from that state, which writes it again."""
    path = tmp_path / "metrics.jsonl"
    for seen in (1.0, 2.0):
        append_status(path, status(seen))
    forget_after(path, at(2000, status_images=1000))
    assert [json.loads(line)["seen_kimg"] for line in path.read_text().splitlines()] == [1.0]


def test_a_file_with_nothing_to_drop_is_left_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_status(path, status(1.0))
    before = path.stat().st_ino
    forget_after(path, at(1000))
    assert path.stat().st_ino == before


def test_there_may_be_no_metrics_yet(tmp_path):
    forget_after(tmp_path / "metrics.jsonl", Progress())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SignforgeError, match="Cannot write"):
        append_status(tmp_path / "file" / "metrics.jsonl", status(1.0))


def test_a_folder_in_place_of_the_file_is_one_sentence(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(SignforgeError, match=r"Cannot read .*metrics\.jsonl: Is a directory\."):
        forget_after(tmp_path / "metrics.jsonl", Progress())


@pytest.mark.parametrize("room", [0, 1, 50])
def test_a_full_disk_leaves_no_part_of_a_line(tmp_path, room):
    path = tmp_path / "metrics.jsonl"
    append_status(path, status(1.0))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, limits[1]))
    try:
        with pytest.raises(SignforgeError, match="free some space there and run it again"):
            append_status(path, status(2.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before


def test_a_line_that_does_not_reach_the_disk_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    append_status(path, status(1.0))
    before = path.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SignforgeError, match=r"metrics\.jsonl: No space left on device; free"):
        append_status(path, replace(status(2.0), rollbacks=1))
    assert path.read_bytes() == before
