"""The notebook: its three files agree, what is stored is clean, its page loads nothing, it runs."""

import importlib.util
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from support.chromium import Page, find_chromium

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SOURCE, NOTEBOOK, PAGE = (
    FOLDER / name for name in ("source.py", "signforge.ipynb", "signforge.html")
)
MARKER = "# %%"
MACHINE_PATH = re.compile(r"(?<![\w.])(/(tmp|home|root|work|Users|usr|opt|var|mnt)/|[A-Z]:\\)")
MOST_KIB = 600
TINY = "CLASSES = [14, 17, 19]\nGAN_KIMG = 0.64\nGUIDE_STEPS = 2\nCLASSIFIER_STEPS = 2\nSEEDS = 2"


class Reading(HTMLParser):
    """What a page loads, shows and points at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.fragments: list[str] = []
        self.texts: list[str] = []
        self.scripts = 0
        self._inside: list[str] = []
        self.feed(text)
        self.text = "".join(self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        keys = ["src", "srcset", "poster", "data"] + (["href"] if tag in ("link", "image") else [])
        self.loads += [str(values[key]) for key in keys if key in values]
        self.loads += _style_loads(values.get("style") or "")
        self.ids.append(values.get("id") or "")
        self.scripts += tag == "script"
        if tag == "img":
            self.images.append(values)
        href = values.get("href") or ""
        if tag == "a" and href.startswith("#"):
            self.fragments.append(href[1:])
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while tag in self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._inside:
            self.loads += _style_loads(data)
        else:
            self.texts.append(data)


def _style_loads(css: str) -> list[str]:
    return re.findall(r"url\([^)]*\)|@import[^;]*", css)


def source_cells() -> list[tuple[str, str]]:
    """(kind, text) of each cell, as the percent format has them."""
    _, *chunks = SOURCE.read_text(encoding="utf-8").split(f"\n{MARKER}")
    cells = []
    for chunk in chunks:
        title, _, text = chunk.partition("\n")
        lines = text.strip("\n").split("\n")
        if "[markdown]" in title:
            cells.append(("markdown", "\n".join(line[2:] for line in lines)))
        else:
            cells.append(("code", "\n".join(lines)))
    return cells


def stored_cells() -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return cells


def texts(outputs: Sequence[Mapping[str, Any]]) -> str:
    """All that outputs say in words."""
    parts = []
    for output in outputs:
        data = output.get("data", {})
        said = (output.get("text", ""), data.get("text/markdown", ""), data.get("text/plain", ""))
        parts += ["".join(text) + "\n" for text in said]  # lists of lines in a file, else strings
    return "".join(parts)


def check_story(told: str, *, classes: int, seeds: int) -> None:
    """Whether a run's outputs say what the notebook is for: level classes, arms and a verdict."""
    assert re.search(r"before: (?!1\.0)[\d.]+:1", told)
    assert "after: 1.0:1" in told
    # Each row of the table of counts: real + synthetic = together, the same for every class.
    rows = re.findall(r"^\| [^|]+ \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", told, re.MULTILINE)
    counts = [[int(cell.replace(",", "")) for cell in row] for row in rows]
    balanced = [row for row in counts if row[0] + row[1] == row[2]][-classes:]
    assert len(balanced) == classes
    assert len({together for *_, together in balanced}) == 1
    assert {drawn > 0 for _, drawn, _ in balanced} == {True, False}
    epochs = re.findall(
        r"^epoch (\d): (\d+) of ([\d,]+) .* anew, (\d+) to (\d+) images", told, re.MULTILINE
    )
    assert [int(redrawn) > 0 for _, redrawn, *_ in epochs] == [False, True, True, True]
    assert all(low == high for *_, low, high in epochs)
    assert len(re.findall(r"^seed \d  .*macro accuracy", told, re.MULTILINE)) == 3 * seeds
    assert re.search(r"\*\*(Use|No measurable difference|No verdict)", told)
    for arm in ("real", "oversample", "synthetic"):
        assert re.search(rf"^\| {arm} \| {seeds} \|", told, re.MULTILINE)
    assert "benchmark/report.html" in told
    assert "removed" in told


