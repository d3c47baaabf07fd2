from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from signforge.balance.shares import exact_share
from signforge.errors import SignforgeError


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0, Fraction(0)),
        (0.9, Fraction(9, 10)),
        (1e-3, Fraction(1, 1000)),
        (True, Fraction(1)),
        (Fraction(1, 3), Fraction(1, 3)),
        (Decimal("0.3"), Fraction(3, 10)),
        (np.float32(0.1), Fraction(1, 10)),
        (torch.tensor(0.25), Fraction(1, 4)),
    ],
    ids=repr,
)
def test_a_share_is_what_is_written(share, expected):
    assert exact_share(share, "refresh") == expected


@pytest.mark.parametrize(
    "share",
    [-0.1, 1.1, 2, float("nan"), float("inf"), 10**400, None, "much", [0.5], torch.zeros(2)],
    ids=lambda share: str(share)[:9],
)
def test_what_is_no_share_is_named_with_its_option(share):
    with pytest.raises(SignforgeError, match=r"^refresh must lie in 0\.\.1, got "):
        exact_share(share, "refresh")
