"""source.py executed: signforge.ipynb with its outputs, and signforge.html, a page of its own.

``make notebook`` runs it. With ``--words`` nothing is run and stored outputs stay, for a change of
prose or of the page's look.
The source has another name than the package, which a kernel in this folder would else import.
"""

import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parent
SOURCE = FOLDER / "source.py"
NOTEBOOK = FOLDER / "signforge.ipynb"
PAGE = FOLDER / "signforge.html"
CELL_TIMEOUT_SECONDS = 3600


def read_source(source: Path = SOURCE) -> NotebookNode:
    """The notebook without outputs; cells are numbered, so that two builds differ little."""
    notebook = jupytext.read(source)
    notebook.metadata.pop("jupytext")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Runs every cell in ``folder``, in a new kernel of this interpreter's; raises at an error."""
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    # tqdm wants ipywidgets in every kernel, for bars that nothing here draws.
    return client.execute(env={**os.environ, "PYTHONWARNINGS": "ignore:IProgress not found"})


def with_stored_outputs(notebook: NotebookNode, stored: NotebookNode) -> NotebookNode:
    """``notebook`` with the outputs of ``stored``, whose code must be the same."""
    before, after = (
        [cell for cell in each.cells if cell.cell_type == "code"] for each in (stored, notebook)
    )
    if [cell.source for cell in before] != [cell.source for cell in after]:
        sys.exit("The code of source.py has changed since it was run: leave out --words.")
    for old, new in zip(before, after, strict=True):
        new.outputs, new.execution_count = old.outputs, old.execution_count
    return notebook


def render(notebook: NotebookNode) -> str:
    """The page; everything that it shows lies in it."""
    exporter = HTMLExporter(
        template_name="template", extra_template_basedirs=[str(FOLDER)], embed_images=True
    )
    notebook.metadata["title"] = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
    page, _ = exporter.from_notebook_node(notebook)
    return "\n".join(line.rstrip() for line in page.splitlines()) + "\n"


def main() -> None:
    """Writes both files."""
    notebook = read_source()
    if "--words" in sys.argv[1:]:
        notebook = with_stored_outputs(notebook, nbformat.read(NOTEBOOK, as_version=4))
    else:
        notebook = execute(notebook, FOLDER)
    # Which Python ran it would change with every machine.
    notebook.metadata.pop("language_info", None)
    page = render(notebook)
    nbformat.write(notebook, NOTEBOOK)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
