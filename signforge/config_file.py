"""Configs from YAML files, presets and ``--set``, and back: one file configures every command.

A file has at most the sections of ``Config``; what it leaves out keeps its default, and a key
that does not exist is an error that names the closest match. The resolved config is saved with
every run, so a run can be repeated from its own folder.
"""

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from signforge.config import Config, Section
from signforge.errors import SignforgeError
from signforge.yaml_text import parse_yaml


def load_config(
    path_or_preset: str | Path | None, overrides: Sequence[tuple[str, Any]] = ()
) -> Config:
    """Defaults, then the YAML file or preset, then ``("section.key", value)`` overrides.

    Raises SignforgeError for a missing or malformed file, an unknown key (with the closest
    match) and a value out of range, naming the file and the key.
    """
    values: dict[str, Any] = {}
    origin = "config"
    if path_or_preset is not None:
        text, origin = _read(path_or_preset)
        values = _parse(text, origin)
    return merge_overrides(values, overrides, origin)


def merge_overrides(
    values: Mapping[str, Any], overrides: Sequence[tuple[str, Any]], origin: str
) -> Config:
    """Applies dotted ``(key, value)`` pairs over nested ``values`` and validates the result."""
    merged: dict[str, Any] = {
        key: dict(section) if isinstance(section, Mapping) else section
        for key, section in values.items()
    }
    for dotted, value in overrides:
        section, _, key = dotted.partition(".")
        if section not in Config.model_fields:
            raise SignforgeError(_unknown(section, Config, "", "--set"))
        if not isinstance(merged.setdefault(section, {}), dict) or not key:
            raise SignforgeError(f"--set {dotted}: write section.key=value, such as gan.seed=1.")
        merged[section][key] = value
    return validate(merged, origin)


def validate(values: Mapping[str, Any], origin: str) -> Config:
    """``values`` as a Config; every problem is a SignforgeError that names ``origin`` and key."""
    for name, section in values.items():
        if name not in Config.model_fields:
            raise SignforgeError(_unknown(name, Config, "", origin))
        if not isinstance(section, Mapping):
            raise SignforgeError(f"{origin}: {name} must be a section of keys, got {section!r}.")
        section_type = Config.model_fields[name].annotation
        assert isinstance(section_type, type)
        assert issubclass(section_type, Section)
        for key in section:
            if key not in section_type.model_fields:
                raise SignforgeError(_unknown(str(key), section_type, f"{name}.", origin))
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise SignforgeError(
            f"{origin}: {key} = {first['input']!r} is not valid: {first['msg']}."
        ) from None


def parse_override(text: str) -> tuple[str, Any]:
    """``"gan.seed=1"`` -> ``("gan.seed", 1)``; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals:
        raise SignforgeError(f"--set {text}: write section.key=value, such as gan.seed=1.")
    try:
        return key.strip(), parse_yaml(value)
    except yaml.YAMLError:
        raise SignforgeError(f"--set {text}: {value!r} is not a YAML value.") from None


def dump_config(config: Section) -> str:
    """YAML that ``load_config`` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def preset_names() -> tuple[str, ...]:
    """Presets that ship with the package, by the name that ``--config`` takes."""
    return tuple(sorted(path.stem for path in _preset_folder().glob("*.yaml")))


def _preset_folder() -> Path:
    """configs/ of the source tree, or its copy inside an installed wheel."""
    package = Path(str(resources.files("signforge")))
    packaged = package / "configs"
    return packaged if packaged.is_dir() else package.parent / "configs"


def _read(path_or_preset: str | Path) -> tuple[str, str]:
    path = Path(path_or_preset)
    if not path.is_file() and str(path_or_preset) in preset_names():
        path = _preset_folder() / f"{path_or_preset}.yaml"
    try:
        return path.read_text(encoding="utf-8"), str(path)
    except OSError as error:
        raise SignforgeError(
            f"Cannot read config {path}: {error.strerror}; give a YAML file or one of the presets "
            f"{', '.join(preset_names())}."
        ) from None
    except UnicodeDecodeError:
        raise SignforgeError(f"Config {path} is not UTF-8 text.") from None


def _parse(text: str, origin: str) -> dict[str, Any]:
    try:
        values = parse_yaml(text)
    except yaml.YAMLError as error:
        raise SignforgeError(
            f"{origin} is not valid YAML: {' '.join(str(error).split())}"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SignforgeError(
            f"{origin}: expected sections such as 'gan:', got {type(values).__name__}."
        )
    return {str(key): {} if section is None else section for key, section in values.items()}


def _unknown(key: str, section: type[Section], prefix: str, origin: str) -> str:
    known = list(section.model_fields)
    closest = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {prefix}{closest[0]}?" if closest else f"known keys: {', '.join(known)}."
    return f"{origin}: unknown key {prefix}{key}; {hint}"
