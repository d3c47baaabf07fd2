"""sampling_strategy -> how many images each class shall have.

The policies and their meaning are imbalanced-learn's for over-sampling (``imblearn.utils.
check_sampling_strategy``, Lemaitre et al., JMLR 18, 2017), with a cap on synthetic images added;
callables get counts in place of its array of labels.
"""

import difflib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
import yaml
from torch import Tensor

from signforge.balance.plan import POLICIES as POLICIES
from signforge.balance.plan import BalancePlan, as_plan
from signforge.balance.shares import exact_share
from signforge.data.classes import id_in_digits
from signforge.errors import SignforgeError
from signforge.files import sha256
from signforge.yaml_text import parse_yaml

Counts: TypeAlias = Mapping[str, int] | Mapping[int, int] | Mapping[str | int, int]
SamplingStrategy: TypeAlias = (
    str | Path | float | Counts | Callable[[dict[int, int]], Counts] | BalancePlan
)

_LARGEST_COUNT = 10**12


def resolve_sampling_strategy(
    strategy: SamplingStrategy,
    class_counts: Tensor,
    *,
    class_names: Sequence[str],
    max_synthetic_fraction: float = 1.0,
) -> Tensor:
    """Images that each class shall have, real and synthetic together: int64 (C,).

    class_counts: int64 (C,), real images of each class. class_names: C names.

    strategy:
        ``"not majority"``, and ``"auto"``, which means the same: every class but the largest is
            filled up to the size of the largest.
        ``"minority"``, ``"not minority"``: only, or all but, the smallest class. Of several
            classes of the same size the first is the smallest or the largest.
        ``"all"``: every class (the largest already has its target).
        float in (0, 1], two classes only: the smaller class becomes this share of the larger,
            rounded down; it must add images.
        mapping {class: count}: the classes named get these counts, the others stay. A class is
            an id (int) or a name; a string that is no name but an integer is an id.
        callable: takes {class id: real count}, returns such a mapping.
        path of a YAML file that holds such a mapping; its keys are strings, quoted or not.
        BalancePlan, or the path of its file: the classes with a remedy get the plan's counts.

    max_synthetic_fraction: f lowers targets so that synthetic / (real + synthetic) <= f in each
        class, that is synthetic <= floor(real * f / (1 - f)); 1.0 is no cap, 0.0 is no synthetic
        image. Real images are never removed, and classes that a plan oversamples keep its counts.

    Raises SignforgeError, naming the class, for a target below the real count, an unknown class,
    and a class without real images that is to be filled; for a plan made for other classes; and
    for a strategy that is none of the above.
    """
    counts = [int(count) for count in class_counts]
    names = tuple(str(name) for name in class_names)
    if len(names) != len(counts):
        raise SignforgeError(f"{len(counts)} class counts but {len(names)} class names were given.")
    share = exact_share(max_synthetic_fraction, "max_synthetic_fraction")
    plan = as_plan(strategy)
    if plan is None:
        targets = _targets(strategy, counts, names)
        oversampled = [False] * len(counts)
    else:
        plan.check(names)
        targets = _mapping_targets(plan.counts(), counts, names, "balance plan")
        oversampled = plan.oversampled().tolist()
    most = [
        None if repeated else _most_with_cap(count, share)
        for count, repeated in zip(counts, oversampled, strict=True)
    ]
    capped = [
        target if limit is None else min(target, limit)
        for target, limit in zip(targets, most, strict=True)
    ]
    return torch.tensor(capped, dtype=torch.int64)


def strategy_file_sha256(strategy: object) -> str | None:
    """Of the content, where ``strategy`` is the path of a file of counts or of a plan; else None.

    What decides the counts is the content; the same path may hold another one tomorrow.
    Raises SignforgeError for a file that cannot be read.
    """
    if not isinstance(strategy, (str, Path)) or strategy in POLICIES:
        return None
    return sha256(_read_text(strategy).encode())


def describe_class(label: int, class_names: Sequence[str]) -> str:
    """How messages name a class: its id, and its name where it has one of its own."""
    name = class_names[label]
    return f"class {label}" if name == str(label) else f"class {label} ({name!r})"


def _targets(strategy: object, counts: list[int], names: tuple[str, ...]) -> list[int]:
    if isinstance(strategy, str) and strategy in POLICIES:
        return _policy_targets(strategy, counts, names)
    if isinstance(strategy, (str, Path)):
        origin = f"sampling_strategy file {strategy}"
        return _mapping_targets(_read_yaml(strategy), counts, names, origin)
    if isinstance(strategy, Mapping):
        return _mapping_targets(strategy, counts, names, "sampling_strategy")
    if isinstance(strategy, (int, float)) and not isinstance(strategy, bool):
        return _ratio_targets(float(strategy), counts, names)
    if callable(strategy):
        chooser = cast(Callable[[dict[int, int]], object], strategy)
        chosen = chooser(dict(enumerate(counts)))
        origin = "sampling_strategy callable"
        if not isinstance(chosen, Mapping):
            raise SignforgeError(
                f"{origin}: must return {{class: count}}, returned {type(chosen).__name__}."
            )
        return _mapping_targets(chosen, counts, names, origin)
    raise SignforgeError(
        f"sampling_strategy cannot be a {type(strategy).__name__}: use {', '.join(POLICIES)}, "
        "{class: count}, a callable, a YAML file, a plan, or a float for two classes."
    )


