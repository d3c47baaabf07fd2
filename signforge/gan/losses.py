"""Losses of the adversarial game: non-saturating logistic (Goodfellow et al. 2014, section 3) with
the zero-centred gradient penalty R1 on real images (Mescheder et al. 2018, eq. 9)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """mean(-log s(D(real))) + mean(-log(1 - s(D(fake)))), s the sigmoid; (N,), (N,) -> scalar."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """mean(-log s(D(fake))); logits float (N,) -> scalar."""
    return F.softplus(-fake_logits).mean()


def r1_penalty(real_logits: Tensor, real: Tensor) -> Tensor:
    """mean(|grad_x D(x)|^2) / 2 over real images float (N, 3, H, W) -> scalar, differentiable.

    real_logits float (N,) must have been computed from ``real``, which requires grad.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2
