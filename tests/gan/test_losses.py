import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from signforge.device import autocast
from signforge.gan.losses import (
    adversarial_loss_of_generator,
    discriminator_loss,
    effective_num_samples,
    generator_loss,
    group_spectral_penalty,
    hinge_discriminator_loss,
    lecam_penalty,
    r1_penalty,
    relativistic_loss,
    squared_spectral_norms,
    squarest_divisor,
)
from signforge.gan.networks import ProjectionDiscriminator

logits = st.lists(st.floats(-30, 30), min_size=1, max_size=8)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


@settings(deadline=None, max_examples=50)
@given(real=logits, fake=logits)
def test_losses_are_the_log_likelihoods_of_a_coin(real, fake):
    expected = -sum(map(log_sigmoid, real)) / len(real) - sum(log_sigmoid(-x) for x in fake) / len(
        fake
    )
    got = discriminator_loss(
        torch.tensor(real, dtype=torch.float64), torch.tensor(fake, dtype=torch.float64)
    )
    assert float(got) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    got = generator_loss(torch.tensor(fake, dtype=torch.float64))
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


def test_r1_in_bfloat16_is_that_in_float32_but_for_rounding():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        discriminator = ProjectionDiscriminator(
            num_classes=3, resolution=16, base_channels=8, stddev_group=4
        )
        images, labels = torch.rand(16, 3, 16, 16) * 2 - 1, torch.arange(16) % 3
    found = {}
    for precision in ("fp32", "bf16"):
        discriminator.zero_grad()
        inputs = images.clone().requires_grad_(True)
        with autocast(torch.device("cpu"), precision):
            logits = discriminator(inputs, labels)
        penalty = r1_penalty(logits, inputs)
        penalty.backward()
        gradients = [p.grad.flatten() for p in discriminator.parameters() if p.grad is not None]
        found[precision] = penalty.item(), torch.cat(gradients)
    assert found["bf16"][0] != found["fp32"][0]
    assert found["bf16"][0] == pytest.approx(found["fp32"][0], rel=0.02)
    error = found["bf16"][1] - found["fp32"][1]
    assert error.norm() < 0.1 * found["fp32"][1].norm()


def test_r1_is_differentiable_in_the_weights():
    scale = torch.tensor(3.0, requires_grad=True)
    real = torch.full((2, 3, 2, 2), 0.5, requires_grad=True)
    # D = scale * sum(x^2): |grad|^2 = 4 scale^2 sum(x^2) = 12 scale^2, so R1 = 6 scale^2.
    penalty = r1_penalty(scale * real.square().sum(dim=(1, 2, 3)), real)
    assert float(penalty.detach()) == pytest.approx(54)
    penalty.backward()
    assert float(scale.grad) == pytest.approx(36)


@settings(deadline=None, max_examples=50)
@given(pairs=st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=1, max_size=8))
def test_the_relativistic_loss_sees_only_differences_of_pairs(pairs):
    wanted, unwanted = (
        torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True)
    )
    expected = -sum(log_sigmoid(a - b) for a, b in pairs) / len(pairs)
    assert float(relativistic_loss(wanted, unwanted)) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    shifted = relativistic_loss(wanted + 7, unwanted + 7)
    assert float(shifted) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_hinge_asks_for_a_margin_of_one_on_either_side():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.25, 1.0])
    expected = (0 + 0.5 + 2) / 3 + (0 + 1.25 + 2) / 3
    assert float(hinge_discriminator_loss(real, fake)) == pytest.approx(expected)
    apart = hinge_discriminator_loss(torch.full((4,), 1.0), torch.full((4,), -1.0))
    assert float(apart) == 0


def test_the_generator_of_a_relativistic_pair_needs_the_real_logits():
    with pytest.raises(ValueError, match="compares fakes with real images"):
        adversarial_loss_of_generator("relativistic", torch.zeros(2), None)


def test_lecam_pulls_back_only_what_lies_beyond_the_other_anchor():
    # By hand: reals above a_fake = -1 give (3^2 + 0) / 2, fakes below a_real = 1 (2^2 + 0) / 2.
    real, fake = torch.tensor([2.0, -4.0]), torch.tensor([-1.0, 5.0])
    real.requires_grad_(True)
    penalty = lecam_penalty(real, fake, torch.tensor([1.0, -1.0]))
    assert float(penalty.detach()) == pytest.approx(4.5 + 2)
    penalty.backward()
    assert real.grad.tolist() == [3.0, 0.0]


