r"""How good are the samples of finished GAN runs: every figure beside its real-against-real floor.

    python benchmarks/gan_quality.py --data GTSRB --run runs/a --run runs/b \
        --judge runs/judge --out rows.jsonl --table table.md [--cas-steps 2000]
    python benchmarks/gan_quality.py ... --split test        (once, at the very end)

Data and splits are those of each run's own config.yaml, read from --data; the training images
must be the ones that generator.json names. The judge is one timm classifier, trained on the real
training split alone with a seed of its own and kept in --judge; no GAN run ever sees it. But a
run with gan.guide_weight above 0 was trained to please another classifier of the same images,
which flatters label agreement more than it does the other figures; compare such runs with others
by distances and CAS, or by a second --judge-classifier.

Reference: the validation split, cut by track, or the test split. n samples are drawn with the
class proportions of the reference (--n, by default as many as the reference has, with its own
labels). The floor is what a perfect sampler of the training images would get: n real training
images of the same classes, chosen at random and none twice while a class has others, against the
same reference by the same judge; train and reference share no track. With --n the sample side
and the floor side have n images each, and the reference keeps its own size. On the test split
the default n is 12,630 for GTSRB, and the floor is training images with the test set's labels.
(The judge was trained on the floor's images, so the floor is not the lowest that real images can
get; it is the same for all runs.)

Precision, recall, density and coverage are over all classes together, and as a mean of the
values within each class (class_...; class_count says how many classes had enough tracks). Balls
reach to the k-th neighbour of ANOTHER track (--ball-neighbours, --class-ball-neighbours): with
frames of its own track in it, a ball is as small as a track, and real images score no better than
bad samples. GTSRB's test set does not say which of its images show one sign, about 30 each: use
a k above 30 there, or read its four figures with care.

Memorisation: the share of samples that lie nearer to a training image of their class than a
quantile of the reference's images do (--control-quantile, which a perfect sampler would get).
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from judging import announce, has_other_groups, kept_features, load_or_train_judge, origin
from records import append_row, markdown_table, read_rows, run_script
from torch import Tensor

from signforge.benchmark.folder import read_json, write_json
from signforge.config import ClassifierConfig, DataConfig
from signforge.config_file import load_config
from signforge.data.images import LabeledImages
from signforge.data.prepare import load_prepared_splits
from signforge.data.splits import PreparedSplits
from signforge.errors import SignforgeError
from signforge.evaluate.accuracy import AccuracyReport
from signforge.evaluate.classification_accuracy_score import (
    classification_accuracy_score,
    real_accuracy,
)
from signforge.evaluate.coverage import compare_balls, coverage_report, neighbour_balls
from signforge.evaluate.features import FeatureExtractor
from signforge.evaluate.fidelity import (
    draw_samples,
    frechet_distance,
    kid,
    label_agreement,
    proportional_counts,
    repeats,
    same_labels,
)
from signforge.evaluate.memorization import memorization_report, pixels
from signforge.files import write_atomically
from signforge.gan.sampler import GanSampler, load_sampler

SAMPLE_SEED, FLOOR_SEED = 0, 1


@dataclass(frozen=True)
class Side:
    """One set of images as the judge sees it: features float32 (N, D), labels and groups (N,)."""

    features: Tensor
    labels: Tensor
    groups: Tensor

    def of_class(self, label: int) -> "Side":
        rows = self.labels == label
        return Side(self.features[rows], self.labels[rows], self.groups[rows])


@dataclass(frozen=True)
class Stage:
    """All that runs on one data set have in common, measured once."""

    splits: PreparedSplits
    reference: LabeledImages
    judge: FeatureExtractor
    real: Side
    real_agreement: dict[str, Any]
    train_features: Tensor
    sample_labels: Tensor
    comparable_classes: tuple[int, ...]
    floor: dict[str, Any]


def measure_run(run: Path, stage: Stage, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one run, JSON-ready."""
    started = time.perf_counter()
    sampler = load_sampler(run)
    train = stage.splits.train
    if sampler.card.train_fingerprint != train.fingerprint:
        raise SignforgeError(
            f"{run} was trained on other images than {train.source} gives by the run's "
            "config.yaml; name the data that it was trained on with --data."
        )
    labels = stage.sample_labels
    samples = draw_samples(sampler, labels, options.seed)
    features, logits = stage.judge.features_and_logits(samples)
    agreement = label_agreement(logits, labels, train.num_classes)
    fake = Side(features, labels, torch.full_like(labels, -1))
    values = compare(stage.real, fake, stage.comparable_classes, options)
    reference = stage.reference
    memorization = {
        space: memorization_report(
            ours, labels, theirs, train.labels, control, reference.labels,
            quantile=options.control_quantile,
        ).as_dict()
        for space, ours, theirs, control in (
            ("features", features, stage.train_features, stage.real.features),
            ("pixels", pixels(samples), pixels(train), pixels(reference)),
        )
    }  # fmt: skip
    names = train.class_names
    return {
        "run": run.name,
        "split": options.split,
        "n": len(labels),
        "n_reference": len(reference),
        "metric_name": f"fd_{stage.judge.name}_{len(labels)}",
        "label_agreement": {
            "macro": agreement.macro,
            "worst_class": names[agreement.worst_class],
            "worst_class_agreement": agreement.worst_class_agreement,
            "per_class": list(agreement.per_class),
            "real": stage.real_agreement,
        },
        "samples": values,
        "floor": stage.floor,
        "fd_ratio": values["fd"] / stage.floor["fd"] if stage.floor["fd"] else None,
        "memorization": memorization,
        "generator": describe_generator(sampler),
        "judge": stage.judge.card.model_dump(),
        "reference_fingerprint": reference.fingerprint,
        "seeds": {"samples": options.seed, "floor": FLOOR_SEED, "gan": sampler.card.gan.seed},
        "seconds": time.perf_counter() - started,
        "cas": cas_of(sampler, stage, options) if options.cas_steps else None,
    }


