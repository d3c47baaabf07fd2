"""The model card: what it says, and that no name in it can be anything but text."""

import itertools
import re
import unicodedata
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from signforge.errors import SignforgeError
from signforge.gan.model_card import _BIDI, CardFacts, Licence, escape_markdown, model_card

PARSER = MarkdownIt("commonmark", {"html": True}).enable("table")
HOSTILE = (
    "<script>alert(1)</script>",
    "a | b | c",
    "[click](https://example.org)",
    "![x](https://example.org/x.png)",
    "`code` *bold* __bold__ ~~gone~~",
    "x\n\n# Heading\n\n```python\nimport os",
    "&lt;b&gt; &amp; {{ 7 * 7 }} {% raw %}",
    "$$\\int$$ \\| \\",
    "---\nlicense: mit\n---",
    "\u202eevil\x1b[31m\ud800",
    "<https://example.org>",
    "- item",
    "1. item",
    "",
)
FIDELITY = {
    "metric_name": "fd_resnet18_indomain_100",
    "n": 100,
    "fd": 2.5,
    "fd_floor": 1.25,
    "fd_ratio": 2.0,
    "kid": 0.004,
    "kid_floor": 0.001,
    "macro_label_agreement": 0.875,
    "real_label_agreement": 0.95,
    "worst_class_label_agreement": 0.5,
    "per_class_label_agreement": [0.5, 0.75, 1.0],
    "extractor": "resnet18_indomain",
    "extractor_sha256": "e" * 64,
}
ENVIRONMENT = {
    "versions": {"python": "3.11", "torch": "2.14"},
    "hardware": {"cpu": "A CPU", "cores": 2, "gpu": None},
    "commit": "c0ffee",
    "dirty": True,
}


@pytest.fixture
def facts(make_sampler) -> CardFacts:
    card = make_sampler().card.model_copy(
        update={"weights_sha256": "b" * 64, "class_counts": (1200, 30, 100)}
    )
    return CardFacts(
        generator=card,
        card_sha256="c" * 64,
        licence=Licence("cc-by-4.0"),
        address="hf://someone/signs",
        data_name="street signs",
        num_validation=2000,
        num_test=3000,
        environment=ENVIRONMENT,
    )


def shown(text: str) -> str:
    """What a reader is to see of a name."""
    line = " ".join(text.split())
    return "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in line
    ).translate(dict.fromkeys(map(ord, _BIDI), "\ufffd"))


def body_of(text: str) -> str:
    _, _, body = text.split("---\n", 2)
    return body


def tables(body: str) -> list[list[str]]:
    """Each row of each table as its cells' text."""
    rows: list[list[str]] = []
    tokens = PARSER.parse(body)
    for token, inside in itertools.pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("td_open", "th_open"):
            rows[-1].append(plain(inside))
    return rows


def plain(inline) -> str:
    """The text of an inline token; anything but text in it is a failure of the escaping."""
    kinds = {child.type for child in inline.children or []}
    assert kinds <= {"text", "text_special"}, (kinds, inline.content)
    return "".join(child.content for child in inline.children or [])


def test_the_front_matter_is_what_the_hub_reads(facts):
    text = model_card(facts)
    data = ModelCard(text).data.to_dict()
    assert data["license"] == "cc-by-4.0"
    assert data["library_name"] == "signforge"
    assert data["pipeline_tag"] == "unconditional-image-generation"
    assert {"gan", "class-conditional"} <= set(data["tags"])
    assert "license_name" not in data


def test_another_licence_has_its_name_and_link(facts):
    licence = Licence("other", "gtsrb", "https://example.org/terms?a=1&b=2")
    front = model_card(replace(facts, licence=licence)).split("---\n")[1]
    data = yaml.safe_load(front)
    assert data["license_name"] == "gtsrb"
    assert data["license_link"] == "https://example.org/terms?a=1&b=2"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("",), "no licence identifier"),
        (("CC BY 4.0",), "no licence identifier"),
        (("mit\npwned: 1",), "no licence identifier"),
        (("other",), "needs both"),
        (("other", "x"), "needs both"),
        (("mit", "x", "https://example.org"), "belong to --license other"),
        (("other", "My Licence", "https://example.org"), "small letters"),
        (("other", "x", "javascript:alert(1)"), "no http or https address"),
    ],
)
def test_a_licence_that_the_hub_would_refuse_is_one_sentence(arguments, said):
    with pytest.raises(SignforgeError, match=said) as error:
        Licence(*arguments)
    assert "\n" not in str(error.value)


