"""``signforge data inspect``."""

from pathlib import Path
from typing import Annotated

import typer

from signforge.cli.options import SOURCE_HELP, Crop, Download, Json, Resolution, output_path
from signforge.cli.output import check_folder, print_json
from signforge.config_file import load_config
from signforge.errors import SignforgeError


def data_inspect(
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    out: Annotated[Path, output_path("Folder for the bar chart and the grid.")] = Path(
        "runs/inspect"
    ),
    resolution: Resolution = None,
    crop: Crop = None,
    download: Download = False,
    json_output: Json = False,
) -> None:
    """Sizes, class counts, imbalance, groups, duplicates and unreadable files of SOURCE."""
    from signforge.data.inspect import inspect_source, report_lines
    from signforge.data.prepare import download_if_asked, unreadable_sentence
    from signforge.terminal import print_lines, rich_track, stderr_console

    check_folder(out)
    console = stderr_console()
    flags = {"data.source": source, "data.resolution": resolution, "data.crop": crop}
    config = load_config(None, [pair for pair in flags.items() if pair[1] is not None])
    data = download_if_asked(config.data, download)
    report, splits = inspect_source(data, out, track=rich_track(console))
    if json_output:
        print_json(report)
    else:
        print_lines(report_lines(report))
    if splits.unreadable:
        raise SignforgeError(unreadable_sentence(splits.unreadable))
