"""Shares that options give, as exact fractions."""

from fractions import Fraction
from typing import Any

from signforge.errors import SignforgeError


def exact_share(share: Any, option: str) -> Fraction:
    """``share`` as it is written: 0.9 is 9/10, which the float is not.

    Raises SignforgeError, naming ``option``, for anything but a number in 0..1.
    """
    try:
        inside = 0 <= float(share) <= 1
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last from tensors of several
        inside = False
    if not inside:
        raise SignforgeError(f"{option} must lie in 0..1, got {share}.")
    try:
        return Fraction(str(share))
    except ValueError:  # True, or a tensor, which are not written as numbers
        return Fraction(str(float(share)))
