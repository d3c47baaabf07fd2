"""What a report says of protocol, environment and fidelity: sentences, with `code` in backticks."""

from collections.abc import Mapping, Sequence
from typing import Any

from signforge.benchmark.budget import left_out
from signforge.benchmark.clusters import Clustering
from signforge.benchmark.record import RunRecord
from signforge.benchmark.summary import Summary
from signforge.config import BenchmarkConfig

OLD_FIDELITY = (
    "Figures of each class, precision, recall, density, coverage and memorisation were not "
    "measured in this run."
)


def protocol_lines(record: RunRecord, summary: Summary) -> list[str]:
    """How the arms were trained and judged, and the notes on the data."""
    config, dataset = record.config, record.dataset
    splits, classifier = dataset["splits"], config.classifier
    train = splits["train"]["class_counts"]
    lines = [
        f"{len(dataset['class_names'])} classes at {dataset['resolution']}x"
        f"{dataset['resolution']}; {_images(splits, 'train')} to train on (imbalance ratio "
        f"{max(train) / min(train):.1f}), {_images(splits, 'val')} for validation, "
        f"{_images(splits, 'test')} for the test, which each classifier sees once, at its end.",
        f"Every arm: {classifier.name}{' (pretrained)' if classifier.pretrained else ''}, "
        f"{classifier.steps:,} steps of {classifier.batch_size} images, AdamW at "
        f"{classifier.learning_rate:g}, augmentation `{classifier.augment}` without flips; for one "
        "seed the same initial weights (but for LDAM's own last layer) and seed of batch order in "
        "every arm.",
        "Intervals: test images resampled within their class "
        f"({config.benchmark.bootstrap_resamples:,} resamples), both arms alike, and Student's t "
        "for the few seeds; never narrower than a paired t-test over seeds.",
        "The verdict puts two remedies to the test, the best without and the best with a "
        "generator, chosen by macro accuracy on validation.",
    ]
    grouped = any(splits[name].get("groups") for name in ("val", "test"))
    lines.append(_cluster_line(summary.clustering, grouped=grouped))
    less = left_out(config, {arm.arm: len(arm.seeds) for arm in summary.arms})
    if less is not None:
        lines.append(less)
    lines += _seed_lines(config.benchmark, {arm.arm: arm.seeds for arm in summary.arms})
    hashes = ", ".join(f"{name} `{split['fingerprint'][:12]}`" for name, split in splits.items())
    generator = dataset["generator"]
    if generator:
        hashes += f", generator `{generator['fingerprint'][:12]}`"
    return [*lines, f"SHA-256: {hashes}.", *dataset["notes"]]


def _cluster_line(clustering: Clustering | None, *, grouped: bool) -> str:
    """How images of one object enter the intervals. grouped: whether any split has known groups."""
    if clustering is None:
        reason = (
            "Images come in groups, but what one of a group is worth could not be measured, for "
            "want of validation predictions in the rows or of classes with two groups"
            if grouped
            else "Which test images show the same physical object is not known"
        )
        return (
            f"{reason}; they are resampled as if each stood alone, so intervals are too narrow "
            "where a class shows few objects."
        )
    measured = "test" if clustering.split == "test" else "validation"
    effects = f"{clustering.one_seed:.1f}"
    if clustering.several_seeds > clustering.one_seed:
        effects += f" in comparisons of one seed, {clustering.several_seeds:.1f} of several,"
    line = (
        f"Images of one group are right or wrong together: {effects} say as much as one that "
        "stands alone (design effect of the differences between arms, measured on "
        f"{clustering.groups:,} groups of the {measured} split, over {clustering.arms} of the "
        "arms), so a resample draws as many fewer."
    )
    if clustering.split == "val":
        line += " The groups of the test images are not known; they are taken to be alike."
    return line


