import json
from dataclasses import asdict

import pytest
import torch

from signforge.errors import SignforgeError
from signforge.gan.checkpoint import Progress
from signforge.gan.metrics import Status, append_status, forget_after, summarise_steps
from signforge.gan.step import StepValues


def status(seen_kimg: float) -> Status:
    return Status(seen_kimg, 1.0, 100.0, 1.3, 0.7, 0.1, -0.1)


def test_a_status_holds_means():
    steps = [
        StepValues(*(torch.tensor(float(step + part)) for part in range(4))) for step in (0, 4)
    ]
    found = summarise_steps(steps, Progress(step=2, seen_images=128, seconds=3.14), 42.04)
    assert asdict(found) == {
        "seen_kimg": 0.128,
        "seconds": 3.1,
        "images_per_second": 42.0,
        "discriminator_loss": 2.0,
        "generator_loss": 3.0,
        "real_logits_mean": 4.0,
        "fake_logits_mean": 5.0,
    }


def test_lines_that_resume_writes_again_are_dropped_and_so_is_half_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for seen in (1.0, 2.0, 3.0):
        append_status(path, status(seen))
    with path.open("a") as file:
        file.write('{"seen_kimg": 1.5')
    forget_after(path, Progress(seen_images=2000))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["seen_kimg"] for line in lines] == [1.0, 2.0]


def test_there_may_be_no_metrics_yet(tmp_path):
    forget_after(tmp_path / "metrics.jsonl", Progress())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SignforgeError, match="Cannot write"):
        append_status(tmp_path / "file" / "metrics.jsonl", status(1.0))
