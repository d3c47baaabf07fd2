"""The commands on good input: a small data set from files to a table, and the real zips."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from PIL import Image

from signforge.cli import app
from signforge.errors import SignforgeError
from support.cli_runner import Ran, run_cli, signal_when_told

pytestmark = pytest.mark.usefixtures("own_place")

HELP = Path(__file__).parent / "help"
COMMANDS = (
    *("", "data", "data inspect", "train-cgan", "generate"),
    *("plan", "export", "push", "benchmark", "plugins"),
)
COLORS = {"blue": (40, 60, 220), "green": (30, 200, 40), "red": (220, 30, 30), "[y] w": (210, 9, 9)}
COUNTS = {"blue": 40, "green": 24, "red": 14, "[y] w": 8}
ARMS = ("real", "oversample", "synthetic")


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in files_below(folder)
    }


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four class folders of PNG files: noisy squares, 40 to 8 a class, at 20 pixels."""
    root = tmp_path_factory.mktemp("data") / "signs"
    rng = np.random.default_rng(0)
    for name, count in COUNTS.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.full((20, 20, 3), 128.0)
            pixels[5:15, 5:15] = COLORS[name]
            pixels += rng.normal(0, 40, pixels.shape)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(root / name / f"{index:03d}.png")
    return root


GAN = [
    argument
    for setting in (
        "base_channels=4",
        "batch_size=8",
        "z_dim=8",
        "embedding_dim=4",
        "guide_steps=3",
        "probe_every_kimg=null",
    )
    for argument in ("--set", f"gan.{setting}")
] + ["--set", "gan.status_every_kimg=0.05", "--set", "gan.samples_every_kimg=0.1"]
DATA = ("--resolution", 16, "--device", "cpu")


def train_args(signs: Path, out: Path, *args: object, kimg: float = 0.2) -> tuple[object, ...]:
    return ("train-cgan", "--data", signs, *DATA, *GAN, "--out", out, "--kimg", kimg, *args)


def benchmark_args(signs: Path, out: Path, *args: object) -> tuple[object, ...]:
    settings = (
        "benchmark.extractor_steps=3",
        "benchmark.bootstrap_resamples=100",
        "balance.gate_tau=0",
    )
    small = [part for text in (*settings, "classifier.batch_size=16") for part in ("--set", text)]
    arms = ("--arms", "real,oversample,synthetic")
    classifier = ("--classifier", "test_resnet", "--steps", 3, "--seeds", 2, *arms)
    return ("benchmark", "--data", signs, *DATA, *GAN, "--out", out, *classifier, *small, *args)


