"""Time-to-quality script: the methods it compares, the report of its rows, one tiny run."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import gan_time_to_quality as script
import pytest
import torch
from baselines.acgan import Acgan
from baselines.method import NetworkSampler, SteppedMethod
from baselines.mimicry_pd import MimicryPd
from baselines.plain_cdcgan import PlainConditionalDcgan
from records import append_row
from torch import nn

from signforge.data.images import UNKNOWN_GROUP, LabeledImages
from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler

CPU = torch.device("cpu")
HAS_MIMICRY = importlib.util.find_spec("torch_mimicry") is not None
SCRIPT_ROW: dict[str, Any] = {
    "mark_minutes": 5.0,
    "seen_images": 64_000,
    "macro_label_agreement": 0.5,
    "worst_class_label_agreement": 0.25,
    "fd_ratio": 4.0,
    "cas": None,
    "judge_sha256": "a" * 64,
    "real_label_agreement": 0.96,
    "n": 100,
    "fd_floor": 4.7,
    "origin": {
        "command": "python benchmarks/gan_time_to_quality.py",
        "versions": {"python": "3.11", "torch": "2.14.1", "signforge": "0"},
        "hardware": {"cpu": "CPU", "cores": 2, "gpu": None},
        "commit": "0123456789abcdef",
        "dirty": False,
    },
}


@pytest.fixture(scope="module")
def train() -> LabeledImages:
    rng = torch.Generator().manual_seed(0)
    return LabeledImages(
        images=torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=rng),
        labels=torch.arange(12) % 3,
        groups=torch.full((12,), UNKNOWN_GROUP),
        class_names=("a", "b", "c"),
        names=("",) * 12,
        source="noise",
    )


def check_method(method: SteppedMethod, train: LabeledImages, batch: int) -> None:
    """One step moves both networks, and samples follow from labels and seed alone."""
    networks: list[nn.Module] = [method.generator, method.discriminator]  # type: ignore[attr-defined]
    before = [[w.detach().clone() for w in network.parameters()] for network in networks]
    untrained = method.sampler().fingerprint
    method.train_until(1e-9)
    assert method.seen_images == batch
    assert method.seconds > 0
    for old, network in zip(before, networks, strict=True):
        assert not all(map(torch.equal, old, network.parameters()))
        assert all(bool(w.isfinite().all()) for w in network.parameters())
    sampler = method.sampler()
    assert isinstance(sampler, ClassConditionalSampler)
    assert sampler.fingerprint != untrained
    assert (sampler.num_classes, sampler.class_names) == (3, train.class_names)
    labels = torch.tensor([0, 1, 2, 2])
    images = sampler.sample(labels, 1)
    assert images.shape == (4, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert torch.equal(images, sampler.sample(labels, 1))
    assert not torch.equal(images, sampler.sample(labels, 2))
    assert not torch.equal(images, sampler.sample(labels.flip(0), 1))


def test_plain_conditional_dcgan(train: LabeledImages) -> None:
    check_method(PlainConditionalDcgan(train, seed=0, device=CPU, batch_size=4), train, 4)


def test_acgan(train: LabeledImages) -> None:
    check_method(Acgan(train, seed=0, device=CPU, batch_size=4), train, 4)


@pytest.mark.skipif(not HAS_MIMICRY, reason="torch-mimicry is not installed")
def test_mimicry(train: LabeledImages) -> None:
    method = MimicryPd(train, seed=0, device=CPU, batch_size=2, n_dis=2)
    check_method(method, train, 4)  # two batches of two for one update of the generator
    assert method.global_step == 1


@pytest.mark.skipif(HAS_MIMICRY, reason="torch-mimicry is installed")
def test_without_mimicry_there_is_one_sentence(train: LabeledImages) -> None:
    with pytest.raises(SignforgeError, match="pip install --no-deps torch-mimicry"):
        MimicryPd(train, seed=0, device=CPU)


def test_a_sampler_is_a_copy(train: LabeledImages) -> None:
    method = PlainConditionalDcgan(train, seed=0, device=CPU, batch_size=4)
    sampler: NetworkSampler = method.sampler()
    images = sampler.sample(torch.tensor([0]), 0)
    method.step()
    assert torch.equal(images, sampler.sample(torch.tensor([0]), 0))
    assert method.generator.training


def test_measuring_costs_no_training_time(train: LabeledImages) -> None:
    method = PlainConditionalDcgan(train, seed=0, device=CPU, batch_size=4)
    method.train_until(0.01)
    seconds, seen = method.seconds, method.seen_images
    method.train_until(seconds)  # reached already
    assert (method.seconds, method.seen_images) == (seconds, seen)


def test_the_report_averages_seeds_and_keeps_the_order(tmp_path: Path) -> None:
    rows = [
        {**SCRIPT_ROW, "method": "mimicry", "seed": 0},
        {**SCRIPT_ROW, "method": "ours", "seed": 0, "cas": 0.6, "fd_ratio": 2.0},
        {**SCRIPT_ROW, "method": "ours", "seed": 1, "cas": 0.8, "fd_ratio": 3.0},
        {
            "method": "real",
            "cas": 0.95,
            "cas_steps": 9,
            "origin": {**SCRIPT_ROW["origin"], "commit": "fedcba9876543210"},
        },
    ]
    for row in rows:
        append_row(tmp_path / "rows.jsonl", row)
    text = script.report(tmp_path)
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert lines == [
        "| signforge | 5 | 2 | 64 | 50.0 | 25.0 | 2.50 | 70.0 |",
        "| torch-mimicry cGAN-PD | 5 | 1 | 64 | 50.0 | 25.0 | 4.00 | - |",
    ]
    assert "Trained on real images for 9 steps: 95.0%" in text
    # One command at two commits is two calls, of which each is named once.
    assert text.count("`python benchmarks/gan_time_to_quality.py`") == 2
    assert all(text.count(commit) == 1 for commit in ("0123456789", "fedcba9876"))
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_rows_of_different_judges_are_not_compared(tmp_path: Path) -> None:
    for judge in ("a", "b"):
        row = {**SCRIPT_ROW, "method": "ours", "seed": 0, "judge_sha256": judge}
        append_row(tmp_path / "rows.jsonl", row)
    with pytest.raises(SignforgeError, match="different judges"):
        script.report(tmp_path)


def test_nothing_to_report_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SignforgeError, match="does not exist"):
        script.main(["--report", "--out", str(tmp_path)])


def test_a_tiny_run_of_two_methods(tmp_path: Path) -> None:
    settings = (
        "data.demo_scale=0.02",
        "data.resolution=8",
        "gan.base_channels=4",
        "gan.batch_size=4",
        "gan.guide_steps=1",
        "gan.device=cpu",
        "benchmark.extractor_steps=2",
        "classifier.name=test_resnet",
        "classifier.batch_size=8",
        "classifier.device=cpu",
    )
    shared = ["--config", "demo", "--out", str(tmp_path), "--minutes", "0.05"]
    shared += [part for text in settings for part in ("--set", text)]
    script.main(["--method", "ours", "--marks", "0.02,0.05", "--cas-steps", "2", *shared])
    script.main(["--method", "plain", "--marks", "0.05", *shared])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["real", "ours", "ours", "plain"]
    real, first, second, plain = rows
    assert first["train_seconds"] <= second["train_seconds"]
    assert 0 < first["seen_images"] < second["seen_images"]
    assert 0 <= second["cas"] <= 1
    assert real["cas_steps"] == second["cas_steps"] == 2
    assert plain["cas"] is None
    assert len({row["judge_sha256"] for row in rows[1:]}) == 1
    assert (tmp_path / "ours-seed0" / "samples-0.02min.png").exists()
    script.main(["--report", "--out", str(tmp_path)])
    assert (tmp_path / "report.md").read_text().count("| signforge |") == 2
    with pytest.raises(SignforgeError, match="exists already"):
        script.main(["--method", "plain", "--marks", "0.05", *shared])
