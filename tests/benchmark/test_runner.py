import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from signforge.benchmark import gate as gate_module
from signforge.benchmark.arm_selection import may_use_gate
from signforge.benchmark.arms import ARMS
from signforge.benchmark.folder import (
    config_hash,
    read_groups,
    read_predictions,
    read_rows,
    read_target,
)
from signforge.benchmark.runner import (
    GATE,
    Job,
    plan_jobs,
    run_benchmark,
    run_in_process,
    training_identity,
    unfinished_file,
)
from signforge.config_file import load_config, validate
from signforge.data.images import UNKNOWN_GROUP
from signforge.environment import describe_environment
from signforge.errors import SignforgeError
from signforge.progress import Stopped

MOMENTARY = (
    "classifier_seconds",
    "drawing_seconds",
    "gate_seconds",
    "finished_at",
    "commit",
    "dirty",
)


def timeless(rows):
    return [{key: value for key, value in row.items() if key not in MOMENTARY} for row in rows]


def changed(config, dotted, value):
    section, key = dotted.split(".")
    values = config.model_dump(mode="json")
    values[section][key] = value
    return validate(values, "test")


class StopsAfter:
    """An executor that dies after a few jobs, as a killed process would."""

    def __init__(self, jobs):
        self.jobs = jobs
        self.ran = []

    def __call__(self, jobs, work):
        for job in jobs:
            if len(self.ran) == self.jobs:
                raise KeyboardInterrupt
            self.ran.append((job.arm, job.seed))
            yield from run_in_process([job], work)


