r"""Does the GAN carry variation over to rare classes, beyond the few signs of them that it saw?

    python benchmarks/gan_variation.py --data GTSRB --config gtsrb_cpu --tracks 1,2,5 \
        --kimg 400 --out runs/variation

A finished GAN and the judge in --out are used again, so that other --n-per-class, --repeats and
--ball-neighbours cost seconds; an interrupted training goes on. --kimg does not move
gan.learning_rate_decay_from_kimg: give it with --set.

Chosen classes are cut to 1, 2 and 5 physical signs (tracks), all at once; a GAN is trained on
each of these training sets. Then every source below is asked how much it reaches of images of
the SAME classes on signs that nobody saw:

- gan: samples of the GAN that was trained on the kept tracks (and on all other classes)
- basic, randaugment: the kept images under plain augmentation; randaugment (2 operations,
  magnitude 9) is torchvision's, whose operations hold no flip
- kept: the kept images themselves
- gan_relit, kept_relit: gan and kept, each image in the light of a training image of any class
- ceiling: real images of yet other tracks, which no GAN saw either

Tracks of a chosen class, from train and validation together, go into three parts by --seed:
max(--tracks) that may be kept (fewer are a part of more), then half of the rest for the ceiling
and half as reference, the same for every number of kept tracks. The test split is not touched.

The judge's features are those of a classifier trained on the OTHER classes only. A judge that
knew the chosen classes would have learned the kept images by heart and not the left-out ones, and
so would see a gap between the two that is its own; trained on nothing of these classes it treats
kept, sampled and left-out images alike, and still tells light, blur, pose and background apart.

Per class and source: recall and coverage, with precision and density, without which they say
little, and the reach: the mean distance from a reference image to the nearest image of the
source, over that of the ceiling; 1 is as good as real images of other signs, more is worse.
All sources give the same number of images of a class, drawn --repeats times anew: as many as the
scarcest source has, or --n-per-class (a source with fewer gives all it has, and n says so).

Real balls, behind coverage, precision and density, reach to neighbours of other tracks where the
reference of a class has enough of them (grouped_classes). Recall asks for balls of the source,
and frames of one track lie so close together that kept and ceiling score badly in it, whatever
they show: compare gan and augmentation by recall, and all five by coverage and reach.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from judging import announce, has_other_groups, load_or_train_judge, origin, trained_gan
from records import append_row, markdown_table, run_script
from torch import Tensor
from torchvision.transforms import v2

from signforge.balance.lighting import BorrowedLight, Relight
from signforge.classify.augment import MEAN, STD, augment_batch
from signforge.config import ClassifierConfig, Config
from signforge.config_file import load_config, parse_override
from signforge.data.images import UNKNOWN_GROUP, LabeledImages
from signforge.data.prepare import load_prepared_splits
from signforge.data.splits import PreparedSplits, limit_groups
from signforge.errors import SignforgeError
from signforge.evaluate.coverage import coverage_report, nearest_distances
from signforge.evaluate.features import FeatureExtractor
from signforge.evaluate.fidelity import draw_samples
from signforge.files import write_atomically
from signforge.gan.sampler import GanSampler
from signforge.seeds import derive_seed

SOURCES = ("gan", "gan_relit", "basic", "randaugment", "kept", "kept_relit", "ceiling")
RELIT = "_relit"
MEASURES = ("recall", "coverage", "precision", "density", "reach")


@dataclass(frozen=True)
class Parts:
    """The chosen classes' images; groups are whole in one part.

    others: training images of all other classes. pool: what may be kept.
    """

    chosen: tuple[int, ...]
    others: LabeledImages
    pool: LabeledImages
    ceiling: LabeledImages
    reference: LabeledImages


def choose_classes(images: LabeledImages, *, classes: int, min_tracks: int) -> tuple[int, ...]:
    """The labels of the classes with the fewest tracks that still have ``min_tracks``."""
    tracks = [len(images.groups[images.labels == c].unique()) for c in range(images.num_classes)]
    enough = [c for c, n in enumerate(tracks) if n >= min_tracks]
    if not enough:
        raise SignforgeError(
            f"{images.source}: no class has {min_tracks} tracks; lower --tracks or --min-tracks."
        )
    return tuple(sorted(sorted(enough, key=lambda c: (tracks[c], c))[:classes]))


def cut(splits: PreparedSplits, chosen: tuple[int, ...], most_tracks: int, seed: int) -> Parts:
    """Parts of train and val; raises SignforgeError where a class has too few tracks."""
    train, val = splits.train, splits.val
    of_chosen = join(pick(train, chosen), pick(val, chosen))
    if bool((of_chosen.groups == UNKNOWN_GROUP).any()):
        raise SignforgeError(
            f"{splits.source} does not say which images show one sign, so no track can be left out."
        )
    pool = limit_groups(of_chosen, dict.fromkeys(chosen, most_tracks), seed)
    rest = without_groups(of_chosen, pool)
    left = {c: len(rest.groups[rest.labels == c].unique()) for c in chosen}
    short = [train.class_names[c] for c, n in left.items() if n < 2]
    if short:
        raise SignforgeError(
            f"{', '.join(short)}: beside {most_tracks} tracks to keep, a class needs 2 more, one "
            "as reference and one as ceiling; leave the class out or lower --tracks."
        )
    ceiling = limit_groups(rest, {c: n // 2 for c, n in left.items()}, seed)
    others = train.subset((~torch.isin(train.labels, torch.tensor(chosen))).nonzero().flatten())
    return Parts(chosen, others, pool, ceiling, without_groups(rest, ceiling))


def pick(images: LabeledImages, labels: Sequence[int]) -> LabeledImages:
    return images.subset(torch.isin(images.labels, torch.tensor(labels)).nonzero().flatten())


def without_groups(images: LabeledImages, dropped: LabeledImages) -> LabeledImages:
    return images.subset((~torch.isin(images.groups, dropped.groups)).nonzero().flatten())


def join(first: LabeledImages, second: LabeledImages) -> LabeledImages:
    return LabeledImages(
        images=torch.cat([first.images, second.images]),
        labels=torch.cat([first.labels, second.labels]),
        groups=torch.cat([first.groups, second.groups]),
        class_names=first.class_names,
        names=first.names + second.names,
        source=first.source,
    )


def augmented(images: Tensor, policy: str, seed: int) -> Tensor:
    """uint8 (N, 3, R, R) -> uint8 (N, 3, R, R), each image changed in its own way."""
    if policy == "basic":
        normalised = augment_batch(images, "basic", torch.Generator().manual_seed(seed))
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        return ((normalised * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    transform = v2.RandAugment(num_ops=2, magnitude=9)
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.default_generator.manual_seed(seed)
        return torch.stack([transform(image) for image in images])


def spread(images: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """n of uint8 (N, 3, R, R) at random, none once more often than another but by one."""
    rounds = -(-n // len(images))
    order = torch.cat([torch.randperm(len(images), generator=rng) for _ in range(rounds)])
    return images[order[:n]]


def images_of(
    source: str,
    label: int,
    n: int,
    seed: int,
    *,
    kept: Tensor,
    ceiling: Tensor,
    gan: GanSampler,
    light: Relight,
) -> Tensor:
    """At most n images uint8 (n, 3, R, R) of one class by one source; kept and ceiling (N, ...)."""
    if source.endswith(RELIT):
        plain = images_of(
            source.removesuffix(RELIT), label, n, seed,
            kept=kept, ceiling=ceiling, gan=gan, light=light,
        )  # fmt: skip
        return light(plain, seed)
    rng = torch.Generator().manual_seed(seed)
    if source == "gan":
        return draw_samples(gan, torch.full((n,), label), seed)
    if source in ("kept", "ceiling"):
        real = kept if source == "kept" else ceiling
        return spread(real, min(n, len(real)), rng)
    return augmented(spread(kept, n, rng), source, seed)


def measure_class(
    source: Tensor, reference: Tensor, reference_groups: Tensor, k: int
) -> dict[str, float]:
    """Features (N, D) of one source against those of the left-out tracks, one class."""
    groups = reference_groups if has_other_groups(reference_groups, k) else None
    values = coverage_report(reference, source, k=k, real_groups=groups).as_dict()
    distance, _ = nearest_distances(reference, source)
    return {**values, "distance": float(distance.mean())}


def measure_tracks(
    tracks: int,
    parts: Parts,
    train: LabeledImages,
    gan: GanSampler,
    judge: FeatureExtractor,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """One row a source: the mean over repeats, per class and over the chosen classes.

    train: what ``gan`` was trained on; of the chosen classes it has the kept images alone.
    """
    light = BorrowedLight.of(train.images, train.labels)
    values: dict[str, dict[int, list[dict[str, float]]]] = {source: {} for source in SOURCES}
    for label in parts.chosen:
        own, other, reference = (
            pick(part, [label]) for part in (train, parts.ceiling, parts.reference)
        )
        seen = judge.features(reference.images)
        n = options.n_per_class or smallest_source(parts, label, options)
        for source in SOURCES:
            values[source][label] = []
            for repeat in range(options.repeats):
                images = images_of(
                    source, label, n, derive_seed(options.seed, tracks, label, repeat),
                    kept=own.images, ceiling=other.images, gan=gan, light=light,
                )  # fmt: skip
                measured = measure_class(
                    judge.features(images), seen, reference.groups, options.ball_neighbours
                )
                values[source][label].append({**measured, "n": len(images)})
    means = {
        source: {
            label: {name: fmean(draw[name] for draw in draws) for name in draws[0]}
            for label, draws in of_class.items()
        }
        for source, of_class in values.items()
    }
    for of_class in means.values():
        for label, row in of_class.items():
            row["reach"] = row["distance"] / means["ceiling"][label]["distance"]
    names = parts.pool.class_names
    return [
        {
            "tracks": tracks,
            "source": source,
            **{name: fmean(row[name] for row in of_class.values()) for name in MEASURES},
            "per_class": {names[label]: row for label, row in of_class.items()},
        }
        for source, of_class in means.items()
    ]


def smallest_source(parts: Parts, label: int, options: argparse.Namespace) -> int:
    """The images of the scarcest source of this class over all numbers of tracks."""
    fewest = limit_groups(parts.pool, {label: min(options.tracks)}, options.seed)
    return min(int(part.class_counts[label]) for part in (fewest, parts.ceiling))


def variation_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one line a number of tracks and source."""
    header = ["source", "kept tracks", "n a class", *MEASURES]
    lines = []
    for row in rows:
        n = sorted({round(of_class["n"]) for of_class in row["per_class"].values()})
        size = f"{n[0]}" if len(n) == 1 else f"{n[0]} to {n[-1]}"
        figures = [f"{row[name]:.3f}" for name in MEASURES]
        lines.append([row["source"], str(row["tracks"]), size, *figures])
    return markdown_table(header, lines)


