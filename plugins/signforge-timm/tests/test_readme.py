"""README's examples, word for word."""

import logging
import os
import re
import shutil
from pathlib import Path

import pytest

from support import code_blocks, run_bash

EPOCH = r"epoch (\d): ([\d,]+) images = ([\d,]+) real \+ ([\d,]+) synthetic \+ (\d+) repeated"
PER_CLASS = r"epoch (\d), class:real\+synthetic\+repeated: (.+)"


def check_log(text: str, *, capped: bool) -> None:
    """Two epochs, each with counts of all classes that add up."""
    totals, by_class = re.findall(EPOCH, text), re.findall(PER_CLASS, text)
    assert [epoch for epoch, *_ in totals] == ["0", "1"]
    assert [epoch for epoch, _ in by_class] == ["0", "1"]
    for (_, *numbers), (_, classes) in zip(totals, by_class, strict=True):
        size, *parts = (int(number.replace(",", "")) for number in numbers)
        rows = [[int(n) for n in row.split(":")[1].split("+")] for row in classes.split()]
        assert len(rows) == 43
        assert [sum(column) for column in zip(*rows, strict=True)] == parts
        assert sum(parts) == size
        assert parts[1] > 0
        largest = max(real for real, *_ in rows)
        for real, synthetic, repeated in rows:
            expected = min(largest, 2 * real) if capped else largest
            assert (real + synthetic, repeated) == (expected, 0)


def test_script_of_your_own(monkeypatch, caplog):
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    caplog.set_level(logging.INFO)
    (code,) = code_blocks("python")
    variables: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), variables)
    assert variables["images"].shape == (64, 3, 32, 32)
    check_log(caplog.text, capped=False)


def test_real_train_py(readme_folder):
    script = os.environ.get("SIGNFORGE_TIMM_TRAIN")
    if not script:
        pytest.skip("SIGNFORGE_TIMM_TRAIN is not set: it names timm's train.py, not in its wheel")
    shutil.copy(Path(script), readme_folder / "train.py")
    done = run_bash(code_blocks("bash")[1], readme_folder)
    assert done.returncode == 0, done.stderr
    check_log(done.stdout + done.stderr, capped=True)
    assert len(re.findall(r"Best metric: [\d.]+ \(epoch \d\)", done.stdout + done.stderr)) == 1
