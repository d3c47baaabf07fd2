"""The command line: parses, calls one function, prints. Results go to stdout, all else to stderr.

Modules that take long to import are imported by the command that needs them.
"""

import sys
from io import TextIOWrapper

import typer

from signforge.allocator import keep_freed_memory
from signforge.cli.benchmark import benchmark
from signforge.cli.data import data_inspect
from signforge.cli.export import export
from signforge.cli.gan import generate, train_cgan
from signforge.cli.plan import plan
from signforge.cli.plugins import plugins
from signforge.cli.push import push
from signforge.errors import SignforgeError

app = typer.Typer(
    name="signforge",
    help="Balance rare image classes with one conditional DCGAN, and measure whether it helped.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
data_app = typer.Typer(help="Look at a data set.", no_args_is_help=True)
app.add_typer(data_app, name="data")
data_app.command("inspect")(data_inspect)
app.command("train-cgan")(train_cgan)
app.command()(generate)
app.command()(plan)
app.command()(export)
app.command()(push)
app.command()(benchmark)
app.command()(plugins)


def main() -> None:
    """Runs the command line; what the user can mend becomes one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a pipe may not hold every class name
    keep_freed_memory()
    try:
        app(prog_name="signforge")
    except SignforgeError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2)
    except OSError as error:
        # A path that the system refuses is the user's to mend; any other is a bug.
        if error.filename is None:
            raise
        sys.stderr.write(f"Error: Cannot use {error.filename}: {error.strerror}.\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
