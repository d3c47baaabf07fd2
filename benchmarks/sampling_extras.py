r"""What truncation and class-wise batch-norm statistics do to the samples of a finished GAN run.

    python benchmarks/sampling_extras.py --run runs/gtsrb --data gtsrb \
        --extractor runs/benchmark/extractor --out table.md

Both change sampling alone and cost no training. Truncation draws latents anew beyond so many
standard deviations (Brock et al. 2019, section 3.1). Class-wise statistics normalise the samples of
a class by what that class's own samples measure, wholly or half (mixed with the statistics over
all classes that the generator ships with).

Data and split are those of the run's config.yaml, read from --data. As many samples as the
validation split has images, with its labels, are judged by --extractor, a classifier trained on the
training split alone (a benchmark's extractor/ folder or a --judge of gan_quality.py). Frechet
distances are over the one of the samples as they are; recall as in gan_quality.py.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from judging import announce
from records import command_line, markdown_table, provenance, provenance_text, run_script
from torch import Tensor, nn

from signforge.config_file import load_config
from signforge.data.images import LabeledImages
from signforge.data.prepare import load_prepared_splits
from signforge.errors import SignforgeError
from signforge.evaluate.coverage import coverage_report
from signforge.evaluate.features import FeatureExtractor, load_extractor
from signforge.evaluate.fidelity import draw_samples, frechet_distance, label_agreement
from signforge.gan.sampler import GanSampler, draw_latents, load_sampler

STATISTICS_IMAGES, STATISTICS_SEED = 512, 1
BALL_NEIGHBOURS = 5


@dataclass(frozen=True)
class Variant:
    """truncation: as for ``draw_latents``. class_share: of a class's own statistics, 0 to 1."""

    title: str
    truncation: float | None = None
    class_share: float = 0.0


VARIANTS = (
    Variant("as it is"),
    Variant("truncation 2", truncation=2.0),
    Variant("truncation 1.5", truncation=1.5),
    Variant("truncation 1", truncation=1.0),
    Variant("half class-wise statistics", class_share=0.5),
    Variant("class-wise statistics", class_share=1.0),
)


@dataclass(frozen=True)
class Figures:
    agreement: float
    worst_class_agreement: float
    fd: float
    recall: float


def main(argv: Sequence[str]) -> None:
    args = parse(argv)
    data = load_config(args.run / "config.yaml").data.model_copy(update={"source": args.data})
    splits = load_prepared_splits(data, track=announce)
    extractor = load_extractor(args.extractor)
    if extractor.card.train_fingerprint != splits.train.fingerprint:
        raise SignforgeError(
            f"The extractor in {args.extractor} was trained on other images than the training "
            "split of the run; name one that was trained on it."
        )
    real = extractor.features(splits.val.images)
    found = {}
    for variant in VARIANTS:
        sampler = load_sampler(args.run, truncation=variant.truncation)
        found[variant.title] = measure(sampler, variant, splits.val, real, extractor)
        print(f"{variant.title}: {found[variant.title]}", file=sys.stderr, flush=True)
    text = (
        f"# Sampling extras of `{args.run.name}`\n\n{len(splits.val):,} samples a line.\n\n"
        + table(found)
        + "\n"
        + provenance_text(provenance(command_line(__file__, argv)))
    )
    args.out.write_text(text, encoding="utf-8")


def measure(
    sampler: GanSampler,
    variant: Variant,
    reference: LabeledImages,
    real: Tensor,
    extractor: FeatureExtractor,
) -> Figures:
    """real: the extractor's features of ``reference``, float32 (N, D)."""
    labels = reference.labels
    samples = torch.empty_like(reference.images)
    if variant.class_share:
        for label in labels.unique().tolist():
            rows = labels == label
            with class_statistics(sampler, label, variant.class_share):
                samples[rows] = draw_samples(sampler, labels[rows], seed=label)
    else:
        samples = draw_samples(sampler, labels, seed=0)
    features, logits = extractor.features_and_logits(samples)
    agreement = label_agreement(logits, labels, reference.num_classes)
    balls = coverage_report(real, features, k=BALL_NEIGHBOURS, real_groups=reference.groups)
    return Figures(
        agreement.macro,
        agreement.worst_class_agreement,
        frechet_distance(real, features),
        balls.recall,
    )


@contextmanager
def class_statistics(sampler: GanSampler, label: int, share: float) -> Iterator[None]:
    """The generator normalising by ``share`` of what samples of one class measure."""
    norms = [m for m in sampler.generator.modules() if isinstance(m, nn.BatchNorm2d)]
    shipped = {key: value.clone() for key, value in sampler.generator.state_dict().items()}
    means = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in norms]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    z = draw_latents(STATISTICS_IMAGES, sampler.generator.z_dim, STATISTICS_SEED)
    labels = torch.full((STATISTICS_IMAGES,), label)
    with torch.no_grad():
        sampler.generator(z.to(sampler.device), labels.to(sampler.device))
    for norm, (mean, var) in zip(norms, means, strict=True):
        norm.eval()
        norm.running_mean.lerp_(mean, 1 - share)
        norm.running_var.lerp_(var, 1 - share)
    try:
        yield
    finally:
        sampler.generator.load_state_dict(shipped)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def table(found: dict[str, Figures]) -> str:
    """Markdown; the first line is what the distances are compared with."""
    base = next(iter(found.values())).fd
    header = ["sampling", "agreement %", "worst class %", "distance / as it is", "recall"]
    lines = [
        [
            title,
            f"{100 * figures.agreement:.1f}",
            f"{100 * figures.worst_class_agreement:.1f}",
            f"{figures.fd / base:.2f}",
            f"{figures.recall:.3f}",
        ]
        for title, figures in found.items()
    ]
    return markdown_table(header, lines)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--extractor", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(run_script(main))
