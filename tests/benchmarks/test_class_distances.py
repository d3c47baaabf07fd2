"""The three ways agree, and the table says how much faster one of them is."""

import pytest
import torch
from class_distances import WAYS, measure, speed_table


@pytest.fixture(scope="module")
def found():
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(torch.tensor([12, 30, 70]))
    mixing = torch.randn(48, 48, generator=rng)
    real, fake = torch.randn(2, len(labels), 48, generator=rng) @ mixing + labels[:, None]
    return measure(real, fake, labels, rounds=2)


def test_the_ways_agree(found):
    assert found["images"] == [12, 30, 70]
    assert set(found["distances"]) == set(WAYS)
    assert all(len(values) == 3 and min(values) > 0 for values in found["distances"].values())
    assert max(found["largest_relative_difference"].values()) < 1e-6


def test_a_line_for_each_way(found):
    found = {**found, "seconds": {"torchmetrics": [4.0, 6.0], "scipy": [10.0] * 2}}
    found["seconds"]["signforge"] = [0.5, 0.5]
    text = speed_table(found)
    assert "3 classes, 12 to 70 images a side, 48 features" in text
    assert "| torchmetrics | 5.00 (4.00 to 6.00) | 10.0 |" in text
    assert "| scipy | 10.00 (10.00 to 10.00) | 20.0 |" in text
    assert "| signforge | 0.50 (0.50 to 0.50) | 1.0 | - |" in text
