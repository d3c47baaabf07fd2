import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from signforge.gan.ema import ema_copy, ema_decay, ema_update


@settings(deadline=None)
@given(batch=st.sampled_from([1, 8, 50, 100]), halflife=st.sampled_from([0.5, 1.0, 5.0]))
def test_after_the_half_life_half_of_the_old_weight_is_left(batch, halflife):
    decay = ema_decay(batch, halflife, seen_kimg=1e6)
    assert decay ** (halflife * 1000 / batch) == pytest.approx(0.5, rel=1e-9)


def test_early_in_training_the_half_life_is_a_tenth_of_what_was_seen():
    assert ema_decay(64, 5.0, 10.0) == ema_decay(64, 1.0, 1e6)
    assert ema_decay(64, 5.0, 50.0) == ema_decay(64, 5.0, 1e6)
    assert ema_decay(64, 5.0, 0.0) == 0.0


@settings(deadline=None)
@given(seen=st.tuples(st.floats(0, 1e4), st.floats(0, 1e4)))
def test_decay_grows_with_what_was_seen_and_stays_below_one(seen):
    early, late = (ema_decay(64, 5.0, kimg) for kimg in sorted(seen))
    assert 0 <= early <= late < 1


def test_copy_is_frozen_in_eval_mode_and_shares_nothing():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = ema_copy(model)
    assert not ema.training
    assert model.training
    assert not any(p.requires_grad for p in ema.parameters())
    assert all(p.requires_grad for p in model.parameters())
    before = {key: value.clone() for key, value in ema.state_dict().items()}
    model(torch.randn(8, 2))
    with torch.no_grad():
        model[0].weight.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in ema.state_dict().items())


def test_update_averages_parameters_and_buffers_and_copies_counters():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    ema = ema_copy(model)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(torch.full_like(tensor, 6))
        for tensor in (*ema.parameters(), *ema.buffers()):
            tensor.copy_(torch.full_like(tensor, 2))
    ema_update(ema, model, decay=0.75)
    for key, value in ema.state_dict().items():
        expected = 6 if key.endswith("num_batches_tracked") else 0.75 * 2 + 0.25 * 6
        assert torch.equal(value, torch.full_like(value, expected)), key
    assert all((p == 6).all() for p in model.parameters())


def test_half_life_holds_for_the_weights_themselves():
    model = nn.Linear(1, 1)
    ema = ema_copy(model)
    with torch.no_grad():
        model.weight.fill_(0.0)
        ema.weight.fill_(1.0)
    for _ in range(10):
        ema_update(ema, model, ema_decay(100, 1.0, seen_kimg=1e6))
    assert float(ema.weight) == pytest.approx(0.5, rel=1e-5)


def test_without_decay_the_copy_is_the_model():
    model = nn.Linear(3, 3)
    ema = ema_copy(nn.Linear(3, 3))
    ema_update(ema, model, 0.0)
    assert torch.equal(ema.weight, model.weight)
