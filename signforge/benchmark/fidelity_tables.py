"""What was measured of the samples, whole and of each class, as tables of text."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from signforge.benchmark.arms import BASELINE
from signforge.benchmark.record import RunRecord
from signforge.benchmark.summary import Summary, mean_of_known, rare_first
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
        ("too near in pixels %", fidelity["memorization"]["pixels"]["per_class_share"], share_text),
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


def fidelity_table(
    fidelity: Mapping[str, Any], class_names: Sequence[str], real_macro: float | None = None
) -> Table:
    """Samples beside the best that real images reach; ``fidelity`` as in fidelity.json.

    Rows of parts that were not measured are left out. real_macro: of the arm ``real`` on
    validation, which the classification accuracy score is read against.
    """
    worst = class_names[fidelity["worst_class"]]
    ratio = fidelity["fd_ratio"]
    rows: list[tuple[str, ...]] = [
        (fidelity["metric_name"], f"{fidelity['fd']:.3f}", f"{fidelity['fd_floor']:.3f}"),
        ("Frechet distance / floor", MISSING if ratio is None else f"{ratio:.2f}", "1.00"),
        ("KID x 1000", f"{1e3 * fidelity['kid']:.2f}", f"{1e3 * fidelity['kid_floor']:.2f}"),
    ]
    classes = fidelity.get("per_class")
    if classes:
        pairs = zip(classes["fd"], classes["fd_floor"], strict=True)
        both = [pair for pair in pairs if None not in pair]  # else other classes were compared
        means = [mean_of_known([pair[side] for pair in both]) for side in (0, 1)]
        rows.append(("Frechet distance within a class, mean", *(_decimals(mean) for mean in means)))
    coverage = fidelity.get("coverage")
    if coverage:
        sides = coverage["samples"], coverage["floor"]
        rows += [
            (name, *(f"{side[name]:.3f}" for side in sides))
            for name in ("precision", "recall", "density", "coverage")
        ]
    rows += [
        (
            "label agreement, mean over classes %",
            share_text(fidelity["macro_label_agreement"]),
            share_text(fidelity["real_label_agreement"]),
        ),
        (
            f"label agreement of the worst class ({worst}) %",
            share_text(fidelity["worst_class_label_agreement"]),
            share_text(classes["real_label_agreement"][fidelity["worst_class"]])
            if classes
            else MISSING,
        ),
    ]
    cas = fidelity.get("cas")
    if cas:
        title = "classification accuracy score (trained on samples alone), macro %"
        rows.append((title, share_text(cas["macro_accuracy"]), share_text(real_macro)))
    for space, found in (fidelity.get("memorization") or {}).items():
        title = f"nearer to a training image than most unseen real ones, by {space} %"
        rows.append((title, share_text(found["macro_share"]), share_text(found["quantile"])))
    inception = fidelity.get("inception")
    if inception:
        fids = (f"{inception[key]:.2f}" for key in ("fid", "fid_floor"))
        kids = (f"{1e3 * inception[key]:.2f}" for key in ("kid", "kid_floor"))
        rows.append((f"fid_inception_{inception['n']}", *fids))
        rows.append((f"kid_inception_{inception['n']} x 1000", *kids))
    return Table("Fidelity", ("metric", "synthetic", "real against real"), tuple(rows))


def _decimals(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"
