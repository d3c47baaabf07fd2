"""Warnings of the package as notes on stderr, without the file and line that raised them."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def warnings_to(show: Callable[[str], None]) -> Iterator[None]:
    """Passes the text of each UserWarning to ``show``, once; other warnings go where they did."""
    with warnings.catch_warnings():
        before = warnings.showwarning
        shown: set[str] = set()

        def showwarning(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, UserWarning):
                if str(message) not in shown:
                    shown.add(str(message))
                    show(str(message))
            else:
                before(message, category, filename, lineno, file, line)

        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = showwarning
        yield
