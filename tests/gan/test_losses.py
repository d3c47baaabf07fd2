import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from signforge.gan.losses import discriminator_loss, generator_loss, r1_penalty

logits = st.lists(st.floats(-30, 30), min_size=1, max_size=8)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


@settings(deadline=None, max_examples=50)
@given(real=logits, fake=logits)
def test_losses_are_the_log_likelihoods_of_a_coin(real, fake):
    expected = -sum(map(log_sigmoid, real)) / len(real) - sum(log_sigmoid(-x) for x in fake) / len(
        fake
    )
    got = discriminator_loss(torch.tensor(real).double(), torch.tensor(fake).double())
    assert float(got) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    got = generator_loss(torch.tensor(fake).double())
    assert float(got) == pytest.approx(-sum(map(log_sigmoid, fake)) / len(fake), rel=1e-6, abs=1e-9)


def test_an_undecided_discriminator_loses_two_bits_and_the_generator_one():
    zero = torch.zeros(5)
    assert float(discriminator_loss(zero, zero)) == pytest.approx(2 * math.log(2))
    assert float(generator_loss(zero)) == pytest.approx(math.log(2))


def test_the_generator_still_learns_from_fakes_that_fool_nobody():
    fake = torch.full((4,), -20.0, requires_grad=True)
    generator_loss(fake).backward()
    assert torch.allclose(fake.grad, torch.full((4,), -0.25))


def test_losses_stay_finite_at_extreme_logits():
    extreme = torch.tensor([-1e4, 1e4])
    assert discriminator_loss(extreme, extreme).isfinite()
    assert generator_loss(extreme).isfinite()


def test_r1_of_a_linear_discriminator_is_half_its_squared_norm():
    weights = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    real = torch.randn(5, 3, 4, 4, requires_grad=True)
    penalty = r1_penalty((real * weights).sum(dim=(1, 2, 3)), real)
    assert float(penalty.detach()) == pytest.approx(float(weights.square().sum()) / 2, rel=1e-5)


def test_r1_is_differentiable_in_the_weights():
    scale = torch.tensor(3.0, requires_grad=True)
    real = torch.full((2, 3, 2, 2), 0.5, requires_grad=True)
    # D = scale * sum(x^2): |grad|^2 = 4 scale^2 sum(x^2) = 12 scale^2, so R1 = 6 scale^2.
    penalty = r1_penalty(scale * real.square().sum(dim=(1, 2, 3)), real)
    assert float(penalty.detach()) == pytest.approx(54)
    penalty.backward()
    assert float(scale.grad) == pytest.approx(36)
