from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from signforge.errors import SignforgeError
from signforge.gan import training
from signforge.gan.checkpoint import STATE, last_progress, list_checkpoints
from signforge.gan.rollback import is_finite, roll_back
from signforge.gan.step import build_training_state
from signforge.gan.training import train_cgan
from support.runs import manifests, metrics, stop_after


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_state_is_finite_only_if_all_of_it_is(make_config, bad):
    state = build_training_state(
        make_config(), num_classes=3, resolution=8, device=torch.device("cpu")
    )
    for optimizer in state.optimizers().values():
        for group in optimizer.param_groups:
            for weight in group["params"]:
                weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert is_finite(state)
    places = [
        next(state.generator.parameters()),
        list(state.discriminator.parameters())[-1],
        next(value for key, value in state.ema.state_dict().items() if "running_mean" in key),
        *(
            next(iter(optimizer.state.values()))[moment]
            for optimizer in state.optimizers().values()
            for moment in ("exp_avg", "exp_avg_sq")
        ),
    ]
    for place in places:
        with torch.no_grad():
            last = (-1,) * place.ndim
            before = place[last].item()
            place[last] = bad
            assert not is_finite(state)
            place[last] = before
            assert is_finite(state)


@contextmanager
def poisoned(*calls: int) -> Iterator[list[int]]:
    """A weight of the generator turns NaN before the given calls of gan_step, counted from 1."""
    made: list[int] = []
    real = training.gan_step

    def step(state, batches, config, rng, *, with_penalty):
        made.append(rng.initial_seed())
        if len(made) in calls:
            with torch.no_grad():
                next(state.generator.parameters()).fill_(float("nan"))
        return real(state, batches, config, rng, with_penalty=with_penalty)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "gan_step", step)
        yield made


def test_a_planted_nan_goes_back_to_the_last_checkpoint_at_half_the_learning_rates(
    make_config, make_train, tmp_path
):
    config, train = make_config(checkpoint_every_kimg=0.032), make_train()
    run, by_hand = tmp_path / "run", tmp_path / "by_hand"
    with poisoned(7) as made:
        progress = train_cgan(config, train, run)
    assert (progress.step, progress.rollbacks) == (12, 1)
    assert len(made) == 12 + 3
    assert made[4:7] == made[7:10]  # the same batches come again

    train_cgan(config, train, by_hand, events=stop_after(4))
    halved = make_config(generator_learning_rate=5e-4, discriminator_learning_rate=5e-4)
    train_cgan(halved, train, by_hand, resume=True)
    states = [list_checkpoints(folder)[-1] / STATE for folder in (run, by_hand)]
    assert states[0].read_bytes() == states[1].read_bytes()

    lines = metrics(run)
    assert [line["seen_kimg"] for line in lines] == [8 * step / 1000 for step in range(1, 13)]
    assert [line["rollbacks"] for line in lines] == [0] * 4 + [1] * 8
    assert [line["generator_learning_rate"] for line in lines] == [1e-3] * 4 + [5e-4] * 8


@pytest.mark.parametrize(("bad_call", "noticed_after"), [(6, 8), (9, 10), (11, 12)])
def test_where_asking_is_dear_it_is_asked_now_and_then_and_before_every_save(
    make_config, make_train, tmp_path, bad_call, noticed_after
):
    """As on a GPU, which must not be waited for after each step."""
    config = make_config(checkpoint_every_kimg=0.032, status_every_kimg=100.0)
    last_good = (noticed_after - 1) // 4 * 4
    with pytest.MonkeyPatch.context() as patch, poisoned(bad_call) as made:
        patch.setattr(training, "finite_check_steps", lambda _device: 5)
        progress = train_cgan(config, make_train(), tmp_path)
    assert progress.rollbacks == 1
    assert len(made) == noticed_after + 12 - last_good
    for folder in list_checkpoints(tmp_path):
        assert all(value.isfinite().all() for value in load_file(folder / STATE).values())