def test_the_class_table_has_every_class(facts):
    rows = tables(body_of(model_card(facts)))
    start = rows.index(["id", "class", "training images"])
    assert rows[start + 1 : start + 4] == [
        ["0", "stop", "1,200"],
        ["1", "yield", "30"],
        ["2", "no entry", "100"],
    ]
    facts_table = dict(row for row in rows if len(row) == 2)
    assert facts_table["imbalance ratio"] == "40.0 (1,200 of stop, 30 of yield)"
    assert facts_table["training images"] == "1,330"
    assert facts_table["held out for validation"] == "2,000 images"
    assert facts_table["hardware"] == "A CPU, 2 cores"
    assert facts_table["commit of signforge"] == "c0ffee with uncommitted changes"
    assert facts_table["generator.safetensors"] == "b" * 64
    assert facts_table["generator.json"] == "c" * 64


def test_fidelity_and_probe_have_their_tables(facts):
    probe = {"fd": 5.5, "fd_ratio": 1.25, "label_agreement": 0.5}
    text = model_card(replace(facts, fidelity=FIDELITY, probe=probe))
    rows = tables(body_of(text))
    assert ["fd_resnet18_indomain_100", "2.500", "1.250"] in rows
    assert ["KID x 1000", "4.00", "1.00"] in rows
    assert ["label agreement, mean over classes %", "87.5", "95.0"] in rows
    assert ["1", "yield", "30", "75.0"] in rows
    assert ["Frechet distance to the validation images", "5.500"] in rows
    assert "Not measured." not in text


def test_parts_of_a_fidelity_file_that_may_be_there_are_shown(facts):
    coverage = {"samples": {"precision": 0.8, "recall": 0.7}, "floor": {"precision": 0.9}}
    more = {
        "coverage": coverage,
        "cas": {"macro_accuracy": 0.88},
        "memorization": {"features": {"macro_share": 0.17, "quantile": 0.05}, "pixels": "odd"},
        "fd_ratio": None,
    }
    rows = tables(body_of(model_card(replace(facts, fidelity=FIDELITY | more))))
    assert ["precision", "0.800", "0.900"] in rows
    assert ["recall", "0.700", "-"] in rows
    assert ["accuracy of a classifier of samples alone, macro %", "88.0", "-"] in rows
    nearer = "nearer to a training image than most unseen real images, by"
    assert [f"{nearer} features %", "17.0", "5.0"] in rows
    assert not any(row[0] in (f"{nearer} pixels %", "Frechet distance / floor") for row in rows)


def test_without_figures_it_says_so(facts):
    text = model_card(replace(facts, environment=None, num_validation=None, num_test=None))
    assert "Not measured." in text
    rows = tables(body_of(text))
    assert ["hardware and versions", "not recorded"] in rows
    assert not any("held out" in row[0] for row in rows)


def test_limits_are_frank(facts):
    text = body_of(model_card(facts))
    for words in ("may be none, or a loss", "lie near to the training images", "had 30 images"):
        assert words in text


def test_names_are_text_whatever_they_are(facts):
    card = facts.generator.model_copy(
        update={"class_names": HOSTILE, "class_counts": tuple(range(5, 5 + len(HOSTILE)))}
    )
    environment = {**ENVIRONMENT, "commit": "<b>`x`|", "versions": {"[a](b)": "<i>"}}
    told = replace(facts, generator=card, data_name="# <img src=x> |", environment=environment)
    text = model_card(told)
    text.encode()
    tokens = PARSER.parse(body_of(text))
    everything = [child for token in tokens for child in [token, *(token.children or [])]]
    assert not [t for t in everything if t.type.startswith(("html", "link", "image"))]
    plain_card = PARSER.parse(body_of(model_card(facts)))
    structure = {"heading_open", "fence", "bullet_list_open", "table_open", "blockquote_open", "hr"}
    counted = [
        [token.type for token in parsed if token.type in structure]
        for parsed in (tokens, plain_card)
    ]
    assert counted[0] == counted[1]
    names = [row[1] for row in tables(body_of(text)) if row[0].isdecimal()]
    assert names == [shown(name) for name in HOSTILE]


@settings(deadline=None)
@given(st.text() | st.text(alphabet=r"""\`*_[]<>&|~!$#"'{}^=@:()+-.1 w""") | st.characters())
def test_any_text_survives_a_table_cell_as_text(text):
    parsed = PARSER.parse(f"|a|\n|-|\n|x {escape_markdown(text)} x|")
    _, cell = [token for token in parsed if token.type == "inline"]
    assert plain(cell).split() == f"x {shown(text)} x".split()


@pytest.mark.parametrize(
    "name", ["Speed limit (20km/h)", "class-7", "3.5 metric tons", "Größe, 道路, désert"]
)
def test_ordinary_names_stay_readable_in_the_source(name):
    assert escape_markdown(name) == name


def test_addresses_do_not_become_links_by_themselves():
    for text in ("https://example.org", "www.example.org", "WWW.example.org"):
        assert not re.search(r"https?:|www\.", escape_markdown(text), re.IGNORECASE)
