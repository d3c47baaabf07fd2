from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from signforge.gan.batches import BatchSource
from signforge.gan.guide import (
    STOP_STEPS,
    build_guide,
    guide_loss,
    measure_guide_seconds,
    quarters,
    train_guide,
)

CPU = torch.device("cpu")


def test_the_loss_is_the_cross_entropy_above_the_margin():
    logits = torch.tensor([[4.0, 0.0], [0.0, 0.0], [0.0, 3.0]])
    labels = torch.tensor([0, 0, 0])
    entropies = F.cross_entropy(logits, labels, reduction="none").tolist()
    expected = sum(max(entropy - 0.3, 0) for entropy in entropies) / 3
    assert float(guide_loss(logits, labels, 0.3)) == pytest.approx(expected, rel=1e-6)


def test_a_fake_that_is_recognised_well_enough_gets_no_gradient():
    logits = torch.tensor([[4.0, 0.0], [0.0, 0.0]], requires_grad=True)
    guide_loss(logits, torch.tensor([0, 0]), 0.3).backward()
    assert logits.grad[0].tolist() == [0, 0]
    assert logits.grad[1, 0] < 0


def trained(make_config, make_train, **changes):
    config = make_config(guide_steps=30, **changes)
    guide = build_guide(config, num_classes=3, device=CPU)
    train = make_train()
    train_guide(guide, BatchSource(train, "uniform", CPU), config)
    return guide, train


def test_a_guide_stops_when_it_is_asked_to(make_config, make_train):
    config = make_config(guide_steps=30)
    guide = build_guide(config, num_classes=3, device=CPU)
    source = BatchSource(make_train(), "uniform", CPU)
    assert train_guide(guide, source, config, lambda: True) is False
    asked = []
    assert train_guide(guide, source, config, lambda: bool(asked.append(1))) is True
    assert len(asked) == 30 // STOP_STEPS


def test_its_time_is_that_of_a_few_steps_times_all(make_config, make_train, monkeypatch):
    clock = SimpleNamespace(perf_counter=iter((0.0, 50.0, 53.0)).__next__)
    monkeypatch.setattr("signforge.gan.guide.time", clock)
    config = make_config(guide_steps=100)
    assert measure_guide_seconds(config, make_train(), steps=4) == 100 * 3.0 / 4


def test_a_trained_guide_knows_its_classes_and_is_frozen(make_config, make_train):
    guide, train = trained(make_config, make_train)
    assert not guide.training
    assert not any(weights.requires_grad for weights in guide.parameters())
    logits = guide(train.images.float() / 127.5 - 1)
    assert logits.shape == (len(train), 3)
    assert (logits.argmax(dim=1) == train.labels).float().mean() > 0.9


def test_the_guide_is_a_function_of_the_seed_alone(make_config, make_train):
    before = torch.random.get_rng_state()
    one, two, other = (trained(make_config, make_train, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    a, b, c = (guide.state_dict() for guide in (one, two, other))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["linear.weight"], c["linear.weight"])


@pytest.mark.parametrize("side", [1, 2, 4, 16])
def test_quarters_are_those_of_adaptive_pooling(side):
    maps = torch.rand((3, 5, side, side), generator=torch.Generator().manual_seed(side))
    expected = F.adaptive_avg_pool2d(maps, 2)
    assert torch.allclose(quarters(maps), expected, atol=1e-6)
