"""The README's example, word for word: the command first, then the program."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def block(language: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def test_the_example_runs(tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    here = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    subprocess.run(["bash", "-ec", block("sh")], cwd=tmp_path, env=here, check=True)
    result = subprocess.run(
        [sys.executable, "-c", block("python")],
        cwd=tmp_path,
        env=here,
        check=True,
        capture_output=True,
        text=True,
    )
    assert re.search(r"^epoch 1, loss \d", result.stdout, re.MULTILINE)


def test_the_example_is_short() -> None:
    assert len(block("python").splitlines()) < 30