def test_the_cells_are_those_of_the_source() -> None:
    stored = [(cell["cell_type"], "".join(cell["source"])) for cell in stored_cells()]
    assert stored == source_cells(), "run `make notebook`"


def test_every_cell_has_run_in_order_and_without_errors() -> None:
    code = [cell for cell in stored_cells() if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        kinds = {output.get("name", output["output_type"]) for output in cell["outputs"]}
        assert kinds, "".join(cell["source"])
        assert kinds <= {"stdout", "display_data"}


def test_stored_outputs_tell_the_story() -> None:
    told = "".join(texts(cell.get("outputs", [])) for cell in stored_cells())
    check_story(told, classes=10, seeds=2)
    assert "mean little" in source_cells()[0][1]


@pytest.mark.parametrize("path", [NOTEBOOK, PAGE], ids=lambda path: path.suffix)
def test_it_is_small_and_names_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < MOST_KIB * 1024
    without_images = re.sub(r"[A-Za-z0-9+/=\\n]{200,}", "", text)
    assert len(without_images) > 10_000
    assert MACHINE_PATH.findall(without_images) == []


@pytest.mark.parametrize(
    "text", ["File /home/me/x.py", "in /tmp/tmpab12", r"C:\Users\me", "(/opt/a)"]
)
def test_the_test_would_see_a_machine_path(text: str) -> None:
    assert MACHINE_PATH.search(text)


def test_the_page_says_what_the_notebook_says() -> None:
    def plain(text: str) -> str:
        return re.sub(r"\s+", " ", text).strip()

    page = plain(Reading(PAGE.read_text(encoding="utf-8")).text)
    for cell in stored_cells():
        if cell["cell_type"] == "code":
            assert plain("".join(cell["source"])) in page, "run `make notebook`"
        for output in cell.get("outputs", []):
            assert plain("".join(output.get("text", []))) in page, "run `make notebook`"


def test_the_page_loads_nothing_and_describes_its_images() -> None:
    page = Reading(PAGE.read_text(encoding="utf-8"))
    assert [load[:60] for load in page.loads if not load.startswith("data:image/png;")] == []
    assert page.scripts == 0
    assert len(page.images) == 2
    assert all(len(image.get("alt") or "") > 40 for image in page.images)
    assert set(page.fragments) <= set(page.ids)
    assert len(page.fragments) > 8


@pytest.mark.parametrize(
    "text",
    [
        "<script src='https://cdn.example/require.js'></script>",
        "<link rel=stylesheet href=http://cdn.example/style.css>",
        "<style>@import 'https://cdn.example/font.css';</style>",
        "<p style='background: url(https://cdn.example/a.png)'>",
    ],
)
def test_the_test_would_see_a_load(text: str) -> None:
    assert Reading(text).loads != []


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium or Chrome is installed")
    with Page(program) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_in_a_browser(browser: Page, width: int, dark: bool) -> None:
    browser.open(PAGE, width=width, dark=dark)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [PAGE.as_uri()]
    assert min(browser.run("[...document.images].map((image) => image.naturalWidth)")) > 100
    assert browser.run("document.documentElement.scrollWidth") <= width


@pytest.fixture
def maker() -> ModuleType:
    """notebooks/make_notebook.py, where what it needs is installed."""
    for package in ("jupytext", "nbclient", "nbconvert", "ipykernel"):
        pytest.importorskip(
            package, reason=f"{package} is missing: pip install signforge[notebook]"
        )
    spec = importlib.util.spec_from_file_location("make_notebook", FOLDER / "make_notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_source_runs(
    maker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, on three classes and for a few steps."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SIGNFORGE_CACHE", str(tmp_path / "cache"))
    notebook = maker.read_source()
    (parameters,) = (
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    )
    *settings, show = parameters.source.splitlines()
    names = [[line.split(" = ")[0] for line in lines] for lines in (settings, TINY.splitlines())]
    assert names[0] == names[1]
    parameters.source = f"{TINY}\n{show}"
    maker.execute(notebook, tmp_path)
    told = "".join(texts(cell.get("outputs", [])) for cell in notebook.cells)
    check_story(told, classes=3, seeds=2)
    assert Reading(maker.render(notebook)).scripts == 0
