"""What the checks of all kinds share."""

import random
from typing import Any

import numpy as np
import torch


def require(condition: bool, sentence: str) -> None:
    """Raises AssertionError with ``sentence`` unless ``condition`` holds."""
    # Not `assert`, which `python -O` removes.
    if not condition:
        raise AssertionError(sentence)


def random_states() -> dict[str, Any]:
    """The global random states as values that compare by ``==``."""
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    states: dict[str, Any] = {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (np.asarray(keys).tolist(), position, has_gauss, gauss),
        "random": random.getstate(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["torch.cuda"] = [state.tolist() for state in torch.cuda.get_rng_state_all()]
    return states
