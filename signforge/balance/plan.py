"""BalancePlan: which remedy serves each class best, with the evidence; a valid sampling_strategy.

One YAML file a plan, written by ``signforge plan`` (see ``balance.decision`` for how the remedies
are chosen), short enough to be read and changed by hand.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import torch
import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from torch import Tensor

from signforge.config import Section
from signforge.errors import SignforgeError
from signforge.files import write_atomically
from signforge.yaml_text import parse_yaml

PLAN_FORMAT: Final = "signforge-balance-plan-1"
_ANY_PLAN = "signforge-balance-plan-"
POLICIES = ("auto", "minority", "not minority", "not majority", "all")
"""Names of strategies, which are never taken for the path of a file."""

Remedy = Literal["synthetic", "oversample", "nothing"]
TriedRemedy = Literal["synthetic", "oversample"]
Count = Annotated[int, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class RemedyEvidence(Section):
    """Gain in validation recall of one class over training on the real images as they are."""

    gain: Finite
    """Mean over seeds and over the class's validation groups, as a share: 0.01 is one point."""
    standard_error: Finite
    posterior_mean: Finite
    """``gain`` after shrinkage over classes."""
    posterior_sd: Finite
    probability: Share
    """That the gain is above zero."""


class ClassDecision(Section):
    """What is done for one class.

    Raises SignforgeError (through ``BalancePlan.load``) for a count below ``real_count``, and for
    a count above it with the remedy "nothing".
    """

    name: str
    remedy: Remedy
    count: Count
    """Images of the class in the balanced set, real ones included."""
    real_count: Count
    num_groups: Count = 0
    """Validation groups (physical signs) that the evidence rests on."""
    num_images: Count = 0
    """Validation images in them."""
    acceptance: Share | None = None
    """Share of trial draws of the generator that the gate kept; None without a gate."""
    evidence: dict[TriedRemedy, RemedyEvidence] = {}  # noqa: RUF012  (pydantic copies it)

    @model_validator(mode="after")
    def _count_fits_remedy(self) -> Self:
        if self.count < self.real_count:
            raise ValueError(f"count {self.count} is below real_count {self.real_count}")
        if self.remedy == "nothing" and self.count != self.real_count:
            raise ValueError(
                f"remedy nothing goes with count {self.real_count} (real_count), not {self.count}"
            )
        return self


class PlanProtocol(Section):
    """How the evidence was made."""

    seeds: tuple[int, ...]
    steps: int
    """Optimizer steps of each classifier."""
    batch_size: int
    classifier: str
    confidence: Share
    """Least probability of a gain at which a class gets a remedy."""
    sampling_strategy: str | dict[str, int]
    """What the tried remedies filled up to."""
    max_synthetic_fraction: Share
    refresh: Share
    gate_tau: Share | None = None
    """Threshold of the ClassifierGate that the samples went through; None without."""
    min_acceptance: Share
    """Share of accepted trial draws below which a class may not be filled with samples."""


