import itertools
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from signforge.errors import SignforgeError
from signforge.gan.batches import BatchSource
from signforge.gan.checkpoint import STATE, TrainingState, best_checkpoint, list_checkpoints
from signforge.gan.ema import ema_decay, ema_update
from signforge.gan.metrics import (
    Probe,
    ProbeStopped,
    ProbeValues,
    Progress,
    summarise_steps,
)
from signforge.gan.sampler import GanSampler
from signforge.gan.step import StepValues, build_training_state, gan_step
from signforge.gan.training import TrainingEvents, train_cgan
from signforge.seeds import derive_seed
from support.runs import manifests, metrics, stop_after

KILLED_TRAINING = Path(__file__).parents[1] / "support" / "killed_training.py"


def scripted_probe(fds: dict[float, float], asked: list[float] | None = None) -> Probe:
    """Finds the Frechet distance that ``fds`` has for a kimg, and notes when it was asked."""

    def probe(_sampler: object, seen_kimg: float) -> ProbeValues:
        if asked is not None:
            asked.append(seen_kimg)
        return ProbeValues(0.75, 0.5, 1, (1.0, 0.5, 0.75), fds[seen_kimg], 2.0, (1,))

    return probe


def test_training_tells_the_classes_apart(make_config, make_train, tmp_path):
    train = make_train((40, 40, 40))
    config = make_config(
        base_channels=8, batch_size=32, total_kimg=6.4, ema_halflife_kimg=0.5, augment=()
    )
    collected = []
    events = TrainingEvents(on_samples=lambda sampler, kimg: collected.append((sampler, kimg)))
    train_cgan(config, train, tmp_path, events=events)
    sampler, kimg = collected[-1]
    assert kimg == 6.016
    labels = torch.arange(3).repeat_interleave(50)
    fakes = sampler.sample(labels, 0).float().mean(dim=(2, 3))
    centres = torch.stack(
        [train.images[train.labels == c].float().mean(dim=(0, 2, 3)) for c in range(3)]
    )
    assert (torch.cdist(fakes, centres).argmin(dim=1) == labels).float().mean() > 0.8


def test_a_training_is_its_steps_one_after_another(make_config, make_train, tmp_path):
    config, train = make_config(guide_weight=0.0, discriminator_learning_rate=3e-3), make_train()
    assert train_cgan(config, train, tmp_path).step == 12
    cpu = torch.device("cpu")
    state = build_training_state(config, num_classes=3, resolution=8, device=cpu)
    batches = BatchSource(train, "uniform", cpu)
    for step in range(12):
        rng = torch.Generator().manual_seed(derive_seed(config.seed, step))
        gan_step(state, batches, config, rng, with_penalty=step % 4 == 0)
        ema_update(state.ema, state.generator, ema_decay(8, 0.1, step * 8 / 1000))
    saved = load_file(list_checkpoints(tmp_path)[-1] / STATE)
    for name, module in state.modules().items():
        for key, value in module.state_dict().items():
            assert torch.equal(saved[f"{name}.{key}"], value), f"{name}.{key}"


