"""A finished benchmark in the trackers of its config: parameters, figures, verdict and report.

Everything comes from the files of the run directory; each call begins a run of its own there, so
a benchmark that was resumed is logged whole.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from signforge.benchmark.folder import Row, read_json, read_rows
from signforge.benchmark.summary import ArmSummary, Summary
from signforge.config import Config
from signforge.errors import SignforgeError
from signforge.gan.trackers import Trackers, flat_config

ROW_FIGURES = (
    *("top1", "macro_accuracy", "worst_class_recall", "many", "medium", "few"),
    *("val_top1", "val_macro_accuracy", "final_loss"),
    *("gan_seconds", "gate_seconds", "drawing_seconds", "classifier_seconds"),
)
FILES = (
    *("report.html", "results.md", "results.csv", "classes.csv", "rows.jsonl"),
    *("config.yaml", "dataset.json", "environment.json", "fidelity.json"),
    *("samples.png", "class_balance.png", "per_class_gain.png"),
)


def track_benchmark(
    config: Config, run_dir: Path, summary: Summary, on_problem: Callable[[str], None]
) -> None:
    """Logs the rows of ``summary`` (steps are seeds), what it makes of them, and the report.

    on_problem: gets a sentence about each tracker that fails; the report is there already.
    """
    try:
        with Trackers(config.gan.trackers, run_dir, flat_config(config), on_problem) as trackers:
            seeds = {(arm.arm, seed) for arm in summary.arms for seed in arm.seeds}
            for row in read_rows(run_dir):
                if (row["arm"], row["seed"]) in seeds:
                    trackers.log_values(row_values(row), row["seed"])
            for arm in summary.arms:
                trackers.log_values(arm_values(arm), 0)
            if (run_dir / "fidelity.json").is_file():
                trackers.log_values(fidelity_values(read_json(run_dir / "fidelity.json")), 0)
            trackers.log_text("verdict", summary.verdict)
            trackers.log_files("benchmark", FILES)
    except SignforgeError as error:
        on_problem(f"{error} The report is in {run_dir}; the same command tries again.")


def row_values(row: Row) -> dict[str, float]:
    """``{"synthetic/top1": 0.9, ...}``; what the row does not know is left out."""
    found = {name: row.get(name) for name in ROW_FIGURES}
    return {
        f"{_metric_name(row['arm'])}/{name}": value
        for name, value in found.items()
        if value is not None
    }


def arm_values(arm: ArmSummary) -> dict[str, float]:
    """Mean over seeds and gain over plain training, with its 95 % interval."""
    values = {"mean_macro_accuracy": arm.macro_accuracy.mean, "mean_top1": arm.top1.mean}
    if arm.over_real is not None:
        gain = arm.over_real
        values |= {
            "gain_over_real": gain.mean,
            "gain_over_real_low": gain.low,
            "gain_over_real_high": gain.high,
        }
    return {f"{_metric_name(arm.arm)}/{name}": value for name, value in values.items()}


def fidelity_values(fidelity: Mapping[str, object]) -> dict[str, float]:
    """The single figures of fidelity.json: ``{"fidelity/fd": 2.0, "fidelity/cas/top1": 0.9, ...}``.

    Figures of each class, which are lists, stay in the file.
    """
    return dict(_figures(fidelity, "fidelity"))


def _figures(values: Mapping[str, object], path: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, float):
            yield f"{path}/{name}", value
        # How the classifier of the accuracy score was trained is a setting, not a figure.
        elif isinstance(value, Mapping) and name != "made_by":
            yield from _figures(value, f"{path}/{name}")


def _metric_name(arm: str) -> str:
    """MLflow takes no plus sign in a metric's name."""
    return arm.replace("+", "-")