def test_lecam_is_zero_for_a_discriminator_that_has_the_sides_the_wrong_way_round():
    anchors = torch.tensor([-1.0, 1.0])
    assert float(lecam_penalty(torch.tensor([0.5]), torch.tensor([-0.5]), anchors)) == 0


def test_effective_numbers_go_from_one_to_their_limit():
    counts = torch.tensor([1, 2, 10**6])
    assert effective_num_samples(counts, 0.99).tolist() == pytest.approx([1, 1.99, 100])


def test_group_spectral_penalty_is_the_weighted_mean_of_squared_spectral_norms():
    vectors = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([1000, 100, 10])
    norms = [np.linalg.norm(v.reshape(3, 4), ord=2) ** 2 for v in vectors.numpy()]
    weights = (1 - 0.99) / (1 - 0.99 ** counts.numpy().astype(float))
    weights = weights * 3 / weights.sum()
    expected = float(np.mean(weights * np.array(norms)))
    got = group_spectral_penalty(vectors, counts, beta=0.99)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_group_spectral_penalty_of_rank_one_matrices_is_their_squared_length():
    # A vector of equal entries folds into a matrix of rank one, so both norms agree.
    vectors = torch.full((2, 16), 0.5)
    assert float(group_spectral_penalty(vectors, torch.tensor([5, 5]))) == pytest.approx(16 * 0.25)


def test_group_spectral_penalty_presses_hardest_on_the_rarest_class():
    vectors = torch.ones(2, 16, requires_grad=True)
    group_spectral_penalty(vectors, torch.tensor([2000, 20])).backward()
    assert vectors.grad[1].norm() > 3 * vectors.grad[0].norm()


def with_spectrum(singular_values, rows, columns, count=20):
    """float32 (count, rows, columns): randomly turned matrices of these singular values."""
    rng = torch.Generator().manual_seed(0)
    left, right = (
        torch.linalg.qr(torch.randn(count, size, size, generator=rng, dtype=torch.float64))[0]
        for size in (rows, columns)
    )
    middle = torch.zeros(rows, columns, dtype=torch.float64)
    middle.diagonal().copy_(torch.tensor(singular_values))
    return (left @ middle @ right.mT).float()


@pytest.mark.parametrize("shape", [(200, 24, 32), (200, 8, 12), (50, 1, 7), (50, 4, 4)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_spectral_norms_are_those_of_an_svd(shape, scale):
    matrices = scale * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    got = squared_spectral_norms(matrices)
    expected = torch.linalg.matrix_norm(matrices.double(), ord=2).square()
    assert torch.allclose(got.double(), expected, rtol=2e-4, atol=0)


@pytest.mark.parametrize("second", [0.0, 0.5, 0.9, 0.99])
def test_the_gradient_of_a_spectral_norm_is_that_of_an_svd(second):
    matrices = with_spectrum([3.0, 3 * second, 1 * second], 3, 4).requires_grad_(True)
    (got,) = torch.autograd.grad(squared_spectral_norms(matrices).sum(), matrices)
    squares = torch.linalg.matrix_norm(matrices, ord=2).square()
    (expected,) = torch.autograd.grad(squares.sum(), matrices)
    assert torch.allclose(got, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("second", [0.999, 0.9995, 0.9999, 1.0])
def test_singular_values_that_can_hardly_be_told_apart_do_no_harm(second):
    matrices = with_spectrum([1.0, second, second, second], 4, 6).requires_grad_(True)
    squares = squared_spectral_norms(matrices)
    assert squares.tolist() == pytest.approx([1.0] * len(matrices), rel=1e-3)
    (gradient,) = torch.autograd.grad(squares.sum(), matrices)
    lengths = torch.linalg.vector_norm(gradient, dim=(1, 2))
    assert lengths.tolist() == pytest.approx([2.0] * len(matrices), rel=1e-3)


def test_a_matrix_of_zeros_has_no_norm_and_no_gradient():
    matrices = torch.zeros(2, 3, 4, requires_grad=True)
    squares = squared_spectral_norms(matrices)
    squares.sum().backward()
    assert squares.tolist() == [0, 0]
    assert torch.equal(matrices.grad, torch.zeros(2, 3, 4))


def test_spectral_norms_keep_float32_within_autocast():
    matrices = with_spectrum([3.0, 2.9, 1.0], 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        within = squared_spectral_norms(matrices)
    assert within.dtype == torch.float32
    assert torch.equal(within, squared_spectral_norms(matrices))


@pytest.mark.parametrize(("channels", "rows"), [(64, 8), (128, 8), (12, 3), (7, 1), (1, 1)])
def test_channels_fold_into_the_squarest_matrix(channels, rows):
    assert squarest_divisor(channels) == rows
