"""Modules and optimizers as one flat mapping of tensors, and back: what checkpoints keep.

Flat tensors are what safetensors can hold, which runs no code when it is read.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def flatten_state(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """Copies on the CPU of all weights, buffers and moments, under ``name.key``."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            tensors[f"{name}.{key}"] = value.detach().cpu().contiguous()
    for name, optimizer in optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"{name}.{index}.{key}"] = value.detach().cpu().contiguous()
    # safetensors refuses tensors that share memory.
    return {key: value.clone() for key, value in tensors.items()}


def restore_state(
    tensors: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
) -> None:
    """Puts what ``flatten_state`` made into modules and optimizers of the same kind, in place.

    Raises what torch raises for others: RuntimeError, LookupError, ValueError or TypeError.
    """
    for name, module in modules.items():
        module.load_state_dict(state_below(tensors, name))
    for name, optimizer in optimizers.items():
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state_below(tensors, name).items():
            index, _, moment = key.partition(".")
            if value.shape == weights[int(index)].shape:
                # Fused Adam walks through memory and never looks at strides, so moments must lie
                # as their channels_last weights do.
                value = torch.empty_like(weights[int(index)].detach()).copy_(value)
            moments.setdefault(int(index), {})[moment] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})


def state_below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those under ``prefix.``, without it."""
    start = f"{prefix}."
    return {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}
