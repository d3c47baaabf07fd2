"""Against the papers' formulas written out in numpy, closed forms and other implementations."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from signforge.classify.losses import (
    LDAM_SCALE,
    Deferred,
    Focal,
    Loss,
    class_balanced,
    effective_number_weights,
    focal,
    ldam_drw,
    logit_adjusted,
    loss_at,
)
from signforge.errors import SignforgeError

COUNTS = (900, 210, 33, 6)


def batch(n: int = 32, num_classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, num_classes, generator=rng)
    return logits, torch.randint(0, num_classes, (n,), generator=rng)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def as_arrays(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return logits.double().numpy(), labels.numpy(), np.arange(len(labels))


@settings(deadline=None, max_examples=30)
@given(
    counts=st.lists(st.integers(1, 3000), min_size=2, max_size=20),
    beta=st.sampled_from([0.9, 0.99, 0.999, 0.9999]),
)
def test_weights_are_inverse_effective_numbers(counts: list[int], beta: float) -> None:
    weights = effective_number_weights(counts, beta)
    # Eq. 2 of Cui et al. by its definition: the sum of a geometric series.
    expected = 1 / np.array([(beta ** np.arange(n)).sum() for n in counts])
    expected *= len(counts) / expected.sum()
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_weights_run_from_none_to_inverse_frequency() -> None:
    assert effective_number_weights(COUNTS, 0.0).tolist() == [1, 1, 1, 1]
    inverse = 1 / np.array(COUNTS)
    inverse *= 4 / inverse.sum()
    np.testing.assert_allclose(effective_number_weights(COUNTS, 1 - 1e-9), inverse, rtol=1e-4)


def test_class_balanced_loss_is_a_weighted_sum_over_the_batch() -> None:
    logits, labels = batch()
    scores, targets, rows = as_arrays(logits, labels)
    weights = (1 - 0.999) / (1 - 0.999 ** np.array(COUNTS))
    weights *= 4 / weights.sum()
    expected = (weights[targets] * -log_softmax(scores)[rows, targets]).mean()
    assert float(class_balanced(COUNTS)(logits, labels)) == pytest.approx(expected, rel=1e-6)


def test_logit_adjustment_is_equation_10() -> None:
    """log[1 + sum over y' != y of (prior_y' / prior_y)^tau exp(f_y' - f_y)]."""
    logits, labels = batch()
    scores, targets, _ = as_arrays(logits, labels)
    for tau in (0.0, 0.5, 1.0, 2.0):
        losses = []
        for f, y in zip(scores, targets, strict=True):
            others = [
                (COUNTS[o] / COUNTS[y]) ** tau * np.exp(f[o] - f[y]) for o in range(4) if o != y
            ]
            losses.append(np.log1p(sum(others)))
        loss = logit_adjusted(COUNTS, tau)(logits, labels)
        assert float(loss) == pytest.approx(np.mean(losses), rel=1e-6)


def test_logit_adjustment_learns_balanced_scores_from_imbalanced_labels() -> None:
    """Fisher consistency (Menon et al., section 4.2) where one input has all the labels.

    The best bare logits of an uninformative input are equal, those of plain cross-entropy are the
    logarithms of the class shares.
    """
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([70, 20, 10]))

    def minimiser(loss: Loss) -> Tensor:
        logits = torch.zeros(3, requires_grad=True)
        optimizer = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-9)

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss(logits.expand(100, 3), labels)
            value.backward()
            return value

        optimizer.step(closure)
        return (logits - logits.mean()).detach()

    torch.testing.assert_close(
        minimiser(logit_adjusted((70, 20, 10))), torch.zeros(3), atol=1e-4, rtol=0
    )
    shares = torch.tensor([0.7, 0.2, 0.1]).log()
    torch.testing.assert_close(
        minimiser(F.cross_entropy), shares - shares.mean(), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("make", [logit_adjusted, class_balanced])
def test_equal_counts_make_it_plain_cross_entropy(make: object) -> None:
    logits, labels = batch()
    loss = make((50, 50, 50, 50))  # type: ignore[operator]
    torch.testing.assert_close(loss(logits, labels), F.cross_entropy(logits, labels))


def test_focal_loss_agrees_with_torchvision_for_two_classes() -> None:
    margin, labels = batch(64, 1)[0].flatten(), batch(64, 2)[1]
    logits = torch.stack([torch.zeros_like(margin), margin], dim=1)
    for gamma in (0.5, 2.0, 5.0):
        expected = sigmoid_focal_loss(
            margin, labels.float(), alpha=-1, gamma=gamma, reduction="mean"
        )
        torch.testing.assert_close(Focal(gamma)(logits, labels), expected)


def test_focal_loss_without_focus_is_cross_entropy_and_stays_finite() -> None:
    logits, labels = batch()
    torch.testing.assert_close(Focal(0.0)(logits, labels), F.cross_entropy(logits, labels))
    sure = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = focal((5, 5))(sure, torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(200.0)  # one sample costs nothing, the other 400
    loss.backward()
    assert bool(sure.grad.isfinite().all())


@pytest.mark.parametrize("gamma", [0.01, 0.5, 0.99, 1.0, 2.0])
def test_focal_gradient_where_the_probability_rounds_to_one(gamma: float) -> None:
    """Two classes, q = 1 - p: d/dx of -q^gamma log p is gamma p q^gamma log p - q^(1 + gamma)."""
    margin = np.array([-30.0, -2.0, 0.0, 3.0, 12.0, 17.0, 40.0, 1000.0])
    logits = torch.zeros(len(margin), 2)
    logits[:, 1] = torch.from_numpy(margin)
    logits.requires_grad_()
    labels = torch.ones(len(margin), dtype=torch.int64)
    loss = Focal(gamma)(logits, labels)
    loss.backward()
    with np.errstate(over="ignore"):
        q = 1 / (1 + np.exp(margin))
    log_p = -np.logaddexp(0, -margin)
    expected = gamma * np.exp(log_p) * q**gamma * log_p - q ** (1 + gamma)
    assert logits.grad is not None
    np.testing.assert_allclose(
        logits.grad[:, 1].numpy() * len(margin), expected, rtol=1e-3, atol=1e-6
    )
    assert loss.item() == pytest.approx((q**gamma * -log_p).mean(), rel=1e-5)


def test_margins_are_equation_13() -> None:
    """Cosines z, margins 0.5 at the rarest class and n^(-1/4) elsewhere, scaled by 30."""
    logits, labels = batch()
    cosines = torch.tanh(logits)
    scores, targets, rows = as_arrays(cosines, labels)
    margins = np.array(COUNTS) ** -0.25
    margins *= 0.5 / margins.max()
    lowered = scores.copy()
    lowered[rows, targets] -= margins[targets]
    losses = -log_softmax(30 * lowered)[rows, targets]
    loss = ldam_drw(COUNTS)
    early = float(loss.early(LDAM_SCALE * cosines, labels))
    assert early == pytest.approx(losses.mean(), rel=1e-5)
    weights = (1 - 0.9999) / (1 - 0.9999 ** np.array(COUNTS))
    late = float(loss.late(LDAM_SCALE * cosines, labels))
    assert late == pytest.approx(np.average(losses, weights=weights[targets]), rel=1e-5)


def test_margins_of_the_papers_long_tail() -> None:
    """CIFAR-10 with 5,000 to 50 images a class: 0.5 for 50, 0.5 / 100^(1/4) for 5,000."""
    loss = ldam_drw((5000, 50)).early
    margins = loss.margins / LDAM_SCALE  # type: ignore[attr-defined]
    assert margins.tolist() == pytest.approx([0.5 / 100**0.25, 0.5], rel=1e-6)


def test_a_deferred_loss_changes_once() -> None:
    loss = ldam_drw(COUNTS)
    assert isinstance(loss, Deferred)
    at = [loss_at(loss, step, 10) for step in range(10)]
    assert at == [loss.early] * 8 + [loss.late] * 2
    assert loss_at(loss, 0, 1) is loss.early
    assert loss_at(F.cross_entropy, 9, 10) is F.cross_entropy


@pytest.mark.parametrize("make", [class_balanced, logit_adjusted, ldam_drw])
def test_a_class_without_images_is_named(make: object) -> None:
    with pytest.raises(SignforgeError, match="Class 2 has no image to train on"):
        make((5, 3, 0, 4))  # type: ignore[operator]


@pytest.mark.parametrize("make", [class_balanced, logit_adjusted, focal, ldam_drw])
def test_losses_travel_to_other_processes(make: object) -> None:
    logits, labels = batch()
    loss = make(COUNTS)  # type: ignore[operator]
    copy = pickle.loads(pickle.dumps(loss))
    for step in (0, 9):
        assert loss_at(copy, step, 10)(logits, labels) == loss_at(loss, step, 10)(logits, labels)
