import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from signforge.errors import SignforgeError
from signforge.gan import distributed as distributed_module
from signforge.gan import step
from signforge.gan.checkpoint import STATE, kimg_of, list_checkpoints
from signforge.gan.distributed import (
    WHOLE,
    Share,
    any_process,
    by_first,
    current_share,
    of_first,
    process_group,
)
from support import shared_training
from support.processes import free_port, in_two_processes
from support.runs import manifests, metrics

STEPS, BATCH = 20, 16


@pytest.fixture
def config(make_config):
    """make_config for 20 steps of 16 images, 8 in each of two processes."""

    def make(**changes):
        values = {"batch_size": BATCH, "total_kimg": STEPS * BATCH / 1000}
        return make_config(**{**values, "checkpoint_every_kimg": 0.16, **changes})

    return make


def final_state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(list_checkpoints(run)[-1] / STATE)


# --- a process alone -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("parts", [1, 2])
def test_the_shares_of_all_processes_are_the_batch(size, parts):
    rows = torch.arange(parts * size * 4 * 3).view(-1, 3)
    shares = [Share(rank, size, parts).of(rows) for rank in range(size)]
    assert {len(share) for share in shares} == {parts * 4}
    for part, whole in enumerate(rows.chunk(parts)):
        assert torch.equal(torch.cat([share.chunk(parts)[part] for share in shares]), whole)
    assert torch.equal(WHOLE.of(rows), rows)


def test_a_plain_call_is_the_whole_and_starts_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group("cpu"):
        assert not torch.distributed.is_initialized()
        assert current_share() is WHOLE
        assert by_first(divmod, 7, 4) == (1, 3)
        assert any_process(True)
        assert not any_process(False)
        assert of_first(1.5) == 1.5


@pytest.mark.parametrize(("batch", "size", "multiple"), [(15, 2, 16), (16, 4, 32), (24, 2, 16)])
def test_a_batch_that_cannot_be_divided_is_one_sentence(
    make_config, monkeypatch, batch, size, multiple
):
    monkeypatch.setattr(step, "current_share", lambda: Share(0, size))
    with pytest.raises(SignforgeError, match=rf"{batch} images .* multiple of {multiple}\.$"):
        step.build_training_state(
            make_config(batch_size=batch), num_classes=3, resolution=8, device=torch.device("cpu")
        )


# --- two processes -------------------------------------------------------------------------------


def test_processes_without_a_launcher_are_one_sentence(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(SignforgeError, match="no MASTER_ADDR; start it with torchrun or accelerate"),
        process_group("cpu"),
    ):
        pass


