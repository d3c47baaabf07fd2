from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from signforge.cli.options import (
    ConfigOptions,
    DataOptions,
    GanOptions,
    Sets,
    overrides,
    resolve_config,
    with_options,
)
from signforge.config import Config
from signforge.errors import SignforgeError


def resolve(data=None, gan=None, settings=(), config=None, **more):
    source = ConfigOptions(config=config, settings=list(settings))
    return resolve_config(source, data or DataOptions(), gan or GanOptions(), more)


def test_no_option_is_the_default_config():
    assert resolve() == Config()


@pytest.mark.parametrize(
    ("options", "section", "key", "value"),
    [
        (DataOptions(data="x"), "data", "source", "x"),
        (DataOptions(classes="17, stop"), "data", "classes", ("17", "stop")),
        (DataOptions(resolution=64), "data", "resolution", 64),
        (GanOptions(kimg=7), "gan", "total_kimg", 7.0),
        (GanOptions(iterations=100), "gan", "total_kimg", 6.4),
        (GanOptions(iterations=100, batch_size=20), "gan", "total_kimg", 2.0),
        (GanOptions(generator_lr=1e-4), "gan", "generator_learning_rate", 1e-4),
        (GanOptions(discriminator_lr=3e-4), "gan", "discriminator_learning_rate", 3e-4),
        (GanOptions(latent_size=32), "gan", "z_dim", 32),
        (GanOptions(augment="color, cutout"), "gan", "augment", ("color", "cutout")),
        (GanOptions(augment="none"), "gan", "augment", ()),
        (GanOptions(tracker=["wandb", "mlflow"]), "gan", "trackers", ("wandb", "mlflow")),
        (GanOptions(probe=True), "gan", "probe_every_kimg", 50.0),
        (GanOptions(samples_every_kimg=8), "gan", "probe_every_kimg", 50.0),
        (GanOptions(probe=False), "gan", "probe_every_kimg", None),
    ],
)
def test_what_each_option_sets(options, section, key, value):
    given = {"data" if isinstance(options, DataOptions) else "gan": options}
    assert getattr(getattr(resolve(**given), section), key) == value


def test_iterations_count_batches_of_the_config():
    assert (
        resolve(gan=GanOptions(iterations=5), settings=["gan.batch_size=8"]).gan.total_kimg == 0.04
    )


def test_an_option_wins_over_set_and_set_over_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("gan: {batch_size: 4, z_dim: 5, seed: 6}\n")
    config = resolve(
        gan=GanOptions(batch_size=16),
        settings=["gan.batch_size=8", "gan.z_dim=7"],
        config=str(file),
    )
    assert (config.gan.batch_size, config.gan.z_dim, config.gan.seed) == (16, 7, 6)


def test_the_probe_keeps_the_rhythm_of_the_config_and_can_be_left_out():
    settings = ["gan.probe_every_kimg=5"]
    assert resolve(gan=GanOptions(probe=True), settings=settings).gan.probe_every_kimg == 5
    assert resolve(gan=GanOptions(probe=False), settings=settings).gan.probe_every_kimg is None
    assert resolve(settings=settings).gan.probe_every_kimg == 5


def test_a_probe_where_the_config_has_none_comes_with_each_grid():
    settings = ["gan.probe_every_kimg=null"]
    options = GanOptions(probe=True, samples_every_kimg=8)
    assert resolve(gan=options, settings=settings).gan.probe_every_kimg == 8
    assert resolve(settings=settings).gan.probe_every_kimg is None


def test_two_lengths_are_refused():
    with pytest.raises(SignforgeError, match="--kimg and --iterations both set the length"):
        resolve(gan=GanOptions(kimg=1, iterations=1))


def test_every_marked_option_sets_a_key_that_exists():
    for group in (DataOptions, GanOptions):
        marks = [
            mark.key
            for hint in group.__annotations__.values()
            for mark in getattr(hint, "__metadata__", ())
            if isinstance(mark, Sets)
        ]
        assert len(marks) == len(set(marks)) > 4
        for key in marks:
            section, _, name = key.partition(".")
            assert name in type(getattr(Config(), section)).model_fields, key


def test_overrides_leave_out_what_was_not_given():
    assert list(overrides(GanOptions(tracker=[]))) == []
    assert list(overrides(GanOptions(kimg=0.5))) == [("gan.total_kimg", 0.5)]


def test_a_command_gets_its_groups_and_its_own_options():
    seen = {}

    @with_options
    def command(
        gan: GanOptions,
        name: Annotated[str, typer.Argument()],
        data: DataOptions,
        out: Annotated[str, typer.Option(help="Where to.")] = "here",
    ) -> None:
        """What it does."""
        seen.update(gan=gan, data=data, name=name, out=out)

    app = typer.Typer()
    app.command()(command)
    args = ["me", "--kimg", "3", "--classes", "1,2", "--tracker", "wandb", "--tracker", "mlflow"]
    ran = CliRunner().invoke(app, args)
    assert ran.exit_code == 0, ran.output
    assert seen == {
        "gan": GanOptions(kimg=3.0, tracker=["wandb", "mlflow"]),
        "data": DataOptions(classes="1,2"),
        "name": "me",
        "out": "here",
    }
    described = CliRunner().invoke(app, ["--help"]).output
    assert "What it does." in described
    assert "--imbalance-ratio" in described


@pytest.mark.parametrize(
    ("options", "settings", "expected"),
    [
        (GanOptions(), [], (600, 300)),
        (GanOptions(kimg=100), [], (100, 50)),
        (GanOptions(iterations=1000), [], (64, 32)),
        (GanOptions(kimg=100), ["gan.learning_rate_decay_from_kimg=80"], (100, 80)),
        (GanOptions(kimg=100), ["gan.learning_rate_decay_from_kimg=null"], (100, None)),
        (GanOptions(), ["gan.total_kimg=400"], (400, 300)),
    ],
)
def test_the_fall_of_the_learning_rates_moves_along_with_the_length(options, settings, expected):
    source = ConfigOptions(config="gtsrb_cpu", settings=settings)
    gan = resolve_config(source, DataOptions(), options, {}).gan
    assert (gan.total_kimg, gan.learning_rate_decay_from_kimg) == expected
