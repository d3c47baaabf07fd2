"""The main job in process, on the colour squares of conftest.py."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import torch

from signforge.benchmark import job as job_module
from signforge.benchmark.arms import ARMS, ArmContext, ArmSetup
from signforge.benchmark.estimate import dry_run
from signforge.benchmark.folder import read_rows
from signforge.benchmark.job import JobDisplay, find_generator, run_main_job
from signforge.benchmark.runner import GENERATOR, run_in_process, unfinished_file
from signforge.config import Config
from signforge.data.images import LabeledImages
from signforge.data.splits import PreparedSplits
from signforge.errors import SignforgeError
from signforge.evaluate.observed import TrainingDisplay
from signforge.gan.checkpoint import list_checkpoints
from signforge.gan.guide import STOP_STEPS
from signforge.gan.metrics import Status
from signforge.gan.run import run_training
from signforge.progress import Stopped, no_progress

T = TypeVar("T")
FILES = {
    ".rows.lock",
    "class_balance.png",
    "config.yaml",
    "dataset.json",
    "environment.json",
    "fidelity.json",
    "per_class_gain.png",
    "report.html",
    "results.csv",
    "classes.csv",
    "results.md",
    "rows.jsonl",
    "samples.png",
}


@pytest.fixture(scope="session")
def job_config(config: Config) -> Config:
    """conftest's config, with a GAN of a few steps and one seed."""
    gan = config.gan.model_copy(
        update={
            "z_dim": 8,
            "base_channels": 4,
            "guide_steps": 2,
            "probe_every_kimg": None,
            "embedding_dim": 4,
            "batch_size": 8,
            "total_kimg": 0.08,
            "status_every_kimg": 0.02,
            "device": "cpu",
        }
    )
    benchmark = config.benchmark.model_copy(update={"seeds": 1})
    return config.model_copy(update={"gan": gan, "benchmark": benchmark})


