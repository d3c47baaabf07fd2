"""Losses of the adversarial game, and the regularisers that an ablation may add to them.

Non-saturating logistic (Goodfellow et al. 2014, section 3), its relativistic pairing (Huang et al.
2024, R3GAN, eq. 2), the hinge (Miyato et al. 2018, eq. 16 and 17), the zero-centred gradient
penalty R1 (Mescheder et al. 2018, eq. 9), LeCam (Tseng et al. 2021, eq. 3) and group spectral
regularisation (Rangwani et al. 2022, eq. 4-6), its spectral norms by power iteration (Miyato et al.
2018, appendix A).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from signforge.config import AdversarialLoss
from signforge.device import autocast

SQUARINGS = 10
"""Of W W^T for a spectral norm: 2 ** 10 power iterations, which lose a few 1e-4 of its square where
the second singular value lies most unfavourably, and nothing where it is not nearly the first."""


def adversarial_loss_of_discriminator(
    kind: AdversarialLoss, real_logits: Tensor, fake_logits: Tensor
) -> Tensor:
    """(N,), (N,) -> scalar; image i of both must be of one class."""
    if kind == "relativistic":
        return relativistic_loss(real_logits, fake_logits)
    if kind == "hinge":
        return hinge_discriminator_loss(real_logits, fake_logits)
    return discriminator_loss(real_logits, fake_logits)


def adversarial_loss_of_generator(
    kind: AdversarialLoss, fake_logits: Tensor, real_logits: Tensor | None
) -> Tensor:
    """(N,), (N,) -> scalar. real_logits: of the same classes, for ``relativistic`` alone.

    Raises ValueError for ``relativistic`` without them.
    """
    if kind == "relativistic":
        if real_logits is None:
            raise ValueError("The relativistic loss compares fakes with real images.")
        return relativistic_loss(fake_logits, real_logits)
    return -fake_logits.mean() if kind == "hinge" else generator_loss(fake_logits)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """mean(-log s(D(real))) + mean(-log(1 - s(D(fake)))), s the sigmoid; (N,), (N,) -> scalar."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """mean(-log s(D(fake))); logits float (N,) -> scalar."""
    return F.softplus(-fake_logits).mean()


def relativistic_loss(wanted_logits: Tensor, unwanted_logits: Tensor) -> Tensor:
    """mean(-log s(wanted - unwanted)) over pairs; (N,), (N,) -> scalar.

    Wanted are the real ones for the discriminator, the fakes for the generator; image i of both
    must be of one class.
    """
    return F.softplus(unwanted_logits - wanted_logits).mean()


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """mean(max(1 - D(real), 0)) + mean(max(1 + D(fake), 0)); (N,), (N,) -> scalar."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def r1_penalty(real_logits: Tensor, real: Tensor) -> Tensor:
    """mean(|grad_x D(x)|^2) / 2 over real images float (N, 3, H, W) -> scalar, differentiable.

    real_logits float (N,) must have been computed from ``real``, which requires grad.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2


def lecam_penalty(real_logits: Tensor, fake_logits: Tensor, anchors: Tensor) -> Tensor:
    """mean(max(D(real) - a_fake, 0)^2) + mean(max(a_real - D(fake), 0)^2) -> scalar.

    anchors: float (2,), moving averages (a_real, a_fake) of the logits. The squares are one-sided
    as in the authors' code: only logits that lie beyond the other side's anchor are pulled back.
    """
    return (
        F.relu(real_logits - anchors[1]).square().mean()
        + F.relu(anchors[0] - fake_logits).square().mean()
    )


def effective_num_samples(class_counts: Tensor, beta: float) -> Tensor:
    """(1 - beta^n) / (1 - beta), int64 (C,) -> float32 (C,) (Cui et al. 2019, eq. 2)."""
    numbers: Tensor = (1 - beta ** class_counts.double()) / (1 - beta)
    return numbers.float()


def group_spectral_penalty(vectors: Tensor, class_counts: Tensor, *, beta: float = 0.99) -> Tensor:
    """Weighted mean over classes of the squared spectral norm of each class's norm parameters.

    vectors: float (C, channels), the gains or biases that a conditional batch norm gives each
    class. Each is folded into a matrix, as square as its length allows; a class that has collapsed
    shows a large spectral norm. Weights are the inverse effective numbers, with mean 1.
    """
    num_classes, channels = vectors.shape
    matrices = vectors.float().reshape(num_classes, squarest_divisor(channels), -1)
    weights = 1 / effective_num_samples(class_counts, beta)
    weights = weights / weights.mean()
    return (weights * squared_spectral_norms(matrices)).mean()


def squared_spectral_norms(matrices: Tensor) -> Tensor:
    """Square of the largest singular value of each matrix: float32 (N, rows, columns) -> (N,).

    Differentiable as |W^T u|^2 at a fixed u, the leading left vector: its gradient 2 u (W^T u)^T is
    that of the norm itself, or one of its subgradients where the largest value is there twice.

    Not by an SVD, since to take one of every class at every step is slow, and a GPU's host waits.
    """
    with autocast(matrices.device, "fp32"):  # bf16 has no digits for a power
        left = _leading_left_vectors(matrices)
        return (left[:, None] @ matrices).square().sum(dim=(1, 2))


@torch.no_grad()
def _leading_left_vectors(matrices: Tensor) -> Tensor:
    """Unit vectors, float (N, rows); zero for a matrix of zeros.

    A power of W W^T holds the iterate of every unit vector as a column. The one with the largest
    diagonal entry started nearest to the leading vector, so no fixed start can be at right angles
    to it.
    """
    power = matrices @ matrices.mT
    for _ in range(SQUARINGS):
        trace = power.diagonal(dim1=1, dim2=2).sum(dim=1)
        power = power / trace.clamp(min=torch.finfo(power.dtype).tiny)[:, None, None]
        power = power @ power
    nearest = power.diagonal(dim1=1, dim2=2).argmax(dim=1)
    return F.normalize(power.take_along_dim(nearest[:, None, None], dim=2).squeeze(2), dim=1)


def squarest_divisor(channels: int) -> int:
    """The largest divisor that is not above the square root."""
    return max(d for d in range(1, int(channels**0.5) + 1) if channels % d == 0)
