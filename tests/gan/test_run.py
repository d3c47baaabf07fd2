import json
import re
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from signforge.config import Config, DataConfig
from signforge.config_file import load_config
from signforge.data.charts import load_image_grid
from signforge.data.splits import PreparedSplits
from signforge.errors import SignforgeError
from signforge.gan.checkpoint import MANIFEST, STATE, list_checkpoints
from signforge.gan.film import save_film
from signforge.gan.metrics import ProbeValues
from signforge.gan.run import (
    row_names,
    run_training,
    save_sample_grid,
)
from signforge.gan.sampler import load_sampler
from signforge.gan.training import StoppedBeforeStart


def replace_gan(config, values):
    return config.model_copy(update={"gan": config.gan.model_copy(update=values)})


@pytest.fixture(scope="module")
def splits(make_train) -> PreparedSplits:
    train, val, test = make_train(), make_train((2, 2, 2), seed=1), make_train((3, 1, 2), seed=2)
    return PreparedSplits(train=train, val=val, test=test, notes=("a note",))


@pytest.fixture(scope="module")
def config(make_config) -> Config:
    return Config(
        data=DataConfig(source="made", resolution=8), gan=make_config(samples_every_kimg=0.04)
    )


@pytest.fixture(scope="module")
def finished(config, splits, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("finished")
    run_training(config, splits, run)
    return run


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of a finished run, to do as one likes with."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def size(path: Path) -> tuple[int, int]:
    with Image.open(path, formats=("PNG",)) as image:
        image.load()
        return image.size


def test_the_run_directory_holds_all_that_describes_it(finished, config, splits):
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*")}
    assert {
        "config.yaml",
        "dataset.json",
        "environment.json",
        "metrics.jsonl",
        "samples.png",
        "real.png",
        "generator.safetensors",
        "generator.json",
        "curves.png",
        "film.gif",
        "film.png",
    } <= names
    assert not [name for name in names if name.endswith(".tmp")]
    assert [path.name for path in sorted((finished / "samples").iterdir())] == [
        "000000.040kimg.png",
        "000000.080kimg.png",
    ]
    kept = [folder.name for folder in list_checkpoints(finished)]
    assert kept == ["000000.000kimg", "000000.096kimg"]
    assert load_config(finished / "config.yaml") == config

    dataset = json.loads((finished / "dataset.json").read_text())
    assert dataset["class_names"] == ["stop", "yield", "no entry"]
    assert dataset["notes"] == ["a note"]
    for name in ("train", "val", "test"):
        split = getattr(splits, name)
        assert dataset["splits"][name] == {
            "images": len(split),
            "class_counts": split.class_counts.tolist(),
            "fingerprint": split.fingerprint,
        }
    environment = json.loads((finished / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
    assert len((finished / "metrics.jsonl").read_text().splitlines()) == 12


def test_real_and_synthetic_grids_have_the_same_layout(finished):
    for name in ("real.png", "samples.png", "samples/000000.080kimg.png"):
        width, height = size(finished / name)
        assert width > 12 * 8
        assert height > 3 * 8
    assert size(finished / "samples.png") == size(finished / "samples/000000.080kimg.png")


def test_a_sample_grid_shows_the_same_latents_every_time(make_sampler, tmp_path):
    for name in ("a.png", "b.png"):
        save_sample_grid(tmp_path / name, make_sampler())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    save_sample_grid(tmp_path / "c.png", make_sampler(seed=1))
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "c.png") as c:
        assert (np.asarray(a) != np.asarray(c)).any()


class ManyClasses:
    """Draws each class as one shade."""

    fingerprint = "shades"

    def __init__(self, num_classes: int, resolution: int) -> None:
        self.num_classes, self.resolution = num_classes, resolution
        self.class_names = tuple(f"kind {label}" for label in range(num_classes))

    def sample(self, labels: torch.Tensor, _seed: int) -> torch.Tensor:
        shape = (len(labels), 3, self.resolution, self.resolution)
        return (labels % 251).to(torch.uint8)[:, None, None, None].expand(shape)


@pytest.mark.parametrize(("num_classes", "resolution"), [(400, 64), (1000, 64), (10_000, 8)])
def test_many_classes_have_a_grid_and_a_film_of_some(tmp_path, num_classes, resolution):
    sampler = ManyClasses(num_classes, resolution)
    for kimg in (0, 40):
        save_sample_grid(tmp_path / "samples" / f"{kimg:06d}kimg.png", sampler)
    rows, names = load_image_grid(tmp_path / "samples/000040kimg.png")
    ids = [int(name.split()[0]) for name in names]
    assert names == [f"{label} kind {label}" for label in ids]
    assert (len(ids), ids[0], ids[-1]) == (64, 0, num_classes - 1)
    for label, row in zip(ids, rows, strict=True):
        assert (row == label % 251).all()
    assert save_film(tmp_path) == tmp_path / "film.gif"
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 2


def test_an_interrupted_run_can_be_sampled_and_resumed_to_the_same_end(
    finished, config, splits, tmp_path
):
    left = iter(range(5))
    seen, grids = [], []

    def on_grid(path: Path, seen_kimg: float) -> None:
        assert size(path) == size(finished / "samples.png")
        grids.append((path.relative_to(tmp_path).as_posix(), seen_kimg))

    stopped = run_training(
        config,
        splits,
        tmp_path,
        should_stop=lambda: next(left, None) is None,
        on_status=lambda status: seen.append(status.seen_kimg),
        on_grid=on_grid,
    )
    assert stopped.card.seen_kimg == 0.04
    assert seen == [0.008, 0.016, 0.024, 0.032, 0.04]
    assert grids == []  # due at this very step: left to the resumed run
    resumed = run_training(config, splits, tmp_path, resume=True, on_grid=on_grid)
    assert grids == [
        ("samples/000000.040kimg.png", 0.04),
        ("samples/000000.080kimg.png", 0.08),
    ]
    assert resumed.fingerprint == load_sampler(finished).fingerprint != stopped.fingerprint
    for name in ("samples/000000.040kimg.png", "samples/000000.080kimg.png", "samples.png"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_the_best_generator_by_the_probe_is_returned(config, splits, tmp_path):
    def probe(_sampler: object, seen_kimg: float) -> ProbeValues:
        return ProbeValues(1.0, 1.0, 0, (1.0, 1.0, 1.0), abs(seen_kimg - 0.048), None, ())

    judged = replace_gan(config, {"probe_every_kimg": 0.024})
    sampler = run_training(judged, splits, tmp_path, probe=probe)
    assert sampler.card.seen_kimg == 0.048
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["seen_kimg"] for line in lines if line["fd"] == 0] == [0.048, 0.056, 0.064]


def test_a_longer_run_may_go_on(run, config, splits):
    longer = replace_gan(config, {"total_kimg": 0.12})
    sampler = run_training(longer, splits, run, resume=True)
    assert sampler.card.seen_kimg == 0.12
    assert load_config(run / "config.yaml") == longer


def test_how_long_and_how_often_may_differ_on_resume(run, config, splits):
    fingerprint = load_sampler(run).fingerprint
    values = {
        "checkpoint_every_minutes": None,
        "max_rollbacks": 0,
        "probe_every_kimg": 5.0,
        "keep_checkpoints": 7,
        "trackers": ("tensorboard",),
    }
    assert run_training(replace_gan(config, values), splits, run, resume=True).fingerprint == (
        fingerprint
    )


def test_what_a_resume_changed_is_recorded(run, config, splits):
    longer = replace_gan(config, {"total_kimg": 0.12})
    moved = longer.model_copy(update={"data": longer.data.model_copy(update={"source": "copy"})})
    run_training(moved, splits, run, resume=True)
    (line,) = (run / "resumes.jsonl").read_text().splitlines()
    assert json.loads(line)["changes"] == {
        "data.source": [config.data.source, "copy"],
        "gan.total_kimg": [config.gan.total_kimg, 0.12],
    }


def test_resume_of_a_run_whose_config_lacks_newer_keys(run, config, splits):
    recorded = yaml.safe_load((run / "config.yaml").read_text())
    newer = ("checkpoint_every_minutes", "max_rollbacks", "probe_classifier", "compile")
    for key in newer:
        del recorded["gan"][key]
    del recorded["data"]["classes"]
    (run / "config.yaml").write_text(yaml.safe_dump(recorded))
    assert run_training(config, splits, run, resume=True).card.seen_kimg == 0.096
    assert load_config(run / "config.yaml") == config


def test_resume_with_another_config_or_data_names_all_that_differs(run, config, splits, make_train):
    other = replace_gan(
        config, {"seed": 1, "batch_size": 16, "total_kimg": 1.0, "compile": True, "probe_steps": 3}
    )
    other = other.model_copy(
        update={"data": other.data.model_copy(update={"split_seed": 4, "source": "elsewhere"})}
    )
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    keys = "data.split_seed, gan.batch_size, gan.probe_steps, gan.compile, gan.seed"
    with pytest.raises(SignforgeError, match=re.escape(f"other values of {keys}; resume it")):
        run_training(other, splits, run, resume=True)

    images = replace(splits, train=make_train(seed=8), val=make_train((2, 2, 2), seed=9))
    data = ", ".join(
        f"the {name} images (fingerprint {getattr(splits, name).fingerprint[:12]}, "
        f"now {getattr(images, name).fingerprint[:12]})"
        for name in ("train", "val")
    )
    with pytest.raises(SignforgeError, match=re.escape(f"other values of {data}; resume it")):
        run_training(config, images, run, resume=True)
    with pytest.raises(SignforgeError, match=re.escape(f"other values of {keys}, {data}; resume")):
        run_training(other, images, run, resume=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_anew(
    run, config, splits, tmp_path
):
    killed = tmp_path / "killed"
    with pytest.raises(StoppedBeforeStart):
        run_training(
            replace_gan(config, {"guide_steps": 40}), splits, killed, should_stop=lambda: True
        )
    assert (killed / "config.yaml").exists()
    with pytest.raises(SignforgeError, match=r"other values of gan\.guide_steps; resume it"):
        run_training(config, splits, killed, resume=True)
    (killed / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    sampler = run_training(config, splits, killed, resume=True)
    assert sampler.fingerprint == load_sampler(run).fingerprint
    assert not (killed / "resumes.jsonl").exists()


def test_resuming_a_finished_run_leaves_its_generator_to_the_last_bit(
    run, config, splits, monkeypatch
):
    before = (run / "generator.safetensors").read_bytes()
    # As other threads or other hardware would, in the last bits.
    monkeypatch.setattr("signforge.gan.export.RECALIBRATION_BATCHES", 3)
    run_training(config, splits, run, resume=True)
    assert (run / "generator.safetensors").read_bytes() == before
    (run / "generator.safetensors").write_bytes(before[:-1])
    run_training(config, splits, run, resume=True)
    assert (run / "generator.safetensors").read_bytes() != before
    assert load_sampler(run).card.seen_kimg == 0.096


@pytest.mark.parametrize("content", ["", "[]", '{"splits": {}}', None])
def test_resume_with_a_broken_dataset_record_is_one_sentence(run, config, splits, content):
    if content is None:
        (run / "dataset.json").unlink()
    else:
        (run / "dataset.json").write_text(content)
    with pytest.raises(SignforgeError, match=r"dataset\.json cannot be read; start a new run"):
        run_training(config, splits, run, resume=True)


def test_nothing_to_resume_is_an_error(config, splits, tmp_path):
    with pytest.raises(SignforgeError) as error:
        run_training(config, splits, tmp_path / "absent", resume=True)
    assert str(tmp_path / "absent") in str(error.value)
    assert not (tmp_path / "absent").exists()


def test_what_cannot_start_begins_nothing(config, splits, tmp_path):
    def refuse() -> None:
        raise SignforgeError("No tracker is there.")

    run = tmp_path / "run"
    with pytest.raises(SignforgeError, match="No tracker"):
        run_training(config, splits, run, on_start=refuse)
    assert not run.exists()


def test_a_refused_run_is_not_touched(run, config, splits):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SignforgeError, match="already holds a training run"):
        run_training(replace_gan(config, {"seed": 1}), splits, run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_disk_that_fills_up_while_training_loses_nothing(finished, config, splits, tmp_path):
    """A limit on the size of files stands in for the disk: it lets all pass but the weights."""
    run = tmp_path / "run"
    frequent = replace_gan(config, {"checkpoint_every_kimg": 0.016})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fills_up(status: object) -> None:
        if status.seen_kimg == 0.04:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))

    try:
        with pytest.raises(SignforgeError) as caught:
            run_training(frequent, splits, run, on_status=fills_up)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    place = run / "checkpoints" / "000000.048kimg"
    hint = "free some space there and run it again."
    assert str(caught.value) == f"Cannot write {place}: File too large; {hint}"
    left = sorted(path.relative_to(run / "checkpoints").as_posix() for path in run.rglob("*kimg/*"))
    kept = ("000000.016kimg", "000000.032kimg")
    assert left == [f"{folder}/{name}" for folder in kept for name in (MANIFEST, STATE)]
    assert not list(run.rglob("*.tmp"))
    resumed = run_training(frequent, splits, run, resume=True)
    assert resumed.fingerprint == load_sampler(finished).fingerprint


def test_leftovers_of_a_kill_are_cleared_on_resume(run, config, splits):
    (run / "probe").mkdir(exist_ok=True)
    (run / "probe" / ".extractor.safetensors.9999993.tmp").write_bytes(b"half")
    (list_checkpoints(run)[-1] / ".manifest.json.9999994.tmp").write_bytes(b"half")
    for name in (
        ".config.yaml.9999991.tmp",
        "samples/.a.png.9999992.tmp",
        "checkpoints/.000009.000kimg.tmp",
    ):
        (run / name).write_bytes(b"half")
    run_training(config, splits, run, resume=True)
    assert not list(run.rglob("*.tmp"))


def test_rows_are_named_by_id_and_name():
    assert row_names(("stop", "1", "2")) == ["0 stop", "1", "2"]


def test_a_second_training_in_the_same_folder_is_refused(config, splits, tmp_path):
    def again(_status: object) -> None:
        with pytest.raises(SignforgeError, match=r"^Another process trains into .*; wait for its"):
            run_training(config, splits, tmp_path / "run")

    first = run_training(config, splits, tmp_path / "run", on_status=again)
    assert first.card.seen_kimg == 0.096
    # Once it is over, the folder says itself that there is a run.
    with pytest.raises(SignforgeError, match="already holds a training run"):
        run_training(config, splits, tmp_path / "run")


def test_a_training_that_is_refused_leaves_no_folder(config, splits, tmp_path):
    gan = config.gan.model_copy(update={"device": "cuda:99"})
    refused = config.model_copy(update={"gan": gan})
    with pytest.raises(SignforgeError, match="'cuda:99' was asked for"):
        run_training(refused, splits, tmp_path / "run")
    assert not (tmp_path / "run").exists()