def _seed_lines(config: BenchmarkConfig, seeds: Mapping[str, Sequence[int]]) -> list[str]:
    """What there is to say of seeds that are missing, or that not all arms share; often nothing.

    config: of the last call; rows of earlier ones may have other arms and seeds.
    """
    planned = range(config.first_seed, config.first_seed + config.seeds)
    done = {arm: len(set(planned).intersection(seeds.get(arm, ()))) for arm in config.arms}
    if min(done.values()) < len(planned):
        counts = [f"{arm} {count} of {len(planned)}" for arm, count in done.items()]
        return [f"Not finished; seeds done: {', '.join(counts)}."]
    if len({tuple(found) for found in seeds.values()}) > 1:
        counts = [f"{arm} {len(found)}" for arm, found in seeds.items()]
        return [f"Seeds: {', '.join(counts)}; two arms are compared over those that both have."]
    return []


def fidelity_note(record: RunRecord) -> str:
    """What the fidelity tables were measured with and are to be read, or why there is none."""
    fidelity = record.fidelity
    if fidelity is None:
        none = record.dataset["generator"] is None
        return "No generator took part." if none else "Not measured in this run."
    lines = [
        f"{fidelity['n']:,} samples against as many validation images, with their labels; the "
        f"floor is as many training images of other groups{_repeats(fidelity)}. Extractor: "
        f"{fidelity['extractor']}, "
        "trained on the training split alone, SHA-256 "
        f"`{fidelity['extractor_sha256'][:12]}`; it has seen the images of the floor, so that a "
        "ratio near 1 says that samples look like training images, not like new ones.",
        *(_coverage_lines(fidelity) if "per_class" in fidelity else [OLD_FIDELITY]),
        _cas_line(fidelity),
        _inception_line(fidelity),
    ]
    return " ".join(lines)


def _repeats(fidelity: Mapping[str, Any]) -> str:
    repeats = fidelity.get("floor_repeats")  # files of signforge 0.1.0 do not tell
    if repeats is None:
        return " (some of them twice, where a class has fewer than validation images)"
    if repeats == 0:
        return ""
    return (
        f" ({repeats:,} of them once more, in classes that have fewer; KID and balls leave these "
        "out, and such classes have no FD floor of their own)"
    )


def _coverage_lines(fidelity: Mapping[str, Any]) -> list[str]:
    memorization = fidelity["memorization"]["features"]
    lines = [
        "“Too near”: samples nearer to a training image of their class than "
        f"{100 * (1 - memorization['quantile']):.0f} % of the validation images are, which other "
        "groups show; figures far above the real ones mean copies or plain average looks.",
    ]
    coverage = fidelity["coverage"]
    if coverage:
        lines.insert(
            0,
            "Precision, recall, density and coverage by balls that reach to the "
            f"{coverage['samples']['k']}th nearest image of another group.",
        )
    else:
        lines.insert(0, "Too few groups for precision, recall, density and coverage.")
    return lines


def _cas_line(fidelity: Mapping[str, Any]) -> str:
    cas = fidelity.get("cas")
    if cas is None:
        return "No classification accuracy score in this run."
    return (
        f"Classification accuracy score: {cas['steps']:,} steps on samples alone, new ones each "
        "epoch, then validation; its real side is the arm `real`, mean over its seeds."
    )


def _inception_line(fidelity: Mapping[str, Any]) -> str:
    inception = fidelity.get("inception")
    if inception is None:
        return "No Inception FID, for its weights or torch-fidelity were not at hand."
    unknown = "" if inception["known_weights"] else "unknown, not those of published FIDs, "
    return (
        f"Inception distances: {inception['n']:,} images a side, resized as torchmetrics does; "
        f"weights: {unknown}SHA-256 `{inception['weights_sha256'][:12]}`."
    )


def environment_lines(record: RunRecord) -> list[str]:
    """What the run was made with; the commands that repeat it are not among them."""
    lines = [
        *(f"{environment}." for environment in record.environments),
        f"Last row finished {record.finished_at}.",
    ]
    if record.commits:
        lines.append(f"Commit {', '.join(record.commits)}.")
    return lines


def _images(splits: Mapping[str, Any], name: str) -> str:
    groups = splits[name]["groups"]
    signs = f" in {groups:,} groups" if groups else ""
    return f"{splits[name]['images']:,} images{signs}"
