import pytest
import torch

from signforge.gan.batches import BatchSource
from signforge.gan.step import build_training_state, gan_step
from signforge.gan.training import TrainingEvents, train_cgan
from signforge.gan.warmup import set_warmup, warmup_progress

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("warmup_kimg", "seen_kimg", "expected"),
    [(0, 0, 1), (0, 50, 1), (10, 0, 0), (10, 2.5, 0.25), (10, 10, 1), (10, 400, 1)],
)
def test_progress_is_linear_and_ends_at_one(warmup_kimg, seen_kimg, expected):
    assert warmup_progress(warmup_kimg, seen_kimg) == expected


def warmed(make_train, make_config, seen_kimg, **changes):
    config, train = make_config(**changes), make_train(counts=(12, 6, 6))
    state = build_training_state(config, num_classes=3, resolution=8, device=CPU)
    batches = BatchSource(train, config.class_prior, CPU)
    set_warmup(state, batches, config, seen_kimg)
    return state, batches, config


@pytest.mark.parametrize(
    ("seen_kimg", "prior"),
    [(0, (1 / 2, 1 / 4, 1 / 4)), (4, (5 / 12, 7 / 24, 7 / 24)), (8, (1 / 3, 1 / 3, 1 / 3))],
)
def test_the_prior_goes_from_empirical_to_the_configured_one(
    make_train, make_config, seen_kimg, prior
):
    _, batches, _ = warmed(make_train, make_config, seen_kimg, class_prior_warmup_kimg=8)
    torch.testing.assert_close(batches.prior, torch.tensor(prior))


def test_the_class_fades_in_and_the_ema_generator_samples_in_full(make_train, make_config):
    state, batches, config = warmed(make_train, make_config, 2, conditioning_warmup_kimg=8)
    assert float(state.generator.class_strength) == 0.25
    assert float(state.discriminator.class_strength) == 0.25
    assert float(state.ema.class_strength) == 1
    set_warmup(state, batches, config, 9)
    assert float(state.generator.class_strength) == 1


def test_at_no_strength_the_class_gets_no_gradient(make_train, make_config):
    state, batches, config = warmed(make_train, make_config, 0, conditioning_warmup_kimg=8)
    before = [
        network.embedding.weight.clone() for network in (state.generator, state.discriminator)
    ]
    rng = torch.Generator().manual_seed(1)
    gan_step(state, batches, config, rng, with_penalty=True)
    for weight, network in zip(before, (state.generator, state.discriminator), strict=True):
        assert torch.equal(weight, network.embedding.weight)


def test_a_resumed_run_is_in_the_same_part_of_its_warmup(make_train, make_config, tmp_path):
    train = make_train()
    config = make_config(
        conditioning_warmup_kimg=0.064,
        class_prior_warmup_kimg=0.08,
        checkpoint_every_kimg=0.04,
    )
    train_cgan(config, train, tmp_path / "whole")
    polls = iter(range(5))
    events = TrainingEvents(should_stop=lambda: next(polls, None) is None)
    stopped = train_cgan(config, train, tmp_path / "parts", events=events)
    assert 0 < stopped.seen_kimg < config.total_kimg
    train_cgan(config, train, tmp_path / "parts", resume=True)
    whole, parts = (tmp_path / name / "generator.safetensors" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_a_grid_left_to_the_resumed_run_is_the_one_of_the_whole_run(
    make_train, make_config, tmp_path
):
    """A stop leaves the grid of its step; what recalibrates the batch norms warms up too."""
    train = make_train()
    config = make_config(class_prior_warmup_kimg=0.08, samples_every_kimg=0.024)
    labels = torch.arange(train.num_classes).repeat_interleave(4)

    def drawn(into: dict[float, torch.Tensor]):
        def on_samples(sampler, seen_kimg):
            into[seen_kimg] = sampler.sample(labels, 0)

        return on_samples

    whole: dict[float, torch.Tensor] = {}
    parts: dict[float, torch.Tensor] = {}
    train_cgan(config, train, tmp_path / "whole", events=TrainingEvents(on_samples=drawn(whole)))
    polls = iter(range(6))
    stop = TrainingEvents(should_stop=lambda: next(polls, None) is None, on_samples=drawn(parts))
    assert train_cgan(config, train, tmp_path / "parts", events=stop).seen_kimg == 0.048
    assert sorted(parts) == [0.024]
    again = TrainingEvents(on_samples=drawn(parts))
    train_cgan(config, train, tmp_path / "parts", events=again, resume=True)
    assert sorted(parts) == sorted(whole)
    for kimg, images in whole.items():
        assert torch.equal(parts[kimg], images), kimg
