"""TensorBoard is really written and read (MLflow, W&B: tests/extras); the rest are stand-ins."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from signforge.config import Config, GanConfig
from signforge.data import decode
from signforge.data.charts import save_image_grid
from signforge.errors import SignforgeError
from signforge.gan import trackers
from signforge.gan.trackers import (
    TrainingTrackers,
    check_trackers,
    flat_config,
    open_trackers,
    track_generated,
)
from support.statuses import make_status


def config(*names):
    return Config(gan=GanConfig(trackers=names))


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "samples" / "000004kimg.png"
    save_image_grid(path, [torch.zeros((2, 3, 8, 8), dtype=torch.uint8)], ["stop"])
    return path


class Stub:
    """Stands in for accelerate's tracker of one name."""

    def __init__(self, known=None, broken_from=None, run_id="id-1"):
        self.known = known
        self.calls = []
        self.broken_from = broken_from
        self.tracker = SimpleNamespace(id=run_id, info=SimpleNamespace(run_id=run_id))

    def store_init_configuration(self, values):
        self.calls.append(("config", values))

    def log(self, values, step=None):
        if self.broken_from is not None and step >= self.broken_from:
            raise ConnectionError("no route to host.\nmore")
        self.calls.append(("log", step, values))

    def log_images(self, values, step, **_options):
        self.calls.append(("image", step, sorted(values)))

    def log_artifact(self, path, folder):
        self.calls.append(("artifact", path, folder))

    def finish(self):
        self.calls.append(("finish",))


@pytest.fixture
def stub(monkeypatch):
    """stub(name, **options): this tracker is now the returned list's newest Stub."""
    monkeypatch.setattr(trackers, "check_trackers", lambda _names: None)
    monkeypatch.setitem(sys.modules, "accelerate", SimpleNamespace(PartialState=lambda: None))

    def replace(name, **options):
        made = []

        def start(_run, known):
            made.append(Stub(known, **options))
            return made[-1]

        monkeypatch.setitem(trackers._START, name, start)
        return made

    return replace


# --- the real ones -------------------------------------------------------------------------------


def test_tensorboard_writes_events_that_can_be_read(tmp_path, grid):
    pytest.importorskip("accelerate")
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with open_trackers(config("tensorboard"), tmp_path) as opened:
        opened.log_status(make_status(4.0))
        opened.log_grid(grid, 4.0)
        opened.log_status(make_status(8.0, generator_loss=0.25, fd=12.5, collapsed_classes=(1, 7)))
    events = accumulators.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("generator_loss")]
    assert losses == [(4000, 0.5), (8000, 0.25)]
    assert [(event.step, event.value) for event in events.Scalars("fd")] == [(8000, 12.5)]
    assert [event.value for event in events.Scalars("collapsed_classes")] == [2.0]
    (image,) = events.Images("samples")
    assert image.step == 4000
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert list((tmp_path / "tensorboard").rglob("hparams.yml"))


# --- what holds for each -------------------------------------------------------------------------


def test_no_tracker_is_the_default_and_imports_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from signforge.config import Config\n"
        "from signforge.gan.trackers import open_trackers\n"
        f"with open_trackers(Config(), Path({str(tmp_path)!r})) as opened: opened.close()\n"
        "print(sorted({'accelerate', 'tensorboard', 'mlflow', 'wandb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
    assert not list(tmp_path.iterdir())


def test_no_tracker_stands_every_call(tmp_path, grid):
    with open_trackers(config(), tmp_path / "run") as opened:
        opened.log_status(make_status(4.0))
        opened.log_grid(grid, 4.0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("tensorboard", "accelerate", "signforge[trackers]"),
        ("tensorboard", "tensorboard", "signforge[trackers]"),
        ("mlflow", "mlflow", "signforge[mlflow]"),
        ("wandb", "wandb", "signforge[wandb]"),
    ],
)
def test_a_missing_package_is_one_sentence(name, missing, extra, monkeypatch, tmp_path):
    monkeypatch.setattr(trackers, "find_spec", lambda package: None if package == missing else 1)
    with pytest.raises(SignforgeError) as error, open_trackers(config(name), tmp_path):
        pass
    assert f"needs the package {missing}: run `pip install '{extra}'`" in str(error.value)
    monkeypatch.setattr(trackers, "find_spec", lambda _package: 1)
    check_trackers([name])


