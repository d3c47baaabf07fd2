r"""Frechet distances of every class, three ways: torchmetrics', scipy's and the low-rank form.

    OMP_NUM_THREADS=1 python benchmarks/class_distances.py --data GTSRB --run runs/a \
        --judge runs/judge --out class_distances.json --table class_distances.md

The same features for all: samples of --run with the labels of the validation split, and that
split, as a classifier of real training images (--judge, trained there if it is not there) sees
them. torchmetrics takes the eigenvalues of the product of two D x D covariances, scipy the square
root of that product (the formula as the paper writes it); a class has far fewer images than D, so
both work on matrices that are mostly empty. Ours takes the singular values of an n x n matrix.
All in float64 on one thread, one call a class; rounds are repeated and their medians compared.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judging import announce, kept_features, load_or_train_judge, origin
from records import markdown_table, provenance_text, run_script, write_json
from scipy import linalg
from timing import spread
from torch import Tensor
from torchmetrics.image.fid import _compute_fid

from signforge.config import ClassifierConfig
from signforge.config_file import load_config
from signforge.data.prepare import load_prepared_splits
from signforge.evaluate.fidelity import draw_samples, frechet_distance
from signforge.files import write_atomically
from signforge.gan.sampler import load_sampler

SAMPLE_SEED = 0
Distance = Callable[[Tensor, Tensor], float]


def by_torchmetrics(real: Tensor, fake: Tensor) -> float:
    x, y = real.double(), fake.double()
    return float(_compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()))


def by_scipy(real: Tensor, fake: Tensor) -> float:
    x, y = real.double(), fake.double()
    first, second = x.T.cov().numpy(), y.T.cov().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the product of two low-rank matrices is singular
        root = linalg.sqrtm(first @ second)
    shift = float((x.mean(0) - y.mean(0)).square().sum())
    return shift + float(np.trace(first) + np.trace(second) - 2 * np.trace(root).real)


WAYS: Mapping[str, Distance] = {
    "torchmetrics": by_torchmetrics,
    "scipy": by_scipy,
    "signforge": frechet_distance,
}


def measure(real: Tensor, fake: Tensor, labels: Tensor, rounds: int) -> dict[str, Any]:
    """Distance of each class by each way, and seconds of all classes in each round.

    real, fake: float (N, D), image i of both of class int64 (N,) ``labels[i]``.
    """
    classes = [(real[labels == label], fake[labels == label]) for label in labels.unique().tolist()]
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    values: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, distance in WAYS.items():
            started = time.perf_counter()
            values[name] = [distance(*sides) for sides in classes]
            seconds[name].append(time.perf_counter() - started)
    ours = values["signforge"]
    return {
        "images": [len(sides[0]) for sides in classes],
        "features": real.shape[1],
        "distances": values,
        "seconds": seconds,
        "largest_relative_difference": {
            name: max(abs(a / b - 1) for a, b in zip(values[name], ours, strict=True))
            for name in WAYS
            if name != "signforge"
        },
    }


def speed_table(found: Mapping[str, Any]) -> str:
    """Markdown: one line a way."""
    ours = spread(found["seconds"]["signforge"]).median
    lines = []
    for name, seconds in found["seconds"].items():
        took = spread(seconds)
        difference = found["largest_relative_difference"].get(name)
        lines.append(
            [
                name,
                f"{took:.2f}",
                f"{took.median / ours:.1f}",
                "-" if difference is None else f"{difference:.1e}",
            ]
        )
    header = ["way", "seconds", "times ours", "largest relative difference"]
    images = found["images"]
    intro = (
        f"Frechet distances of {len(images)} classes, {min(images)} to {max(images)} images a "
        f"side, {found['features']} features, float64, one thread; median (lowest to highest) of "
        f"{len(found['seconds']['signforge'])} rounds.\n\n"
    )
    return intro + markdown_table(header, lines)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="the data source, as data.source")
    parser.add_argument("--run", type=Path, required=True, help="a finished run of train-cgan")
    parser.add_argument("--judge", type=Path, required=True, help="folder of the judge")
    parser.add_argument("--judge-classifier", default="resnet18", help="timm model")
    parser.add_argument("--judge-steps", type=int, default=800)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    parser.add_argument("--table", type=Path, required=True, help="Markdown")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    torch.set_num_threads(1)
    data = load_config(options.run / "config.yaml").data
    splits = load_prepared_splits(data.model_copy(update={"source": options.data}), track=announce)
    judge = load_or_train_judge(
        options.judge,
        splits.train,
        config=ClassifierConfig(name=options.judge_classifier),
        steps=options.judge_steps,
        track=announce,
    )
    labels = splits.val.labels
    real, _ = kept_features(judge, options.judge, splits.val, announce)
    fake = judge.features(draw_samples(load_sampler(options.run), labels, SAMPLE_SEED))
    found = {
        **measure(real, fake, labels, options.rounds),
        "judge": judge.card.model_dump(),
        **origin(__file__, argv),
    }
    write_json(options.out, found)
    table = speed_table(found)
    write_atomically(options.table, (table + "\n" + provenance_text(found)).encode())
    print(table)


if __name__ == "__main__":
    sys.exit(run_script(main))
