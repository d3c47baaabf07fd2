"""What train.py has no options for, from environment variables.

Variables and not a file in the data folder: SOURCE may be a zip, a read-only mount or the word
``demo``, two runs may share it, and torchrun hands variables on to every process.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from signforge import Config, SignforgeError, load_config
from signforge.config_file import parse_override

GENERATOR, CONFIG = "SIGNFORGE_GENERATOR", "SIGNFORGE_CONFIG"
CHANGES, GATE = "SIGNFORGE_SET", "SIGNFORGE_GATE"


@dataclass(frozen=True)
class Settings:
    """One training's settings.

    config: of which ``data``, ``balance`` and, for a gate that is fitted, ``classifier`` are used.
    generator: the folder of the generator, None if none was named.
    gate: the threshold of a gate to fit, the folder of a saved gate, or None for no gate.
    """

    config: Config
    generator: Path | None
    gate: float | Path | None


def settings_from_environment(source: str | None, environment: Mapping[str, str]) -> Settings:
    """The settings that ``environment`` gives; ``source`` is train.py's ``--data-dir``.

    SIGNFORGE_GENERATOR: a run of ``signforge train-cgan``. Its config.yaml is what the following
        start from, so that data are read and split as they were for the GAN.
    SIGNFORGE_CONFIG: a YAML file or preset to start from instead.
    SIGNFORGE_SET: changes to it, ``section.key=value`` with spaces between, as after ``--set``.
    SIGNFORGE_GATE: a threshold in (0, 1], or the folder of a saved gate.

    Raises SignforgeError for a config that ``load_config`` refuses and a gate that is neither.
    """
    folder, start = environment.get(GENERATOR), environment.get(CONFIG) or None
    generator = Path(folder).expanduser() if folder else None
    if start is None and generator is not None and (generator / "config.yaml").is_file():
        start = str(generator / "config.yaml")
    try:
        texts = shlex.split(environment.get(CHANGES, ""))
    except ValueError as error:
        raise SignforgeError(
            f"{CHANGES}={environment[CHANGES]} cannot be read ({error}): write section.key=value "
            "with spaces between."
        ) from None
    changes = [parse_override(text) for text in texts]
    if source:
        changes.append(("data.source", source))
    return Settings(load_config(start, changes), generator, _gate(environment.get(GATE, "")))


def _gate(text: str) -> float | Path | None:
    if not text:
        return None
    if Path(text).expanduser().is_dir():
        return Path(text).expanduser()
    try:
        tau = float(text)
    except ValueError:
        tau = -1.0
    if not 0 < tau <= 1:
        raise SignforgeError(
            f"{GATE}={text} is neither a threshold in (0, 1] nor the folder of a saved gate; "
            "leave it unset for no gate."
        )
    return tau
