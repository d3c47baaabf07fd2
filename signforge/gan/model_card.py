"""README.md of a generator on the Hugging Face Hub: what it draws, how well, from what, limits.

Front matter: the Hub's model card metadata. Text: after Mitchell et al. 2019, "Model cards for
model reporting". Everything in it is written from the run; names in a run are never trusted.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from signforge.environment import hardware_line
from signforge.errors import SignforgeError
from signforge.gan.sampler import GeneratorCard

TAGS = ("signforge", "gan", "dcgan", "class-conditional", "data-augmentation", "imbalanced-data")
PIPELINE_TAG = "unconditional-image-generation"
"""The Hub knows no task that is nearer to labels in, images out."""
_IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]*")
_LINK = re.compile(r"https?://[^\s<>\"'`]+")
_SPECIAL = re.compile(
    r"[\\`*_\[\]<>&|~!$#\"'{}^=@:]"  # anywhere
    r"|^(?:[-+](?=.)|\d+(?=[.)](?: |$)))"  # lists
    r"|www(?=\.)",  # addresses
    re.IGNORECASE,
)
_BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class Licence:
    """As the Hub's metadata has it: an identifier, or ``other`` with a name and a link.

    Raises SignforgeError for anything else; which identifiers there are, the Hub decides.
    """

    identifier: str
    name: str | None = None
    link: str | None = None

    def __post_init__(self) -> None:
        if not _IDENTIFIER.fullmatch(self.identifier):
            raise SignforgeError(
                f"--license {self.identifier!r} is no licence identifier of the Hub, such as "
                "cc-by-4.0, apache-2.0 or other."
            )
        if (self.identifier == "other") != (self.name is not None and self.link is not None):
            raise SignforgeError(
                "--license-name and --license-link belong to --license other, which needs both."
            )
        if self.name is not None and not _IDENTIFIER.fullmatch(self.name):
            raise SignforgeError(
                f"--license-name {self.name!r}: write it in small letters, digits, '-' and '.'."
            )
        if self.link is not None and not _LINK.fullmatch(self.link):
            raise SignforgeError(f"--license-link {self.link!r} is no http or https address.")


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    address: for ``load_sampler``, already checked: it stands in code. data_name: of the images,
    never their path. num_validation, num_test, environment (as environment.json has it): None
    where the run does not say. probe: the line of metrics.jsonl of this very generator; fidelity:
    as in fidelity.json, measured with this very generator; None where there is none.
    """

    generator: GeneratorCard
    card_sha256: str
    licence: Licence
    address: str
    data_name: str
    num_validation: int | None = None
    num_test: int | None = None
    environment: Mapping[str, Any] | None = None
    probe: Mapping[str, Any] | None = None
    fidelity: Mapping[str, Any] | None = None


def model_card(facts: CardFacts) -> str:
    """README.md: YAML front matter and Markdown, in which no name can be anything but text."""
    card = facts.generator
    counts = card.class_counts
    rarest = min(range(len(counts)), key=counts.__getitem__)
    largest = max(range(len(counts)), key=counts.__getitem__)
    environment = Environment(
        loader=FileSystemLoader(str(resources.files("signforge.gan") / "templates")),
        autoescape=True,
        finalize=_as_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md").render(
        front_matter=Markup(_front_matter(facts.licence)),  # noqa: S704  (safe_dump of checked values)
        address=Markup(facts.address),  # noqa: S704  (checked by whoever made the facts)
        card=card,
        facts=facts,
        num_images=f"{sum(counts):,}",
        imbalance_ratio=f"{counts[largest] / max(counts[rarest], 1):.1f}",
        rarest=card.class_names[rarest],
        rarest_count=f"{counts[rarest]:,}",
        largest=card.class_names[largest],
        largest_count=f"{counts[largest]:,}",
        classes=class_rows(card, facts.fidelity),
        agreement_known=_agreement(card, facts.fidelity) is not None,
        fidelity=fidelity_rows(facts.fidelity) if facts.fidelity else [],
        probe=probe_rows(facts.probe) if facts.probe else [],
        training=training_rows(card, facts.environment),
    )


def class_rows(
    card: GeneratorCard, fidelity: Mapping[str, Any] | None
) -> list[tuple[int, str, str, str]]:
    """Id, name, training images and label agreement in percent ("" where unknown) of each class."""
    agreement = _agreement(card, fidelity)
    return [
        (label, name, f"{count:,}", f"{100 * agreement[label]:.1f}" if agreement else "")
        for label, (name, count) in enumerate(zip(card.class_names, card.class_counts, strict=True))
    ]


