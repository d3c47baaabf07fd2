"""Options of train-cgan and benchmark from end to end: classes, probe, trackers, lengths."""

import json
from pathlib import Path

import pytest
import yaml

from support.class_folders import write_tinted_classes
from support.cli_runner import Ran, run_cli

pytestmark = pytest.mark.usefixtures("own_place")

COUNTS = {"blue": 18, "green": 15, "red": 12}


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tinted_classes(tmp_path_factory.mktemp("data") / "signs", COUNTS)


SMALL = [
    part
    for setting in (
        "gan.base_channels=4",
        "gan.guide_steps=2",
        "gan.embedding_dim=4",
        "gan.status_every_kimg=0.04",
        "gan.probe_every_kimg=null",
        "gan.probe_classifier=test_resnet",
        "gan.probe_steps=2",
    )
    for part in ("--set", setting)
]
TINY = ("--resolution", 16, "--device", "cpu", "--batch-size", 8, "--latent-size", 4, *SMALL)


def train(signs: Path, out: Path, *args: object) -> Ran:
    return run_cli("train-cgan", "--data", signs, "--out", out, *TINY, *args)


def statuses(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def refusal(ran: Ran) -> str:
    assert (ran.code, ran.out) == (2, ""), ran
    return ran.err.strip().splitlines()[-1]


def test_the_knobs_of_2019_under_their_modern_names(signs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    rates = ("--generator-lr", 1e-4, "--discriminator-lr", 2e-4)
    rates += ("--set", "gan.learning_rate_decay_from_kimg=null")
    ran = train(signs, run, "--iterations", 7, *rates, "--augment", "cutout", "--json")
    assert ran.json()["seen_kimg"] == 0.056
    gan = yaml.safe_load((run / "config.yaml").read_text())["gan"]
    assert (gan["z_dim"], gan["batch_size"], gan["augment"]) == (4, 8, ["cutout"])
    line, last = statuses(run)
    assert last["seen_kimg"] == 0.056
    assert line["generator_learning_rate"] == 1e-4
    assert line["discriminator_learning_rate"] == 2e-4
    ran = run_cli("train-cgan", "--out", run, "--resume", "--iterations", 9, "--json")
    assert ran.json()["seen_kimg"] == 0.072


def test_one_class_alone(signs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    args = ("--kimg", 0.04, "--samples-every-kimg", 0.02)
    ran = train(signs, run, "--classes", "RED", "--probe", *args)
    assert ran.code == 0, ran.err
    assert "Only 1 of 3 classes are used, numbered anew from 0: red (2)." in ran.err
    assert "A single class cannot be mistaken for another: the probe is left out." in ran.err
    assert json.loads((run / "generator.json").read_text())["class_names"] == ["red"]
    dataset = json.loads((run / "dataset.json").read_text())
    counts = [split["class_counts"] for split in dataset["splits"].values()]
    assert sum(map(sum, counts)) == COUNTS["red"]
    assert (run / "film.gif").is_file()
    drawn = run_cli("generate", run, "--class", "red", "--num", 2, "--json").json()
    assert len(drawn["files"]) == 2


@pytest.fixture(scope="module")
def probed(signs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    run = tmp_path_factory.mktemp("probed") / "run"
    args = ("--classes", "2,blue", "--kimg", 0.12, "--samples-every-kimg", 0.04, "--probe")
    return run, train(signs, run, *args)


def test_a_probe_judges_samples_while_they_are_made(probed: tuple[Path, Ran]) -> None:
    run, ran = probed
    assert ran.code == 0, ran.err
    lines = statuses(run)
    assert len(lines) == 3
    assert all(0 <= line["worst_class_label_agreement"] <= 1 for line in lines)
    assert all(line["fd"] > 0 for line in lines)
    assert {path.name for path in (run / "probe").iterdir()} == {
        "extractor.json",
        "extractor.safetensors",
    }
    shown = [line for line in ran.err.splitlines() if line.startswith("GAN ")]
    assert all("label agreement" in line for line in shown)
    # A classifier of two steps knows nothing: some class is never recognised.
    collapsed = lines[0]["collapsed_classes"]
    named = [f"{label} {('blue', 'red')[label]}" for label in collapsed]
    assert collapsed
    assert f"Classes at 0 kimg: collapsed: {', '.join(named)}." in ran.err


def test_a_probed_run_goes_on_with_the_same_classifier(probed: tuple[Path, Ran]) -> None:
    run, _ = probed
    before = (run / "probe" / "extractor.json").read_bytes()
    assert run_cli("train-cgan", "--out", run, "--resume", "--kimg", 0.16).code == 0
    assert (run / "probe" / "extractor.json").read_bytes() == before
    assert len(statuses(run)) == 4


def test_trackers_get_what_metrics_jsonl_gets(signs: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    args = ("--kimg", 0.08, "--samples-every-kimg", 0.04, "--tracker", "tensorboard")
    assert train(signs, run, *args).code == 0
    events = accumulators.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("generator_loss")]
    lines = statuses(run)
    assert [step for step, _ in losses] == [round(1000 * line["seen_kimg"]) for line in lines]
    assert [value for _, value in losses] == pytest.approx(
        [line["generator_loss"] for line in lines]
    )
    assert [image.step for image in events.Images("samples")] == [40, 80]


def test_a_benchmark_trains_its_generator_with_the_same_options(
    signs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    settings = (
        "benchmark.extractor_steps=2",
        "benchmark.bootstrap_resamples=100",
        "balance.gate_tau=0",
    )
    more = [part for text in (*settings, "classifier.batch_size=8") for part in ("--set", text)]
    ran = run_cli(
        *("benchmark", "--data", signs, "--out", out, *TINY, *more, "--iterations", 5),
        *("--classifier", "test_resnet", "--steps", 1, "--seeds", 1, "--arms", "real,synthetic"),
        *("--classes", "red,green", "--probe", "--samples-every-kimg", 0.04, "--json"),
    )
    assert ran.code == 0, ran.err
    (line,) = statuses(out / "generator")
    assert line["fd"] > 0
    assert (out / "generator" / "film.png").is_file()
    rows = [json.loads(row) for row in (out / "rows.jsonl").read_text().splitlines()]
    assert [row["arm"] for row in rows] == ["real", "synthetic"]


# --- what the user can mend ----------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train-cgan", "benchmark"])
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--classes", "gren"), "There is no class 'gren': ids are 0..2; did you mean 'green'?"),
        (("--classes", "red,3"), "There is no class '3': ids are 0..2"),
        (("--classes", ""), "There is no class '': ids are 0..2"),
        (("--kimg", 1, "--iterations", 5), "--kimg and --iterations both set the length"),
        (("--tracker", "tensorbord"), "gan.trackers.0 = 'tensorbord' is not valid"),
        (("--augment", "flip"), "gan.augment.0 = 'flip' is not valid"),
        (("--batch-size", 1), "gan.batch_size = 1 is not valid"),
        (("--generator-lr", 0), "gan.generator_learning_rate = 0.0 is not valid"),
        (
            ("--probe", "--set", "gan.probe_classifier=resnet18x"),
            "did you mean resnet18",
        ),
    ],
)
def test_one_sentence_and_nothing_written(
    signs: Path, tmp_path: Path, command: str, args: tuple[object, ...], says: str
) -> None:
    out = tmp_path / "run"
    given = (command, "--data", signs, "--resolution", 16, "--out", out)
    assert says in refusal(run_cli(*given, *args))
    assert not out.exists()


def test_a_benchmark_of_one_class_is_refused(signs: Path, tmp_path: Path) -> None:
    ran = run_cli("benchmark", "--data", signs, "--out", tmp_path / "run", *TINY, "--classes", 1)
    assert "at least two classes" in refusal(ran)
    assert not (tmp_path / "run").exists()


def test_a_missing_tracker_is_said_before_training(
    signs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signforge.gan.trackers.find_spec", lambda _name: None)
    sentence = refusal(train(signs, tmp_path / "run", "--tracker", "mlflow"))
    assert "run `pip install 'signforge[mlflow]'`" in sentence
    assert not (tmp_path / "run").exists()
