"""Options that several commands take, each written once, and the config that they make.

A group is a dataclass whose fields are options; ``with_options`` lets a command take whole groups.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from signforge.config import Config, GanConfig
from signforge.config_file import load_config, parse_override
from signforge.errors import SignforgeError
from signforge.files import expanded

SOURCE_HELP = (
    "'demo', or a path: GTSRB's official zips or tree, torchvision's or Kaggle's GTSRB, train.p "
    "pickles, an .npz, or a folder with one folder of images a class; or plugin:NAME:ARGUMENT."
)


def comma_separated(text: str) -> list[str]:
    """``"a, b"`` -> ``["a", "b"]``."""
    return [part.strip() for part in text.split(",")]


def comma_separated_or_none(text: str) -> list[str]:
    """The same; ``"none"`` is the empty list."""
    return [] if text.strip() == "none" else comma_separated(text)


@dataclass(frozen=True)
class Sets:
    """Marks an option that sets one key of the config."""

    key: str
    parse: Callable[[Any], Any] = lambda value: value


def output_path(help_text: str) -> Any:
    """An option for what is written: no shell replaces the ``~`` of ``--out=~/x``."""
    return typer.Option(help=help_text, parser=expanded, metavar="<path>")


DATA, GAN, RECORD = "Data", "GAN training", "What is recorded"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
Download = Annotated[
    bool,
    typer.Option(
        "--download", help="Download GTSRB to the source folder first.", rich_help_panel=DATA
    ),
]
Resolution = Annotated[
    int | None,
    Sets("data.resolution"),
    typer.Option(help="Height and width in pixels.", rich_help_panel=DATA),
]
Crop = Annotated[
    str | None,
    Sets("data.crop"),
    typer.Option(help="full, or roi (the box a GTSRB CSV gives).", rich_help_panel=DATA),
]
Tracker = Annotated[
    list[str] | None,
    Sets("gan.trackers", list),
    typer.Option(help="tensorboard, mlflow or wandb; may be repeated.", rich_help_panel=RECORD),
]


@dataclass(frozen=True)
class ConfigOptions:
    """Where the config comes from, and the device, which concerns more than one section."""

    config: Annotated[
        str | None, typer.Option("--config", help="YAML file, or the name of a preset.")
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value over the config file; may be repeated."),
    ] = None
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None


@dataclass(frozen=True)
class DataOptions:
    """Which images are trained on."""

    data: Annotated[
        str | None,
        Sets("data.source"),
        typer.Option("--data", help=SOURCE_HELP, rich_help_panel=DATA),
    ] = None
    download: Download = False
    resolution: Resolution = None
    crop: Crop = None
    classes: Annotated[
        str | None,
        Sets("data.classes", comma_separated),
        typer.Option(
            help="Comma-separated names or ids of the only classes to use: 17,stop.",
            rich_help_panel=DATA,
        ),
    ] = None
    imbalance_ratio: Annotated[
        float | None,
        Sets("data.imbalance_ratio"),
        typer.Option(
            help="Cut training to a long tail of this n_max / n_min, by group.",
            rich_help_panel=DATA,
        ),
    ] = None


@dataclass(frozen=True)
class GanOptions:
    """How the GAN is trained, and what is recorded meanwhile."""

    kimg: Annotated[
        float | None,
        Sets("gan.total_kimg"),
        typer.Option(help="GAN training length in thousands of images.", rich_help_panel=GAN),
    ] = None
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1, help="The same length in steps of one batch each.", rich_help_panel=GAN
        ),
    ] = None
    minutes: Annotated[
        float | None,
        Sets("gan.max_minutes"),
        typer.Option(help="GAN training time at most.", rich_help_panel=GAN),
    ] = None
    batch_size: Annotated[
        int | None,
        Sets("gan.batch_size"),
        typer.Option(help="Images of a step of the GAN.", rich_help_panel=GAN),
    ] = None
    generator_lr: Annotated[
        float | None,
        Sets("gan.generator_learning_rate"),
        typer.Option(help="Learning rate of the generator.", rich_help_panel=GAN),
    ] = None
    discriminator_lr: Annotated[
        float | None,
        Sets("gan.discriminator_learning_rate"),
        typer.Option(help="Learning rate of the discriminator.", rich_help_panel=GAN),
    ] = None
    latent_size: Annotated[
        int | None,
        Sets("gan.z_dim"),
        typer.Option(help="Numbers that an image is drawn from.", rich_help_panel=GAN),
    ] = None
    augment: Annotated[
        str | None,
        Sets("gan.augment", comma_separated_or_none),
        typer.Option(
            help="Comma-separated: color,translation,geometric,cutout; or none. Never flips.",
            rich_help_panel=GAN,
        ),
    ] = None
    samples_every_kimg: Annotated[
        float | None,
        Sets("gan.samples_every_kimg"),
        typer.Option(help="How often a grid of samples is saved.", rich_help_panel=RECORD),
    ] = None
    probe: Annotated[
        bool | None,
        typer.Option(
            "--probe/--no-probe",
            help="Judge samples by a classifier of real images every gan.probe_every_kimg, or "
            "where that is null, whenever a grid is saved.",
            rich_help_panel=RECORD,
        ),
    ] = None
    tracker: Tracker = None


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """The same command, with one option for each field of its parameters that are dataclasses.

    typer reads parameters from the signature, so the groups are flattened there.
    """
    parameters = inspect.signature(command).parameters
    groups = {
        name: parameter.annotation
        for name, parameter in parameters.items()
        if isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation)
    }
    flat: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        if name not in groups:
            flat.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        hints = get_type_hints(groups[name], include_extras=True)
        flat += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
            for field in fields(groups[name])
        ]

    @functools.wraps(command)
    def call(**given: Any) -> None:
        taken = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**given, **taken)

    call.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return call


def overrides(group: Any) -> Iterator[tuple[str, Any]]:
    """``(key, value)`` of each option of a group that was given and sets a key."""
    for name, hint in get_type_hints(type(group), include_extras=True).items():
        value = getattr(group, name)
        for mark in getattr(hint, "__metadata__", ()):
            if isinstance(mark, Sets) and value is not None and value != []:
                yield mark.key, mark.parse(value)


def resolve_config(
    source: ConfigOptions,
    data: DataOptions,
    gan: GanOptions,
    more: Mapping[str, Any],
    *,
    file_or_preset: str | None = None,
) -> Config:
    """Defaults, config file, ``--set``, then the options that were given.

    more: further keys; None leaves one as it is. file_or_preset: read if ``--config`` is not given.
    Raises SignforgeError as ``load_config`` does, and for both ``--kimg`` and ``--iterations``.
    """
    if gan.kimg is not None and gan.iterations is not None:
        raise SignforgeError("--kimg and --iterations both set the length; give one of them.")
    settings = list(map(parse_override, source.settings or []))
    given = [
        *settings,
        *overrides(data),
        *overrides(gan),
        *((key, value) for key, value in more.items() if value is not None),
    ]
    file = source.config or file_or_preset
    config = load_config(file, given)
    derived = list(_derived(gan, config))
    config = load_config(file, [*given, *derived])
    if gan.kimg is None and gan.iterations is None:
        return config
    fall = _moved_fall(load_config(file, settings).gan, config.gan, dict(settings))
    return load_config(file, [*given, *derived, *fall])


def _derived(options: GanOptions, config: Config) -> Iterator[tuple[str, Any]]:
    """What depends on other keys: iterations on the batch, the probe on the grids."""
    gan = config.gan
    if options.iterations is not None:
        yield "gan.total_kimg", options.iterations * gan.batch_size / 1000
    if options.probe is False:
        yield "gan.probe_every_kimg", None
    elif options.probe and gan.probe_every_kimg is None:
        yield "gan.probe_every_kimg", gan.samples_every_kimg


def _moved_fall(
    before: GanConfig, now: GanConfig, settings: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """Where the learning rates begin to fall, moved along with the length unless ``--set`` says it:
    a training that is cut short before its fall ends far from its best.
    """
    key = "gan.learning_rate_decay_from_kimg"
    start = before.learning_rate_decay_from_kimg
    if start is not None and key not in settings:
        yield key, start * now.total_kimg / before.total_kimg