def numbers(text: str) -> tuple[int, ...]:
    """``"5,1"`` -> ``(1, 5)``"""
    return tuple(sorted(int(n) for n in text.split(",")))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="the data source, as data.source")
    parser.add_argument("--config", required=True, help="preset or YAML file of the GAN")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--kimg", type=float, help="gan.total_kimg")
    parser.add_argument("--out", type=Path, required=True, help="runs, judge, rows and table")
    parser.add_argument("--tracks", type=numbers, default=(1, 2, 5))
    parser.add_argument(
        "--only",
        type=numbers,
        help="which of --tracks to train on and measure now; the cut stays that of all of them",
    )
    parser.add_argument("--classes", type=int, default=8, help="how many classes to cut")
    parser.add_argument("--class-names", help="names of the classes instead, with commas")
    parser.add_argument(
        "--min-tracks",
        type=int,
        help="tracks that a class must have; default max(--tracks) + 4, so that two tracks each "
        "are left as ceiling and as reference",
    )
    parser.add_argument("--n-per-class", type=int)
    parser.add_argument("--repeats", type=int, default=10, help="draws to average over")
    parser.add_argument("--ball-neighbours", type=int, default=5, help="k")
    parser.add_argument("--seed", type=int, default=0, help="which tracks, which samples")
    parser.add_argument("--judge-classifier", default="resnet18", help="timm model")
    parser.add_argument("--judge-steps", type=int, default=1000)
    options = parser.parse_args(argv)
    options.only = options.only or options.tracks
    if not set(options.only) <= set(options.tracks):
        parser.error("--only has numbers that --tracks lacks.")
    return options


