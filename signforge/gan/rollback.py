"""Divergence: telling that a state is no longer usable, and going back to one that is.

Steps draw their randomness from (seed, step), so the same batches come again after a rollback;
what differs are the learning rates, halved each time.
"""

from dataclasses import replace
from pathlib import Path

import torch

from signforge.config import GanConfig
from signforge.errors import SignforgeError
from signforge.gan.checkpoint import (
    TrainingState,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from signforge.gan.metrics import Progress, forget_after


def is_finite(state: TrainingState) -> bool:
    """Whether every weight, statistic and moment is; waits for the device once.

    Gradients may all be finite and still carry a weight, or its second moment, out of range.
    """
    tensors = [
        tensor for module in state.modules().values() for tensor in module.state_dict().values()
    ]
    for optimizer in state.optimizers().values():
        tensors += [tensor for moments in optimizer.state.values() for tensor in moments.values()]
    flags = [tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point()]
    return bool(torch.stack([flag.to(flags[0].device) for flag in flags]).all())


def roll_back(run: Path, state: TrainingState, config: GanConfig, progress: Progress) -> Progress:
    """Puts the newest checkpoint back into ``state``, to go on from at half the learning rates.

    The rollback is noted in that checkpoint first, so a kill does not forget it.

    Raises SignforgeError, naming the checkpoint, after ``max_rollbacks`` of them.
    """
    last_good = list_checkpoints(run)[-1]
    if progress.rollbacks >= config.max_rollbacks:
        halvings = (
            f" even after going back {progress.rollbacks} times at half the learning rates"
            if progress.rollbacks
            else ""
        )
        raise SignforgeError(
            f"The GAN's loss or gradients are not finite after {progress.seen_kimg:.0f} kimg"
            f"{halvings}; the last good checkpoint is {last_good}; start a new run with lower "
            "gan.generator_learning_rate and gan.discriminator_learning_rate."
        )
    # What was lost is a pause: it took time, and no step that is left to count.
    back = load_checkpoint(last_good, state).after_pause(progress.seconds)
    restored = replace(back, rollbacks=progress.rollbacks + 1)
    save_checkpoint(run, state, restored, config.keep_checkpoints)
    forget_after(run / "metrics.jsonl", restored)
    return restored
