"""``signforge plugins``."""

from dataclasses import asdict

from signforge.cli.options import Json
from signforge.cli.output import print_json
from signforge.errors import SignforgeError


def plugins(json_output: Json = False) -> None:
    """List installed executors, samplers and readers; none of them is imported."""
    from signforge.plugins import KINDS, duplicate_names, installed_plugins

    found = [plugin for kind in KINDS for plugin in installed_plugins(kind)]
    if json_output:
        print_json([asdict(plugin) for plugin in found])
    elif found:
        from signforge.benchmark.tables import Table
        from signforge.terminal import print_table

        rows = [(p.kind, p.name, p.distribution, p.version, p.target) for p in found]
        header = ("Kind", "Name", "Distribution", "Version", "Entry point")
        print_table(Table("Plugins", header, tuple(rows), text_columns=len(header)))
    else:
        from signforge.terminal import print_lines

        print_lines(["No plugins are installed; see docs/plugins.md."])
    for sentence in duplicate_names(found):
        raise SignforgeError(sentence)
