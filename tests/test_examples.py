"""The examples run as their first lines say, and are as short as promised."""

import ast
import os
import re
import runpy
import subprocess
import sys

import pytest
import torch

from signforge.benchmark.arm_selection import select_arms
from signforge.benchmark.arms import ArmContext
from signforge.benchmark.folder import read_rows
from signforge.config import BalanceConfig, GanConfig
from signforge.data.names import GTSRB_CLASS_COUNTS, GTSRB_CLASS_NAMES
from signforge.gan.sampler import GeneratorCard, build_generator, save_sampler
from support.examples import EXAMPLES, ROOT

REPORT = r"epoch (\d): (\d+) real of (\d+) images, loss (\d+\.\d\d)"


def code_lines(text: str) -> list[str]:
    """Lines that are neither empty, nor a comment, nor of the module's docstring."""
    docstring = ast.parse(text).body[0]
    return [
        line
        for line in text.splitlines()[docstring.end_lineno :]
        if line.strip() and not line.strip().startswith("#")
    ]


@pytest.fixture
def random_run(tmp_path):
    """A run directory whose generator has GTSRB's classes and was never trained."""
    config = GanConfig(z_dim=4, base_channels=4, embedding_dim=4)
    card = GeneratorCard(
        gan=config,
        resolution=16,
        class_names=GTSRB_CLASS_NAMES,
        class_counts=GTSRB_CLASS_COUNTS,
        train_fingerprint="",
        seen_kimg=0.0,
        seconds=0.0,
        weights_sha256="",
    )
    save_sampler(tmp_path / "run", build_generator(config, num_classes=43, resolution=16), card)
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SIGNFORGE_CACHE", str(tmp_path / "cache"))


def check_report(text: str) -> None:
    reports = re.findall(REPORT, text)
    assert [epoch for epoch, *_ in reports] == ["0", "1", "2"]
    for _, real, total, loss in reports:
        assert int(real) < int(total)
        assert int(total) % 43 == 0
        assert 0 < float(loss) < 6


def test_plain_torch_has_fifteen_lines():
    text = (EXAMPLES / "plain_torch.py").read_text(encoding="utf-8")
    assert len(code_lines(text)) <= 15


def test_plain_torch_runs():
    done = subprocess.run(
        [sys.executable, "examples/plain_torch.py"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check_report(done.stdout)


def test_plain_torch_takes_a_run_directory(random_run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["plain_torch.py", str(random_run)])
    variables = runpy.run_path(str(EXAMPLES / "plain_torch.py"), run_name="__main__")
    assert variables["train"].epoch == 2
    check_report(capsys.readouterr().out)


def test_the_best_remedy_is_that_of_the_benchmark(capsys):
    """Class counts, images and loss of the arm oversample_tenth_relit+ldam_drw."""
    variables = runpy.run_path(str(EXAMPLES / "best_remedy.py"), run_name="__main__")
    reports = re.findall(REPORT, capsys.readouterr().out)
    assert [epoch for epoch, *_ in reports] == ["0", "1", "2"]
    real, train = variables["real"], variables["train"]
    name = "oversample_tenth_relit+ldam_drw"
    context = ArmContext(seed=0, sampler=None, balance=BalanceConfig())
    setup = select_arms([name])[name](real, context)
    assert list(setup.class_counts) == variables["counts"]
    assert len(setup.dataset) == len(train) > len(real)
    setup.dataset.set_epoch(train.epoch)
    for ours, theirs in zip(train, setup.dataset, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert int(ours[1]) == int(theirs[1])
    assert setup.cosine_scale == variables["LDAM_SCALE"]
    ours, theirs = variables["ldam"], setup.loss
    assert torch.equal(ours.early.margins, theirs.early.margins)
    assert torch.equal(ours.late.weights, theirs.late.weights)
    assert variables["model"].get_classifier().scale == setup.cosine_scale


def test_template_renderer_runs(capsys):
    runpy.run_path(str(EXAMPLES / "template_renderer.py"), run_name="__main__")
    (real, rendered), *_ = re.findall(
        r"^(\d+) real images, (\d+) rendered", capsys.readouterr().out
    )
    assert (int(real) + int(rendered)) % 43 == 0


def test_template_renderer_is_a_class_of_ten_lines():
    tree = ast.parse((EXAMPLES / "template_renderer.py").read_text(encoding="utf-8"))
    (renderer,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    lines = ast.unparse(renderer).splitlines()
    docstring = ast.get_docstring(renderer)
    assert docstring
    assert len([line for line in lines if line.strip() and '"""' not in line]) <= 10


def test_own_arm_runs(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["own_arm.py"])
    runpy.run_path(str(EXAMPLES / "own_arm.py"), run_name="__main__")
    assert "square_root" in capsys.readouterr().out
    rows = read_rows(tmp_path / "runs/own-arm")
    arms = ["real", "square_root", "square_root+focal_loss"]
    assert [(row["arm"], row["seed"]) for row in rows] == [(a, s) for s in (0, 1) for a in arms]
    counts, repeated = (torch.tensor(row["class_counts"]) for row in rows[:2])
    assert torch.equal(repeated, (counts * counts.max()).double().sqrt().round().long())
    assert (tmp_path / "runs/own-arm/report.html").is_file()
