"""Plugins: entry points of installed distributions, listed without an import, loaded by name.

An installed distribution names its plugins in its metadata; see docs/plugins.md.
"""

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, NamedTuple, get_args

from signforge.errors import SignforgeError

Kind = Literal["executor", "sampler", "reader"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_PREFIX = "plugin:"


@dataclass(frozen=True)
class Plugin:
    """One entry point. target: ``module:object`` as the distribution gives it."""

    kind: Kind
    name: str
    distribution: str
    version: str
    target: str


class PluginAddress(NamedTuple):
    """``plugin:NAME:ARGUMENT``, or ``plugin:NAME`` with an empty argument."""

    name: str
    argument: str


def group_of(kind: Kind) -> str:
    """The entry-point group of a kind, such as ``signforge.executors``."""
    return f"signforge.{kind}s"


def installed_plugins(kind: Kind) -> tuple[Plugin, ...]:
    """All plugins of a kind by name, those that share a name too; imports nothing."""
    found = [_describe(kind, point) for point in entry_points(group=group_of(kind))]
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.distribution)))


def duplicate_names(plugins: Iterable[Plugin]) -> tuple[str, ...]:
    """One sentence for each name that several plugins of a kind share."""
    owners: dict[tuple[Kind, str], list[str]] = defaultdict(list)
    for plugin in plugins:
        owners[plugin.kind, plugin.name].append(plugin.distribution)
    return tuple(
        f"The {kind} '{name}' is given by {' and by '.join(names)}; uninstall all but one of them."
        for (kind, name), names in owners.items()
        if len(names) > 1
    )


def load_plugin(kind: Kind, name: str) -> Callable[..., Any]:
    """The object behind a name; imports that one plugin and no other.

    Raises SignforgeError for a name that no or several distributions give, and for a plugin that
    cannot be imported or called.
    """
    plugins = installed_plugins(kind)
    matching = [plugin for plugin in plugins if plugin.name == name]
    if not matching:
        raise SignforgeError(_unknown(kind, name, [plugin.name for plugin in plugins]))
    for sentence in duplicate_names(matching):
        raise SignforgeError(sentence)
    plugin = matching[0]
    point = EntryPoint(name=name, value=plugin.target, group=group_of(kind))
    try:
        loaded = point.load()
    except Exception as error:
        raise SignforgeError(
            f"{_named(plugin)} cannot be imported ({_reason(error)}); mend or uninstall "
            f"{plugin.distribution}."
        ) from error
    if not callable(loaded):
        raise SignforgeError(
            f"{_named(plugin)} is a {type(loaded).__name__}, which cannot be called; its entry "
            f"point {plugin.target} must name a function."
        )
    made: Callable[..., Any] = loaded
    return made


def parse_plugin_address(text: str) -> PluginAddress | None:
    """What ``plugin:NAME:ARGUMENT`` names; None for any other text.

    The argument is the rest as it is, with colons.
    """
    if not text.startswith(_PREFIX):
        return None
    name, _, argument = text.removeprefix(_PREFIX).partition(":")
    return PluginAddress(name, argument)


def make_from_plugin(kind: Kind, address: PluginAddress) -> Any:
    """What the factory of that name returns for the argument.

    Raises SignforgeError as ``load_plugin`` does, and where the factory raises anything.
    """
    factory = load_plugin(kind, address.name)
    try:
        return factory(address.argument)
    except SignforgeError:
        raise
    except Exception as error:
        raise SignforgeError(
            f"The {kind} '{address.name}' fails on '{address.argument}' ({_reason(error)}); see "
            "its documentation for what it takes."
        ) from error


def _describe(kind: Kind, point: EntryPoint) -> Plugin:
    owner = point.dist
    name, version = (owner.name, owner.version) if owner is not None else ("unknown", "")
    return Plugin(kind, point.name, str(name), str(version), point.value)


def _unknown(kind: Kind, name: str, names: list[str]) -> str:
    if not names:
        return (
            f"There is no {kind} '{name}': no installed distribution gives a {kind}; install one, "
            "see docs/plugins.md."
        )
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"installed: {', '.join(sorted(names))}."
    return f"There is no {kind} '{name}'; {hint}"


def _named(plugin: Plugin) -> str:
    return f"The {plugin.kind} '{plugin.name}' of {plugin.distribution} {plugin.version}"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(".: ")