def test_the_config_as_one_level_of_plain_values():
    flat = flat_config(config("mlflow"))
    assert flat["gan.seed"] == 0
    assert flat["data.source"] == "demo"
    assert flat["gan.trackers"] == '["mlflow"]'
    assert flat["gan.max_minutes"] == "null"
    assert flat["gan.compile"] is False
    assert all(isinstance(value, str | int | float | bool) for value in flat.values())


def test_values_that_are_none_are_not_logged(tmp_path, stub):
    made = stub("wandb")
    with open_trackers(config("wandb"), tmp_path) as opened:
        assert not made  # nothing before the first status
        opened.log_status(make_status(0.064))
    (_, (_, step, values), _) = made[0].calls
    assert step == 64
    assert "fd" not in values
    assert "seen_kimg" not in values
    assert values["rollbacks"] == 0
    assert all(isinstance(value, int | float) for value in values.values())


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_resumed_run_goes_on_under_its_id(name, tmp_path, stub):
    made = stub(name)
    for _ in range(2):
        with open_trackers(config(name), tmp_path) as opened:
            opened.log_status(make_status(4.0))
    assert [one.known for one in made] == [None, "id-1"]
    assert [call[0] for one in made for call in one.calls] == [
        *("config", "log", "finish"),
        *("log", "finish"),  # MLflow refuses parameters that changed
    ]
    assert json.loads((tmp_path / "trackers.json").read_text()) == {name: "id-1"}


@pytest.mark.parametrize("content", ["", "[]", "{", "3"])
def test_a_damaged_record_of_ids_starts_anew(tmp_path, stub, content):
    made = stub("wandb")
    (tmp_path / "trackers.json").write_text(content)
    with open_trackers(config("wandb"), tmp_path) as opened:
        opened.log_status(make_status(4.0))
    assert made[0].known is None


def test_a_run_under_another_id_gets_the_parameters_anew(tmp_path, stub):
    """As where `mlflow run` has made one for the resumed training."""
    for run_id in ("id-1", "id-2"):
        made = stub("mlflow", run_id=run_id)
        with open_trackers(config("mlflow"), tmp_path) as opened:
            opened.log_status(make_status(4.0))
        assert made[0].calls[0][0] == "config"
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"mlflow": "id-2"}


def test_at_the_end_mlflow_alone_gets_the_files_that_are_there(tmp_path, stub):
    for name in ("generator.json", "generator.safetensors", "config.yaml", "film.gif"):
        (tmp_path / name).write_bytes(b"x")
    mlflow, wandb = stub("mlflow"), stub("wandb")
    with open_trackers(config("mlflow", "wandb"), tmp_path) as opened:
        opened.log_status(make_status(4.0))
    assert mlflow[0].calls[2:] == [
        ("artifact", str(tmp_path / "generator.json"), "generator"),
        ("artifact", str(tmp_path / "generator.safetensors"), "generator"),
        ("artifact", str(tmp_path / "config.yaml"), "training"),
        ("artifact", str(tmp_path / "film.gif"), "training"),
        ("finish",),
    ]
    assert [call[0] for call in wandb[0].calls] == ["config", "log", "finish"]


def test_a_run_that_was_refused_leaves_no_trace(tmp_path, stub):
    made = stub("mlflow")
    (tmp_path / "generator.json").write_bytes(b"x")
    with pytest.raises(SignforgeError), open_trackers(config("mlflow"), tmp_path):
        raise SignforgeError("It already holds a training run.")
    assert not made
    assert not (tmp_path / "trackers.json").exists()


def test_images_drawn_are_a_run_of_their_own(tmp_path, stub, grid):
    made = stub("mlflow")
    for num in (2, 3):
        with track_generated(["mlflow"], tmp_path, grid, {"num": num}, pytest.fail):
            assert made[-1].calls == [("config", {"generate.num": num})]
    assert [one.known for one in made] == [None, None]
    assert made[1].calls == [
        ("config", {"generate.num": 3}),
        ("artifact", str(grid), "generated"),
        ("finish",),
    ]
    assert not (tmp_path / "trackers.json").exists()


