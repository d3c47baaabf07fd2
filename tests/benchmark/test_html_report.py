"""report.html read by a parser: nothing from outside, nothing unescaped, everything labelled."""

import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import signforge.benchmark
from signforge.benchmark.gallery import save_gallery
from signforge.benchmark.report import write_report
from support.benchmark_runs import CLASS_NAMES, HOSTILE, write_run

VOID = {"meta", "link", "img", "input", "br", "line", "circle", "path", "rect", "wbr"}
ADDRESSES = {"href", "src", "srcset", "xlink:href", "action", "data", "poster", "formaction"}


class Reader(HTMLParser):
    """The page's elements in order, each with its attributes, its parents and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[dict] = []
        self._open: list[dict] = []
        self.feed(page)
        self.close()
        assert not self._open, f"{self._open[-1]['tag']} is not closed"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice: {names}"
        parents = [element["tag"] for element in self._open]
        element = {"tag": tag, "attrs": dict(attrs), "parents": parents, "text": ""}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, *tags):
        return [element for element in self.elements if element["tag"] in tags]

    def text_of(self, tag):
        return [" ".join(element["text"].split()) for element in self.all(tag)]


class Plain:
    """Draws plain images; all that a gallery asks of a sampler."""

    fingerprint = "9" * 64

    def sample(self, labels, seed):
        return torch.full((len(labels), 3, 16, 16), seed, dtype=torch.uint8)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, splits):
    folder = tmp_path_factory.mktemp("html") / "run"
    planted = {("synthetic", 0): 0.95, ("oversample", 3): 0.4}
    write_run(folder, accuracy=planted)
    save_gallery(folder, Plain(), splits.train, [0, 3])
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(run_dir):
    return (run_dir / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(page):
    return Reader(page)


def test_the_verdict_comes_first(run_dir, read):
    tags = [e["tag"] for e in read.elements]
    first = tags.index("section")
    assert "table" not in tags[:first]
    assert read.elements[first]["attrs"]["class"] == "verdict"
    shown = read.elements[first]["text"]
    assert "Use synthetic" in shown
    summary = write_report(run_dir)
    plain = summary.verdict.replace("`", "")
    assert plain in " ".join(shown.replace("\u2212", "-").split())


def test_nothing_is_asked_of_any_network(read):
    for element in read.elements:
        for name, value in element["attrs"].items():
            if name in ADDRESSES:
                assert re.match(r"data:|#", value), (element["tag"], name, value)
            assert not name.startswith("on"), name
            assert "url(" not in (value or ""), (element["tag"], name, value)
    assert {"script", "iframe", "object", "embed", "base", "form"}.isdisjoint(
        e["tag"] for e in read.elements
    )
    (style,) = read.all("style")
    assert "@import" not in style["text"]
    assert re.findall(r"url\((?!data:)", style["text"]) == []
    (policy,) = [e for e in read.all("meta") if "http-equiv" in e["attrs"]]
    assert policy["attrs"]["content"].startswith("default-src 'none'")


def test_hostile_names_are_words(page, read):
    assert "<script>" not in page
    assert "<img src=https" not in page
    assert "<b>CPU" not in page
    assert "<i>" not in page
    titles = " ".join(read.text_of("title"))
    headers = read.text_of("th")
    for label, name in enumerate(CLASS_NAMES):
        assert f"{label} {name}" in headers
        assert f"{label} {name}" in titles
    assert HOSTILE in page.replace("&lt;", "<").replace("&gt;", ">").replace("&#34;", '"').replace(
        "&#39;", "'"
    ).replace("&amp;", "&")


def test_pictures_and_charts_say_what_they_show(read):
    images = read.all("img")
    assert len(images) == 6
    for image in images:
        assert image["attrs"]["alt"]
        assert image["attrs"]["src"].startswith("data:image/png;base64,")
    charts = [e for e in read.all("svg") if "svg" not in e["parents"]]
    assert len(charts) > 20
    for chart in charts:
        following = read.elements[read.elements.index(chart) + 1]
        assert (following["tag"], following["parents"][-1]) == ("title", "svg")
        assert following["text"].strip()


def test_headings_tables_and_ids_are_in_order(read):
    levels = [int(e["tag"][1]) for e in read.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(e["attrs"].get("scope") in ("col", "row") for e in read.all("th"))
    assert len(read.all("caption")) == len(read.all("table"))
    ids = [e["attrs"]["id"] for e in read.elements if "id" in e["attrs"]]
    assert len(ids) == len(set(ids))
    for element in read.elements:
        for name in ("aria-labelledby", "href"):
            target = (element["attrs"].get(name) or "data:").removeprefix("#")
            assert target in ids or target.startswith("data:")
    (html,) = read.all("html")
    assert html["attrs"]["lang"] == "en"


def test_figures_of_all_parts_are_there(read):
    text = " ".join(read.all("body")[0]["text"].split())
    for expected in (
        "Gain over real, points of macro accuracy",
        "best without a generator",
        "best with a generator",
        "1,234 56 78 10 1,378",  # the cost of a gated arm and its sum
        "kept by the gate, synthetic %",
        "real images that the gate would keep %",
        "real images in their place, synthetic",
        "probability of 0.5 or more",
        "sure gain",
        "fd_test_480",
        "not chosen by a gate",
        "Squares are <i>not</i> signs.",
        "A <b>CPU</b>, 2 cores",
        "signforge benchmark --data 'a <i>b</i>' && true",
        "c0ffee with uncommitted changes",
        "3 of 3",
    ):
        assert expected in text, expected
    assert "kept by the gate, synthetic_ungated" not in text


def test_confusions_are_named_with_both_classes(read):
    # Every wrong image of class 0 is taken for class 1, and synthetic gets most of them right.
    pair = f"0 {CLASS_NAMES[0]}1 {CLASS_NAMES[1]}"
    lines = [e["text"].replace("\n", "") for e in read.all("tr")]
    assert any(line.startswith(f"{pair}\u22122") for line in lines)


def test_a_report_can_be_made_again_from_the_folder_alone(run_dir, page, tmp_path):
    shutil.copytree(run_dir, tmp_path / "moved")
    write_report(tmp_path / "moved")
    assert (tmp_path / "moved" / "report.html").read_text(encoding="utf-8") == page


def test_rows_of_older_versions_are_enough(tmp_path):
    write_run(tmp_path, old=True, seeds=2)
    write_report(tmp_path)
    read = Reader((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Gate" not in read.all("body")[0]["text"]
    assert read.all("img") == []
    assert "#pictures" not in [e["attrs"]["href"] for e in read.all("a")]


def test_one_arm_and_no_generator_still_make_a_page(tmp_path):
    write_run(tmp_path, arms=("real",), seeds=1)
    write_report(tmp_path)
    text = Reader((tmp_path / "report.html").read_text(encoding="utf-8")).all("body")[0]["text"]
    assert "No remedy was compared" in text
    assert "No generator took part." in text
    assert "Confusions" not in text


def test_many_arms_open_with_the_two_contenders(page):
    checked = re.findall(r'id="show-(\d)" checked|id="show-(\d)">', page)
    assert [bool(first) for first, _ in checked].count(True) == 2
    assert len(checked) == 4


def test_no_two_arms_share_a_mark(tmp_path):
    arms = ("real", *(f"oversample{n}" for n in range(20)), "synthetic")
    write_run(tmp_path, arms=arms, seeds=2)
    write_report(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    marks = re.findall(r"<title>Mark of [^<]*</title>(.*?)</label>", text, re.DOTALL)
    shapes = [
        re.search(r'<g fill="([^"]+)".*?<(circle|path) (\w="[^"]+")', mark, re.DOTALL)
        for mark in marks
    ]
    assert len({found.groups() for found in shapes}) == len(marks) == 21
    colours = re.findall(r'<input[^>]*checked>.*?fill="([^"]+)"', text, re.DOTALL)
    assert len(set(colours)) == 2


def test_the_template_lies_in_the_package():
    folder = Path(signforge.benchmark.__file__).parent / "templates"
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.css", "macros.html"}
