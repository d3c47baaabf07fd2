"""Whether a generator, the real data and a gate speak of the same classes."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from signforge.balance.gate import Gate
from signforge.balance.labels import known_class_names
from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler, load_sampler

_SAMPLER_MEMBERS = ("num_classes", "resolution", "class_names", "fingerprint", "sample")


def as_sampler(
    generator: str | os.PathLike[str] | ClassConditionalSampler,
) -> ClassConditionalSampler:
    """The generator of a run directory, or ``generator`` itself.

    Raises SignforgeError as ``load_sampler`` does, and for an object that is no sampler.
    """
    if isinstance(generator, (str, os.PathLike)):
        return load_sampler(Path(generator))
    missing = [name for name in _SAMPLER_MEMBERS if not hasattr(generator, name)]
    if missing:
        raise SignforgeError(
            f"generator is a {type(generator).__name__} without {', '.join(missing)}: give a run "
            "directory or an object that implements ClassConditionalSampler."
        )
    return generator


def matching_class_names(
    real: Dataset[Any],
    real_labels: Tensor,
    class_names: Sequence[str] | None,
    sampler: ClassConditionalSampler,
) -> tuple[str, ...]:
    """The names of the classes: those given, else those that ``real`` has, else the sampler's.

    real_labels: int64 (N,), N > 0. Raises SignforgeError where the data and the sampler have
    other classes, and for a sampler whose names are none.
    """
    names = tuple(class_names) if class_names is not None else known_class_names(real)
    seen = int(real_labels.max()) + 1
    num_real = seen if names is None else len(names)
    if seen > num_real:
        raise SignforgeError(
            f"The real data has labels up to {seen - 1}, but only {num_real} class names."
        )
    if num_real != sampler.num_classes:
        raise SignforgeError(
            f"The real data has {num_real} classes, the generator draws {sampler.num_classes}: "
            "use a generator trained on these classes, or pass class_names= if the real data "
            "lacks images of its last classes."
        )
    theirs = _names_of(sampler)
    if names is None:
        return theirs or tuple(str(label) for label in range(num_real))
    if theirs:
        for label, (ours, other) in enumerate(zip(names, theirs, strict=True)):
            if ours != other:
                raise SignforgeError(
                    f"Class {label} is {ours!r} in the real data but {other!r} to the generator; "
                    "if they are the same classes in the same order, pass the generator's names as "
                    "class_names=."
                )
    return names


def _names_of(sampler: ClassConditionalSampler) -> tuple[str, ...]:
    """One for each class, or none at all."""
    names: object = sampler.class_names
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise SignforgeError(
            f"The generator's class_names must be a tuple of str, got {names!r}; an empty one says "
            "that its classes have no names."
        )
    found = tuple(names)
    if len(found) not in (0, sampler.num_classes):
        raise SignforgeError(
            f"The generator's class_names holds {len(found)} names, but its num_classes is "
            f"{sampler.num_classes}; an empty tuple says that its classes have no names."
        )
    return found


def check_gate_classes(gate: Gate | None, class_names: tuple[str, ...]) -> None:
    """Raises SignforgeError for a gate that says it was made for other classes."""
    theirs = getattr(gate, "class_names", None)
    if theirs is None or tuple(theirs) == class_names:
        return
    if len(theirs) != len(class_names):
        difference = f"{len(theirs)} classes, the data has {len(class_names)}"
    else:
        pairs = enumerate(zip(theirs, class_names, strict=True))
        label, (other, ours) = next(pair for pair in pairs if pair[1][0] != pair[1][1])
        difference = f"other classes: class {label} is {other!r} to it but {ours!r} in the data"
    raise SignforgeError(
        f"The gate was made for {difference}; fit it on the training images of this data."
    )
