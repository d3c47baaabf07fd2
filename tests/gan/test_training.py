import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from signforge.errors import SignforgeError
from signforge.gan import losses
from signforge.gan.checkpoint import STATE, list_checkpoints
from signforge.gan.training import TrainingEvents, learning_rate_factor, train_cgan


def stop_after(steps: int) -> TrainingEvents:
    left = iter(range(steps))
    return TrainingEvents(should_stop=lambda: next(left, None) is None)


def metrics(run: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what the clock says."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "images_per_second")}
        for line in lines
    ]


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


@pytest.mark.parametrize(("stop", "decay_from_kimg"), [(1, None), (5, 0.048), (11, 0.0)])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    make_config, make_train, tmp_path, stop, decay_from_kimg
):
    config = make_config(learning_rate_decay_from_kimg=decay_from_kimg)
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
    assert len(metrics(whole)) == 12


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
    assert [folder.name for folder in kept] == ["000003kimg", "000004kimg"]
    assert (kept[0] / STATE).read_bytes() != (kept[1] / STATE).read_bytes()


def test_time_is_up_after_max_minutes(make_config, make_train, tmp_path):
    config = make_config(total_kimg=1e6, max_minutes=0.001)
    progress = train_cgan(config, make_train(), tmp_path)
    assert progress.step > 0
    assert progress.seconds >= 0.06
    assert list_checkpoints(tmp_path)


def test_an_empty_class_is_named(make_config, make_train, tmp_path):
    with pytest.raises(SignforgeError, match="Class 'yield' has no training image"):
        train_cgan(make_config(), make_train((3, 0, 4)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_existing_run_needs_resume_and_is_left_alone(make_config, make_train, tmp_path):
    config, train = make_config(), make_train()
    train_cgan(config, train, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    started = []
    events = TrainingEvents(on_start=lambda: started.append(True))
    with pytest.raises(SignforgeError, match="already holds a training run; use --resume"):
        train_cgan(config, train, tmp_path, events=events)
    assert started == []
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_nothing_to_resume_is_an_error(make_config, make_train, tmp_path):
    with pytest.raises(SignforgeError, match="no checkpoint to resume from; start without"):
        train_cgan(make_config(), make_train(), tmp_path, resume=True)


def test_resume_with_other_networks_is_one_sentence(make_config, make_train, tmp_path):
    train_cgan(make_config(), make_train(), tmp_path)
    with pytest.raises(SignforgeError, match="cannot be resumed") as error:
        train_cgan(make_config(base_channels=8), make_train(), tmp_path, resume=True)
    assert "\n" not in str(error.value)


def test_a_loss_that_is_not_finite_stops_and_names_the_last_checkpoint(
    make_config, make_train, tmp_path
):
    config, train = make_config(), make_train()
    train_cgan(config, train, tmp_path)
    folder = list_checkpoints(tmp_path)[-1]
    before = (folder / STATE).read_bytes()
    longer = make_config(total_kimg=1, status_every_kimg=0.05)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            losses, "discriminator_loss", lambda real, fake: (real + fake).mean() * float("nan")
        )
        message = f"no longer finite after 0 kimg; the last good checkpoint is {folder}"
        with pytest.raises(SignforgeError, match=re.escape(message)):
            train_cgan(longer, train, tmp_path, resume=True)
    assert (folder / STATE).read_bytes() == before
    assert all("NaN" not in line for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("status_every_kimg", [0.001, 100.0])
def test_a_diverged_state_is_never_saved(make_config, make_train, tmp_path, status_every_kimg):
    config = make_config(
        generator_learning_rate=1e30,
        discriminator_learning_rate=1e30,
        status_every_kimg=status_every_kimg,
    )
    with pytest.raises(SignforgeError, match=r"nothing was saved; lower gan\.generator_learning"):
        train_cgan(config, make_train(), tmp_path)
    assert not list_checkpoints(tmp_path)
    assert not (tmp_path / "generator.json").exists()


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


def test_the_learning_rate_falls_linearly_to_zero_at_the_end(make_config):
    config = make_config(total_kimg=10.0, learning_rate_decay_from_kimg=6.0)
    factors = [learning_rate_factor(config, seen) for seen in (0.0, 6.0, 7.0, 9.0, 10.0, 11.0)]
    assert factors == pytest.approx([1.0, 1.0, 0.75, 0.25, 0.0, 0.0])
    assert learning_rate_factor(make_config(total_kimg=10.0), 9.9) == 1.0


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
