"""The learning rates of each step: how far they have fallen, and where time alone ends the run."""

from signforge.config import GanConfig
from signforge.gan.metrics import Progress


def learning_rate_factor(
    config: GanConfig, seen_kimg: float, reachable_kimg: float | None = None
) -> float:
    """1 until ``learning_rate_decay_from_kimg``, then linearly down to 0 at ``total_kimg``.

    reachable_kimg: where the time ends before ``total_kimg``, what can be seen until then; the
        fall then begins and ends in proportion.
    """
    start, total = config.learning_rate_decay_from_kimg, config.total_kimg
    if reachable_kimg is not None and start is not None:
        start, total = start * reachable_kimg / total, reachable_kimg
    if start is None or seen_kimg <= start:
        return 1.0
    return max(1 - (seen_kimg - start) / max(total - start, 1e-9), 0.0)


def reachable_kimg(config: GanConfig, progress: Progress) -> float | None:
    """What will have been seen when ``max_minutes`` are over, at the pace so far, later
    probes and grids included; None where ``total_kimg`` comes first.
    """
    if config.max_minutes is None:
        return None
    kimg_per_second = progress.seen_kimg / max(progress.seconds - progress.one_off_seconds, 1e-9)
    seconds_left = max(config.max_minutes * 60 - progress.seconds, 0.0)
    reachable = progress.seen_kimg + kimg_per_second * seconds_left
    return reachable if reachable < config.total_kimg else None


def learning_rates(config: GanConfig, progress: Progress) -> tuple[float, float]:
    """Of the generator and the discriminator in the next step; each rollback halved them."""
    factor = learning_rate_factor(config, progress.seen_kimg, progress.reachable_kimg)
    factor *= 0.5**progress.rollbacks
    return config.generator_learning_rate * factor, config.discriminator_learning_rate * factor