class BalancePlan(Section):
    """One decision a class, in label order, and what it was made from.

    A plan written by hand needs ``format`` and, for each class, name, remedy, count, real_count.
    """

    format: Literal["signforge-balance-plan-1"] = PLAN_FORMAT
    decisions: tuple[ClassDecision, ...]
    generator_fingerprint: str | None = None
    train_fingerprint: str | None = None
    val_fingerprint: str | None = None
    protocol: PlanProtocol | None = None
    versions: dict[str, str | None] = {}  # noqa: RUF012  (pydantic copies it)
    command: str = ""

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(decision.name for decision in self.decisions)

    def counts(self) -> dict[int, int]:
        """{class id: images it shall have} of the classes that get a remedy.

        Classes with the remedy "nothing" are left out: they stay as they are, however many real
        images there are.
        """
        return {
            label: decision.count
            for label, decision in enumerate(self.decisions)
            if decision.remedy != "nothing"
        }

    def with_counts(self, counts: Tensor, real_counts: Tensor) -> Self:
        """The same remedies up to other counts, int64 (C,) as ``real_counts`` are.

        A class that nothing is added to gets the remedy "nothing".
        """
        decisions = [
            decision.model_copy(
                update={
                    "count": count,
                    "real_count": real,
                    "remedy": decision.remedy if count > real else "nothing",
                }
            )
            for decision, count, real in zip(
                self.decisions, counts.tolist(), real_counts.tolist(), strict=True
            )
        ]
        return self.model_copy(update={"decisions": tuple(decisions)})

    def oversampled(self) -> Tensor:
        """Whether a class is filled up with real images instead of samples: bool (C,)."""
        remedies = [decision.remedy == "oversample" for decision in self.decisions]
        return torch.tensor(remedies, dtype=torch.bool)

    def check(
        self, class_names: Sequence[str], generator_fingerprint: str | None = None
    ) -> str | None:
        """A sentence of warning where the plan was made with another generator, else None.

        Raises SignforgeError where the plan is for other classes.
        """
        ours, theirs = self.class_names, tuple(class_names)
        if len(ours) != len(theirs):
            raise SignforgeError(
                f"The balance plan is for {len(ours)} classes, the data has {len(theirs)}; make "
                "one for these classes with `signforge plan`."
            )
        for label, (name, other) in enumerate(zip(ours, theirs, strict=True)):
            if name != other:
                raise SignforgeError(
                    f"Class {label} is {name!r} in the balance plan but {other!r} in the data; "
                    "make a plan for these classes with `signforge plan`."
                )
        made_with = self.generator_fingerprint
        if made_with is None or generator_fingerprint in (None, made_with):
            return None
        return (
            "The balance plan was made with another generator "
            f"({made_with[:12]}, now {str(generator_fingerprint)[:12]}), so its choice of classes "
            "for synthetic images may not hold; make one for this generator with `signforge plan`."
        )

    def to_yaml(self) -> str:
        """What ``load`` reads back to an equal plan."""
        values = self.model_dump(mode="json")
        readable = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
        # PyYAML writes some line breaks of Unicode, such as U+0085, as they are and reads others.
        if yaml.safe_load(readable) == values:
            return readable
        return yaml.safe_dump(values, sort_keys=False, width=100)

    def save(self, path: str | Path) -> None:
        """Writes the YAML file, whole or not at all; raises SignforgeError where it cannot."""
        write_atomically(Path(path), self.to_yaml().encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The plan in a YAML file.

        Raises SignforgeError, naming file and key, where it cannot be read or holds anything but
        a plan, an unknown key included.
        """
        try:
            values = parse_yaml(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise SignforgeError(f"Cannot read balance plan {path}: {reason}.") from None
        except yaml.YAMLError as error:
            raise SignforgeError(
                f"Balance plan {path} is not valid YAML: {' '.join(str(error).split())}"
            ) from None
        if not isinstance(values, dict) or values.get("format") != PLAN_FORMAT:
            found = values.get("format") if isinstance(values, dict) else type(values).__name__
            raise SignforgeError(
                f"{path} is not a balance plan that this version reads: its format is {found!r}, "
                f"not {PLAN_FORMAT!r}; make one with `signforge plan`."
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SignforgeError(_first_problem(error, values, path)) from None


def as_plan(strategy: object) -> BalancePlan | None:
    """``strategy`` as a plan: a BalancePlan itself, or the path of its file; None for all else.

    Raises SignforgeError for a file that says it is a plan and is not a valid one.
    """
    if isinstance(strategy, BalancePlan):
        return strategy
    if not isinstance(strategy, (str, Path)) or strategy in POLICIES:
        return None
    try:
        text = Path(strategy).read_text(encoding="utf-8")
        values = parse_yaml(text) if _ANY_PLAN in text else None
    except (OSError, ValueError, yaml.YAMLError):
        return None  # no file, or none of ours: whoever reads counts from it says what is wrong
    if not isinstance(values, dict) or not str(values.get("format")).startswith(_ANY_PLAN):
        return None
    return BalancePlan.load(strategy)


def _first_problem(error: ValidationError, values: Mapping[str, Any], path: str | Path) -> str:
    """One sentence: file, key, what is wrong with it."""
    first = error.errors()[0]
    place = first["loc"]
    key = ".".join(str(part) for part in place) or "the plan"
    if len(place) >= 2 and place[0] == "decisions" and isinstance(place[1], int):
        decision = values["decisions"][place[1]]
        if isinstance(decision, dict):
            key += f" (class {decision.get('name', place[1])!r})"
    if first["type"] == "extra_forbidden":
        closest = difflib.get_close_matches(str(place[-1]), _known_keys(), n=1)
        hint = f"did you mean {closest[0]}?" if closest else "remove it."
        return f"{path}: unknown key {key}; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{path}: {key} is not valid: {message}."


def _known_keys() -> list[str]:
    parts: tuple[type[BaseModel], ...] = (BalancePlan, ClassDecision, PlanProtocol, RemedyEvidence)
    return [key for part in parts for key in part.model_fields]