def test_each_process_has_its_own_gpu_before_anything_asks_one(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "1")
    calls = []

    def ask(device):
        calls.append(("ask", device))
        raise SignforgeError("It is busy.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda gpu: calls.append(("set", gpu)))
    monkeypatch.setattr(distributed_module, "resolve_device", ask)
    with pytest.raises(SignforgeError, match="busy"), process_group("auto"):
        pass
    assert calls == [("set", 1), ("ask", "auto")]


def test_two_processes_agree():
    first, second = in_two_processes(shared_training.agreements)
    assert (first[0], second[0]) == (Share(0, 2), Share(1, 2))
    assert first[1:] == second[1:] == (True, False, 2.5, 143)


def test_batch_norm_is_that_of_the_whole_batch():
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(8, 3, 4, 4, generator=rng) * 3 + torch.arange(8).view(-1, 1, 1, 1)
    slope = torch.randn(8, 3, 4, 4, generator=rng)
    alone = shared_training.batch_norm(x, slope, 0.3)
    both = in_two_processes(shared_training.batch_norm, x, slope, 0.3)
    for key in ("out", "gradient"):
        together = torch.cat([shared[key] for shared in both])
        assert torch.allclose(together, alone[key], atol=1e-6), key
    for key in ("weights 0.weight", "weights 0.bias"):
        mean = (both[0][key] + both[1][key]) / 2
        assert torch.allclose(mean, alone[key], atol=1e-6), key
    for key in ("0.running_mean", "0.running_var", "0.num_batches_tracked"):
        assert torch.equal(both[0][key], both[1][key])
        assert torch.allclose(both[0][key], alone[key], atol=1e-6), key


@pytest.mark.parametrize(
    "changes",
    [
        {"augment": ()},
        {
            "augment": ("color", "translation", "geometric", "cutout"),
            "augment_probability": 0.7,
            "guide_weight": 0.0,
        },
        {
            "loss": "relativistic",
            "lecam_weight": 0.3,
            "gsr_weight": 0.1,
            "discriminator_dropout": 0.3,
        },
        {"loss": "hinge", "spectral_norm": True, "r1_gamma": 0.0, "fresh_fakes": True},
    ],
    ids=["plain", "augmented", "regularised", "hinge"],
)
def test_two_processes_train_as_one_does_with_the_same_global_batch(
    config, make_train, tmp_path, changes
):
    settings, train = config(**changes), make_train((40, 20, 10))
    one, two = tmp_path / "one", tmp_path / "two"
    assert shared_training.train(settings, train, one) == (STEPS, 0)
    assert in_two_processes(shared_training.train, settings, train, two) == [(STEPS, 0)] * 2

    alone, together = final_state(one), final_state(two)
    assert alone.keys() == together.keys()
    worst = {
        key: float((alone[key].double() - together[key].double()).abs().max()) for key in alone
    }
    assert max(worst.values()) < 1e-5, max(worst.items(), key=lambda pair: pair[1])
    assert len(metrics(one)) == len(metrics(two)) == STEPS
    for line, wanted in zip(metrics(two), metrics(one), strict=True):
        assert line == pytest.approx(wanted, abs=1e-5)


def test_a_resumed_pair_equals_the_uninterrupted_one_bit_for_bit(config, make_train, tmp_path):
    settings, train = config(), make_train()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert in_two_processes(shared_training.train, settings, train, whole) == [(STEPS, 0)] * 2
    assert in_two_processes(shared_training.train, settings, train, parts, 10) == [(10, 0)] * 2
    assert in_two_processes(shared_training.train, settings, train, parts) == [(STEPS, 0)] * 2
    newest = list_checkpoints(whole)[-1].relative_to(whole)
    for name in ("generator.safetensors", newest / STATE):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()
    assert metrics(whole) == metrics(parts)
    assert manifests(whole)[-1] == manifests(parts)[-1]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_nan_in_one_process_is_skipped_by_both_and_rolls_both_back(
    config, make_train, tmp_path, rank
):
    outcomes = in_two_processes(
        shared_training.poisoned_training, config(), make_train(), tmp_path, rank, 13
    )
    for progress, finite in outcomes:
        assert (progress.step, progress.rollbacks) == (STEPS, 1)
        assert finite == [True] * 12 + [False] + [True] * 10  # from the save at 10 steps on
    assert outcomes[0][0] == outcomes[1][0]
    assert all(value.isfinite().all() for value in final_state(tmp_path).values())


def test_a_signal_to_one_process_stops_both_with_a_checkpoint(config, make_train, tmp_path):
    outcomes = in_two_processes(
        shared_training.signalled_training, config(), make_train(), tmp_path, 1
    )
    assert outcomes == [(6, None, 143), (6, 143, 143)]
    assert list_checkpoints(tmp_path)[-1].name == "000000.096kimg"
    assert in_two_processes(shared_training.train, config(), make_train(), tmp_path) == (
        [(STEPS, 0)] * 2
    )


def test_only_the_first_process_writes_shows_and_probes(config, make_train, tmp_path):
    settings = config(samples_every_kimg=0.16, probe_every_kimg=0.16)
    first, second = in_two_processes(
        shared_training.watched_training, settings, make_train(), tmp_path / "run"
    )
    assert second == ([], [])
    called, touched = first
    assert touched
    assert {name: called.count(name) for name in called} == {
        "start": 1,
        "status": STEPS,
        "samples": 2,
        "probe": 2,
    }
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(a < b for a, b in pairwise(json.loads(line)["seen_kimg"] for line in lines))
    assert len(lines) == STEPS
    card = json.loads((tmp_path / "run" / "generator.json").read_text())
    assert card["seen_kimg"] == 0.16


@pytest.mark.parametrize(
    ("error", "others_say"),
    [
        (SignforgeError("Cannot write there."), "Cannot write there."),
        (RuntimeError("no kernel"), "The first process failed with RuntimeError; see its message."),
    ],
    ids=repr,
)
def test_what_the_first_process_cannot_do_ends_all(config, make_train, tmp_path, error, others_say):
    problems = in_two_processes(
        shared_training.failing_training, config(), make_train(), tmp_path / "run", error
    )
    assert problems == [repr(error), repr(SignforgeError(others_say))]


# --- the command line ----------------------------------------------------------------------------

LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
}