@pytest.fixture(scope="module")
def finished(config, splits, sampler, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("benchmark") / "run"
    rows = run_benchmark(config, splits, sampler, run_dir, gan_seconds=12.5, command="repeat me")
    return run_dir, rows


def test_every_arm_and_seed_has_one_complete_row(finished, config, splits, sampler):
    run_dir, rows = finished
    arms = ("real", "oversample", "synthetic")
    assert [(row["arm"], row["seed"]) for row in rows] == [(a, s) for s in (0, 1) for a in arms]
    assert read_rows(run_dir) == rows
    assert load_config(run_dir / "config.yaml") == config
    for row in rows:
        assert row["steps"] == 3
        assert row["images"] == 3 * 16
        assert row["test_images"] == len(splits.test)
        assert row["train_fingerprint"] == splits.train.fingerprint
        assert row["test_fingerprint"] == splits.test.fingerprint
        assert row["versions"]["timm"]
        assert row["hardware"]["cores"] >= 1
        assert row["config_hash"] == config_hash(config)
        drawn = row["arm"] == "synthetic"
        assert row["gan_seconds"] == (12.5 if drawn else 0.0)
        assert row["generator_fingerprint"] == (sampler.fingerprint if drawn else None)
        assert row["gate_seconds"] == 0
        assert row["gate_sha256"] is None
        assert row["class_counts"] == ([120, 40, 24, 6] if row["arm"] == "real" else [120] * 4)
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["commands"] == ["repeat me"]
    dataset = json.loads((run_dir / "dataset.json").read_text())
    assert dataset["splits"]["train"]["class_counts"] == [120, 40, 24, 6]
    assert dataset["notes"][0] == "Squares are not signs."
    assert "not one of signforge's" in dataset["notes"][1]


def test_predictions_give_the_figures_of_the_rows_again(finished, splits):
    run_dir, rows = finished
    target = read_target(run_dir)
    assert target.tolist() == splits.test.labels.tolist()
    for row in rows:
        preds = read_predictions(run_dir, row["arm"], row["seed"])
        assert preds.dtype == np.int16
        assert (preds == target).mean() == pytest.approx(row["top1"], abs=1e-6)
        recall = [(preds[target == c] == c).mean() for c in range(4)]
        assert recall == pytest.approx(row["per_class_recall"], abs=1e-6)
        assert np.mean(recall) == pytest.approx(row["macro_accuracy"], abs=1e-6)
        assert recall[row["worst_class"]] == min(recall) == pytest.approx(row["worst_class_recall"])
        # Kinds of classes by their 120, 40, 24 and 6 images to train on, whatever the test has.
        kinds = {"many": recall[:1], "medium": recall[1:3], "few": recall[3:]}
        for kind, of_kind in kinds.items():
            assert row[kind] == pytest.approx(np.mean(of_kind), abs=1e-6)
        seen = read_predictions(run_dir, row["arm"], row["seed"], "val")
        assert (seen == splits.val.labels.numpy()).mean() == pytest.approx(row["val_top1"])
    for name, split in (("val", splits.val), ("test", splits.test)):
        assert read_target(run_dir, name).tolist() == split.labels.tolist()
        assert read_groups(run_dir, name).tolist() == split.groups.tolist()


def test_groups_are_kept_where_any_is_known(config, splits, tmp_path):
    groups = splits.test.groups.clone()
    groups[3] = UNKNOWN_GROUP
    nothing = torch.full_like(splits.val.groups, UNKNOWN_GROUP)
    unknown = dataclasses.replace(
        splits,
        test=dataclasses.replace(splits.test, groups=groups),
        val=dataclasses.replace(splits.val, groups=nothing),
    )
    only_real = changed(changed(config, "benchmark.seeds", 1), "benchmark.arms", ["real"])
    run_benchmark(only_real, unknown, None, tmp_path)
    assert read_groups(tmp_path, "test").tolist() == groups.tolist()
    assert read_groups(tmp_path, "val") is None


@pytest.mark.parametrize("killed_after", [0, 2, 5])
def test_a_killed_benchmark_resumes_and_repeats_nothing(
    finished, config, splits, sampler, tmp_path, killed_after
):
    executor = StopsAfter(killed_after)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(config, splits, sampler, tmp_path, gan_seconds=12.5, run_jobs=executor)
    before = read_rows(tmp_path)
    assert len(before) == killed_after
    # What a kill in the middle of a write leaves: half a line, and predictions without a row.
    with (tmp_path / "rows.jsonl").open("ab") as file:
        file.write(b'{"arm": "real", "se')
    (tmp_path / "predictions").mkdir(exist_ok=True)
    (tmp_path / "predictions" / "synthetic-seed1.npy").write_bytes(b"half")

    rest, seen = StopsAfter(100), []
    rows = run_benchmark(
        config,
        splits,
        sampler,
        tmp_path,
        gan_seconds=12.5,
        run_jobs=rest,
        on_row=seen.append,
    )
    planned = [(job.arm, job.seed) for job in plan_jobs(config)]
    assert rest.ran == planned[killed_after:]
    assert seen == rows[killed_after:]
    assert rows[:killed_after] == before
    assert read_rows(tmp_path) == rows
    reference_dir, reference = finished
    assert timeless(rows) == timeless(reference)
    for arm, seed in planned:
        expected = read_predictions(reference_dir, arm, seed)
        assert np.array_equal(read_predictions(tmp_path, arm, seed), expected)


def test_a_finished_benchmark_runs_nothing_and_more_seeds_only_themselves(
    finished, config, splits, sampler, tmp_path
):
    small = changed(changed(config, "benchmark.seeds", 1), "benchmark.arms", ["real"])
    first = run_benchmark(small, splits, None, tmp_path)
    again, left = StopsAfter(0), unfinished_file(tmp_path, "real", 0)
    left.write_bytes(b"left by a kill after the row was written")
    assert run_benchmark(small, splits, None, tmp_path, run_jobs=again) == first
    assert not left.exists()
    more = StopsAfter(100)
    two = changed(config, "benchmark.arms", ["real", "synthetic"])
    rows = run_benchmark(two, splits, sampler, tmp_path, gan_seconds=12.5, run_jobs=more)
    assert more.ran == [("synthetic", 0), ("real", 1), ("synthetic", 1)]
    assert timeless(rows) == timeless(r for r in finished[1] if r["arm"] != "oversample")


ORIGIN = {
    "config_hash": "c",
    "train_fingerprint": "t",
    "generator_fingerprint": "g",
    "gate_sha256": None,
    "versions": {"torch": "2"},
    "hardware": "cpu",
    "commit": "0",
    "dirty": False,
}


@pytest.mark.parametrize("key", ORIGIN)
def test_a_training_of_another_origin_is_another(key):
    job = Job("real", 0, 1, 2)
    assert training_identity(job, ORIGIN, [3]) == training_identity(
        Job("real", 0, 2, 3), ORIGIN, [3]
    )
    assert training_identity(job, {**ORIGIN, key: "x"}, [3]) != training_identity(job, ORIGIN, [3])


@pytest.mark.parametrize("job", [Job("real", 1, 1, 2), Job("synthetic", 0, 1, 2)], ids=str)
def test_another_classifier_is_another_training(job):
    assert training_identity(job, ORIGIN, [3]) != training_identity(
        Job("real", 0, 1, 2), ORIGIN, [3]
    )


def test_other_counts_are_another_training():
    job = Job("synthetic", 0, 1, 2)
    assert training_identity(job, ORIGIN, [3]) != training_identity(job, ORIGIN, [4])


@pytest.mark.parametrize(("commit", "left"), [("a", 1), ("b", 3)])
def test_a_stopped_classifier_goes_on_at_the_same_commit_only(
    config, splits, sampler, finished, tmp_path, commit, left
):
    arm = changed(changed(config, "benchmark.arms", ["synthetic"]), "benchmark.seeds", 1)
    steps, totals = arm.classifier.steps, []

    def run(commit, stop_after=None):
        def track(items, description, total):
            fits = description.startswith("synthetic, seed 0") and total <= steps  # else drawing
            totals.extend([total] * fits)
            for number, item in enumerate(items, start=1):
                yield item
                if fits and number == stop_after:
                    raise Stopped

        environment = {**describe_environment(), "commit": commit}
        return run_benchmark(
            arm, splits, sampler, tmp_path, environment=environment, track=track, gan_seconds=12.5
        )

    with pytest.raises(Stopped):
        run("a", stop_after=steps - 1)
    totals.clear()
    (row,) = run(commit)
    assert steps == 3
    assert totals[0] == left
    assert row["commit"] == commit
    (expected,) = (r for r in finished[1] if (r["arm"], r["seed"]) == ("synthetic", 0))
    assert timeless([row]) == timeless([expected])


def test_a_folder_with_other_rows_is_refused(finished, config, splits, sampler):
    run_dir, rows = finished
    other = changed(changed(config, "classifier.steps", 4), "gan.z_dim", 7)
    with pytest.raises(
        SignforgeError, match=r"gan\.z_dim was 100, is 7; classifier\.steps was 3, is 4"
    ):
        run_benchmark(other, splits, sampler, run_dir)
    fewer = dataclasses.replace(splits, test=splits.test.subset(torch.arange(10, 85)))
    with pytest.raises(SignforgeError, match="the test split differs"):
        run_benchmark(config, fewer, sampler, run_dir)
    with pytest.raises(SignforgeError, match="another generator"):
        run_benchmark(config, splits, type(sampler)(noise=1.0), run_dir)
    assert load_config(run_dir / "config.yaml") == config
    assert read_rows(run_dir) == rows


def test_arms_of_one_seed_share_initial_weights_and_batch_order(config, splits, tmp_path):
    # Under another name the plain arm must come out the same, or pairs would not be pairs.
    arms = {**ARMS, "copy": ARMS["real"]}
    named = changed(config, "benchmark.arms", ["real", "copy"])
    rows = run_benchmark(named, splits, None, tmp_path, arms=arms)
    by_arm = {a: [r["final_loss"] for r in rows if r["arm"] == a] for a in ("real", "copy")}
    assert by_arm["real"] == by_arm["copy"]
    assert len(set(by_arm["real"])) == 2
    for seed in (0, 1):
        assert np.array_equal(
            read_predictions(tmp_path, "real", seed), read_predictions(tmp_path, "copy", seed)
        )


def test_mistakes_are_told_before_anything_trains(config, splits, sampler, tmp_path):
    def never(_jobs, _work):
        raise AssertionError

    def refused(match, sampler=sampler, config=config):
        with pytest.raises(SignforgeError, match=match):
            run_benchmark(config, splits, sampler, tmp_path / "run", run_jobs=never)
        assert not (tmp_path / "run").exists()

    refused("arm synthetic needs a generator", sampler=None)
    combined = changed(config, "benchmark.arms", ["synthetic_ungated+focal_loss"])
    refused(r"arm synthetic_ungated\+focal_loss needs", sampler=None, config=combined)
    twice = changed(config, "benchmark.arms", ["oversample+synthetic"])
    refused("is no combination", config=twice)
    refused("Unknown arm 'fake'", config=changed(config, "benchmark.arms", ["real", "fake"]))
    other = type(sampler)()
    other.resolution = 32
    refused("32x32 images, the data are 16x16", sampler=other)
    other = type(sampler)()
    other.class_names = ("a", "b", "c", "d")
    refused("names differ", sampler=other)


COMBINATIONS = ("synthetic_tenth+logit_adjustment", "synthetic_then_real+ldam_drw")


@pytest.fixture(scope="module")
def gated_config(config):
    """All arms that ship and two combinations, for one seed, behind a gate that knows colours."""
    gated = changed(changed(config, "balance.gate_tau", 0.5), "balance.gate_steps", 40)
    named = changed(gated, "benchmark.arms", [*ARMS, *COMBINATIONS])
    return changed(named, "benchmark.seeds", 1)


@pytest.fixture(scope="module")
def gated(gated_config, splits, sampler, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("gated") / "run"
    return run_dir, run_benchmark(gated_config, splits, sampler, run_dir, gan_seconds=12.5)


def test_all_arms_take_as_many_steps_and_say_what_they_used(gated, splits):
    run_dir, rows = gated
    assert [row["arm"] for row in rows] == [*ARMS, *COMBINATIONS]
    dataset = json.loads((run_dir / "dataset.json").read_text())
    assert dataset["gate"]["tau"] == 0.5
    assert dataset["gate"]["steps"] == 40
    card = json.loads((run_dir / GATE / "gate.json").read_text())
    assert card["train_fingerprint"] == splits.train.fingerprint
    assert all(0 <= share <= 1 for share in dataset["gate"]["real_acceptance"])
    for row in rows:
        assert (row["steps"], row["images"]) == (3, 3 * 16)
        assert np.isfinite(row["final_loss"])
        judged = may_use_gate((row["arm"],))
        assert (row["gate_sha256"] == dataset["gate"]["sha256"]) == judged
        assert (row["gate_seconds"] == dataset["gate"]["seconds"] > 0) == judged
        # The largest class is never filled up, so nothing of it is tried.
        tried = [share is not None for share in row["acceptance"]]
        assert tried == ([False, True, True, True] if judged else [False] * 4)
        repeated = {"oversample": [0, 80, 96, 114], "oversample_tenth": [0, 8, 9, 11]}
        repeated |= {f"{name}_relit": counts for name, counts in repeated.items()}
        if not judged:
            assert row["oversampled_counts"] == repeated.get(row["arm"], [0] * 4)
    losses = {row["arm"]: row["final_loss"] for row in rows}
    # The templates are so good that the gate lets all of them in.
    assert losses["synthetic_ungated"] == losses["synthetic"]
    assert len(set(losses.values())) == len(losses) - 1


def test_the_gate_is_fitted_once_and_kept(gated, gated_config, splits, sampler, tmp_path):
    run_dir, rows = gated
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate_module, "fit_classifier_gate", pytest.fail)
        assert run_benchmark(gated_config, splits, sampler, run_dir, gan_seconds=12.5) == rows
        dataset = json.loads((run_dir / "dataset.json").read_text())
        assert dataset["gate"]["sha256"] == rows[-1]["gate_sha256"]
        # Arms that never ask it need none.
        cheap = changed(gated_config, "benchmark.arms", ["oversample", "synthetic_ungated"])
        run_benchmark(cheap, splits, sampler, tmp_path / "cheap")
        assert not (tmp_path / "cheap" / GATE).exists()

    # Killed in the middle of saving the gate, which its card completes.
    some = ["synthetic", "synthetic_then_real+ldam_drw"]
    few = changed(gated_config, "benchmark.arms", some)
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(few, splits, sampler, tmp_path / "killed", run_jobs=StopsAfter(0))
    (tmp_path / "killed" / GATE / "gate.json").unlink()
    resumed = run_benchmark(few, splits, sampler, tmp_path / "killed", gan_seconds=12.5)
    assert timeless(resumed) == timeless(row for row in rows if row["arm"] in some)


def test_another_gate_in_the_folder_is_refused(gated, gated_config, splits, sampler, tmp_path):
    run_dir, _ = gated
    shutil.copytree(run_dir / GATE, tmp_path / GATE)
    other = changed(gated_config, "balance.gate_tau", 0.6)
    with pytest.raises(SignforgeError, match="gate of other data or other settings"):
        run_benchmark(other, splits, sampler, tmp_path)


def test_a_line_that_is_no_row_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"arm": "real", "seed": 0}\n{"arm": \n{}\n')
    with pytest.raises(SignforgeError, match="line 2, is not a benchmark row"):
        read_rows(tmp_path)


def test_progress_names_the_job(config, splits, tmp_path):
    told = []

    def track(items, description, total):
        told.append((description, total))
        yield from items

    one = changed(changed(config, "benchmark.seeds", 1), "benchmark.arms", ["real"])
    run_benchmark(one, splits, None, tmp_path, track=track)
    assert told == [("real, seed 0 (1 of 1)", 3)]
