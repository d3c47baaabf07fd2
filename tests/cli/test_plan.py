"""``signforge plan`` from a small data set and a tiny run to a YAML file of class counts."""

import json
import signal
from pathlib import Path

import pytest
import yaml

from signforge.balance.plan import BalancePlan, as_plan
from signforge.balance.strategy import resolve_sampling_strategy
from signforge.config_file import dump_config, load_config, validate
from signforge.data.prepare import load_prepared_splits
from signforge.gan.sampler import GeneratorCard, build_generator, save_sampler
from support.class_folders import write_tinted_classes
from support.cli_runner import Ran, run_cli, signal_when_told

pytestmark = pytest.mark.usefixtures("own_place")

COUNTS = {"[y] w": 8, "blue": 24, "red": 14}
TRIALS = {"real", "oversample", "synthetic"}


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tinted_classes(tmp_path_factory.mktemp("data") / "signs", COUNTS)


@pytest.fixture(scope="module")
def run(signs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What train-cgan leaves for users, without its training."""
    folder = tmp_path_factory.mktemp("runs") / "untrained"
    config = validate(
        {
            "data": {"source": str(signs), "resolution": 16},
            "gan": {"base_channels": 4, "embedding_dim": 4, "z_dim": 4, "device": "cpu"},
        },
        "test",
    )
    train = load_prepared_splits(config.data).train
    generator = build_generator(config.gan, num_classes=3, resolution=16)
    card = GeneratorCard(
        gan=config.gan,
        resolution=16,
        class_names=train.class_names,
        class_counts=tuple(train.class_counts.tolist()),
        train_fingerprint=train.fingerprint,
        seen_kimg=0,
        seconds=0,
        weights_sha256="",
    )
    save_sampler(folder, generator, card)
    (folder / "config.yaml").write_text(dump_config(config))
    return folder


def plan(run: Path, signs: Path, out: Path, *args: object) -> Ran:
    return run_cli(
        "plan", run, "--data", signs, "--out", out, "--device", "cpu", "--seeds", 1, "--steps", 2,
        "--classifier", "test_resnet", "--set", "classifier.batch_size=8", *args,
    )  # fmt: skip


@pytest.fixture(scope="module")
def planned(run: Path, signs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    out = tmp_path_factory.mktemp("plan") / "plan.yaml"
    return out, plan(run, signs, out, "--gate-tau", 0)


def test_a_plan_is_made_of_the_validation_split(planned: tuple[Path, Ran], run: Path) -> None:
    out, ran = planned
    assert ran.code == 0, ran.err
    made = BalancePlan.load(out)
    assert made.class_names == tuple(sorted(COUNTS))
    assert made.protocol is not None
    assert (made.protocol.seeds, made.protocol.steps) == ((0,), 2)
    assert made.protocol.classifier == "test_resnet"
    assert made.command.startswith("signforge plan")
    splits = load_prepared_splits(load_config(run / "config.yaml").data)
    assert made.train_fingerprint == splits.train.fingerprint
    assert made.val_fingerprint == splits.val.fingerprint
    assert splits.test.fingerprint not in out.read_text()
    targets = resolve_sampling_strategy(
        out, splits.train.class_counts, class_names=splits.train.class_names
    )
    assert targets.tolist() == [decision.count for decision in made.decisions]
    assert "[y] w" in ran.out
    assert f"use it as sampling_strategy: {out}." in ran.out
    assert "real, seed 0: macro accuracy on validation" in ran.err


def test_made_again_it_trains_nothing_and_prints_json(
    planned: tuple[Path, Ran], run: Path, signs: Path
) -> None:
    out, _ = planned
    rows = out.with_suffix(".trials") / "rows.jsonl"
    before = rows.read_text()
    assert {json.loads(line)["arm"] for line in before.splitlines()} == TRIALS
    ran = plan(run, signs, out, "--gate-tau", 0, "--json")
    assert "macro accuracy" not in ran.err
    assert rows.read_text() == before
    shown = ran.json()
    assert shown.pop("plan") == str(out)
    assert shown == yaml.safe_load(out.read_text())
    saved = as_plan(out)
    assert saved is not None
    assert "--json" in saved.command


def test_a_gate_is_trained_first_and_its_notes_are_told(
    run: Path, signs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "gated.yaml"
    ran = plan(run, signs, out, "--gate-tau", 0.9999, "--set", "balance.gate_steps=1", "--json")
    shown = ran.json()
    assert shown["protocol"]["gate_tau"] == 0.9999
    # Nothing is that sure after one step: every class is filled by real images instead.
    drawn = [d for d in shown["decisions"] if d["acceptance"] is not None]
    assert [d["acceptance"] for d in drawn] == [0.0] * 2
    assert all(d["remedy"] != "synthetic" for d in drawn)
    assert "Note: " in ran.err
    assert "UserWarning" not in ran.err
    assert "'red'" in ran.err


def refusal(ran: Ran) -> str:
    assert (ran.code, ran.out) == (2, ""), ran
    return ran.err.strip().splitlines()[-1]


def test_what_does_not_fit_is_one_sentence(
    planned: tuple[Path, Ran], run: Path, signs: Path, tmp_path: Path
) -> None:
    counts = tmp_path / "counts.yaml"
    counts.write_text("red: 20\n")
    assert "counts.yaml exists and is no balance plan" in refusal(plan(run, signs, counts))
    assert counts.read_text() == "red: 20\n"
    assert "is a folder; give the name of a YAML file" in refusal(plan(run, signs, tmp_path))
    new = tmp_path / "new.yaml"
    assert "must lie in 0.5..1, got 2" in refusal(plan(run, signs, new, "--confidence", 2))
    other = refusal(plan(run, signs, new, "--set", "data.split_seed=5"))
    assert "trained on other images than this training split" in other
    assert "holds no generator.json" in refusal(plan(tmp_path, signs, new))
    out, _ = planned
    again = refusal(plan(run, signs, new, "--set", f"balance.sampling_strategy={out}"))
    assert "is a plan already" in again
    assert list(tmp_path.iterdir()) == [counts]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_plan_goes_on(
    run: Path,
    signs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    code: int,
) -> None:
    """The signal comes as soon as the first classifier's row is told."""
    out = tmp_path / "plan.yaml"

    with monkeypatch.context() as patch:
        signal_when_told(patch, "macro accuracy on validation", number)
        ran = plan(run, signs, out)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.endswith("Stopped; the same command goes on from here.\n")
    assert not out.exists()
    rows = out.with_suffix(".trials") / "rows.jsonl"
    (kept,) = rows.read_text().splitlines()
    assert plan(run, signs, out).code == 0
    assert rows.read_text().splitlines()[0] == kept
    assert out.exists()