def fidelity_rows(fidelity: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Metric, value of the samples, value of real images; those that fidelity.json has."""
    prdc = ("precision", "recall", "density", "coverage")
    nearer = "nearer to a training image than most unseen real images, by"
    # (title, where the value is, where that of real images is, scale, digits)
    wanted: list[tuple[str, str, str, int, int]] = [
        (str(fidelity["metric_name"]), "fd", "fd_floor", 1, 3),
        ("Frechet distance / floor", "fd_ratio", "", 1, 2),
        ("KID x 1000", "kid", "kid_floor", 1000, 2),
        *((name, f"coverage.samples.{name}", f"coverage.floor.{name}", 1, 3) for name in prdc),
        (
            *("label agreement, mean over classes %", "macro_label_agreement"),
            *("real_label_agreement", 100, 1),
        ),
        ("label agreement of the worst class %", "worst_class_label_agreement", "", 100, 1),
        ("accuracy of a classifier of samples alone, macro %", "cas.macro_accuracy", "", 100, 1),
        *(
            (f"{nearer} {space} %", f"memorization.{space}.macro_share",
             f"memorization.{space}.quantile", 100, 1)
            for space in ("features", "pixels")
        ),
    ]  # fmt: skip
    rows = []
    for title, place, real_place, scale, digits in wanted:
        value, real = number_at(fidelity, place), number_at(fidelity, real_place)
        if value is not None:
            shown = "-" if real is None else f"{scale * real:.{digits}f}"
            rows.append((title, f"{scale * value:.{digits}f}", shown))
    return rows


def number_at(values: Mapping[str, Any], place: str) -> float | None:
    """The number at ``place``, keys with dots between them; None where there is none."""
    found: Any = values
    for key in place.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def probe_rows(probe: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Metric and value of what the training's own probe found."""
    wanted = (
        ("Frechet distance to the validation images", "fd", 1, 3),
        ("Frechet distance / that of real images", "fd_ratio", 1, 2),
        ("label agreement, mean over classes %", "label_agreement", 100, 1),
        ("label agreement of the worst class %", "worst_class_label_agreement", 100, 1),
    )
    return [
        (name, f"{scale * probe[key]:.{digits}f}")
        for name, key, scale, digits in wanted
        if probe.get(key) is not None
    ]


def training_rows(
    card: GeneratorCard, environment: Mapping[str, Any] | None
) -> list[tuple[str, str]]:
    """What the training was, cost and ran on; without environment.json only what the card says."""
    gan = card.gan
    rows = [
        ("planned length", f"at most {gan.total_kimg:g} kimg (thousands of real images shown)"),
        ("this generator", f"the average of weights at {card.seen_kimg:g} kimg"),
        ("time of the whole training", f"{card.seconds:,.0f} s ({card.seconds / 60:.0f} minutes)"),
        (
            "batch, latent size, base channels",
            f"{gan.batch_size}, {gan.z_dim}, {gan.base_channels}",
        ),
        ("seed, precision", f"{gan.seed}, {gan.precision}"),
    ]
    if environment is None:
        return [*rows, ("hardware and versions", "not recorded")]
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    commit = environment["commit"] or "none, it was an installed package"
    dirty = " with uncommitted changes" if environment["dirty"] else ""
    return [
        *rows,
        ("hardware", hardware_line(environment)),
        ("versions", versions),
        ("commit of signforge", f"{commit}{dirty}"),
    ]


def escape_markdown(text: str) -> str:
    """``text`` as Markdown that shows it and can be nothing else: no HTML, link, table or heading.

    What could be markup becomes a character reference, which no Markdown dialect reads as markup,
    not even in tables. White space becomes single blanks; control characters, lone surrogates and
    marks that turn the direction of text become U+FFFD.
    """
    line = " ".join(text.split())
    shown = "".join("\ufffd" if _is_hidden(character) else character for character in line)
    return _SPECIAL.sub(lambda found: "".join(f"&#{ord(c)};" for c in found[0]), shown)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs") or character in _BIDI


def _as_text(value: object) -> object:
    """What jinja2 writes for an expression: all but Markup is text, and so escaped."""
    if isinstance(value, Markup):
        return value
    return Markup(escape_markdown(str(value)))  # noqa: S704  (just escaped)


def _front_matter(licence: Licence) -> str:
    metadata: dict[str, Any] = {"license": licence.identifier}
    if licence.name is not None:
        metadata |= {"license_name": licence.name, "license_link": licence.link}
    metadata |= {
        "library_name": "signforge",
        "pipeline_tag": PIPELINE_TAG,
        "tags": list(TAGS),
    }
    return yaml.safe_dump(metadata, sort_keys=False)


def _agreement(card: GeneratorCard, fidelity: Mapping[str, Any] | None) -> Sequence[float] | None:
    """In the order of the classes; None where it is not known of each."""
    found = (fidelity or {}).get("per_class_label_agreement")
    if not isinstance(found, list) or len(found) != len(card.class_names):
        return None
    return found if all(isinstance(share, int | float) for share in found) else None