@pytest.fixture(scope="session")
def generator(
    job_config: Config, splits: PreparedSplits, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run = tmp_path_factory.mktemp("runs") / "cgan"
    run_training(job_config, splits, run)
    return run


@pytest.fixture(scope="session")
def finished(
    job_config: Config, splits: PreparedSplits, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A job without a generator of its own, run to its end."""
    run = tmp_path_factory.mktemp("runs") / "benchmark"
    run_main_job(job_config, splits, run, command="signforge benchmark")
    return run


def with_arms(config: Config, *arms: str) -> Config:
    return config.model_copy(
        update={"benchmark": config.benchmark.model_copy(update={"arms": arms})}
    )


def other_train(splits: PreparedSplits) -> PreparedSplits:
    """The same but for one training image."""
    fewer = splits.train.subset(torch.arange(1, len(splits.train)))
    return replace(splits, train=fewer)


def stop_after(calls: int) -> Callable[[], bool]:
    """False ``calls`` times, then True."""
    answers = iter([False] * calls)
    return lambda: next(answers, True)


# --- find_generator ------------------------------------------------------------------------------


def test_no_generator_is_none(job_config: Config, splits: PreparedSplits) -> None:
    assert find_generator(job_config, splits, None) is None


def test_a_generator_of_this_split(
    job_config: Config, splits: PreparedSplits, generator: Path
) -> None:
    sampler = find_generator(job_config, splits, generator)
    assert sampler is not None
    assert sampler.class_names == splits.train.class_names
    assert sampler.card.train_fingerprint == splits.train.fingerprint


def test_a_generator_that_saw_other_images(
    job_config: Config, splits: PreparedSplits, generator: Path
) -> None:
    with pytest.raises(SignforgeError, match="trained on other images than this training split"):
        find_generator(job_config, other_train(splits), generator)


def test_a_generator_that_saw_the_test_images(
    job_config: Config, splits: PreparedSplits, tmp_path: Path
) -> None:
    leaky = replace(splits, train=splits.test)
    run_training(job_config, leaky, tmp_path / "cgan")
    with pytest.raises(SignforgeError, match="may have seen validation or test images"):
        find_generator(job_config, splits, tmp_path / "cgan")


def test_a_generator_of_other_classes(
    job_config: Config, splits: PreparedSplits, generator: Path
) -> None:
    renamed = replace(splits.train, class_names=("a", "b", "c", "d"))
    with pytest.raises(SignforgeError, match="classes are not the data's"):
        find_generator(job_config, replace(splits, train=renamed), generator)


def test_a_folder_without_generator(
    job_config: Config, splits: PreparedSplits, tmp_path: Path
) -> None:
    with pytest.raises(SignforgeError, match=r"holds no generator\.json"):
        find_generator(job_config, splits, tmp_path)


# --- the whole job -------------------------------------------------------------------------------


def test_everything_lands_in_the_run_directory(finished: Path) -> None:
    assert {path.name for path in finished.iterdir() if path.is_file()} == FILES
    assert {path.name for path in (finished / "predictions").iterdir()} == {
        "target.npy",
        "groups.npy",
        "val",
        "real-seed0.npy",
        "oversample-seed0.npy",
        "synthetic-seed0.npy",
    }
    assert (finished / GENERATOR / "generator.safetensors").is_file()
    assert (finished / "extractor" / "extractor.json").is_file()
    assert (finished / "gallery" / "gallery.json").is_file()


def test_rows_name_the_generator_that_was_trained(
    finished: Path, job_config: Config, splits: PreparedSplits
) -> None:
    sampler = find_generator(job_config, splits, finished / GENERATOR)
    assert sampler is not None
    rows = {row["arm"]: row for row in read_rows(finished)}
    assert set(rows) == {"real", "oversample", "synthetic"}
    assert rows["synthetic"]["generator_fingerprint"] == sampler.fingerprint
    assert rows["synthetic"]["gan_seconds"] == round(sampler.card.seconds, 3)
    assert rows["real"]["generator_fingerprint"] is None
    assert rows["real"]["gan_seconds"] == 0
    dataset = json.loads((finished / "dataset.json").read_text())
    assert dataset["generator"]["fingerprint"] == sampler.fingerprint
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["commands"] == ["signforge benchmark"]
    fidelity = json.loads((finished / "fidelity.json").read_text())
    assert fidelity["sampler_fingerprint"] == sampler.fingerprint


def test_the_report_compares_all_arms(finished: Path) -> None:
    text = (finished / "results.md").read_text()
    for arm in ("real", "oversample", "synthetic"):
        assert f"| {arm} |" in text


def test_a_second_call_repeats_nothing(
    finished: Path,
    job_config: Config,
    splits: PreparedSplits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = ["rows.jsonl", "fidelity.json", f"{GENERATOR}/generator.json", "samples.png"]
    watched += ["gallery/gallery.json", "results.md", "report.html"]
    before = {name: (finished / name).read_bytes() for name in watched}
    # The GAN is asked to go on but is at its end: not one step may follow.
    steps: list[Status] = []

    @contextmanager
    def gan() -> Iterator[TrainingDisplay]:
        yield TrainingDisplay(on_status=steps.append)

    monkeypatch.setattr("signforge.benchmark.fitting.fit_classifier", pytest.fail)
    rows: list[object] = []
    run_main_job(job_config, splits, finished, display=JobDisplay(gan=gan, on_row=rows.append))
    assert steps == []
    assert rows == []
    assert {name: (finished / name).read_bytes() for name in watched} == before


def test_a_given_generator_is_used_and_left_alone(
    tmp_path: Path, job_config: Config, splits: PreparedSplits, generator: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in generator.rglob("*")}
    messages: list[str] = []
    run_main_job(
        with_arms(job_config, "real", "synthetic"),
        splits,
        tmp_path,
        generator=generator,
        display=JobDisplay(message=messages.append),
    )
    assert not (tmp_path / GENERATOR).exists()
    assert not any("GAN" in message for message in messages)
    assert {path: path.stat().st_mtime_ns for path in generator.rglob("*")} == before


def test_arms_without_a_generator_train_none(
    tmp_path: Path,
    job_config: Config,
    splits: PreparedSplits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_module, "train_observed", pytest.fail)
    config = with_arms(job_config, "real", "oversample")
    summary = run_main_job(config, splits, tmp_path)
    assert summary.verdict
    assert {row["arm"] for row in read_rows(tmp_path)} == {"real", "oversample"}
    assert not (tmp_path / GENERATOR).exists()
    assert not (tmp_path / "fidelity.json").exists()


def test_arms_of_ones_own_get_the_given_generator(
    tmp_path: Path, job_config: Config, splits: PreparedSplits, generator: Path
) -> None:
    seen: list[str] = []

    def mine(train: LabeledImages, context: ArmContext) -> ArmSetup:
        assert context.sampler is not None
        seen.append(context.sampler.fingerprint)
        return ARMS["real"](train, context)

    config = with_arms(job_config, "real", "mine", "mine+focal_loss")
    with pytest.raises(SignforgeError, match="Unknown arm 'mine'"):
        run_main_job(config, splits, tmp_path)
    run_main_job(config, splits, tmp_path, arms={**ARMS, "mine": mine}, generator=generator)
    sampler = find_generator(job_config, splits, generator)
    assert sampler is not None
    assert seen == [sampler.fingerprint] * 2
    assert (tmp_path / "fidelity.json").is_file()


def test_a_foreign_generator_is_refused_before_anything_is_written(
    tmp_path: Path, job_config: Config, splits: PreparedSplits, generator: Path
) -> None:
    with pytest.raises(SignforgeError, match="trained on other images"):
        run_main_job(job_config, other_train(splits), tmp_path / "run", generator=generator)
    assert not (tmp_path / "run").exists()


def test_another_config_or_generator_is_refused_before_anything_of_the_folder_changes(
    tmp_path: Path, job_config: Config, splits: PreparedSplits, finished: Path
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    seed = job_config.gan.model_copy(update={"seed": 9})
    run_training(job_config.model_copy(update={"gan": seed}), splits, other)
    shutil.copytree(finished, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    gan = job_config.gan.model_copy(update={"total_kimg": 0.16})
    longer = job_config.model_copy(update={"gan": gan})
    for refuse in (
        lambda: run_main_job(longer, splits, run),
        lambda: dry_run(longer, splits, run),
    ):
        with pytest.raises(SignforgeError, match=r"gan\.total_kimg was 0\.08, is 0\.16"):
            refuse()
    with pytest.raises(SignforgeError, match="rows made with another generator"):
        run_main_job(job_config, splits, run, generator=other)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_generator_from_elsewhere_must_be_named_again(
    tmp_path: Path, job_config: Config, splits: PreparedSplits, generator: Path
) -> None:
    config = with_arms(job_config, "real", "synthetic")
    run_main_job(config, splits, tmp_path, generator=generator)
    messages: list[str] = []
    display = JobDisplay(message=messages.append)
    with pytest.raises(SignforgeError, match=r"a generator from elsewhere .* with --generator"):
        run_main_job(config, splits, tmp_path, display=display)
    assert messages == []
    assert not (tmp_path / GENERATOR).exists()
    run_main_job(with_arms(job_config, "real", "oversample"), splits, tmp_path)


def test_stopped_while_the_gan_trains(
    tmp_path: Path, job_config: Config, splits: PreparedSplits, finished: Path
) -> None:
    display = JobDisplay(should_stop=stop_after(3))
    with pytest.raises(Stopped):
        run_main_job(job_config, splits, tmp_path, display=display)
    assert list_checkpoints(tmp_path / GENERATOR)
    assert not (tmp_path / "rows.jsonl").exists()

    messages: list[str] = []
    run_main_job(job_config, splits, tmp_path, display=JobDisplay(message=messages.append))
    assert messages[0] == f"Resuming the GAN in {tmp_path / GENERATOR}."
    assert scores(tmp_path) == scores(finished)  # as if it had never stopped


def test_stopped_before_the_gan_has_anything_to_save(
    tmp_path: Path, job_config: Config, splits: PreparedSplits
) -> None:
    gan = job_config.gan.model_copy(update={"guide_steps": STOP_STEPS})
    config = job_config.model_copy(update={"gan": gan})
    with pytest.raises(Stopped):
        run_main_job(config, splits, tmp_path, display=JobDisplay(should_stop=lambda: True))
    assert not list_checkpoints(tmp_path / GENERATOR)
    assert run_main_job(config, splits, tmp_path).verdict


def test_stopped_between_classifiers(
    tmp_path: Path, job_config: Config, splits: PreparedSplits, finished: Path
) -> None:
    config = with_arms(job_config, "real", "oversample")
    display = JobDisplay(should_stop=(tmp_path / "rows.jsonl").exists)
    with pytest.raises(Stopped):
        run_main_job(config, splits, tmp_path, display=display)
    (kept,) = read_rows(tmp_path)
    assert kept["arm"] == "real"
    run_main_job(config, splits, tmp_path)
    rows = read_rows(tmp_path)
    assert rows[0] == kept
    assert [row["arm"] for row in rows] == ["real", "oversample"]
    assert scores(tmp_path) == [row for row in scores(finished) if row[0] != "synthetic"]


def test_stopped_within_a_classifier(
    tmp_path: Path, job_config: Config, splits: PreparedSplits, finished: Path
) -> None:
    config = with_arms(job_config, "real")
    seen: list[int] = []

    def stop_after_the_second_step() -> bool:
        seen.append(len(seen))
        return len(seen) == 2

    display = JobDisplay(should_stop=stop_after_the_second_step)
    with pytest.raises(Stopped):
        run_main_job(config, splits, tmp_path, display=display)
    assert seen == [0, 1]
    assert not (tmp_path / "rows.jsonl").exists()
    assert unfinished_file(tmp_path, "real", 0).is_file()
    left: list[int] = []

    def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        left.append(total)
        return no_progress(items, description, total)

    run_main_job(config, splits, tmp_path, display=JobDisplay(track=track))
    assert left[0] == config.classifier.steps - 2
    assert scores(tmp_path) == scores(finished)[:1]
    assert not unfinished_file(tmp_path, "real", 0).exists()


def test_what_an_executor_finished_is_kept_when_a_stop_comes(
    tmp_path: Path, job_config: Config, splits: PreparedSplits
) -> None:
    config = with_arms(job_config, "real", "oversample")
    display = JobDisplay(should_stop=lambda: True)
    for count in (1, 2):
        with pytest.raises(Stopped):
            run_main_job(config, splits, tmp_path, display=display, run_jobs=run_in_process)
        assert len(read_rows(tmp_path)) == count


def scores(run: Path) -> Sequence[tuple[str, int, float, float]]:
    return [
        (row["arm"], row["seed"], row["final_loss"], row["macro_accuracy"])
        for row in read_rows(run)
    ]


def test_a_classifier_that_cannot_give_cosines_is_refused_early(
    tmp_path: Path, job_config: Config, splits: PreparedSplits
) -> None:
    # Its last layer is a 1x1 convolution.
    classifier = job_config.classifier.model_copy(update={"name": "dla46_c"})
    config = with_arms(job_config, "real", "ldam_drw").model_copy(update={"classifier": classifier})
    with pytest.raises(SignforgeError, match=r"only a linear one can give cosines"):
        run_main_job(config, splits, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_strategy_that_cannot_be_is_refused_before_anything_is_trained(
    tmp_path: Path, job_config: Config, splits: PreparedSplits
) -> None:
    balance = job_config.balance.model_copy(update={"sampling_strategy": "majority"})
    config = job_config.model_copy(update={"balance": balance})
    with pytest.raises(SignforgeError, match="'majority' is neither one of auto, minority"):
        run_main_job(config, splits, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_class_is_refused_before_anything_is_trained(
    tmp_path: Path, job_config: Config, splits: PreparedSplits
) -> None:
    def only_first(images: LabeledImages) -> LabeledImages:
        kept = images.subset((images.labels == 0).nonzero().flatten())
        return replace(kept, class_names=kept.class_names[:1])

    one = PreparedSplits(*map(only_first, (splits.train, splits.val, splits.test)))
    with pytest.raises(SignforgeError, match="takes at least two classes"):
        run_main_job(job_config, one, tmp_path / "run")
    assert not (tmp_path / "run").exists()
