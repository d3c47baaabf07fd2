"""``signforge export`` from class folders to class folders, and what it refuses."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.datasets import ImageFolder

from signforge.balance.plan import BalancePlan, ClassDecision
from signforge.config import Config, DataConfig, GanConfig
from signforge.config_file import dump_config
from signforge.data.load import load_splits
from signforge.data.prepare import load_prepared_splits
from signforge.gan.sampler import GeneratorCard, build_generator, save_sampler
from support.cli_runner import Ran, run_cli

pytestmark = pytest.mark.usefixtures("own_place")

COUNTS = {"give way": 12, "stop": 6, "yield [old]": 8}
GAN = GanConfig(z_dim=4, base_channels=4, embedding_dim=4, device="cpu")
NO_GATE = ("--gate-tau", 0)
SMALL = ("--resolution", 16, "--device", "cpu")


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three class folders of PNG files of 16x16 pixels."""
    root = tmp_path_factory.mktemp("signs")
    rng = np.random.default_rng(0)
    for name, count in COUNTS.items():
        (root / name).mkdir()
        for index in range(count):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def save_run(run: Path, data: DataConfig, **card: object) -> Path:
    """What a finished training on ``data`` leaves, with a generator that never trained."""
    train = load_prepared_splits(data).train
    torch.manual_seed(0)
    values = {
        "gan": GAN,
        "resolution": 16,
        "class_names": train.class_names,
        "class_counts": tuple(train.class_counts.tolist()),
        "train_fingerprint": train.fingerprint,
        "seen_kimg": 0.02,
        "seconds": 1.0,
        "weights_sha256": "",
        **card,
    }
    checked = GeneratorCard.model_validate(values)
    run.mkdir(parents=True)
    generator = build_generator(GAN, num_classes=len(checked.class_names), resolution=16)
    save_sampler(run, generator, checked)
    (run / "config.yaml").write_text(dump_config(Config(data=data, gan=GAN)))
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, signs: Path) -> Path:
    data = DataConfig(source=str(signs), resolution=16)
    return save_run(tmp_path_factory.mktemp("runs") / "cgan", data)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refusal(ran: Ran) -> str:
    """The one sentence of a command that was refused."""
    *before, last = ran.err.strip().splitlines()
    assert (ran.code, ran.out) == (2, ""), ran
    assert all(line.startswith("Note: ") for line in before), ran.err
    assert last.startswith("Error: ")
    return last.removeprefix("Error: ")


