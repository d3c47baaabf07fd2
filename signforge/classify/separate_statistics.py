"""Synthetic rows of a batch normalised by their own batch statistics, apart from the real ones.

After the auxiliary batch norm of Xie et al. (2020, "Adversarial examples improve image
recognition", 1911.09665, section 4), with gains and biases shared: what differs between the two
kinds of image as a whole is taken out of both, and the running statistics, which the finished
classifier is used with, are those of real images alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from signforge.device import to_device

FEWEST = 2
"""Rows that batch norm needs to train on."""


def forward_apart(
    forward: Callable[[Tensor], Tensor], model: nn.Module, inputs: Tensor, synthetic: Tensor
) -> Tensor:
    """Logits (N, C) of float (N, 3, R, R), as ``forward(inputs)`` gives them but for batch norms.

    forward: the model, or the same compiled. synthetic: bool (N,) on the CPU, which rows are to be
        normalised by themselves. With fewer than two rows of either kind all go together.
    """
    count = int(synthetic.sum())
    if min(count, len(inputs) - count) < FEWEST:
        return forward(inputs)
    # Row numbers, since a GPU would have to be asked how many rows a mask on it lets through.
    own, others = (
        to_device(kind.nonzero().flatten(), inputs.device) for kind in (~synthetic, synthetic)
    )
    real_logits = forward(inputs[own])
    with _running_statistics_kept(model):
        synthetic_logits = forward(inputs[others])
    logits = torch.empty(
        (len(inputs), real_logits.shape[1]), dtype=real_logits.dtype, device=real_logits.device
    )
    return logits.index_put((own,), real_logits).index_put((others,), synthetic_logits)


@contextmanager
def _running_statistics_kept(model: nn.Module) -> Iterator[None]:
    """Batch norms go on normalising by the batch, and leave no trace of it."""
    norms = [norm for norm in model.modules() if isinstance(norm, _BatchNorm)]
    tracked = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, value in zip(norms, tracked, strict=True):
            norm.track_running_stats = value
