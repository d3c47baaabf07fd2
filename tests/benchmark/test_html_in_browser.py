"""report.html in a real browser: no complaint, no request, readable on a phone and in the dark."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from signforge.benchmark.gallery import save_gallery
from signforge.benchmark.report import write_report
from signforge.data.splits import PreparedSplits
from support.benchmark_runs import write_run
from support.chromium import Page, find_chromium

# WCAG 2.1: relative luminance, and 4.5 to 1 for text. Words on a mark of a chart do not occur.
WEAK_TEXT = """
(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const rgb = parse(getComputedStyle(e).backgroundColor);
      if (rgb.length === 3 || rgb[3] === 1) return rgb;
    }
    return [255, 255, 255];
  };
  const weak = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.tagName === 'title') continue;
    const style = getComputedStyle(element);
    const ink = light(parse(element.tagName === 'text' ? style.fill : style.color));
    const paper = light(ground(element));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    seen += 1;
    if (ratio < 4.5) weak.push(walker.currentNode.data.trim() + ' ' + ratio.toFixed(2));
  }
  return {seen, weak};
})()
"""


class Grey:
    """All that a gallery asks of a sampler."""

    fingerprint = "9" * 64

    def sample(self, labels: torch.Tensor, seed: int) -> torch.Tensor:
        return torch.full((len(labels), 3, 16, 16), 90 + seed, dtype=torch.uint8)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, splits: PreparedSplits) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    write_run(folder, accuracy={("synthetic", 0): 0.95, ("oversample", 3): 0.4})
    save_gallery(folder, Grey(), splits.train, [0, 3])
    write_report(folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium or Chrome is installed")
    with Page(program) as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_without_complaint_or_request(
    page: Page, report: Path, width: int, dark: bool
) -> None:
    page.open(report, width=width, dark=dark)
    assert page.complaints == []
    asked = [url for url in page.requests if not url.startswith("data:")]
    assert asked == [report.as_uri()]
    shown = page.run("[...document.images].map((image) => image.naturalWidth)")
    assert len(shown) == 6
    assert min(shown) > 16
    # Wide tables scroll in their own box, never the page.
    assert page.run("document.documentElement.scrollWidth") <= width
    found = page.run(WEAK_TEXT)
    assert found["seen"] > 300
    assert found["weak"] == []


def test_the_colours_follow_the_reader(page: Page, report: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    page.open(report, width=1280)
    light = page.run(paper)
    page.open(report, width=1280, dark=True)
    dark = page.run(paper)
    page.open(report, width=794, dark=True, paper=True)
    assert page.run(paper) == light == "rgb(255, 255, 255)"
    assert dark != light
    assert page.run("getComputedStyle(document.querySelector('nav')).display") == "none"


def test_on_paper_nothing_stays_folded(page: Page, report: Path) -> None:
    visible = """[...document.querySelectorAll('details:not([open]) table')]
        .map((table) => table.checkVisibility({contentVisibilityAuto: true}))"""
    page.open(report, width=1280)
    assert set(page.run(visible)) == {False}
    page.open(report, width=794, paper=True)
    assert set(page.run(visible)) == {True}


def test_arms_can_be_shown_and_hidden(page: Page, report: Path) -> None:
    page.open(report, width=1280)
    lanes = "[...document.querySelectorAll('.lane-{0}')].filter((e) => e.offsetHeight).length"
    box = "document.querySelector('#show-{0}').checked"
    hidden, shown = (
        next(n for n in (1, 2, 3, 4) if page.run(box.format(n)) is wanted)
        for wanted in (False, True)
    )
    assert page.run(lanes.format(hidden)) == 0
    assert page.run(lanes.format(shown)) == 4
    page.run(f"document.querySelector('#show-{hidden}').click()")
    assert page.run(lanes.format(hidden)) == 4


def test_the_test_would_see_a_request_and_a_complaint(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='other.png'><script>console.error('no'); nonsense()</script>")
    page.open(bad, width=1280)
    assert (tmp_path / "other.png").as_uri() in page.requests
    assert len(page.complaints) >= 2
