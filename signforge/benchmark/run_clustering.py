"""How much images of one group count for, from the files of a run directory."""

from collections.abc import Sequence
from pathlib import Path

from signforge.benchmark.arms import BASELINE
from signforge.benchmark.clusters import (
    Clustering,
    GroupedPredictions,
    Split,
    measure_clustering,
)
from signforge.benchmark.folder import (
    Row,
    has_predictions,
    read_groups,
    read_predictions,
    read_target,
)


def clustering_of_run(run_dir: Path, rows: Sequence[Row]) -> Clustering | None:
    """By the test split's own groups if they are known and tell, else by the validation split's.

    None where neither does; rows of older versions keep no predictions of the validation split.
    """
    splits: tuple[Split, ...] = ("test", "val")
    for split in splits:
        groups = read_groups(run_dir, split)
        kept = [
            (row["arm"], row["seed"])
            for row in rows
            if has_predictions(run_dir, row["arm"], row["seed"], split)
        ]
        if groups is not None and kept:
            preds = {key: read_predictions(run_dir, *key, split) for key in kept}
            found = GroupedPredictions(preds, read_target(run_dir, split), groups)
            clustering = measure_clustering(found, BASELINE, split)
            if clustering is not None:
                return clustering
    return None
