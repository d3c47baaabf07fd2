"""Tables of text, from a benchmark that never ran."""

import pytest

from signforge.benchmark.record import read_record
from signforge.benchmark.summary import summarise_run
from signforge.benchmark.tables import (
    accuracy_table,
    arms_table,
    class_table,
    cost_table,
    counts_table,
    synthetic_table,
)
from support.benchmark_runs import CLASS_NAMES, write_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def summary(run_dir):
    return summarise_run(run_dir)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    """Rows of the first version, which knew no gate, and no class with few images."""
    folder = tmp_path_factory.mktemp("old")
    write_run(folder, old=True, class_names=CLASS_NAMES[:2], arms=("real", "oversample"))
    return folder


def test_arms_in_percent_points_and_seconds(summary):
    table = arms_table(summary)
    assert all(len(row) == len(table.header) for row in table.rows)
    column = table.header.index("macro %")
    spread = summary.arms[0].macro_accuracy
    assert table.rows[0][column] == f"{100 * spread.mean:.2f} ± {100 * spread.std:.2f}"
    assert table.rows[0][table.header.index("macro gain over real")] == "-"
    assert f"macro gain over {summary.best_cheap}" in table.header
    costs = [dict(zip(table.header, row, strict=True)) for row in table.rows]
    assert [cost["gate s"] for cost in costs] == ["0", "0", "0", "56", "0"]
    assert [cost["GAN s"] for cost in costs] == ["0", "0", "0", "1,234", "1,234"]


def test_columns_that_hold_nothing_vanish(old):
    summary = summarise_run(old)
    header = arms_table(summary).header
    assert "gate s" not in header
    assert "few %" not in header
    assert cost_table(summary).header == ("arm", "classifier", "together")


def test_validation_stands_beside_the_test(summary):
    table = accuracy_table(summary)
    assert table.header[:4] == ("arm", "seeds", "val. macro %", "top-1 %")
    assert {"many %", "medium %", "few %"} <= set(table.header)
    spread = summary.arms[1].val_macro_accuracy
    assert table.rows[1][2] == f"{100 * spread.mean:.2f} ± {100 * spread.std:.2f}"


def test_the_gate_is_part_of_the_cost(summary):
    table = cost_table(summary)
    rows = {row[0]: row[1:] for row in table.rows}
    assert table.header == ("arm", "generator", "gate", "classifier", "together")
    assert rows["synthetic"] == ("1,234", "56", "10", "1,300")
    assert rows["real"] == ("-", "-", "10", "10")


def test_classes_stand_from_rare_to_frequent(summary):
    assert [row[0][0] for row in class_table(summary).rows] == ["3", "2", "1", "0"]
    assert class_table(summary).rows[0][1:3] == ("6", "120")
    counts = counts_table(summary)
    assert counts.header == (
        "class",
        "real, logit_adjustment",
        "oversample, synthetic, synthetic_ungated",
    )
    assert [row[1:] for row in counts.rows] == [(n, "400") for n in ("400", "150", "60", "6")]


def test_what_is_known_of_the_samples_of_each_class(run_dir, summary):
    table = synthetic_table(summary, read_record(run_dir))
    assert table.header == (
        "class",
        "train images",
        "label agreement %",
        "kept by the gate, synthetic %",
        "real images that the gate would keep %",
        "real images in their place, synthetic",
    )
    assert table.rows[-1][1:] == ("400", "50.0", "0.0", "-", "340")
    assert table.rows[0][1:] == ("6", "90.0", "75.0", "90.0", "0")


def test_nothing_is_known_without_a_generator(old):
    assert synthetic_table(summarise_run(old), read_record(old)) is None