def test_a_tracker_that_is_not_there_is_one_sentence():
    with pytest.raises(SignforgeError, match="no tracker 'tensorbord'; there are tensorboard, "):
        check_trackers(["tensorbord"])


def test_grids_go_where_the_tracker_takes_them(tmp_path, stub, grid):
    kinds = {}
    for name in ("tensorboard", "mlflow", "wandb"):
        made = stub(name)
        with open_trackers(config(name), tmp_path) as opened:
            opened.log_grid(grid, 4.0)
        (kinds[name],) = [call for call in made[0].calls if call[0] in ("artifact", "image")]
    assert kinds["mlflow"] == ("artifact", str(grid), "samples")
    assert kinds["tensorboard"] == kinds["wandb"] == ("image", 4000, ["samples"])


def test_a_grid_that_cannot_be_decoded_is_noted_once_and_no_tracker_is_given_up(
    tmp_path, stub, grid, monkeypatch
):
    wandb, mlflow = stub("wandb"), stub("mlflow")
    said = []
    with open_trackers(config("wandb", "mlflow"), tmp_path, said.append) as opened:
        with monkeypatch.context() as patch:
            patch.setattr(decode, "MAX_PIXELS", 1)
            for kimg in (4.0, 8.0):
                opened.log_grid(grid, kimg)
        opened.log_grid(grid, 12.0)
    problem = "is too large for trackers, or cannot be read: only MLflow gets such files; the run"
    assert said == [f"{grid} {problem} goes on."]
    assert [call[1] for call in wandb[0].calls if call[0] == "image"] == [12000]
    assert len([call for call in mlflow[0].calls if call[0] == "artifact"]) == 3


def test_without_trackers_no_grid_is_decoded(tmp_path, grid, monkeypatch):
    monkeypatch.setattr(trackers, "decode_image", lambda *_args: pytest.fail("decoded"))
    with open_trackers(config(), tmp_path, pytest.fail) as opened:
        opened.log_grid(grid, 4.0)
    with track_generated([], tmp_path, tmp_path / "absent.png", {}, pytest.fail):
        pass


def test_images_that_could_not_be_drawn_leave_a_run_that_is_over(tmp_path, stub, grid):
    made = stub("mlflow")
    with (
        pytest.raises(SignforgeError, match="full"),
        track_generated(["mlflow"], tmp_path, grid, {}, pytest.fail),
    ):
        raise SignforgeError("The disk is full.")
    assert [call[0] for call in made[0].calls] == ["config", "finish"]


def test_a_tracker_that_cannot_be_opened_closes_those_before_it(tmp_path, stub, monkeypatch):
    first = stub("mlflow")

    def refuse(_run, _known):
        raise RuntimeError("No API key configured.")

    monkeypatch.setitem(trackers._START, "wandb", refuse)
    cannot = pytest.raises(SignforgeError, match="wandb cannot be opened")
    with cannot, open_trackers(config("mlflow", "wandb"), tmp_path) as opened:
        opened.open()
    assert [call[0] for call in first[0].calls] == ["config", "finish"]
    assert not (tmp_path / "trackers.json").exists()


def test_a_tracker_that_fails_later_is_given_up(tmp_path, stub):
    broken, whole = stub("wandb", broken_from=8000), stub("mlflow")
    said = []
    with open_trackers(config("wandb", "mlflow"), tmp_path, said.append) as opened:
        for kimg in (4.0, 8.0, 12.0):
            opened.log_status(make_status(kimg))
    assert len(said) == 1
    assert said[0].startswith("wandb failed (no route to host); the run goes on without it")
    assert [call[1] for call in broken[0].calls if call[0] == "log"] == [4000]
    assert [call[1] for call in whole[0].calls if call[0] == "log"] == [4000, 8000, 12000]


def test_a_tracker_that_cannot_be_opened_is_one_sentence(tmp_path, stub, monkeypatch):
    stub("wandb")

    def refuse(_run, _known):
        raise RuntimeError("No API key configured.\nUse `wandb login`.")

    monkeypatch.setitem(trackers._START, "wandb", refuse)
    opened = TrainingTrackers(config("wandb"), tmp_path, lambda _text: None)
    with pytest.raises(SignforgeError, match="wandb cannot be opened: No API key configured;"):
        opened.log_status(make_status(4.0))
    opened.close()