@pytest.mark.parametrize(
    ("stop", "decay_from_kimg", "status_every_kimg", "lines"),
    [(1, None, 0.001, 12), (5, 0.048, 0.001, 12), (11, 0.0, 0.024, 4), (4, None, 0.04, 3)],
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    make_config, make_train, tmp_path, stop, decay_from_kimg, status_every_kimg, lines
):
    config = make_config(
        learning_rate_decay_from_kimg=decay_from_kimg, status_every_kimg=status_every_kimg
    )
    train = make_train()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train_cgan(config, train, whole).step == 12
    assert train_cgan(config, train, parts, events=stop_after(stop)).step == stop
    early = (parts / "generator.safetensors").read_bytes()
    assert train_cgan(config, train, parts, resume=True).step == 12
    files = [run / "generator.safetensors" for run in (whole, parts)]
    assert files[0].read_bytes() == files[1].read_bytes() != early
    states = [list_checkpoints(run)[-1] / STATE for run in (whole, parts)]
    assert states[0].read_bytes() == states[1].read_bytes()
    assert metrics(whole) == metrics(parts)
    assert len(metrics(whole)) == lines


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_twenty_kills_leave_no_trace(tmp_path, precision):
    """SIGKILL at 20 random steps, within a step or at any write, rename or unlink after it."""
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    done = subprocess.run(
        [sys.executable, KILLED_TRAINING, parts, whole, "20", "0", precision],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)) == 20

    assert metrics(parts) == metrics(whole)
    assert len(metrics(whole)) == 17  # 16 on the beat, and the end
    assert len({line["label_agreement"] for line in metrics(whole)}) == 9  # None, then 8 probes
    assert manifests(parts) == manifests(whole)
    kept = [folder.name for folder in list_checkpoints(whole)]
    assert kept == ["000002.000kimg", "000003.500kimg", "000003.600kimg"]
    states = [(whole / "checkpoints" / name / STATE).read_bytes() for name in kept]
    assert len(set(states)) == 3
    assert states == [(parts / "checkpoints" / name / STATE).read_bytes() for name in kept]
    pictures = sorted(path.relative_to(whole) for path in whole.glob("samples/*.png"))
    assert len(pictures) == 4
    for name in ("generator.safetensors", "samples.png", *pictures):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert json.loads((parts / "generator.json").read_text())["seen_kimg"] == 2.0
    left = {path.relative_to(parts) for path in parts.rglob("*")}
    assert left == {path.relative_to(whole) for path in whole.rglob("*")}