def test_a_cpu_is_asked_after_every_step_and_a_gpu_is_not():
    assert training.finite_check_steps(torch.device("cpu")) == 1
    assert training.finite_check_steps(torch.device("cuda")) >= 10


def test_a_nan_before_the_first_checkpoint_goes_back_to_the_start(
    make_config, make_train, tmp_path
):
    with poisoned(2, 4):
        progress = train_cgan(make_config(), make_train(), tmp_path)
    assert (progress.step, progress.rollbacks) == (12, 2)
    assert {line["generator_learning_rate"] for line in metrics(tmp_path)} == {2.5e-4}
    weights = load_file(tmp_path / "generator.safetensors").values()
    assert all(value.isfinite().all() for value in weights)


def test_what_a_rollback_lost_does_not_count_as_training_speed(make_config, make_train, tmp_path):
    config = make_config(checkpoint_every_kimg=0.032)
    train_cgan(config, make_train(), tmp_path, events=stop_after(4))
    state = build_training_state(config, num_classes=3, resolution=8, device=torch.device("cpu"))
    saved = last_progress(tmp_path)
    lost = replace(saved, step=9, seen_images=72, seconds=saved.seconds + 200)
    back = roll_back(tmp_path, state, config, lost)
    assert (back.step, back.rollbacks, back.seconds) == (4, 1, saved.seconds + 200)
    since_status = saved.seconds - saved.status_seconds
    assert back.seconds - back.status_seconds == pytest.approx(since_status, abs=1e-9)
    assert last_progress(tmp_path) == back


def test_a_kill_right_after_a_rollback_does_not_forget_it(make_config, make_train, tmp_path):
    config, train = make_config(checkpoint_every_kimg=0.032), make_train()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with poisoned(7):
        train_cgan(config, train, whole)
    with pytest.MonkeyPatch.context() as patch, poisoned(7):

        def killed(*_arguments: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("signforge.gan.rollback.forget_after", killed)
        with pytest.raises(KeyboardInterrupt):
            train_cgan(config, train, parts)
    assert train_cgan(config, train, parts, resume=True).rollbacks == 1
    assert metrics(parts) == metrics(whole)
    name = "generator.safetensors"
    assert (parts / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("most", "tried"), [(0, ""), (2, " even after going back 2 times at half the learning rates")]
)
def test_values_that_stay_not_finite_end_the_run_and_the_last_good_checkpoint_is_named(
    make_config, make_train, tmp_path, most, tried
):
    config = make_config(checkpoint_every_kimg=0.032, max_rollbacks=most)
    with poisoned(*range(7, 99)) as made, pytest.raises(SignforgeError) as caught:
        train_cgan(config, make_train(), tmp_path)
    folder = tmp_path / "checkpoints" / "000000.032kimg"
    assert str(caught.value) == (
        f"The GAN's loss or gradients are not finite after 0 kimg{tried}; the last good checkpoint "
        f"is {folder}; start a new run with lower gan.generator_learning_rate and "
        "gan.discriminator_learning_rate."
    )
    assert len(made) == 7 + most
    assert list_checkpoints(tmp_path)[-1] == folder
    assert manifests(tmp_path)[-1]["progress"]["rollbacks"] == most
    state = load_file(folder / STATE)
    assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize("status_every_kimg", [0.001, 100.0])
def test_a_diverged_state_is_never_saved(make_config, make_train, tmp_path, status_every_kimg):
    config = make_config(
        generator_learning_rate=1e38,
        discriminator_learning_rate=1e38,
        status_every_kimg=status_every_kimg,
        checkpoint_every_kimg=0.001,
    )
    with pytest.raises(SignforgeError, match=r"the last good checkpoint is .*kimg; start a new"):
        train_cgan(config, make_train(), tmp_path)
    for folder in list_checkpoints(tmp_path):
        assert all(value.isfinite().all() for value in load_file(folder / STATE).values())
    assert not (tmp_path / "generator.json").exists()
