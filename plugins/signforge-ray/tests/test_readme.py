"""The README's example, word for word."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs(tmp_path: Path) -> None:
    found = re.search(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    here = {**os.environ, "PATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    ran = subprocess.run(
        ["bash", "-ec", found[1]], cwd=tmp_path, env=here, check=False, capture_output=True
    )
    assert ran.returncode == 0, ran.stderr.decode()
    rows = (tmp_path / "runs" / "on-ray" / "rows.jsonl").read_text().splitlines()
    assert len({(row["arm"], row["seed"]) for row in map(json.loads, rows)}) == 4
    assert b"report.html" in ran.stdout
