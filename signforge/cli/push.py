"""``signforge push``."""

from pathlib import Path
from typing import Annotated

import typer

from signforge.cli.options import Json, output_path
from signforge.cli.output import check_folder, print_result
from signforge.errors import SignforgeError


def push(
    run: Annotated[Path, typer.Argument(help="Run directory of train-cgan.")],
    license_id: Annotated[
        str,
        typer.Option(
            "--license",
            help="Licence identifier of the Hub, such as cc-by-4.0, or other. The training images "
            "decide which you may give.",
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(help="OWNER/NAME of a model repository, which is made if there is none."),
    ] = None,
    out: Annotated[
        Path | None, output_path("New or empty folder to write the same files to.")
    ] = None,
    license_name: Annotated[
        str | None, typer.Option(help="With --license other: the licence's short name.")
    ] = None,
    license_link: Annotated[
        str | None, typer.Option(help="With --license other: where it can be read.")
    ] = None,
    data_name: Annotated[
        str | None,
        typer.Option(help="What the card calls the images; default: the last part of their path."),
    ] = None,
    fidelity: Annotated[
        Path | None,
        typer.Option(help="fidelity.json of a benchmark of this generator, for the card."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="A new repository is not public.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Publish a generator on the Hugging Face Hub, or write the folder for it.

    Exactly three files: generator.safetensors, generator.json and README.md, the model card, which
    is written from the run. Uploading needs the extra 'hub' and `hf auth login`, or HF_TOKEN. Then
    load_sampler("hf://OWNER/NAME") has it.
    """
    from signforge.gan.hub import HubAddress, parse_repository, upload_files
    from signforge.gan.model_card import Licence
    from signforge.gan.publish import hub_files, write_hub_folder

    if to is None and out is None:
        raise SignforgeError("Give --to OWNER/NAME, --out FOLDER, or both.")
    licence = Licence(license_id, license_name, license_link)
    repository = parse_repository(to) if to else None
    check_folder(out)
    files = hub_files(
        run,
        licence,
        str(HubAddress(repository)) if repository else "this-folder",
        data_name=data_name,
        fidelity=fidelity,
    )
    places = []
    if out is not None:
        write_hub_folder(out, files)
        places.append(f"{out} holds them")
    commit = upload_files(repository, files, private=private) if repository else None
    if repository:
        places.append(f"load_sampler('{HubAddress(repository, commit)}') has this very one")
    result = {
        "folder": str(out) if out else None,
        "repository": repository,
        "commit": commit,
        "files": {name: len(content) for name, content in files.items()},
    }
    print_result(result, f"Done: {', '.join(files)}; {'; '.join(places)}.", json_output)