def compare(
    real: Side,
    other: Side,
    comparable_classes: Sequence[int],
    options: argparse.Namespace,
    *,
    once: Side | None = None,
) -> dict[str, Any]:
    """Distances and ball shares of ``other`` against ``real``, whole and within classes.

    once: ``other`` without copies, where it has some, for KID and balls.
    """
    once = once or other
    balls = [
        neighbour_balls(side.features, k=options.ball_neighbours, groups=side.groups)
        for side in (real, once)
    ]
    within, fd_per_class = [], []
    for label in range(int(real.labels.max()) + 1):
        ours, theirs = other.of_class(label), real.of_class(label)
        enough = min(len(ours.labels), len(theirs.labels)) >= 2
        fd_per_class.append(frechet_distance(theirs.features, ours.features) if enough else None)
        if label in comparable_classes:
            single = once.of_class(label)
            report = coverage_report(
                theirs.features,
                single.features,
                k=options.class_ball_neighbours,
                real_groups=theirs.groups,
                fake_groups=single.groups,
            )
            within.append(report.as_dict())
    return {
        "fd": frechet_distance(real.features, other.features),
        "kid": kid(real.features, once.features),
        **compare_balls(*balls).as_dict(),
        **{
            f"class_{name}": fmean(row[name] for row in within) if within else None
            for name in ("precision", "recall", "density", "coverage")
        },
        "class_k": options.class_ball_neighbours,
        "class_count": len(within),
        "fd_per_class": fd_per_class,
    }


def set_stage(data: DataConfig, options: argparse.Namespace) -> Stage:
    """Reads the data, makes or loads the judge, and measures the floor."""
    splits = load_prepared_splits(data, track=announce)
    train = splits.train
    reference = splits.val if options.split == "val" else splits.test
    judge = load_or_train_judge(
        options.judge,
        train,
        config=ClassifierConfig(name=options.judge_classifier),
        steps=options.judge_steps,
        track=announce,
    )
    features, logits = kept_features(judge, options.judge, reference, announce)
    real = Side(features, reference.labels, reference.groups)
    agreement = label_agreement(logits, reference.labels, reference.num_classes)
    n = options.n or len(reference)
    counts = proportional_counts(reference.class_counts, n)
    labels = torch.arange(len(counts)).repeat_interleave(counts)
    train_features, _ = kept_features(judge, options.judge, train, announce)
    rows = same_labels(train, counts, torch.Generator().manual_seed(FLOOR_SEED))
    floor, once = (
        Side(train_features[chosen], train.labels[chosen], train.groups[chosen])
        for chosen in (rows, rows[~repeats(rows)])
    )
    comparable = tuple(
        label
        for label in range(train.num_classes)
        if all(
            has_other_groups(side.of_class(label).groups, options.class_ball_neighbours)
            for side in (real, once)
        )
    )
    return Stage(
        splits=splits,
        reference=reference,
        judge=judge,
        real=real,
        real_agreement={"macro": agreement.macro, "per_class": list(agreement.per_class)},
        train_features=train_features,
        sample_labels=labels,
        comparable_classes=comparable,
        floor=compare(real, floor, comparable, options, once=once),
    )


def cas_of(sampler: GanSampler, stage: Stage, options: argparse.Namespace) -> dict[str, Any]:
    """Classification accuracy score; the classifier on real data is trained once and kept."""
    started = time.perf_counter()
    train, reference = stage.splits.train, stage.reference
    config = ClassifierConfig(
        name=options.judge_classifier,
        steps=options.cas_steps,
        learning_rate=options.cas_learning_rate,
    )
    score = classification_accuracy_score(
        sampler,
        train,
        reference,
        config=config,
        seed=options.seed,
        class_prior=options.cas_prior,
        real=_kept_real_accuracy(stage, config, options),
        track=announce,
    )
    return {**score.as_dict(), "seconds": time.perf_counter() - started}


