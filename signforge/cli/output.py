"""What a command says at the end, and a folder that it can say it into."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from signforge.errors import SignforgeError


def check_folder(out: Path | None) -> None:
    """Refuses a folder that cannot be written to, before hours of work that would end there."""
    place = out
    while place is not None and not place.exists() and place != place.parent:
        place = place.parent
    if place is not None and not place.is_dir():
        raise SignforgeError(f"--out {out}: {place} is a file; give a folder.")
    if place is not None and not os.access(place, os.W_OK | os.X_OK):
        raise SignforgeError(f"--out {out}: {place} is not writable; give another folder.")


def print_result(result: dict[str, Any], sentence: str, json_output: bool) -> None:
    """One of both on stdout: ``result`` as JSON, or ``sentence``."""
    if json_output:
        print_json(result)
    else:
        sys.stdout.write(sentence + "\n")


def print_json(value: Any) -> None:
    """``value`` on stdout, indented; what JSON does not know as text."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")
