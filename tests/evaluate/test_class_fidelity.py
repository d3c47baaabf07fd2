import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor
from torchmetrics.image.fid import _compute_fid

from signforge.evaluate.class_fidelity import class_frechet_distances, class_kids
from signforge.evaluate.fidelity import kid


def features(labels: Tensor, d: int, seed: int) -> Tensor:
    """Correlated, not centred, another mean and spread in each class."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(9)) / d**0.5
    noise = torch.randn(len(labels), d, generator=rng) * (1 + labels[:, None])
    return noise @ mixing + labels[:, None] + 0.1 * seed


def test_every_class_agrees_with_scipy_and_torchmetrics() -> None:
    """More and fewer images than the 40 features."""
    labels = torch.arange(4).repeat_interleave(torch.tensor([2, 15, 40, 150]))
    other = torch.arange(4).repeat_interleave(torch.tensor([3, 15, 90, 20]))
    real, fake = features(labels, 40, 0), features(other, 40, 1)
    found = class_frechet_distances(real, labels, fake, other, 4)
    for label, ours in enumerate(found):
        x, y = real[labels == label].double(), fake[other == label].double()
        first, second = x.T.cov(), y.T.cov()
        theirs = _compute_fid(x.mean(0), first, y.mean(0), second)
        assert ours == pytest.approx(float(theirs), rel=1e-6)
        # A singular product has no square root that scipy finds without a warning.
        values, vectors = linalg.eigh(first.numpy())
        root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
        overlap = np.sqrt(linalg.eigvalsh(root @ second.numpy() @ root).clip(min=0)).sum()
        traces = float(first.trace() + second.trace())
        shift = float((x.mean(0) - y.mean(0)).square().sum())
        assert ours == pytest.approx(shift + traces - 2 * overlap, rel=1e-6)


def test_a_class_of_one_image_has_no_distance() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    values = features(labels, 5, 0)
    fakes = torch.tensor([0, 0, 1, 1, 1, 1])
    distances = class_frechet_distances(values, labels, values, fakes, 3)
    assert distances[0] is not None
    assert distances[1:] == (None, None)
    assert class_kids(values, labels, values, fakes, 3)[1:] == (None, None)


def test_kid_of_a_class_is_kid_of_its_rows() -> None:
    labels = torch.arange(60) % 3
    real, fake = features(labels, 6, 0), features(labels, 6, 1)
    found = class_kids(real, labels, fake, labels, 3)
    assert found == tuple(kid(real[labels == c], fake[labels == c]) for c in range(3))
