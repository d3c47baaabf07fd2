"""Tables of text, from a benchmark that never ran."""

import dataclasses

import pytest

from signforge.benchmark.fidelity_tables import (
    fidelity_class_table,
    fidelity_table,
    real_macro_accuracy,
)
from signforge.benchmark.protocol import fidelity_note
from signforge.benchmark.record import read_record
from signforge.benchmark.summary import shown_by_class, summarise_run
from signforge.benchmark.tables import (
    accuracy_table,
    arms_table,
    class_table,
    cost_table,
    counts_table,
    gain_text,
    group_gains_table,
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
    assert [cost["drawing s"] for cost in costs] == ["0", "0", "0", "78", "78"]
    assert [cost["GAN s"] for cost in costs] == ["0", "0", "0", "1,234", "1,234"]


@pytest.mark.parametrize("over", ["real", "oversample"])
def test_gains_in_groups_over_plain_training_and_over_the_best_cheap_arm(run_dir, over):
    summary = summarise_run(run_dir)
    summary = dataclasses.replace(summary, best_cheap="oversample")
    table = group_gains_table(summary, over)
    key = "versus_real" if over == "real" else "versus_cheap"
    compared = [arm for arm in summary.arms if getattr(arm, key)]
    assert [row[0] for row in table.rows] == [arm.arm for arm in compared]
    assert table.header == ("arm", "worst class", "many", "medium", "few")
    for row, arm in zip(table.rows, compared, strict=True):
        figures = getattr(arm, key).figures
        expected = [figures[name] for name in ("worst_class_recall", "many", "medium", "few")]
        assert list(row[1:]) == [gain_text(gain) for gain in expected]


def test_without_another_arm_there_are_no_gains_in_groups(tmp_path):
    write_run(tmp_path, arms=("real",), seeds=1)
    assert group_gains_table(summarise_run(tmp_path), "real") is None


def test_columns_that_hold_nothing_vanish(old):
    summary = summarise_run(old)
    header = arms_table(summary).header
    assert "gate s" not in header
    assert "drawing s" not in header
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
    assert table.header == ("arm", "generator", "gate", "drawing images", "classifier", "together")
    assert rows["synthetic"] == ("1,234", "56", "78", "10", "1,378")
    assert rows["real"] == ("-", "-", "-", "10", "10")


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


@pytest.fixture(scope="module")
def old_generative(tmp_path_factory):
    """A generator measured when there were distances and label agreement alone."""
    folder = tmp_path_factory.mktemp("old-fidelity")
    write_run(folder, old=True, arms=("real", "synthetic"))
    return folder


def test_each_figure_of_fidelity_stands_beside_its_floor(run_dir, summary):
    record = read_record(run_dir)
    real = real_macro_accuracy(summary, record)
    assert real == summary.arms[0].val_macro_accuracy.mean
    table = fidelity_table(record.fidelity, summary.class_names, real)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["fd_test_480"] == ("2.000", "1.000")
    assert rows["Frechet distance within a class, mean"] == ("3.000", "1.500")
    assert rows["coverage"] == ("0.700", "0.950")
    assert rows["precision"] == ("0.900", "0.900")
    score = "classification accuracy score (trained on samples alone), macro %"
    assert rows[score] == ("62.5", f"{100 * real:.1f}")
    near = "nearer to a training image than most unseen real ones, by features %"
    assert rows[near] == ("12.5", "5.0")
    assert rows["fid_inception_400"] == ("31.50", "12.25")
    assert rows["kid_inception_400 x 1000"] == ("4.00", "2.00")


def test_fidelity_of_classes_stands_from_rare_to_frequent(run_dir, summary):
    table = fidelity_class_table(summary, read_record(run_dir))
    assert [row[0][0] for row in table.rows] == ["3", "2", "1", "0"]
    last = dict(zip(table.header, table.rows[-1], strict=True))
    assert last["train images"] == "400"
    assert (last["FD"], last["FD floor"]) == ("3.00", "1.50")
    assert (last["KID x 1000"], last["KID floor"]) == ("3.00", "1.00")
    assert (last["agreement %"], last["real %"]) == ("50.0", "90.0")
    assert (last["coverage %"], last["coverage floor %"], last["too near %"]) == (
        *("60.0", "80.0"),
        "12.5",
    )
    assert last["recall from samples alone %"] == "62.5"
    assert dict(zip(table.header, table.rows[0], strict=True))["KID x 1000"] == "-"


def test_the_score_needs_a_real_arm_of_as_many_steps(run_dir, summary):
    record = read_record(run_dir)
    fewer = {**record.fidelity, "cas": {**record.fidelity["cas"], "steps": 5}}
    assert real_macro_accuracy(summary, dataclasses.replace(record, fidelity=fewer)) is None


def test_what_an_old_run_did_not_measure_is_said(old_generative):
    summary, record = summarise_run(old_generative), read_record(old_generative)
    table = fidelity_table(record.fidelity, summary.class_names)
    assert len(table.rows) == 5
    assert fidelity_class_table(summary, record) is None
    assert real_macro_accuracy(summary, record) is None
    note = fidelity_note(record)
    assert "coverage and memorisation were not measured in this run." in note
    assert "No classification accuracy score" in note
    assert "No Inception FID" in note


def test_unknown_inception_weights_are_said(run_dir):
    record = read_record(run_dir)
    note = fidelity_note(record)
    assert "weights: unknown, not those of published FIDs, SHA-256 `bbbbbbbbbbbb`" in note
    assert "2,000 steps on samples alone" in note
    known = {
        **record.fidelity,
        "inception": {**record.fidelity["inception"], "known_weights": True},
    }
    assert "unknown" not in fidelity_note(dataclasses.replace(record, fidelity=known))
    for repeats, said in ((None, "(some of them twice, "), (3, "(3 of them once more, ")):
        told = {**record.fidelity, "floor_repeats": repeats}
        assert said in fidelity_note(dataclasses.replace(record, fidelity=told))
    few = {**record.fidelity, "floor_repeats": 0, "coverage": None}
    assert "training images of other groups. Extractor" in fidelity_note(
        dataclasses.replace(record, fidelity=few)
    )
    assert "Too few groups" in fidelity_note(dataclasses.replace(record, fidelity=few))


def test_of_many_arms_classes_show_the_two_of_the_verdict(tmp_path):
    names = ("synthetic", "synthetic_tenth", "synthetic_relit", "synthetic_then_real")
    write_run(tmp_path, arms=("oversample", "focal_loss", *names, "real"))
    summary = summarise_run(tmp_path)
    assert [arm.arm for arm in summary.arms][:2] == ["real", "oversample"]
    chosen = {summary.best_cheap, summary.best_generative}
    assert {arm.arm for arm in shown_by_class(summary)} == chosen
    header = class_table(summary).header
    assert {name.removesuffix(" over real") for name in header if "over real" in name} == chosen
    assert len([name for name in header if name.endswith(" %")]) == len(summary.arms)
    judged = synthetic_table(summary, read_record(tmp_path)).header
    kept = [name for name in judged if name.startswith("kept by the gate")]
    assert kept == [f"kept by the gate, {summary.best_generative} %"]
