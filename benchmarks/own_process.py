"""A benchmark's point measured in an interpreter of its own, which no earlier point has warmed."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from signforge.errors import SignforgeError

MOST_CHARACTERS = 500


def measure_in_own_process(script: str, task: Mapping[str, Any], what: str) -> dict[str, float]:
    """What ``script --point TASK`` prints last, as JSON.

    what: the point's name, for the sentence of the SignforgeError that a failure raises.
    """
    command = [sys.executable, script, "--point", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-MOST_CHARACTERS:]
        raise SignforgeError(
            f"{what} could not be measured: {said or f'exit code {done.returncode}'}"
        )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