def _policy_targets(policy: str, counts: list[int], names: tuple[str, ...]) -> list[int]:
    _refuse_empty_classes(counts, names)
    largest = max(counts)
    minority, majority = counts.index(min(counts)), counts.index(largest)
    everyone = set(range(len(counts)))
    filled = {
        "auto": everyone - {majority},
        "not majority": everyone - {majority},
        "not minority": everyone - {minority},
        "minority": {minority},
        "all": everyone,
    }[policy]
    return [largest if label in filled else count for label, count in enumerate(counts)]


def _ratio_targets(ratio: float, counts: list[int], names: tuple[str, ...]) -> list[int]:
    if len(counts) != 2:
        raise SignforgeError(
            f"sampling_strategy {ratio} is a ratio, which only two classes can have, but there "
            f"are {len(counts)}: use {{class: count}}."
        )
    if not (math.isfinite(ratio) and 0 < ratio <= 1):
        raise SignforgeError(f"sampling_strategy {ratio} is a ratio and must lie in (0, 1].")
    _refuse_empty_classes(counts, names)
    majority = counts.index(max(counts))
    minority = 1 - majority
    target = int(counts[majority] * Fraction(str(ratio)))
    if target <= counts[minority]:
        raise SignforgeError(
            f"sampling_strategy {ratio} asks for {target} images of "
            f"{describe_class(minority, names)}, which already has {counts[minority]}: a ratio "
            "must add images."
        )
    targets = list(counts)
    targets[minority] = target
    return targets


def _mapping_targets(
    mapping: Mapping[Any, object], counts: list[int], names: tuple[str, ...], origin: str
) -> list[int]:
    targets = list(counts)
    named: dict[int, object] = {}
    for key, value in mapping.items():
        label = _class_id(key, names, origin)
        shown = describe_class(label, names)
        if label in named:
            raise SignforgeError(f"{origin}: {named[label]!r} and {key!r} both mean {shown}.")
        named[label] = key
        target = _count(value, shown, origin)
        if target < counts[label]:
            raise SignforgeError(
                f"{origin}: {shown} has {counts[label]} real images, a target of {target} would "
                "remove some; give at least the real count or leave the class out."
            )
        if target > counts[label] == 0:
            raise SignforgeError(_empty_class(label, names))
        targets[label] = target
    return targets


def _class_id(key: object, names: tuple[str, ...], origin: str) -> int:
    if isinstance(key, str):
        matches = [label for label, name in enumerate(names) if name == key]
        if len(matches) > 1:
            raise SignforgeError(
                f"{origin}: {len(matches)} classes are called {key!r}; use their ids."
            )
        if matches:
            return matches[0]
        number = id_in_digits(key)
        if number is None:
            closest = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {closest[0]!r}?" if closest else "use a class name or an id."
            raise SignforgeError(f"{origin}: there is no class {key!r}; {hint}")
        label = number
    else:
        try:
            label = operator.index(key)  # type: ignore[arg-type]
        except TypeError:
            raise SignforgeError(f"{origin}: {key!r} is not a class name or an id.") from None
    if isinstance(key, bool) or not 0 <= label < len(names):
        raise SignforgeError(
            f"{origin}: there is no class {key!r}; class ids are 0..{len(names) - 1}."
        )
    return label


def _count(value: object, shown: str, origin: str) -> int:
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = -1
    if isinstance(value, bool) or not 0 <= count <= _LARGEST_COUNT:
        raise SignforgeError(
            f"{origin}: the target of {shown} must be a whole number of images, got {value!r}."
        )
    return count


def _read_text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SignforgeError(f"sampling_strategy file {path} is not UTF-8 text.") from None
    except (OSError, ValueError):
        raise SignforgeError(
            f"sampling_strategy {str(path)!r} is neither one of {', '.join(POLICIES)} nor a YAML "
            "file that can be read."
        ) from None


def _read_yaml(path: str | Path) -> Mapping[str, object]:
    try:
        values = parse_yaml(_read_text(path))
    except yaml.YAMLError as error:
        raise SignforgeError(
            f"sampling_strategy file {path} is not valid YAML: {' '.join(str(error).split())}"
        ) from None
    if not isinstance(values, dict):
        raise SignforgeError(
            f"sampling_strategy file {path} must hold lines such as 'class name: 500', "
            f"got {type(values).__name__}."
        )
    return values


def _refuse_empty_classes(counts: list[int], names: tuple[str, ...]) -> None:
    for label, count in enumerate(counts):
        if count == 0:
            raise SignforgeError(_empty_class(label, names))


def _empty_class(label: int, names: tuple[str, ...]) -> str:
    return (
        f"{describe_class(label, names)} has no real image that synthetic ones could be compared "
        "with or that could stand in for them; add real images or give sampling_strategy as "
        "{class: count} without this class."
    )


def _most_with_cap(count: int, share: Fraction) -> int | None:
    """Largest allowed total, None without a cap."""
    return None if share == 1 else count + int(count * share / (1 - share))