def _kept_real_accuracy(
    stage: Stage, config: ClassifierConfig, options: argparse.Namespace
) -> AccuracyReport:
    train, reference = stage.splits.train, stage.reference
    path = options.judge / f"cas-real-{options.split}-{config.steps}-seed{options.seed}.json"
    made_from = {
        "train": train.fingerprint,
        "reference": reference.fingerprint,
        "classifier": config.model_dump(mode="json"),
    }
    if path.exists():
        kept = read_json(path)
        if kept["made_from"] == made_from:
            values = kept["report"]
            return AccuracyReport(
                **{**values, "per_class_recall": tuple(values["per_class_recall"])}
            )
    report = real_accuracy(train, reference, config=config, seed=options.seed, track=announce)
    write_json(path, {"made_from": made_from, "report": report.as_dict()})
    return report


def describe_generator(sampler: GanSampler) -> dict[str, Any]:
    card = sampler.card
    return {
        "weights_sha256": card.weights_sha256,
        "train_fingerprint": card.train_fingerprint,
        "seen_kimg": card.seen_kimg,
        "seconds": card.seconds,
        "gan": card.gan.model_dump(mode="json"),
    }


def quality_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one line a run and one for the floor of each split and n."""
    header = [
        "run", "split", "n", "kimg", "minutes", "agreement", "worst class", "fd", "fd / floor",
        "KID x 1000", "precision", "recall", "density", "coverage", "coverage in class",
        "too near (features / pixels)", "CAS top-1 / macro",
    ]  # fmt: skip
    lines, floors = [], set()
    for row in rows:
        key = (row["split"], row["n"], row["judge"]["weights_sha256"])
        cas, agreement = row["cas"], row["label_agreement"]
        if key not in floors:
            floors.add(key)
            real = f"{cas['real']['top1']:.1%} / {cas['real']['macro_accuracy']:.1%}" if cas else ""
            lines.append([
                "real training images", row["split"], f"{row['n']:,}", "", "",
                f"{agreement['real']['macro']:.1%} (reference)", "",
                *_distances(row["floor"]), f"{_quantile(row):.0%} / {_quantile(row):.0%}", real,
            ])  # fmt: skip
        near = [row["memorization"][space]["macro_share"] for space in ("features", "pixels")]
        scored = cas["synthetic"] if cas else None
        lines.append([
            row["run"], row["split"], f"{row['n']:,}", f"{row['generator']['seen_kimg']:.0f}",
            f"{row['generator']['seconds'] / 60:.1f}", f"{agreement['macro']:.1%}",
            f"{agreement['worst_class']}: {agreement['worst_class_agreement']:.0%}",
            *_distances(row["samples"], row["fd_ratio"]), f"{near[0]:.0%} / {near[1]:.0%}",
            f"{scored['top1']:.1%} / {scored['macro_accuracy']:.1%}" if scored else "",
        ])  # fmt: skip
    return markdown_table(header, lines)


def _distances(values: dict[str, Any], fd_ratio: float | None = 1.0) -> list[str]:
    shares = ("precision", "recall", "density", "coverage", "class_coverage")
    return [
        f"{values['fd']:.2f}",
        "-" if fd_ratio is None else f"{fd_ratio:.2f}",
        f"{values['kid'] * 1000:.2f}",
        *("-" if values[name] is None else f"{values[name]:.3f}" for name in shares),
    ]


def _quantile(row: dict[str, Any]) -> float:
    return row["memorization"]["features"]["quantile"]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="the data source, as data.source")
    parser.add_argument("--run", type=Path, action="append", required=True, help="may be repeated")
    parser.add_argument("--judge", type=Path, required=True, help="folder of the judge")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines are appended here")
    parser.add_argument("--table", type=Path, help="Markdown of all rows in --out")
    parser.add_argument("--split", choices=("val", "test"), default="val")
    parser.add_argument("--n", type=int, help="samples, and images of the floor")
    parser.add_argument("--seed", type=int, default=SAMPLE_SEED)
    parser.add_argument("--ball-neighbours", type=int, default=5, help="k of the whole set")
    parser.add_argument("--class-ball-neighbours", type=int, default=3, help="k within a class")
    parser.add_argument("--control-quantile", type=float, default=0.05)
    parser.add_argument("--cas-steps", type=int, default=0, help="0 leaves the score out")
    parser.add_argument(
        "--cas-learning-rate", type=float, default=ClassifierConfig().learning_rate,
        help="of both classifiers; the GTSRB presets have 0.008",
    )  # fmt: skip
    parser.add_argument("--cas-prior", choices=("empirical", "uniform"), default="empirical")
    parser.add_argument("--judge-classifier", default="resnet18", help="timm model")
    parser.add_argument("--judge-steps", type=int, default=2000)
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    stages: dict[str, Stage] = {}
    for run in options.run:
        data = load_config(run / "config.yaml").data.model_copy(update={"source": options.data})
        key = data.model_dump_json()
        if key not in stages:
            stages[key] = set_stage(data, options)
        row = measure_run(run, stages[key], options) | origin(__file__, argv)
        append_row(options.out, row)
        print(quality_table([row]))
    if options.table:
        write_atomically(options.table, quality_table(read_rows(options.out)).encode())


if __name__ == "__main__":
    sys.exit(run_script(main))
