import dataclasses
import json

import numpy as np
import pytest
import torch

from signforge.balance.decision import ValidationGroups
from signforge.benchmark.arms import ArmContext, real
from signforge.benchmark.trials import (
    Stage,
    Trial,
    group_recall,
    identity,
    run_trials,
    validation_groups,
)
from signforge.config import BalanceConfig
from signforge.data.images import UNKNOWN_GROUP

ENVIRONMENT = {
    "versions": {"torch": "2"},
    "hardware": {"cores": 1},
    "commit": None,
    "dirty": None,
}


@pytest.fixture(scope="module")
def stage(splits, config):
    # Two images a group, so that groups are not images.
    paired = dataclasses.replace(splits.val, groups=splits.val.groups // 2)
    return Stage(splits.train, paired, config.classifier, ENVIRONMENT, "repeat me")


def trial(stage, seed=0, arm="real", **settings):
    def build(seed, track):
        return real(stage.train, ArmContext(seed, None, BalanceConfig(), track))

    return Trial(arm, seed, settings, build)


def test_groups_are_those_of_the_data(stage):
    groups, group_of = validation_groups(stage.val)
    assert groups.labels.tolist() == sorted(groups.labels.tolist())
    assert groups.sizes.tolist() == [2] * 20
    for place in range(20):
        rows = np.flatnonzero(group_of == place)
        assert len(set(stage.val.groups[rows].tolist())) == 1
        assert set(stage.val.labels[rows].tolist()) == {groups.labels[place]}


def test_unknown_groups_are_single_images(stage):
    n = len(stage.val)
    mixed = stage.val.groups.clone()
    mixed[5:] = UNKNOWN_GROUP
    groups, group_of = validation_groups(dataclasses.replace(stage.val, groups=mixed))
    assert sorted(groups.sizes.tolist()) == [1] * (n - 4) + [2, 2]
    assert np.bincount(group_of).tolist() == groups.sizes.tolist()
    assert np.array_equal(groups.labels[group_of], stage.val.labels.numpy())


def test_a_row_gives_its_figures_again(stage, tmp_path):
    (row,) = run_trials([trial(stage)], stage, tmp_path)
    assert json.loads(json.dumps(row)) == row
    groups, _ = validation_groups(stage.val)
    recall = group_recall([row], groups)
    assert recall.shape == (1, 20)
    hits = np.array(row["group_hits"])
    assert hits.sum() / len(stage.val) == pytest.approx(row["top1"])
    of_class = [hits[groups.labels == c].sum() / 10 for c in range(4)]
    assert of_class == pytest.approx(row["per_class_recall"])
    assert np.mean(of_class) == pytest.approx(row["macro_accuracy"])
    assert row["worst_class_recall"] == pytest.approx(min(of_class))
    # Kinds of classes by their 120, 40, 24 and 6 images to train on; validation has 10 of each.
    kinds = [row["many"], row["medium"], row["few"]]
    assert kinds == pytest.approx([of_class[0], np.mean(of_class[1:3]), of_class[3]])
    assert (row["arm"], row["seed"], row["images"]) == ("real", 0, 3 * 16)
    assert (row["val_images"], row["val_groups"], row["command"]) == (40, 20, "repeat me")
    assert row["classifier"] == stage.classifier.model_dump(mode="json")
    assert row["class_counts"] == stage.train.class_counts.tolist()
    assert "acceptance" not in row


def test_finished_trials_are_read_and_not_repeated(stage, tmp_path):
    seen = []
    trials = [trial(stage, seed) for seed in (0, 1)]
    first = run_trials(trials[:1], stage, tmp_path, on_row=seen.append)
    # What a kill leaves in the middle of a write.
    with (tmp_path / "rows.jsonl").open("ab") as file:
        file.write(b'{"arm": "re')
    both = run_trials(trials, stage, tmp_path, on_row=seen.append)
    assert both[:1] == first
    assert seen == both
    assert run_trials(trials, stage, tmp_path, on_row=seen.append) == both
    assert len(seen) == 2
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


def test_a_row_is_taken_up_only_where_all_it_depends_on_is_the_same(stage):
    own = identity(trial(stage), stage)
    assert identity(trial(stage), dataclasses.replace(stage, command="other")) == own
    faster = stage.classifier.model_copy(update={"num_workers": 2, "deterministic": True})
    assert identity(trial(stage), dataclasses.replace(stage, classifier=faster)) == own
    longer = stage.classifier.model_copy(update={"steps": 4})
    others = [
        identity(trial(stage, seed=1), stage),
        identity(trial(stage, arm="copy"), stage),
        identity(trial(stage, refresh=0.5), stage),
        identity(trial(stage), dataclasses.replace(stage, classifier=longer)),
        identity(trial(stage), dataclasses.replace(stage, train=stage.val)),
        identity(trial(stage), dataclasses.replace(stage, val=stage.train)),
    ]
    assert len({own, *others}) == 7


def test_progress_names_the_trial(stage, tmp_path):
    told = []

    def track(items, description, total):
        told.append((description, total))
        yield from items

    run_trials([trial(stage)], stage, tmp_path, track=track)
    assert told == [("real, seed 0 (1 of 1)", 3)]


def test_recall_of_groups_of_any_size():
    groups = ValidationGroups(np.array([0, 0, 1]), np.array([4, 2, 5]))
    rows = [{"group_hits": [4, 1, 0]}, {"group_hits": [2, 0, 5]}]
    assert group_recall(rows, groups).tolist() == [[1, 0.5, 0], [0.5, 0, 1]]
    assert torch.tensor(group_recall(rows, groups)).dtype == torch.float64
