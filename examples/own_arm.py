"""A remedy of one's own in the benchmark, beside those that ship.

    python examples/own_arm.py [SOURCE]

Run it in the project's folder. Without SOURCE it takes a tenth of the demo's drawn signs and a few
steps, which shows how it works and nothing else. The report lies in runs/own-arm/report.html.
"""

import sys
from pathlib import Path

from signforge.benchmark.arms import ARMS, ArmContext, ArmSetup
from signforge.benchmark.job import run_main_job
from signforge.benchmark.repeat_sampler import RepeatSampler
from signforge.config_file import load_config
from signforge.data.images import LabeledImages
from signforge.data.prepare import load_prepared_splits


def square_root(train: LabeledImages, context: ArmContext) -> ArmSetup:
    """Rare classes repeated half of the way, on a logarithmic scale (Mahajan et al. 2018)."""
    counts = train.class_counts.double()
    targets = (counts * counts.max()).sqrt().round().long()
    sampler = RepeatSampler(train.labels, targets, seed=context.seed)
    return ArmSetup(train, class_counts=tuple(targets.tolist()), sampler=sampler)


quick = {"data.demo_scale": 0.01, "classifier.name": "test_resnet", "classifier.steps": 20}
own = {"data.source": sys.argv[1]} if len(sys.argv) > 1 else quick
names = ("real", "square_root", "square_root+focal_loss")
config = load_config(None, [*own.items(), ("benchmark.arms", names), ("benchmark.seeds", 2)])
summary = run_main_job(
    config,
    load_prepared_splits(config.data),
    Path("runs/own-arm"),
    arms={**ARMS, "square_root": square_root},
)
print(summary.verdict)
