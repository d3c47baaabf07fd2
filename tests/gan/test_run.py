import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from signforge.config import Config, DataConfig, load_config
from signforge.data.splits import PreparedSplits
from signforge.errors import SignforgeError
from signforge.gan.checkpoint import list_checkpoints
from signforge.gan.run import (
    row_names,
    run_training,
    save_sample_grid,
)
from signforge.gan.sampler import load_sampler


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
    } <= names
    assert not [name for name in names if name.endswith(".tmp")]
    assert [path.name for path in sorted((finished / "samples").iterdir())] == ["000000kimg.png"]
    assert len(list_checkpoints(finished)) == 1
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
    for name in ("real.png", "samples.png", "samples/000000kimg.png"):
        width, height = size(finished / name)
        assert width > 12 * 8
        assert height > 3 * 8
    assert size(finished / "samples.png") == size(finished / "samples/000000kimg.png")


def test_a_sample_grid_shows_the_same_latents_every_time(make_sampler, tmp_path):
    for name in ("a.png", "b.png"):
        save_sample_grid(tmp_path / name, make_sampler())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    save_sample_grid(tmp_path / "c.png", make_sampler(seed=1))
    with Image.open(tmp_path / "a.png") as a, Image.open(tmp_path / "c.png") as c:
        assert (np.asarray(a) != np.asarray(c)).any()


def test_an_interrupted_run_can_be_sampled_and_resumed_to_the_same_end(
    finished, config, splits, tmp_path
):
    left = iter(range(5))
    seen = []
    stopped = run_training(
        config,
        splits,
        tmp_path,
        should_stop=lambda: next(left, None) is None,
        on_status=lambda status: seen.append(status.seen_kimg),
    )
    assert stopped.card.seen_kimg == 0.04
    assert seen == [0.008, 0.016, 0.024, 0.032, 0.04]
    resumed = run_training(config, splits, tmp_path, resume=True)
    assert resumed.fingerprint == load_sampler(finished).fingerprint != stopped.fingerprint


def test_a_longer_run_may_go_on(run, config, splits):
    longer = replace_gan(config, {"total_kimg": 0.12})
    sampler = run_training(longer, splits, run, resume=True)
    assert sampler.card.seen_kimg == 0.12
    assert load_config(run / "config.yaml") == longer


def test_resume_with_another_config_names_the_keys(run, config, splits):
    other = replace_gan(config, {"seed": 1, "batch_size": 16, "total_kimg": 1.0})
    other = other.model_copy(
        update={"data": other.data.model_copy(update={"split_seed": 4, "source": "elsewhere"})}
    )
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(
        SignforgeError, match=r"other values of data\.split_seed, gan\.batch_size, gan\.seed;"
    ):
        run_training(other, splits, run, resume=True)
    assert (run / "config.yaml").read_bytes() == before


def test_resume_with_other_images_is_an_error(run, config, splits, make_train):
    other = PreparedSplits(make_train(seed=8), splits.val, splits.test, ())
    with pytest.raises(SignforgeError, match="trained on other images than made holds now"):
        run_training(config, other, run, resume=True)


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


def test_a_refused_run_is_not_touched(run, config, splits):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(SignforgeError, match="already holds a training run"):
        run_training(replace_gan(config, {"seed": 1}), splits, run)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_rows_are_named_by_id_and_name():
    assert row_names(("stop", "1", "2")) == ["0 stop", "1", "2"]
