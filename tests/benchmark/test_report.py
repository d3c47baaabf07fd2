import csv
import io
import re

import numpy as np
import pytest
from PIL import Image

from signforge.benchmark.fidelity import measure_fidelity
from signforge.benchmark.folder import read_predictions, read_rows, read_target
from signforge.benchmark.report import write_report
from signforge.benchmark.runner import run_benchmark
from signforge.benchmark.tables import arms_table
from signforge.environment import describe_environment, hardware_line


@pytest.fixture(scope="module")
def run_dir(config, splits, sampler, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run_benchmark(
        config, splits, sampler, folder, gan_seconds=1234.4, command="signforge benchmark --seeds 2"
    )
    measure_fidelity(config, splits, sampler, folder)
    return folder


def test_the_report_says_the_verdict_first_and_everything_after(run_dir, splits, config):
    summary = write_report(run_dir)
    text = (run_dir / "results.md").read_text()
    title, first = text.split("\n\n")[:2]
    assert title == "# test_resnet on squares"
    assert first == summary.verdict
    for expected in (
        "| arm | seeds | top-1 % | macro % |",
        "`signforge benchmark --seeds 2`",
        "imbalance ratio 20.0",
        "Squares are not signs.",
        "190 images in 190 groups to train on",
        splits.test.fingerprint[:12],
        "per_class_gain.png",
        "class_balance.png",
        "yellow \\| mixed",
        "1,234",
        "| fd_test_resnet_indomain_40 |",
        "real against real",
        f"({config.benchmark.bootstrap_resamples} resamples)",
    ):
        assert expected in text, expected
    assert "Not finished" not in text
    assert summary.verdict.replace("`", "")[:30] in re.sub(
        "<[^>]+>", "", (run_dir / "report.html").read_text(encoding="utf-8")
    )
    for name in ("per_class_gain.png", "class_balance.png"):
        with Image.open(run_dir / name, formats=("PNG",)) as image:
            assert min(image.size) > 200
            assert len(image.getcolors(1 << 24)) > 10


def test_the_csv_holds_the_summary_in_full_precision(run_dir):
    summary = write_report(run_dir)
    lines = list(csv.DictReader(io.StringIO((run_dir / "results.csv").read_text())))
    assert [line["arm"] for line in lines] == ["real", "oversample", "synthetic"]
    assert float(lines[2]["macro_accuracy"]) == summary.arms[2].macro_accuracy.mean
    assert float(lines[2]["macro_accuracy_gain_over_real_low"]) == summary.arms[2].over_real.low
    assert float(lines[2]["macro_accuracy_gain_over_real_p"]) == summary.arms[2].over_real.p
    assert float(lines[1]["val_macro_accuracy"]) == summary.arms[1].val_macro_accuracy.mean
    assert float(lines[2]["gate_seconds"]) == 0
    assert lines[0]["macro_accuracy_gain_over_real"] == ""
    assert lines[0]["macro_accuracy_gain_over_real_p"] == ""


def test_the_csv_of_classes_holds_recall_precision_and_gains(run_dir):
    from sklearn.metrics import precision_score

    summary = write_report(run_dir)
    lines = list(csv.DictReader(io.StringIO((run_dir / "classes.csv").read_text())))
    classes = len(summary.class_names)
    assert [line["arm"] for line in lines[::classes]] == ["real", "oversample", "synthetic"]
    assert [line["name"] for line in lines[:classes]] == list(summary.class_names)
    target = read_target(run_dir)
    for arm, start in zip(summary.arms, range(0, len(lines), classes), strict=True):
        preds = [read_predictions(run_dir, arm.arm, seed) for seed in arm.seeds]
        known = [
            precision_score(target, seen, average=None, labels=range(classes), zero_division=np.nan)
            for seen in preds
        ]
        for label, line in enumerate(lines[start : start + classes]):
            values = [row[label] for row in known if not np.isnan(row[label])]
            if values:
                assert float(line["precision"]) == pytest.approx(np.mean(values))
            else:
                assert line["precision"] == ""
            assert float(line["recall"]) == arm.per_class_recall[label]
    last, gain = lines[-1], summary.arms[2].versus_cheap.classes[-1]
    assert float(last["recall_gain_over_cheap"]) == gain.mean
    assert float(last["recall_gain_over_cheap_p_holm"]) == gain.p_holm
    assert lines[0]["recall_gain_over_real"] == ""


def test_columns_without_any_figure_vanish(config, splits, tmp_path):
    values = config.model_copy(
        update={"benchmark": config.benchmark.model_copy(update={"arms": ("real",), "seeds": 1})}
    )
    run_benchmark(values, splits, None, tmp_path)
    summary = write_report(tmp_path)
    header = arms_table(summary).header
    assert not any("gain" in name for name in header)
    assert "No generator took part." in (tmp_path / "results.md").read_text()


def test_a_benchmark_cut_short_is_reported_as_such(tmp_path, config, splits, sampler):
    run_benchmark(config, splits, sampler, tmp_path)
    rows = (tmp_path / "rows.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "rows.jsonl").write_text("".join(rows[:4]))
    assert len(read_rows(tmp_path)) == 4
    write_report(tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert "Not finished; seeds done: real 2 of 2, oversample 1 of 2, synthetic 1 of 2." in text


def test_more_seeds_for_some_arms_join_the_report_of_the_others(tmp_path, config, splits, sampler):
    here = describe_environment("cpu")
    elsewhere = {**here, "hardware": {**here["hardware"], "cpu": "Another CPU"}}

    def run(command, environment=elsewhere, **keys):
        benchmark = config.benchmark.model_copy(update=keys)
        values = config.model_copy(update={"benchmark": benchmark})
        run_benchmark(values, splits, sampler, tmp_path, command=command, environment=environment)

    run("first", environment=here, arms=("real", "oversample", "synthetic"))
    run("second", arms=("synthetic", "real"), seeds=1, first_seed=2)
    run("second", arms=("synthetic", "real"), seeds=1, first_seed=2)
    summary = write_report(tmp_path)
    assert {arm.arm: arm.seeds for arm in summary.arms} == {
        "synthetic": (0, 1, 2),
        "real": (0, 1, 2),
        "oversample": (0, 1),
    }
    assert [arm.over_real.seeds for arm in summary.arms if arm.over_real] == [3, 2]
    text = (tmp_path / "results.md").read_text()
    assert "Seeds: real 3, synthetic 3, oversample 2; two arms are compared over" in text
    assert "Not finished" not in text
    assert "- To repeat: `first`\n- To repeat: `second`" in text
    assert text.count("`second`") == 1
    for machine in (here, elsewhere):
        assert text.count(f"- {hardware_line(machine)}; python ") == 1
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<pre>first\nsecond</pre>" in html
