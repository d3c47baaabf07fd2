"""Runs the command line in this process and catches all that it says."""

import contextlib
import io
import json
import os
import signal
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console

from signforge import terminal
from signforge.cli import main


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The one object on stdout of a run that went well."""
        assert self.code == 0, self.err
        return json.loads(self.out)


def run_cli(*args: object) -> Ran:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["signforge", *map(str, args)])
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", "100")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return Ran(code, out.getvalue(), err.getvalue())


def signal_when_told(patch: pytest.MonkeyPatch, part: str, number: signal.Signals) -> None:
    """Sends this process ``number`` as soon as a command tells a message that holds ``part``."""
    real = terminal.print_message

    def tell(console: Console, text: str) -> None:
        real(console, text)
        if part in text:
            os.kill(os.getpid(), number)

    patch.setattr(terminal, "print_message", tell)
