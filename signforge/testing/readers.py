"""The rules of a reader plugin as checks: run them on a reader of your own.

``check_reader`` is one call; ``ReaderContract`` gives pytest one test a rule.
"""

from collections.abc import Callable, Mapping

from signforge.data.images import LabeledImages, LabeledSplits
from signforge.data.plugin_reader import checked_splits
from signforge.errors import SignforgeError
from signforge.testing.rules import random_states, require

Reader = Callable[[str], LabeledSplits | Mapping[str, LabeledImages]]


def check_reader(reader: Reader, argument: str) -> None:
    """Whether ``reader`` keeps every rule that the package relies on; reads ``argument`` 5 times.

    Raises AssertionError with one sentence that says what is wrong.
    """
    _check_splits(reader, argument)
    _check_repeats(reader, argument)
    _check_random_state(reader, argument)


class ReaderContract:
    """The same rules as pytest tests: subclass it and give fixtures ``reader`` and ``argument``."""

    def test_splits_fit_together(self, reader: Reader, argument: str) -> None:
        _check_splits(reader, argument)

    def test_same_argument_same_images(self, reader: Reader, argument: str) -> None:
        _check_repeats(reader, argument)

    def test_global_random_state_is_left_alone(self, reader: Reader, argument: str) -> None:
        _check_random_state(reader, argument)


def _check_splits(reader: Reader, argument: str) -> None:
    _read(reader, argument)


def _check_repeats(reader: Reader, argument: str) -> None:
    first, again = (_read(reader, argument).named() for _ in range(2))
    require(
        list(first) == list(again),
        f"The reader gives {', '.join(first)} first and {', '.join(again)} then; the same argument "
        "must give the same splits.",
    )
    for name in first:
        require(
            first[name].fingerprint == again[name].fingerprint,
            f"The reader gives other images or labels in {name} for the same argument; read them "
            "in one order, and draw nothing at random.",
        )


def _check_random_state(reader: Reader, argument: str) -> None:
    before = random_states()
    for _ in range(2):
        _read(reader, argument)
        after = random_states()
        for owner, state in before.items():
            require(
                state == after[owner],
                f"The reader changes the global random state of {owner}; draw from a generator of "
                "its own.",
            )


def _read(reader: Reader, argument: str) -> LabeledSplits:
    try:
        return checked_splits(reader(argument), "The reader")
    except SignforgeError as error:
        raise AssertionError(str(error)) from error
    except Exception as error:
        raise AssertionError(f"The reader fails on {argument!r}: {error!r}.") from error
