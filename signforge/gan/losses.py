"""Hinge losses of the adversarial game (Lim & Ye 2017; Miyato et al. 2018, eqs. 16 and 17)."""

from torch import Tensor
from torch.nn import functional as F


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """mean(max(0, 1 - D(real))) + mean(max(0, 1 + D(fake))); logits float (N,) -> scalar."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    """-mean(D(fake)); logits float (N,) -> scalar."""
    return -fake_logits.mean()