def resolve(options: argparse.Namespace) -> Config:
    overrides = [parse_override(text) for text in options.set]
    overrides.append(("data.source", options.data))
    if options.kimg is not None:
        overrides.append(("gan.total_kimg", options.kimg))
    return load_config(options.config, overrides)


def chosen_classes(splits: PreparedSplits, options: argparse.Namespace) -> tuple[int, ...]:
    names = splits.train.class_names
    if options.class_names:
        wanted = options.class_names.split(",")
        unknown = [name for name in wanted if name not in names]
        if unknown:
            raise SignforgeError(f"There is no class {unknown[0]!r} in {splits.source}.")
        return tuple(sorted(names.index(name) for name in wanted))
    return choose_classes(
        join(splits.train, splits.val),
        classes=options.classes,
        min_tracks=options.min_tracks or max(options.tracks) + 4,
    )


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    config = resolve(options)
    splits = load_prepared_splits(config.data, track=announce)
    parts = cut(splits, chosen_classes(splits, options), max(options.tracks), options.seed)
    judge = load_or_train_judge(
        options.out / "judge",
        parts.others,
        config=ClassifierConfig(name=options.judge_classifier),
        steps=options.judge_steps,
        track=announce,
    )
    measured: list[dict[str, Any]] = []
    for tracks in options.only:
        kept = limit_groups(parts.pool, dict.fromkeys(parts.chosen, tracks), options.seed)
        train = join(parts.others, kept)
        gan = trained_gan(config.gan, train, options.out / f"gan-{tracks}-tracks")
        shared = {
            "classes": [splits.train.class_names[c] for c in parts.chosen],
            "grouped_classes": [
                splits.train.class_names[c]
                for c in parts.chosen
                if has_other_groups(pick(parts.reference, [c]).groups, options.ball_neighbours)
            ],
            "k": options.ball_neighbours,
            "repeats": options.repeats,
            "seeds": {"tracks": options.seed, "gan": config.gan.seed},
            "reference_fingerprint": parts.reference.fingerprint,
            "judge": judge.card.model_dump(),
            "generator_sha256": gan.fingerprint,
            "seen_kimg": gan.card.seen_kimg,
            "gan": config.gan.model_dump(mode="json"),
            **origin(__file__, argv),
        }
        rows = measure_tracks(tracks, parts, train, gan, judge, options)
        for row in rows:
            append_row(options.out / "rows.jsonl", row | shared)
        print(variation_table(rows), flush=True)
        measured += rows
    write_atomically(options.out / "table.md", variation_table(measured).encode())


if __name__ == "__main__":
    sys.exit(run_script(main))