@pytest.mark.parametrize("wanted", [False, True])
def test_deterministic_algorithms_train_and_judge_where_asked_for(
    make_config, make_train, tmp_path, monkeypatch, wanted
):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which outlives the training
    asked = []

    def probe(_sampler: object, _seen_kimg: float) -> ProbeValues:
        asked.append(torch.are_deterministic_algorithms_enabled())
        return ProbeValues(0.75, 0.5, 1, (1.0, 0.5, 0.75), 1.0, 2.0, (1,))

    def note(_status: object) -> None:
        asked.append(torch.are_deterministic_algorithms_enabled())

    config = make_config(deterministic=wanted)
    events = TrainingEvents(on_status=note, probe=probe)
    assert train_cgan(config, make_train(), tmp_path, events=events).step == 12
    assert asked == [wanted] * 13
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_full_gpu_ends_a_training_with_one_sentence(make_config, make_train, tmp_path):
    def full(_status: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    events = TrainingEvents(on_status=full)
    with pytest.raises(
        SignforgeError,
        match=r"^CUDA out of memory; lower gan.batch_size, gan.* or gan.z_dim, or free",
    ):
        train_cgan(make_config(), make_train(), tmp_path, events=events)
    assert train_cgan(make_config(), make_train(), tmp_path, resume=True).step == 12


def test_resuming_a_finished_run_changes_nothing(make_config, make_train, tmp_path):
    config, train = make_config(), make_train()
    train_cgan(config, train, tmp_path)
    before = (tmp_path / "generator.safetensors").read_bytes()
    assert train_cgan(config, train, tmp_path, resume=True).step == 12
    assert (tmp_path / "generator.safetensors").read_bytes() == before


def test_checkpoints_come_on_time_differ_and_only_some_are_kept(make_config, make_train, tmp_path):
    config = make_config(
        batch_size=500,
        total_kimg=4,
        status_every_kimg=2,
        samples_every_kimg=2,
        checkpoint_every_kimg=1,
        keep_checkpoints=2,
    )
    seen, samples = [], []
    events = TrainingEvents(
        on_status=lambda status: seen.append(status.seen_kimg),
        on_samples=lambda _sampler, kimg: samples.append(kimg),
    )
    progress = train_cgan(config, make_train(), tmp_path, events=events)
    assert (progress.step, progress.seen_kimg) == (8, 4.0)
    assert seen == samples == [2.0, 4.0]
    kept = list_checkpoints(tmp_path)
    assert [folder.name for folder in kept] == ["000003.000kimg", "000004.000kimg"]
    assert (kept[0] / STATE).read_bytes() != (kept[1] / STATE).read_bytes()


def test_time_is_up_after_max_minutes(make_config, make_train, tmp_path):
    config = make_config(total_kimg=1e6, max_minutes=0.001, guide_weight=0.0)
    progress = train_cgan(config, make_train(), tmp_path)
    assert progress.step > 0
    assert progress.seconds >= 0.06
    assert list_checkpoints(tmp_path)


@pytest.mark.parametrize(("minutes", "saves"), [(1e-9, 13), (1e9, 2), (None, 2)])
def test_a_checkpoint_comes_after_so_many_minutes(
    make_config, make_train, tmp_path, minutes, saves
):
    config = make_config(checkpoint_every_minutes=minutes, keep_checkpoints=99)
    train_cgan(config, make_train(), tmp_path)
    assert len(list_checkpoints(tmp_path)) == saves  # the first and the last step's are always


def test_a_run_can_be_resumed_from_its_very_start(make_config, make_train, tmp_path):
    def killed(_status: object) -> None:
        raise KeyboardInterrupt

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    config, train = make_config(), make_train()
    train_cgan(config, train, whole)
    with pytest.raises(KeyboardInterrupt):
        train_cgan(config, train, parts, events=TrainingEvents(on_status=killed))
    train_cgan(config, train, parts, resume=True)
    assert metrics(parts) == metrics(whole)
    name = "generator.safetensors"
    assert (parts / name).read_bytes() == (whole / name).read_bytes()


# --- the probe -----------------------------------------------------------------------------------

FDS = {0.024: 7.0, 0.048: 3.0, 0.072: 5.0, 0.096: 4.0}


def test_the_probe_is_asked_on_time_and_at_the_end_and_fills_the_status(
    make_config, make_train, tmp_path
):
    asked, seen = [], []
    config = make_config(probe_every_kimg=0.024, total_kimg=0.104, status_every_kimg=0.016)
    events = TrainingEvents(probe=scripted_probe(FDS | {0.104: 6.0}, asked), on_status=seen.append)
    train_cgan(config, make_train(), tmp_path, events=events)
    assert asked == [0.024, 0.048, 0.072, 0.096, 0.104]
    assert [(status.seen_kimg, status.fd) for status in seen] == [
        (0.016, None),
        (0.032, 7.0),
        (0.048, 3.0),
        (0.064, 3.0),
        (0.08, 5.0),
        (0.096, 4.0),
        (0.104, 6.0),
    ]
    first, last = seen[0], seen[-1]
    assert (first.label_agreement, first.fd_ratio, first.collapsed_classes) == (None, None, None)
    assert (last.label_agreement, last.worst_class_label_agreement) == (0.75, 0.5)
    assert (last.fd_ratio, last.collapsed_classes) == (2.0, (1,))


def test_a_longer_run_drops_the_line_that_ended_the_shorter_one(make_config, make_train, tmp_path):
    train, kimg = make_train(), {"status_every_kimg": 0.04}
    train_cgan(make_config(**kimg), train, tmp_path / "whole")
    parts = tmp_path / "parts"
    train_cgan(make_config(total_kimg=0.064, **kimg), train, parts)
    assert [line["seen_kimg"] for line in metrics(parts)] == [0.04, 0.064]
    train_cgan(make_config(**kimg), train, parts, resume=True)
    assert [line["seen_kimg"] for line in metrics(parts)] == [0.04, 0.08, 0.096]
    assert metrics(parts) == metrics(tmp_path / "whole")


def test_a_probe_finds_its_state_saved_and_may_be_stopped(make_config, make_train, tmp_path):
    """Nothing is lost if what stops a probe does not wait for it."""
    config, train = make_config(probe_every_kimg=0.024), make_train()
    train_cgan(config, train, tmp_path / "whole", events=TrainingEvents(probe=scripted_probe(FDS)))

    def stopped(_sampler: object, seen_kimg: float) -> ProbeValues:
        name = f"{seen_kimg:010.3f}kimg"
        assert list_checkpoints(tmp_path / "parts")[-1].name == name
        raise ProbeStopped

    parts = tmp_path / "parts"
    assert train_cgan(config, train, parts, events=TrainingEvents(probe=stopped)).step == 3
    events = TrainingEvents(probe=scripted_probe(FDS))
    train_cgan(config, train, parts, events=events, resume=True)
    assert metrics(parts) == metrics(tmp_path / "whole")
    name = "generator.safetensors"
    assert (parts / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_without_probe_every_kimg_it_is_asked_at_the_end_alone(make_config, make_train, tmp_path):
    asked = []
    events = TrainingEvents(probe=scripted_probe(FDS, asked))
    train_cgan(make_config(), make_train(), tmp_path, events=events)
    train_cgan(make_config(), make_train(), tmp_path, events=events, resume=True)
    assert asked == [0.096]


@pytest.mark.parametrize("stops", [(), (3,), (5, 6), (6,), (7, 12)])
def test_the_generator_of_the_best_state_is_exported_stopped_or_not(
    make_config, make_train, tmp_path, stops
):
    config = make_config(probe_every_kimg=0.024, keep_checkpoints=1)
    train, asked, whole = make_train(), [], tmp_path / "whole"
    train_cgan(config, train, whole, events=TrainingEvents(probe=scripted_probe(FDS)))
    # What was best at 0.048 is what a run of that length leaves.
    short = make_config(total_kimg=0.048)
    train_cgan(short, train, tmp_path / "short")

    run, done = tmp_path / "run", 0
    for stop in stops:
        # One poll before each step, and one after each probe.
        probes = sum(done < step < stop for step in (3, 6, 9)) + (done > 0 and done % 3 == 0)
        events = replace(stop_after(stop - done + probes), probe=scripted_probe(FDS, asked))
        assert train_cgan(config, train, run, events=events, resume=done > 0).step == stop
        done = stop
    events = TrainingEvents(probe=scripted_probe(FDS, asked))
    train_cgan(config, train, run, events=events, resume=done > 0)

    assert asked == list(FDS)
    assert metrics(run) == metrics(whole)
    assert best_checkpoint(run) == run / "checkpoints" / "000000.048kimg"
    kept = [folder.name for folder in list_checkpoints(run)]
    assert kept == ["000000.048kimg", "000000.096kimg"]
    card = json.loads((run / "generator.json").read_text())
    assert card["seen_kimg"] == 0.048
    files = [folder / "generator.safetensors" for folder in (run, whole, tmp_path / "short")]
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()


def test_a_stop_during_the_probe_leaves_the_grid_to_the_resumed_run(
    make_config, make_train, tmp_path
):
    config = make_config(probe_every_kimg=0.024, samples_every_kimg=0.024, total_kimg=0.048)
    asked, grids, done = [], [], []
    probe = scripted_probe(FDS, asked)
    events = TrainingEvents(
        probe=probe,
        on_samples=lambda _sampler, kimg: grids.append(kimg),
        should_stop=lambda: bool(asked),
    )
    assert train_cgan(config, make_train(), tmp_path, events=events).step == 3
    assert (asked, grids) == ([0.024], [])
    events = replace(events, should_stop=lambda: bool(done))
    train_cgan(config, make_train(), tmp_path, events=events, resume=True)
    assert (asked, grids) == ([0.024, 0.048], [0.024, 0.048])


def test_an_empty_class_is_named(make_config, make_train, tmp_path):
    with pytest.raises(SignforgeError, match="Class 'yield' has no training image"):
        train_cgan(make_config(), make_train((3, 0, 4)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_metrics_that_cannot_be_written_are_one_sentence(make_config, make_train, tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(SignforgeError, match=r"Cannot write .*metrics.jsonl: Is a directory"):
        train_cgan(make_config(), make_train(), tmp_path)


def test_the_card_tells_what_the_generator_was_made_from(make_config, make_train, tmp_path):
    config, train = make_config(), make_train()
    progress = train_cgan(config, train, tmp_path)
    card = json.loads((tmp_path / "generator.json").read_text())
    assert card["gan"] == json.loads(config.model_dump_json())
    assert card["class_names"] == list(train.class_names)
    assert card["class_counts"] == [12, 7, 5]
    assert card["train_fingerprint"] == train.fingerprint
    assert card["seen_kimg"] == progress.seen_kimg == 0.096


def test_on_status_gets_what_metrics_hold(make_config, make_train, tmp_path):
    seen = []
    events = replace(stop_after(3), on_status=lambda status: seen.append(asdict(status)))
    train_cgan(make_config(), make_train(), tmp_path, events=events)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == seen
    assert [status["seen_kimg"] for status in seen] == [0.008, 0.016, 0.024]


def test_a_run_that_time_ends_ends_on_small_steps(make_config, make_train, tmp_path, monkeypatch):
    """By a clock that goes on by 20 ms whenever it is read: no step takes longer than others."""
    readings = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(readings) / 50)
    monkeypatch.setattr("signforge.gan.training.time", clock)
    config = make_config(
        total_kimg=1e6,
        max_minutes=0.03,
        guide_weight=0.0,
        learning_rate_decay_from_kimg=5e5,
        status_every_kimg=0.016,
    )
    progress = train_cgan(config, make_train(), tmp_path)
    assert 1.8 <= progress.seconds < 1.9
    rates = [
        json.loads(line)["generator_learning_rate"]
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert set(rates[: len(rates) // 3]) == {config.generator_learning_rate}
    assert rates[-1] < config.generator_learning_rate / 20


def test_a_run_that_time_ended_goes_on_at_once_where_it_gets_more(
    make_config, make_train, tmp_path, monkeypatch
):
    readings = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(readings) / 50)
    monkeypatch.setattr("signforge.gan.training.time", clock)
    values = {"total_kimg": 1e6, "guide_weight": 0.0, "learning_rate_decay_from_kimg": 5e5}
    ended = make_config(**values, max_minutes=0.03, status_every_kimg=0.016)
    train_cgan(ended, make_train(), tmp_path)
    rates = []

    def step(state: TrainingState, *args: Any, **options: Any) -> StepValues:
        rates.append(state.generator_optimizer.param_groups[0]["lr"])
        return gan_step(state, *args, **options)

    monkeypatch.setattr("signforge.gan.training.gan_step", step)
    longer = make_config(**values, max_minutes=0.12, status_every_kimg=100.0)
    train_cgan(longer, make_train(), tmp_path, resume=True)
    assert rates[0] == ended.generator_learning_rate  # a quarter of the time is over
    assert len(rates) > 10


def test_the_first_probe_alone_does_not_slow_the_pace(
    make_config, make_train, tmp_path, monkeypatch
):
    """It trains its classifier; the others come again and again, and so tell the time left."""
    now, lasts = [0.0], iter((100.0, 8.0, 8.0, 8.0))
    monkeypatch.setattr("signforge.gan.training.time", SimpleNamespace(perf_counter=lambda: now[0]))
    judge, lines = scripted_probe(FDS), []

    def probe(sampler: GanSampler, seen_kimg: float) -> ProbeValues:
        now[0] += next(lasts)
        return judge(sampler, seen_kimg)

    def step(*args: Any, **options: Any) -> StepValues:
        now[0] += 2.0
        return gan_step(*args, **options)

    monkeypatch.setattr("signforge.gan.training.gan_step", step)
    config = make_config(guide_weight=0.0, probe_every_kimg=0.024)
    events = TrainingEvents(probe=probe, on_status=lines.append)
    train_cgan(config, make_train(), tmp_path, events=events)
    # 8 images in 2 seconds a step, and 8 seconds more once in 3 steps from the second probe on.
    images = [8 * step for step in range(1, 13)]
    seconds = [2 * step + 8 * max(step // 3 - 1, 0) for step in range(1, 13)]
    assert [line.pace_images_per_second for line in lines] == [
        round(n / s, 1) for n, s in zip(images, seconds, strict=True)
    ]
    assert {line.images_per_second for line in lines} == {4.0}


def test_pauses_do_not_count_as_training_speed():
    progress = Progress(step=4, seen_images=400, seconds=10.0, status_seconds=2.0)
    paused = progress.after_pause(110.0)
    assert (paused.seconds, paused.status_seconds) == (110.0, 102.0)
    assert summarise_steps(paused, (0.1, 0.1), 0.0).images_per_second == 50.0
    after = replace(paused.after_status(None), step=8, seen_images=800, seconds=114.0)
    assert summarise_steps(after, (0.1, 0.1), 0.0).images_per_second == 100.0


def test_the_last_step_is_small_where_the_learning_rate_has_fallen(
    make_config, make_train, tmp_path
):
    def last_move(decay_from_kimg, run):
        config = make_config(learning_rate_decay_from_kimg=decay_from_kimg)
        weights = []
        for events in (stop_after(11), TrainingEvents()):
            train_cgan(config, make_train(), run, events=events, resume=bool(weights))
            state = load_file(list_checkpoints(run)[-1] / STATE)
            weights.append(state["generator.seed.weight"])
        return float((weights[1] - weights[0]).abs().max())

    assert 0 < last_move(0.0, tmp_path / "falling") < last_move(None, tmp_path / "constant") / 4
