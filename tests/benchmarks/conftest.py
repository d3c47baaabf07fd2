"""The scripts import one another as siblings, as they do when they are run."""

import sys
from pathlib import Path

SCRIPTS = str(Path(__file__).resolve().parents[2] / "benchmarks")
if SCRIPTS not in sys.path:
    sys.path.insert(0, SCRIPTS)