@pytest.fixture(scope="module")
def trained(signs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    run = tmp_path_factory.mktemp("runs") / "cgan"
    return run, run_cli(*train_args(signs, run, "--json"))


@pytest.fixture(scope="module")
def compared(
    signs: Path, trained: tuple[Path, Ran], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Ran]:
    out = tmp_path_factory.mktemp("runs") / "benchmark"
    return out, run_cli(*benchmark_args(signs, out, "--generator", trained[0], "--json"))


# --- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_as_committed(command: str) -> None:
    """Compared where typer is the version that drew the committed text."""
    ran = run_cli(*command.split(), "--help")
    assert ran.code == 0
    drawn = f"typer {version('typer')}\n{_plain(ran.out)}"
    file = HELP / f"{command.replace(' ', '-') or 'signforge'}.txt"
    if os.environ.get("SIGNFORGE_RENEW_HELP"):
        file.write_text(drawn, encoding="utf-8")
    committed = file.read_text(encoding="utf-8")
    if committed.partition("\n")[0] != drawn.partition("\n")[0]:
        pytest.skip(f"committed help is by {committed.partition(chr(10))[0]}, not this typer")
    assert drawn == committed, (
        "The help changed: if that is meant, run "
        "`SIGNFORGE_RENEW_HELP=1 pytest tests/test_cli.py -k help` and commit tests/help/."
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_committed_help_names_every_option(command: str) -> None:
    """Holds for every version of typer."""
    node: Any = typer.main.get_command(app)
    for part in command.split():
        node = node.commands[part]
    options = {name for param in node.params for name in param.opts if name.startswith("--")}
    file = HELP / f"{command.replace(' ', '-') or 'signforge'}.txt"
    committed = file.read_text(encoding="utf-8")
    assert set(re.findall(r"│[ *]+(--[a-z-]+)", committed)) == options | {"--help"}
    assert all(f"│ {name} " in committed for name in getattr(node, "commands", {}))


def _plain(text: str) -> str:
    """Without colour codes and blanks at line ends."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines()) + "\n"


def test_every_command_has_json() -> None:
    root: Any = typer.main.get_command(app)
    data = root.commands["data"].commands
    leaves = [*data.values(), *(node for name, node in root.commands.items() if name != "data")]
    assert len(leaves) == 8
    for leaf in leaves:
        assert any("--json" in param.opts for param in leaf.params), leaf.name


# --- exit codes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (SignforgeError("Mend it."), 2, "Error: Mend it.\n"),
        (PermissionError(13, "Permission denied", "x/y"), 2, "Error: Cannot use x/y: Permission"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("signforge.data.inspect.inspect_source", fail)
    ran = run_cli("data", "inspect", "demo")
    assert ran.code == code
    assert says in ran.err
    assert ran.out == ""


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError("without a path")])
def test_bugs_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("signforge.data.inspect.inspect_source", fail)
    with pytest.raises(type(error), match=str(error)):
        run_cli("data", "inspect", "demo")


# --- data inspect --------------------------------------------------------------------------------


def test_inspect_demo(tmp_path: Path) -> None:
    ran = run_cli("data", "inspect", "demo", "--resolution", 16, "--json", "--out", tmp_path)
    report = ran.json()
    assert ran.err == ""
    assert {"num_classes", "class_names", "imbalance_ratio", "splits", "duplicates"} <= set(report)
    assert report["num_classes"] == len(report["class_names"]) == 43
    assert set(report["splits"]) == {"train", "test"}
    for split in report["splits"].values():
        assert sum(split["class_counts"]) == split["images"]
        assert min(split["class_counts"]) > 0
    assert report["duplicates"] == {"within": [], "across": []}
    assert report["unreadable"] == []
    assert report["files"] == [str(tmp_path / n) for n in ("class_distribution.png", "samples.png")]
    for file in report["files"]:
        with Image.open(file) as image:
            assert min(image.size) > 100


def test_inspect_class_folders(signs: Path) -> None:
    report = run_cli("data", "inspect", signs, "--resolution", 16, "--json").json()
    names = sorted(COUNTS)
    assert report["class_names"] == names
    assert report["splits"]["train"]["class_counts"] == [COUNTS[name] for name in names]
    assert report["splits"]["train"]["groups"] is None
    assert report["imbalance_ratio"] == 5.0


def test_inspect_for_people(signs: Path) -> None:
    ran = run_cli("data", "inspect", signs, "--resolution", 16)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == f"{signs}: 4 classes at 16x16, imbalance ratio 5.0:1."
    assert re.search(r"^ +0  \[y\] w +8$", ran.out, re.M)


@pytest.mark.slow
def test_inspect_the_real_zips(data_root: Path) -> None:
    ran = run_cli("data", "inspect", data_root / "gtsrb", "--json")
    report = ran.json()
    train, test = report["splits"]["train"], report["splits"]["test"]
    assert (train["images"], test["images"]) == (39_209, 12_630)
    assert (report["num_classes"], train["groups"], test["groups"]) == (43, 1_307, None)
    assert report["class_names"][14] == "Stop"
    assert (min(train["class_counts"]), max(train["class_counts"])) == (210, 2_250)
    assert report["imbalance_ratio"] == pytest.approx(2_250 / 210)
    across = report["duplicates"]["across"]
    leaked = [file for entry in across for file in entry["files"]["test"]]
    assert len(leaked) == len(set(leaked)) == 8
    assert all(re.fullmatch(r"Final_Test/Images/\d{5}\.ppm", file) for file in leaked)
    assert {entry["class"] for entry in across} == {"Stop"}
    training = {file for entry in across for file in entry["files"]["train"]}
    assert all(file.startswith("Final_Training/Images/00014/") for file in training)
    assert report["unreadable"] == []
    assert not ran.err or all(line.startswith("Note: ") for line in ran.err.splitlines())


def test_inspect_real_images_of_their_own_sizes(data_root: Path) -> None:
    source = data_root / "gtsrb-native"
    if not source.is_dir():
        pytest.skip(f"{source} is not there")
    full = run_cli("data", "inspect", source, "--json").json()
    roi = run_cli("data", "inspect", source, "--json", "--crop", "roi").json()
    for report in (full, roi):
        splits = report["splits"]
        assert (splits["train"]["images"], splits["test"]["images"]) == (516, 300)
        assert splits["train"]["class_counts"] == [12] * 43
        assert splits["train"]["groups"] == 129
    assert full["splits"]["train"]["fingerprint"] != roi["splits"]["train"]["fingerprint"]


# --- train-cgan ----------------------------------------------------------------------------------


def test_train_says_what_it_did(trained: tuple[Path, Ran]) -> None:
    run, ran = trained
    result = ran.json()
    assert result["run"] == str(run)
    assert result["seen_kimg"] == 0.2
    assert result["stopped"] is False
    assert result["seconds"] > 0
    card = json.loads((run / "generator.json").read_text())
    assert result["fingerprint"] == card["weights_sha256"]
    lines = ran.err.splitlines()
    assert [line.split()[0] for line in lines] == ["Note:"] * 2 + ["GAN"] * 4


def test_a_training_run_on_disk(trained: tuple[Path, Ran], signs: Path) -> None:
    run, _ = trained
    assert files_below(run) == {
        ".lock",
        "config.yaml",
        "dataset.json",
        "environment.json",
        "metrics.jsonl",
        "real.png",
        "samples.png",
        "samples/000000.104kimg.png",
        "samples/000000.200kimg.png",
        "curves.png",
        "film.gif",
        "film.png",
        *(
            f"checkpoints/{kimg}kimg/{name}"
            for kimg in ("000000.000", "000000.200")
            for name in ("manifest.json", "state.safetensors")
        ),
        "generator.safetensors",
        "generator.json",
    }
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["source"] == str(signs)
    assert config["gan"]["base_channels"] == 4
    assert config["gan"]["total_kimg"] == 0.2
    dataset = json.loads((run / "dataset.json").read_text())
    assert sum(dataset["splits"][name]["images"] for name in ("train", "val", "test")) == 86
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["seen_kimg"] for line in metrics] == pytest.approx([0.056, 0.104, 0.152, 0.2])


def test_a_finished_run_is_lengthened(tmp_path: Path, signs: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    # The fall of the learning rates would begin elsewhere in a shorter run.
    constant = ("--set", "gan.learning_rate_decay_from_kimg=null")
    run_cli(*train_args(signs, whole, *constant, kimg=0.12))
    run_cli(*train_args(signs, parts, *constant, kimg=0.04))
    # Data and networks come from the run's own config.yaml.
    ran = run_cli("train-cgan", "--out", parts, "--resume", "--kimg", 0.12)
    assert ran.code == 0
    assert f"generator in {parts}" in ran.out
    for name in ("generator.safetensors", "config.yaml"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()


def test_resuming_with_another_config_is_refused(tmp_path: Path, signs: Path) -> None:
    run = tmp_path / "run"
    run_cli(*train_args(signs, run, kimg=0.04))
    before = content(run)
    for changed in (("--seed", 7), ("--resolution", 32)):
        ran = run_cli("train-cgan", "--out", run, "--resume", *changed)
        key = {"--seed": "gan.seed", "--resolution": "data.resolution"}[str(changed[0])]
        assert (ran.code, ran.out) == (2, "")
        assert f"was started with other values of {key}" in ran.err
    assert content(run) == before


def test_the_long_tail_is_cut(tmp_path: Path, signs: Path) -> None:
    run = tmp_path / "run"
    ran = run_cli(*train_args(signs, run, "--imbalance-ratio", 12, kimg=0.02))
    assert ran.code == 0
    dataset = json.loads((run / "dataset.json").read_text())
    counts = dataset["splits"]["train"]["class_counts"]
    assert max(counts) / min(counts) == pytest.approx(12, rel=0.2)


# --- generate ------------------------------------------------------------------------------------


def test_generate_by_name_and_id(tmp_path: Path, trained: tuple[Path, Ran]) -> None:
    args = ("--class", "RED", "--class", 1, "--num", 3, "--out", tmp_path, "--json")
    ran = run_cli("generate", trained[0], *args)
    result = ran.json()
    assert ran.err == ""
    assert result["classes"] == {"3": "red", "1": "blue"}
    assert result["grid"] == str(tmp_path / "grid.png")
    assert len(result["files"]) == 6
    assert files_below(tmp_path) == {
        "grid.png",
        *(str(Path(file).relative_to(tmp_path)) for file in result["files"]),
    }
    for file in result["files"]:
        with Image.open(file) as image:
            assert (image.size, image.mode) == ((16, 16), "RGB")


def test_a_class_asked_for_twice_is_drawn_once(tmp_path: Path, trained: tuple[Path, Ran]) -> None:
    args = ("--class", "red", "--class", 3, "--num", 2, "--out", tmp_path, "--json")
    result = run_cli("generate", trained[0], *args).json()
    assert len(result["files"]) == len(set(result["files"])) == 2


def test_generate_all_classes_beside_the_run(trained: tuple[Path, Ran]) -> None:
    ran = run_cli("generate", trained[0], "--num", 1)
    folder = trained[0] / "generated"
    assert ran.out == f"4 images in {folder}, grid in {folder / 'grid.png'}.\n"
    assert {path.parent.name for path in folder.rglob("0*.png")} == {
        "00000_y-w",
        "00001_blue",
        "00002_green",
        "00003_red",
    }


def test_the_seed_decides(tmp_path: Path, trained: tuple[Path, Ran]) -> None:
    def draw(folder: str, seed: int) -> list[bytes]:
        args = ("--class", "red", "--num", 2, "--seed", seed, "--out", tmp_path / folder)
        files = run_cli("generate", trained[0], *args, "--json").json()["files"]
        return [Path(file).read_bytes() for file in files]

    assert draw("a", 1) == draw("b", 1)
    assert draw("a", 1) != draw("c", 2)


def test_truncated_images_lie_beside_the_full_ones(
    tmp_path: Path, trained: tuple[Path, Ran]
) -> None:
    def draw(*args: object) -> dict[str, bytes]:
        place = ("--class", "red", "--num", 2, "--out", tmp_path)
        result = run_cli("generate", trained[0], *place, *args, "--json").json()
        assert result["truncation"] == (args[1] if args else None)
        return {Path(file).name: Path(file).read_bytes() for file in result["files"]}

    full, truncated = draw(), draw("--truncation", 0.5)
    assert list(truncated) == [
        "00003_seed0_truncation0.5_00000.png",
        "00003_seed0_truncation0.5_00001.png",
    ]
    assert not set(full.values()) & set(truncated.values())
    assert len(list(tmp_path.glob("*/*.png"))) == 4
    refused = run_cli("generate", trained[0], "--truncation", 0)
    assert refused.code == 2
    assert "The truncation is 0.0; give a positive number of standard deviations" in refused.err


# --- benchmark -----------------------------------------------------------------------------------


def test_benchmark_says_what_it_found(compared: tuple[Path, Ran]) -> None:
    out, ran = compared
    result = ran.json()
    assert result["run"] == str(out)
    assert result["verdict"]
    lines = [line for line in ran.err.splitlines() if not line.startswith("Note: ")]
    assert len(lines) == 1 + 6 + 5
    assert lines[1].startswith("real, seed 0: validation macro accuracy ")
    left = [line for line in lines if line.startswith("Classifiers left: ")]
    assert [line.split(",")[0] for line in left] == [
        f"Classifiers left: {n}" for n in (5, 4, 3, 2, 1)
    ]
    assert all(re.fullmatch(r"Classifiers left: \d, about (\d+ min )?\d+ s\.", x) for x in left)


def test_a_benchmark_on_disk(compared: tuple[Path, Ran], trained: tuple[Path, Ran]) -> None:
    out, _ = compared
    predictions = {
        f"{folder}/{name}.npy"
        for folder in ("predictions", "predictions/val")
        for name in ("target", *(f"{arm}-seed{seed}" for arm in ARMS for seed in range(2)))
    }
    # Which classes the gallery shows depends on what they gained.
    found = {name for name in files_below(out) if not name.startswith("gallery/")}
    assert (out / "gallery" / "gallery.json").is_file()
    assert found == {
        ".rows.lock",
        "config.yaml",
        "dataset.json",
        "environment.json",
        "rows.jsonl",
        "report.html",
        "results.md",
        "results.csv",
        "classes.csv",
        "fidelity.json",
        "samples.png",
        "class_balance.png",
        "per_class_gain.png",
        "extractor/extractor.json",
        "extractor/extractor.safetensors",
        *predictions,
    }
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [(row["arm"], row["seed"]) for row in rows] == [(a, s) for s in range(2) for a in ARMS]
    assert {row["steps"] for row in rows} == {3}
    assert {row["images"] for row in rows} == {48}
    fingerprint = trained[1].json()["fingerprint"]
    assert {row["generator_fingerprint"] for row in rows} == {None, fingerprint}
    table = (out / "results.md").read_text()
    assert all(f"| {arm} |" in table for arm in ARMS)
    assert "signforge benchmark" in table


def test_the_same_benchmark_again_repeats_nothing(
    compared: tuple[Path, Ran], trained: tuple[Path, Ran], signs: Path
) -> None:
    out, first = compared
    before = content(out)
    ran = run_cli(*benchmark_args(signs, out, "--generator", trained[0], "--json"))
    assert ran.json() == first.json()
    assert "macro accuracy" not in ran.err
    after = content(out)
    for name in before:
        if name.endswith((".jsonl", ".npy", ".json", ".yaml", ".safetensors", ".md", ".csv")):
            assert after[name] == before[name], name


def test_another_config_in_the_same_folder_is_refused(
    compared: tuple[Path, Ran], trained: tuple[Path, Ran], signs: Path
) -> None:
    out, _ = compared
    before = (out / "rows.jsonl").read_bytes()
    args = benchmark_args(signs, out, "--generator", trained[0], "--arms", "real", "--steps", 4)
    ran = run_cli(*args)
    assert (ran.code, ran.out) == (2, "")
    assert "classifier.steps was 3, is 4" in ran.err
    assert (out / "rows.jsonl").read_bytes() == before


def test_the_table_for_people(
    compared: tuple[Path, Ran], trained: tuple[Path, Ran], signs: Path
) -> None:
    out, first = compared
    ran = run_cli(*benchmark_args(signs, out, "--generator", trained[0]))
    assert all(re.search(rf"^│ {arm} +│ +2 │", ran.out, re.M) for arm in ARMS)
    *_, verdict, where = ran.out.splitlines()
    assert verdict == first.json()["verdict"]
    report, tables, samples = (out / name for name in ("report.html", "results.md", "samples.png"))
    assert where == f"Report: {report}, tables: {tables}, samples: {samples}."


def test_without_a_generator_one_is_trained_first(tmp_path: Path, signs: Path) -> None:
    out = tmp_path / "run"
    args = benchmark_args(signs, out, "--kimg", 0.04, "--seeds", 1, "--arms", "real, synthetic")
    ran = run_cli(*args)
    assert ran.code == 0, ran.err
    assert f"Training the GAN in {out / 'generator'}." in ran.err
    card = json.loads((out / "generator" / "generator.json").read_text())
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [row["arm"] for row in rows] == ["real", "synthetic"]
    assert rows[1]["generator_fingerprint"] == card["weights_sha256"]
    # It can be drawn from like any other, and serves another benchmark of the same split.
    assert run_cli("generate", out / "generator", "--num", 1).code == 0
    args = benchmark_args(signs, tmp_path / "2", "--generator", out / "generator", "--dry-run")
    assert run_cli(*args).code == 0


def test_real_alone_needs_no_generator(tmp_path: Path, signs: Path) -> None:
    out = tmp_path / "run"
    ran = run_cli(*benchmark_args(signs, out, "--arms", "real", "--seeds", 1))
    assert ran.code == 0, ran.err
    assert "GAN" not in ran.err
    assert ran.out.splitlines()[-1].startswith(f"Report: {out / 'report.html'}")
    named = re.findall(r"samples: (\S+)\.$", ran.out, re.M)
    assert all(Path(file).exists() for file in named)


@pytest.mark.parametrize("given", [False, True])
def test_a_dry_run_writes_nothing(
    tmp_path: Path, signs: Path, trained: tuple[Path, Ran], given: bool
) -> None:
    generator = ("--generator", trained[0]) if given else ()
    before = content(trained[0])
    args = benchmark_args(signs, tmp_path / "run", "--kimg", 400, *generator, "--dry-run")
    ran, plan = run_cli(*args), run_cli(*args, "--json").json()
    assert ran.code == 0
    assert re.fullmatch(
        r"About (\d+ h )?(\d+ min)?( ?\d+ s)? in all on this machine\.", ran.out.splitlines()[-1]
    )
    assert ("GAN: up to 400 thousand images" in ran.out) != given
    assert (plan["jobs"], plan["jobs_left"], plan["arms"]) == (6, 6, list(ARMS))
    assert (plan["gan_seconds"] > 0) != given
    assert plan["total_seconds"] >= plan["gan_seconds"]
    assert not (tmp_path / "run").exists()
    assert content(trained[0]) == before


# --- as a program of its own ---------------------------------------------------------------------


def program(*args: object) -> list[str]:
    return [sys.executable, "-m", "signforge", *map(str, args)]


def test_help_loads_little() -> None:
    code = """
import sys
from signforge.cli import main
sys.argv = ["signforge", "--help"]
try:
    main()
except SystemExit as ended:
    assert ended.code == 0
print(sorted({"timm", "matplotlib", "scipy", "torchmetrics"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "train-cgan" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_tilde_that_no_shell_replaced_is_the_home_folder(
    signs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_cli("data", "inspect", str(signs), "--out=~/inspect").code == 0
    assert (tmp_path / "inspect" / "class_distribution.png").is_file()
    ran = run_cli("data", "inspect", str(signs), "--out=~nobody-here/inspect")
    assert ran.code == 2
    assert "~nobody-here/inspect names the home folder of a user that there is not" in ran.err


def test_the_console_script() -> None:
    script = Path(sys.executable).with_name("signforge")
    if not script.exists():
        pytest.skip("signforge is not installed beside this Python")
    done = subprocess.run([script, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Balance rare image classes" in done.stdout


def test_an_error_as_the_shell_sees_it(tmp_path: Path) -> None:
    args = program("data", "inspect", tmp_path / "nowhere")
    done = subprocess.run(args, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"Error: {tmp_path / 'nowhere'} does not exist; give 'demo' or the path of a data set."
    ]


@pytest.mark.slow
def test_a_training_stopped_before_its_first_step_says_so(tmp_path: Path, signs: Path) -> None:
    run = tmp_path / "run"
    endless = ("--set", "gan.guide_steps=1000000")
    args = program(*train_args(signs, run, "--json", *endless))
    training = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (run / "real.png").exists():  # the last file before the guide
            assert training.poll() is None, training.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        training.send_signal(signal.SIGTERM)
        out, err = training.communicate(timeout=60)
    finally:
        training.kill()
        training.wait()
    assert (training.returncode, "Traceback" in err) == (143, False)
    assert json.loads(out) == {"run": str(run), "seen_kimg": 0, "stopped": True}
    assert run_cli(*train_args(signs, run, "--json", kimg=0.1)).json()["seen_kimg"] > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_benchmark_goes_on(
    tmp_path: Path, signs: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """The signal comes as soon as the first row is told."""
    out = tmp_path / "run"

    args = benchmark_args(signs, out, "--arms", "real,oversample", "--seeds", 1)
    with monkeypatch.context() as patch:
        signal_when_told(patch, "validation macro accuracy", number)
        ran = run_cli(*args)
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.endswith("Stopped; the same command goes on from here.\n")
    (kept,) = (out / "rows.jsonl").read_text().splitlines()
    assert run_cli(*args).code == 0
    first, second = (out / "rows.jsonl").read_text().splitlines()
    assert first == kept
    assert json.loads(second)["arm"] == "oversample"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_goes_on(
    tmp_path: Path, signs: Path, number: signal.Signals, code: int
) -> None:
    run = tmp_path / "run"
    args = program(*train_args(signs, run, "--json", kimg=100_000))
    # As many threads as the parts that run in this process: their number changes the last bits.
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    training = subprocess.Popen(
        args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one_thread
    )
    try:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists():
            assert training.poll() is None, training.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        training.send_signal(number)
        out, err = training.communicate(timeout=60)
    finally:
        training.kill()
        training.wait()
    assert training.returncode == code, err
    assert "Traceback" not in err
    stopped = json.loads(out)
    assert stopped["stopped"] is True
    assert list((run / "checkpoints").glob("*kimg/manifest.json"))
    assert stopped["seen_kimg"] > 0  # there is always a checkpoint of the very start
    assert run_cli("generate", run, "--num", 1, "--out", tmp_path / "drawn").code == 0

    target = round(stopped["seen_kimg"] + 0.08, 3)
    ran = run_cli("train-cgan", "--out", run, "--resume", "--kimg", target, "--json")
    assert ran.json()["seen_kimg"] == pytest.approx(target)
    # Stopping left no trace: the same length in one go gives the same generator.
    whole = tmp_path / "whole"
    fresh = run_cli(*train_args(signs, whole, "--json", kimg=target)).json()
    assert fresh["fingerprint"] == ran.json()["fingerprint"]
