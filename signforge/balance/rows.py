"""The rows of every class, looked up without a pass over all labels for each."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RowsByClass:
    """order: int64 (N,), rows sorted by class. starts: int64 (C + 1,), where each class begins."""

    order: Tensor
    starts: Tensor

    def __getitem__(self, label: int) -> Tensor:
        """The rows of class ``label`` in rising order: int64 (n,)."""
        return self.order[int(self.starts[label]) : int(self.starts[label + 1])]


def rows_by_class(labels: Tensor, num_classes: int) -> RowsByClass:
    """labels: int64 (N,), each in 0..num_classes - 1."""
    counts = torch.bincount(labels, minlength=num_classes)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return RowsByClass(order=labels.argsort(stable=True), starts=starts)
