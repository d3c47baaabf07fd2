"""Real images that fill up a class: each of them equally often, or once more."""

import torch
from torch import Tensor


def repeat_evenly(rows: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """``count`` of ``rows``, each equally often or once more: int64 (n > 0,) -> int64 (count,).

    Those of the last, partial repetition are drawn without replacement.
    """
    whole, rest = divmod(count, len(rows))
    partial = rows[torch.randperm(len(rows), generator=rng)[:rest]]
    return torch.cat([rows.repeat(whole), partial])
