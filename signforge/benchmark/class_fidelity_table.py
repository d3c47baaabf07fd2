"""What was measured of the samples of each class, as one table of text."""

from collections.abc import Callable, Sequence

from signforge.benchmark.arms import BASELINE
from signforge.benchmark.record import RunRecord
from signforge.benchmark.summary import Summary, rare_first
from signforge.benchmark.tables import MISSING, Table, share_text, without_empty_columns


def real_macro_accuracy(summary: Summary, record: RunRecord) -> float | None:
    """What the classification accuracy score is to be read against: the arm ``real`` on
    validation. None where that arm is missing or trained for other steps."""
    cas = (record.fidelity or {}).get("cas")
    real = next((arm for arm in summary.arms if arm.arm == BASELINE), None)
    if cas is None or real is None or cas["steps"] != record.config.classifier.steps:
        return None
    return real.val_macro_accuracy.mean


def fidelity_class_table(summary: Summary, record: RunRecord) -> Table | None:
    """One line a class, rarest first: samples beside the floor; None where it was not measured."""
    fidelity = record.fidelity or {}
    classes = fidelity.get("per_class")
    if not classes:
        return None
    cas = fidelity.get("cas") or {}
    # (title, one value a class, how it is written)
    shown: list[tuple[str, Sequence[float | None] | None, Callable[[float | None], str]]] = [
        ("agreement %", classes["label_agreement"], share_text),
        ("real %", classes["real_label_agreement"], share_text),
        ("FD", classes["fd"], _number),
        ("FD floor", classes["fd_floor"], _number),
        ("KID x 1000", classes["kid"], _thousandths),
        ("KID floor", classes["kid_floor"], _thousandths),
        ("coverage %", classes["coverage"], share_text),
        ("coverage floor %", classes["coverage_floor"], share_text),
        ("too near %", fidelity["memorization"]["features"]["per_class_share"], share_text),
        ("recall from samples alone %", cas.get("per_class_recall"), share_text),
    ]
    columns = [(title, values, write) for title, values, write in shown if values]
    table = Table(
        title="Fidelity of each class",
        header=("class", "train images", "val. images", *(title for title, _, _ in columns)),
        rows=tuple(
            (
                f"{label} {summary.class_names[label]}",
                f"{summary.train_counts[label]:,}",
                f"{classes['n'][label]:,}",
                *(write(values[label]) for _, values, write in columns),
            )
            for label in rare_first(summary)
        ),
    )
    return without_empty_columns(table)


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _thousandths(value: float | None) -> str:
    return MISSING if value is None else f"{1e3 * value:.2f}"
