"""Names of arms as users write them: which arm each means, and what it needs.

``a+b`` puts the loss of ``b`` on the data of ``a``.
"""

import difflib
from collections.abc import Mapping, Sequence
from functools import partial

from signforge.benchmark.arms import ARMS, TENTH, Arm, ArmContext, ArmSetup, LossArm
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError

_GATED = frozenset(
    {
        "synthetic",
        "synthetic_tenth",
        "synthetic_then_real",
        "synthetic_separate_statistics",
        "synthetic_tenth_separate_statistics",
        "synthetic_relit",
        "synthetic_tenth_relit",
    }
)
_GENERATIVE = _GATED | {"synthetic_ungated"}
_UNGATED = frozenset(ARMS) - _GATED


def select_arms(names: Sequence[str], arms: Mapping[str, Arm] = ARMS) -> dict[str, Arm]:
    """The named arms in that order, each once; ``a+b`` is the loss ``b`` on the data of ``a``.

    Raises SignforgeError for an unknown name, with the known ones, for a combination that is not
    one of data and one loss, and for no name at all.
    """
    if not names:
        raise SignforgeError(f"No arm to run; choose some of {', '.join(arms)}.")
    return {name: arms[name] if name in arms else _combination(name, arms) for name in names}


def needs_generator(names: Sequence[str]) -> bool:
    """Whether a shipped arm among ``names`` draws from a generator."""
    return not _GENERATIVE.isdisjoint(arms_within(names))


def share_drawn(names: Sequence[str]) -> float:
    """Of the images that balancing adds, the share that the shipped arms in ``names`` draw."""
    if not needs_generator(names):
        return 0.0
    return 1 / TENTH if any("_tenth" in name for name in arms_within(names)) else 1.0


def may_use_gate(names: Sequence[str]) -> bool:
    """Whether an arm among ``names`` draws through the gate, or is not a shipped one and may."""
    return not _UNGATED.issuperset(arms_within(names))


def needs_cosines(names: Sequence[str]) -> bool:
    """Whether a shipped arm among ``names`` wants a classifier whose last layer gives cosines."""
    return "ldam_drw" in arms_within(names)


def arms_within(names: Sequence[str]) -> set[str]:
    """The arms that ``names`` are made of, combinations taken apart."""
    return {part for name in names for part in name.split("+")}


def _combination(name: str, arms: Mapping[str, Arm]) -> Arm:
    parts = name.split("+")
    for part in parts:
        if part not in arms:
            closest = difflib.get_close_matches(part, arms, n=1)
            hint = f" (did you mean {closest[0]}?)" if closest else ""
            raise SignforgeError(f"Unknown arm {part!r}{hint}: the arms are {', '.join(arms)}.")
    loss = arms[parts[-1]]
    if len(parts) != 2 or isinstance(arms[parts[0]], LossArm) or not isinstance(loss, LossArm):
        losses = [key for key, arm in arms.items() if isinstance(arm, LossArm)]
        data = [key for key in arms if key not in losses]
        raise SignforgeError(
            f"The arm {name!r} is no combination: write one of {', '.join(data)}, then + and one "
            f"of {', '.join(losses)}."
        )
    return partial(_combined, data=arms[parts[0]], loss=loss)


def _combined(train: LabeledImages, context: ArmContext, *, data: Arm, loss: LossArm) -> ArmSetup:
    return loss.on(data(train, context))
