"""The commands of docs/commands-of-2019.md, with what a test puts in place of their sizes."""

import pickle
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "commands-of-2019.md"
NUM_CLASSES = 43


def page_commands(smaller: Mapping[str, str], *programs: str) -> list[list[str]]:
    """Those of the page's sh blocks that run one of ``programs``, split into arguments.

    smaller: what is replaced first; every key must be on the page.
    """
    text = PAGE.read_text(encoding="utf-8")
    code = "".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    for written, ours in smaller.items():
        assert written in code, written
        code = code.replace(written, ours)
    commands = [shlex.split(line) for line in code.splitlines()]
    return [command for command in commands if command[0] in programs]


def write_pickles(folder: Path) -> None:
    """train.p with two tracks of 30 frames for each of 43 classes, and test.p, all of noise."""
    folder.mkdir(parents=True)
    for name, count in (("train.p", 60), ("test.p", 2)):
        rng = np.random.default_rng(count)
        labels = np.repeat(np.arange(NUM_CLASSES, dtype=np.uint8), count)
        edges = (25 + 3 * (np.arange(len(labels)) % 30)).astype(np.uint8)
        arrays = {
            "features": rng.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8),
            "labels": labels,
            "sizes": np.stack([edges, edges], axis=1),
            "coords": np.tile(np.array([5, 5, 20, 20], dtype=np.uint8), (len(labels), 1)),
        }
        (folder / name).write_bytes(pickle.dumps(arrays, protocol=4))
