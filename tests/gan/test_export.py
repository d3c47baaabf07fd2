import json
from dataclasses import replace

import pytest
import torch

from signforge.errors import SignforgeError
from signforge.gan.batches import BatchSource
from signforge.gan.checkpoint import STATE, save_checkpoint
from signforge.gan.export import current_sampler, export_generator
from signforge.gan.metrics import ProbeValues, Progress
from signforge.gan.sampler import load_sampler
from signforge.gan.step import build_training_state

CPU = torch.device("cpu")


def at(step: int, fd: float | None) -> Progress:
    progress = Progress(step=step, seen_images=step * 8, seconds=step / 2)
    if fd is None:
        return progress
    return replace(progress, probe_step=step, probe=ProbeValues(1, 1, 0, (1, 1, 1), fd, None, ()))


@pytest.fixture
def parts(make_config, make_train):
    """make(seed) -> (config, state, train, batches), the EMA generator drawn from ``seed``."""

    def make(seed: int):
        config, train = make_config(seed=seed), make_train()
        state = build_training_state(config, num_classes=3, resolution=8, device=CPU)
        with torch.no_grad():  # the averaged weights are others than those that train
            for weight in state.generator.parameters():
                weight.add_(0.1)
        return make_config(), state, train, BatchSource(train, "uniform", CPU)

    return make


def test_the_statistics_are_those_of_the_averaged_weights(parts):
    config, state, train, batches = parts(0)
    before = {key: value.clone() for key, value in state.ema.state_dict().items()}
    sampler = current_sampler(config, state, train, at(5, None), batches)
    norms = [m for m in sampler.generator.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    inputs = []
    for norm in norms:
        norm.register_forward_pre_hook(lambda _norm, args: inputs.append(args[0]))
    rng = torch.Generator().manual_seed(3)
    labels = batches.labels(4096, rng)
    with torch.no_grad():
        sampler.generator(torch.randn((4096, config.z_dim), generator=rng), labels)
    for norm, given in zip(norms, inputs, strict=True):
        assert not norm.training
        scale = given.std(dim=(0, 2, 3))
        assert ((norm.running_mean - given.mean(dim=(0, 2, 3))).abs() < 0.3 * scale).all()
        assert torch.allclose(norm.running_var, given.var(dim=(0, 2, 3)), rtol=0.35)
        assert norm.momentum == 0.1
    assert torch.equal(sampler.generator.embedding.weight, state.ema.embedding.weight)
    after = state.ema.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    ("fds", "chosen"),
    [
        ((None, None, None), 3),
        ((5.0, 4.0, 6.0), 2),
        ((5.0, None, None), 1),
        ((4.0, 4.0, 5.0), 1),
        ((float("nan"), float("inf"), None), 3),
    ],
)
def test_the_best_by_its_probe_is_exported_else_the_newest(parts, tmp_path, fds, chosen):
    for step, fd in enumerate(fds, start=1):
        config, state, train, batches = parts(step)
        save_checkpoint(tmp_path, state, at(step, fd), keep=9)
    export_generator(tmp_path, config, train, batches, seconds=9.5)
    card = json.loads((tmp_path / "generator.json").read_text())
    assert (card["seen_kimg"], card["seconds"]) == (chosen * 8 / 1000, 9.5)
    assert card["train_fingerprint"] == train.fingerprint

    _, expected, _, _ = parts(chosen)
    sampler = current_sampler(config, expected, train, at(chosen, None), batches)
    labels = torch.arange(3).repeat(4)
    found = load_sampler(tmp_path, "cpu").sample(labels, 7)
    assert torch.equal(found, sampler.sample(labels, 7))


def test_a_damaged_checkpoint_is_one_sentence_and_exports_nothing(parts, tmp_path):
    config, state, train, batches = parts(0)
    folder = save_checkpoint(tmp_path, state, at(1, 2.0), keep=1)
    (folder / STATE).write_bytes(b"damaged")
    with pytest.raises(SignforgeError, match=r"kimg cannot be resumed \(SHA-256 differs"):
        export_generator(tmp_path, config, train, batches, seconds=9.5)
    assert not (tmp_path / "generator.json").exists()
