"""Classes as a user names them, and a data set cut down to some of them."""

import difflib
from collections.abc import Sequence
from dataclasses import replace

import torch

from signforge.data.images import LabeledImages, LabeledSplits
from signforge.errors import SignforgeError

_MOST_DIGITS = 18  # zeros may lead; int() raises from 4,300 on


def id_in_digits(text: str) -> int | None:
    """The number that ``text`` writes in decimal digits; None for other text and absurd lengths."""
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None


def find_class(name_or_id: str, class_names: Sequence[str]) -> int:
    """The label of a class given by its name or its id; the case of a name may be another.

    Raises SignforgeError where there is no such class, with the closest name, and where several
    are called ``name_or_id``, or differ from it in case alone.
    """
    same = [label for label, name in enumerate(class_names) if name == name_or_id]
    if len(same) > 1:
        raise SignforgeError(
            f"Classes {' and '.join(map(str, same))} are all called {name_or_id!r}; give an id."
        )
    if same:
        return same[0]
    lowered = [name.lower() for name in class_names]
    wanted = name_or_id.strip().lower()
    alike = [label for label, name in enumerate(lowered) if name == wanted]
    if len(alike) > 1:
        raise SignforgeError(
            f"{name_or_id!r} may be class {' or '.join(map(str, alike))}, which differ in case "
            "alone; give the id, or the name just as it is."
        )
    if alike:
        return alike[0]
    label = id_in_digits(wanted)
    if label is not None and label < len(class_names):
        return label
    closest = difflib.get_close_matches(wanted, lowered, n=1)
    hint = f"; did you mean {class_names[lowered.index(closest[0])]!r}?" if closest else "."
    raise SignforgeError(
        f"There is no class {name_or_id!r}: ids are 0..{len(class_names) - 1}{hint}"
    )


def restrict_classes(splits: LabeledSplits, classes: Sequence[str]) -> LabeledSplits:
    """The images of ``classes`` (names or ids) alone, in every split, with labels from 0.

    Classes keep their order in the data set, in whatever order they are named; one that is named
    twice is there once. A note says which they are.

    Raises SignforgeError for a class that is not there and for no class at all.
    """
    names = splits.train.class_names
    labels = sorted({find_class(name, names) for name in classes})
    if not labels:
        raise SignforgeError("data.classes names no class; name at least one, or leave it out.")
    listed = ", ".join(f"{names[label]} ({label})" for label in labels)
    note = f"Only {len(labels)} of {len(names)} classes are used, numbered anew from 0: {listed}."
    return replace(
        splits,
        train=_restrict(splits.train, labels),
        val=splits.val and _restrict(splits.val, labels),
        test=splits.test and _restrict(splits.test, labels),
        notes=(*splits.notes, note),
    )


def _restrict(images: LabeledImages, labels: list[int]) -> LabeledImages:
    new_label = torch.full((images.num_classes,), -1, dtype=torch.int64)
    new_label[labels] = torch.arange(len(labels))
    kept = (new_label[images.labels] >= 0).nonzero().flatten()
    return LabeledImages(
        images=images.images[kept],
        labels=new_label[images.labels[kept]],
        groups=images.groups[kept],
        class_names=tuple(images.class_names[label] for label in labels),
        names=tuple(images.names[index] for index in kept.tolist()),
        source=images.source,
    )