def test_data_options_are_those_of_the_run(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run_cli("export", run, "--out", out, *NO_GATE, "--json").json()
    images = result["images"]["train"]
    assert result["folder"] == str(out)
    assert result["manifest"] == str(out / "manifest.csv")
    assert result["written"] == sum(images.values())
    assert result["was_complete"] is False
    assert result["generator_saw_only_train"] is True
    assert images["oversampled"] == 0
    counts = [sum(of.values()) for of in result["counts"]["train"].values()]
    assert len(set(counts)) == 1
    folder = ImageFolder(str(out / "train"))
    assert folder.classes == ["00000_give-way", "00001_stop", "00002_yield-old"]
    assert len(folder) == sum(counts) == images["real"] + images["synthetic"]
    assert json.loads((out / "export.json").read_text())["complete"] is True
    assert run_cli("data", "inspect", out / "train", "--resolution", 16).code == 0


def test_every_split_for_people_and_once_more(signs: Path, run: Path, tmp_path: Path) -> None:
    out = tmp_path / "deeper/out"
    args = ("export", run, "--data", signs, *SMALL, *NO_GATE, "--out", out, "--also", "val, test")
    first = run_cli(*args)
    assert first.code == 0, first.err
    assert first.out.startswith(f"Done. {out} holds train: ")
    assert f"What each file is: {out / 'manifest.csv'}." in first.out
    splits = load_prepared_splits(DataConfig(source=str(signs), resolution=16))
    assert len(ImageFolder(str(out / "val"))) == len(splits.val)
    assert len(ImageFolder(str(out / "test"))) == len(splits.test)
    report = run_cli("data", "inspect", out, "--resolution", 16, "--json").json()
    assert set(report["splits"]) == {"train", "val", "test"}
    assert report["duplicates"]["across"] == []
    before = tree(out)
    again = run_cli(*args)
    assert again.code == 0
    assert again.out.endswith("; nothing to do.\n")
    assert run_cli(*args, "--json").json()["was_complete"] is True
    assert tree(out) == before


def test_a_strategy_from_a_file_of_counts_or_a_plan(run: Path, tmp_path: Path) -> None:
    counts = tmp_path / "counts.yaml"
    counts.write_text(yaml.safe_dump({"stop": 15}))
    given = ("export", run, *NO_GATE, "--json", "--strategy")
    of = run_cli(*given, counts, "--out", tmp_path / "1").json()["counts"]["train"]
    assert sum(of["00001_stop"].values()) == 15
    assert of["00002_yield-old"]["synthetic"] == 0
    real = [classes["real"] for classes in of.values()]
    decisions = tuple(
        ClassDecision(name=name, remedy=remedy, count=count + add, real_count=count)
        for name, count, remedy, add in zip(
            COUNTS, real, ("nothing", "oversample", "synthetic"), (0, 4, 3), strict=True
        )
    )
    plan = tmp_path / "plan.yaml"
    BalancePlan(decisions=decisions).save(plan)
    of = run_cli(*given, plan, "--out", tmp_path / "2").json()["counts"]["train"]
    assert [classes["oversampled"] for classes in of.values()] == [0, 4, 0]
    assert [classes["synthetic"] for classes in of.values()] == [0, 0, 3]


def test_a_gate_from_the_command_line(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ("balance.gate_steps=1", "balance.min_acceptance=1", "classifier.batch_size=4")
    small = [part for text in settings for part in ("--set", text)]
    small += ["--set", "classifier.name=test_resnet", "--device", "cpu"]
    ran = run_cli("export", run, "--out", out, "--gate-tau", 0.999, *small, "--json")
    result = ran.json()
    assert result["images"]["train"]["synthetic"] == 0
    assert result["images"]["train"]["oversampled"] > 0
    assert result["gate"]["tau"] == 0.999
    assert result["gate"]["acceptance"]["00000_give-way"] is None
    assert "oversampled real images fill these classes" in ran.err
    assert all(line.startswith("Note: ") for line in ran.err.splitlines())
    assert (out / "gate").is_dir()


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--strategy", "autoo"), "'autoo' is neither one of auto, minority"),
        (("--strategy", "counts.yaml"), "'counts.yaml' is neither one of"),
        (("--also", "vall"), "Cannot export 'vall' beside train: there are val and test."),
        (("--gate-tau", 1.5), "balance.gate_tau = 1.5 is not valid"),
        (("--set", "balance.refresh=2"), "balance.refresh = 2 is not valid"),
        (("--set", "balance.refesh=1"), "did you mean balance.refresh?"),
        (("--data", "nowhere"), "nowhere does not exist"),
        (("--device", "abacus"), "Unknown device 'abacus'"),
        (("--classes", "stop,yield [old]"), "3 classes are not the data's 2"),
    ],
)
def test_bad_input_is_one_sentence(run: Path, tmp_path: Path, given: tuple, says: str) -> None:
    out, before = tmp_path / "out", tree(run)
    assert says in refusal(run_cli("export", run, "--out", out, *given))
    assert not out.exists()
    assert tree(run) == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("stop: 1\n", "a target of 1 would remove some"),
        ("stpo: 99\n", "did you mean 'stop'?"),
        ("- stop\n", "must hold lines such as"),
        ("stop: [\n", "is not valid YAML"),
        ("format: signforge-balance-plan-1\ndecisions: []\n", "is for 0 classes, the data has 3"),
        ("format: signforge-balance-plan-9\n", "is not a balance plan that this version reads"),
    ],
)
def test_a_bad_strategy_file(run: Path, tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "strategy.yaml"
    file.write_text(content)
    assert says in refusal(run_cli("export", run, "--out", tmp_path / "out", "--strategy", file))
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_none(signs: Path, tmp_path: Path) -> None:
    for place in (signs, tmp_path / "nowhere"):
        sentence = refusal(run_cli("export", place, "--data", signs, "--out", tmp_path / "out"))
        assert f"{place} holds no generator.json" in sentence
    assert not list(tmp_path.iterdir())


def test_a_generator_that_may_have_seen_the_test(signs: Path, tmp_path: Path) -> None:
    data = DataConfig(source=str(signs), resolution=16)
    other = save_run(tmp_path / "run", data, train_fingerprint="other")
    args = ("export", other, "--out", tmp_path / "out", *NO_GATE)
    assert "may have seen those of test" in refusal(run_cli(*args, "--also", "test"))
    assert not (tmp_path / "out").exists()
    ran = run_cli(*args)
    assert ran.code == 0
    assert "Note: The generator was trained on other images" in ran.err


def test_a_folder_that_holds_something_else(run: Path, signs: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    sentence = refusal(run_cli("export", run, "--out", tmp_path))
    assert f"{tmp_path} already holds notes.txt and is no export" in sentence
    for place in (run, signs):
        before = tree(place)
        assert "and is no export" in refusal(run_cli("export", run, "--out", place))
        assert tree(place) == before
    assert tree(tmp_path) == {"notes.txt": b"mine"}


def test_another_request_in_the_same_folder(run: Path, tmp_path: Path) -> None:
    args = ("export", run, "--out", tmp_path, *NO_GATE)
    assert run_cli(*args).code == 0
    before = tree(tmp_path)
    for given, says in (
        (("--epoch", 1), "(epoch was 0, is 1)"),
        (("--seed", 5), "(seed was 0, is 5)"),
        (("--also", "val"), 'splits was ["train"], is ["train", "val"]'),
        (("--strategy", "all"), 'config.balance.sampling_strategy was "auto", is "all"'),
    ):
        assert says in refusal(run_cli(*args, *given))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("below", ["", "deeper/out"])
def test_out_is_a_file(run: Path, tmp_path: Path, below: str) -> None:
    file = tmp_path / "taken"
    file.write_text("mine")
    assert f"{file} is a file" in refusal(run_cli("export", run, "--out", file / below))
    assert file.read_text() == "mine"


def test_out_is_not_writable(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    allowed = os.access  # a stand-in, for root may write everywhere
    monkeypatch.setattr(os, "access", lambda p, mode: Path(p) != locked and allowed(p, mode))
    assert f"{locked} is not writable" in refusal(run_cli("export", run, "--out", locked / "out"))


def test_the_system_refuses_to_write(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        sentence = refusal(run_cli("export", run, "--out", tmp_path / "out", *NO_GATE))
    assert str(tmp_path / "out") in sentence
    assert "Read-only file system" in sentence


@pytest.mark.slow
def test_real_signs_come_back_bit_by_bit(data_root: Path, tmp_path: Path) -> None:
    source = data_root / "gtsrb-native"
    if not source.is_dir():
        pytest.skip(f"{source} is not there")
    data = DataConfig(source=str(source), resolution=16)
    test = load_splits(data).test
    assert test is not None
    tested = zip(test.class_names, test.class_counts.tolist(), strict=True)
    data = data.model_copy(update={"classes": tuple(name for name, count in tested if count)})
    splits = load_prepared_splits(data)
    run, out = save_run(tmp_path / "run", data), tmp_path / "out"
    args = ("export", run, "--strategy", "all", "--also", "val,test", *NO_GATE, "--out", out)
    assert run_cli(*args).code == 0
    back = load_prepared_splits(DataConfig(source=str(out), resolution=16))
    for name in ("val", "test"):
        ours, theirs = getattr(splits, name), getattr(back, name)
        order = torch.tensor([int(file[-10:-4]) for file in theirs.names])
        assert torch.equal(theirs.images, ours.images[order])
        assert torch.equal(theirs.labels, ours.labels[order])
    real = torch.tensor(["/real_" in file for file in back.train.names])
    order = torch.tensor([int(file[-10:-4]) for file in back.train.names])[real]
    assert torch.equal(back.train.images[real], splits.train.images[order])
    assert back.train.class_counts.unique().tolist() == [int(splits.train.class_counts.max())]
