"""Exponential moving average of the generator, with its length counted in images.

Half-life and ramp-up as in StyleGAN2-ADA (Karras et al. 2020, training loop).
"""

import copy

import torch
from torch import nn

RAMP_UP = 0.1


def ema_copy(model: nn.Module) -> nn.Module:
    """A frozen copy to average into."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def ema_decay(batch_size: int, halflife_kimg: float, seen_kimg: float) -> float:
    """0.5 ** (batch / half-life); the half-life is at most a tenth of what was seen so far."""
    halflife_images = min(halflife_kimg, seen_kimg * RAMP_UP) * 1000
    return float(0.5 ** (batch_size / max(halflife_images, 1e-8)))


@torch.no_grad()
def ema_update(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * model, parameters and batch-norm statistics alike."""
    sources = dict(model.named_parameters())
    targets = dict(ema.named_parameters())
    torch._foreach_lerp_(list(targets.values()), [sources[name] for name in targets], 1 - decay)
    for target, source in zip(ema.buffers(), model.buffers(), strict=True):
        if target.is_floating_point():
            target.lerp_(source, 1 - decay)
        else:
            target.copy_(source)
