"""What a training begins with less of: the class in both networks, and the balance of classes.

Conditioning that fades in: Shahbazi et al. 2022, "Collapse by conditioning" (eq. 3); they start
without any class and let it in over a while, so that classes with few images do not collapse.
"""

from typing import cast

from signforge.config import GanConfig
from signforge.gan.batches import BatchSource
from signforge.gan.checkpoint import TrainingState
from signforge.gan.networks import ConditionalGenerator, ProjectionDiscriminator


def warmup_progress(warmup_kimg: float, seen_kimg: float) -> float:
    """0 at the start, 1 from ``warmup_kimg`` on, linear between; 1 throughout without a warm-up."""
    return min(seen_kimg / warmup_kimg, 1.0) if warmup_kimg else 1.0


def set_warmup(
    state: TrainingState, batches: BatchSource, config: GanConfig, seen_kimg: float
) -> None:
    """Sets what depends on ``seen_kimg`` for the next step; the EMA generator samples in full."""
    if config.class_prior_warmup_kimg:
        batches.warm_up_prior(warmup_progress(config.class_prior_warmup_kimg, seen_kimg))
    if config.conditioning_warmup_kimg:
        strength = warmup_progress(config.conditioning_warmup_kimg, seen_kimg)
        cast(ConditionalGenerator, state.generator).class_strength.fill_(strength)
        cast(ProjectionDiscriminator, state.discriminator).class_strength.fill_(strength)