def launched(launcher: str, run: Path, *options: object) -> "subprocess.Popen[str]":
    settings = {
        "resolution": 16,
        "demo_scale": 0.02,
        "imbalance_ratio": 5,
    }
    gan = {
        "batch_size": BATCH,
        "base_channels": 4,
        "z_dim": 8,
        "guide_steps": 3,
        "total_kimg": 0.128,
        "status_every_kimg": 0.032,
        "samples_every_kimg": 0.064,
        "probe_every_kimg": 0.064,
        "probe_steps": 3,
        "trackers": "[tensorboard]",
        "precision": "fp32",
    }
    command = [sys.executable, "-m", *LAUNCHERS[launcher]]
    command += ["--master_port" if launcher == "torchrun" else "--main_process_port"]
    command += [str(free_port()), "-m", "signforge", "train-cgan"]
    command += ["--out", str(run), "--device", "cpu", "--json"]
    for section, values in (("data", settings), ("gan", gan)):
        for key, value in values.items():
            command += ["--set", f"{section}.{key}={value}"]
    return subprocess.Popen(
        [*command, *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_trains_one_run_in_two_processes(launcher, tmp_path):
    run = tmp_path / "run"
    process = launched(launcher, run)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    result = json.loads(out)  # one object: the second process prints nothing
    assert result["seen_kimg"] in {0.064, 0.128}  # whichever the probe found better
    assert not result["stopped"]
    lines = metrics(run)
    assert [line["seen_kimg"] for line in lines] == [0.032, 0.064, 0.096, 0.128]
    assert lines[-1]["label_agreement"] is not None
    assert err.count("GAN 0 kimg") == 4
    for name in ("samples.png", "curves.png", "film.gif", "generator.safetensors"):
        assert (run / name).stat().st_size > 0
    assert not list(run.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_stopped_launcher_leaves_a_checkpoint_from_which_it_goes_on(launcher, tmp_path):
    run = tmp_path / "run"
    settings = ["--kimg", 1.6, "--set", "gan.probe_every_kimg=null"]
    settings += ["--set", "gan.samples_every_kimg=1.6"]
    process = launched(launcher, run, *settings)
    while process.poll() is None and not ((run / "metrics.jsonl").exists() and metrics(run)):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=200)
    assert process.returncode != 0
    before = metrics(run)
    assert before[-1]["seen_kimg"] < 1.6
    assert kimg_of(list_checkpoints(run)[-1]) >= before[-1]["seen_kimg"] > 0, err
    resumed = launched(launcher, run, "--resume", *settings)
    out, err = resumed.communicate(timeout=500)
    assert resumed.returncode == 0, err
    assert json.loads(out)["seen_kimg"] == 1.6
    after = metrics(run)
    assert after[: len(before)] == before
    assert [line["seen_kimg"] for line in after] == pytest.approx([0.032 * n for n in range(1, 51)])
