"""The fixtures of support.templates."""

from support.templates import make_real, make_sampler

__all__ = ["make_real", "make_sampler"]
