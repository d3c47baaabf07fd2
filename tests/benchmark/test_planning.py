import pytest
import torch

from signforge.balance.plan import BalancePlan
from signforge.benchmark.arms import ARMS, ArmContext
from signforge.benchmark.planning import (
    make_plan,
    mean_acceptance,
    plan_from_rows,
    remedy_trials,
    shared_gate,
)
from signforge.benchmark.runner import run_benchmark
from signforge.benchmark.trials import Stage
from signforge.config import GanConfig
from signforge.config_file import validate
from signforge.errors import SignforgeError
from signforge.gan.sampler import GanSampler, GeneratorCard, build_generator
from signforge.progress import no_progress


@pytest.fixture(scope="module")
def ungated(config):
    return changed(config, "balance.gate_tau", 0.0)


@pytest.fixture(scope="module")
def gated(config):
    # Any threshold below 1/4 lets hardly trained classifiers of four classes pass something.
    values = changed(config, "balance.gate_tau", 0.2)
    return changed(values, "balance.gate_steps", 2)


def changed(config, dotted, value):
    section, key = dotted.split(".")
    values = config.model_dump(mode="json")
    values[section][key] = value
    return validate(values, "test")


@pytest.fixture(scope="module")
def made(ungated, splits, sampler, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "trials"
    rows = []
    plan = make_plan(
        ungated,
        splits.train,
        splits.val,
        sampler,
        folder,
        command="signforge plan",
        on_row=rows.append,
    )
    return plan, rows, folder


def test_every_remedy_is_tried_with_every_seed(made, splits, sampler):
    plan, rows, _ = made
    arms = ("real", "oversample", "synthetic")
    assert [(row["arm"], row["seed"]) for row in rows] == [(a, s) for s in (0, 1) for a in arms]
    assert plan.class_names == splits.train.class_names
    assert plan.generator_fingerprint == sampler.fingerprint
    assert plan.train_fingerprint == splits.train.fingerprint
    assert plan.val_fingerprint == splits.val.fingerprint
    assert plan.protocol.seeds == (0, 1)
    assert (plan.protocol.steps, plan.protocol.batch_size) == (3, 16)
    assert plan.protocol.gate_tau is None
    assert plan.command == "signforge plan"
    for label, decision in enumerate(plan.decisions):
        assert decision.real_count == splits.train.class_counts[label]
        assert (decision.num_groups, decision.num_images) == (10, 10)
        assert decision.acceptance is None
        assert decision.count == (decision.real_count if decision.remedy == "nothing" else 120)
        for remedy, found in decision.evidence.items():
            gains = [
                rows[arms.index(remedy) + 3 * seed]["per_class_recall"][label]
                - rows[3 * seed]["per_class_recall"][label]
                for seed in (0, 1)
            ]
            # One image a group: the mean over groups is the recall.
            assert found.gain == pytest.approx(sum(gains) / 2, abs=1e-5)
    assert plan.decisions[0].remedy == "nothing"  # the largest class gets no image
    assert BalancePlan.model_validate(plan.model_dump(mode="json")) == plan


def test_trials_equal_the_arms_of_the_benchmark(made, ungated, splits, sampler, tmp_path):
    _, rows, _ = made
    one = changed(ungated, "benchmark.seeds", 1)
    reference = run_benchmark(one, splits, sampler, tmp_path)
    for row, known in zip(rows[:3], reference, strict=True):
        assert row["final_loss"] == known["final_loss"]
        assert row["macro_accuracy"] == known["val_macro_accuracy"]


@pytest.mark.parametrize("seed", [0, 1])
def test_trials_show_what_the_arms_of_the_benchmark_show(ungated, splits, sampler, seed):
    balance = ungated.balance.model_copy(update={"refresh": 0.5, "max_synthetic_fraction": 0.5})
    trials = remedy_trials(splits.train, sampler, balance, None)
    context = ArmContext(seed, sampler, balance)
    ours, theirs = (
        [ARMS[name](splits.train, context) for name in trials],
        [trial(seed).build(seed, no_progress) for trial in trials.values()],
    )
    assert [one.class_counts for one in ours] == [other.class_counts for other in theirs]
    assert list(ours[1].sampler) == list(theirs[1].sampler)
    for epoch in (0, 3):
        for setup in (ours[2], theirs[2]):
            setup.dataset.set_epoch(epoch)
        assert torch.equal(ours[2].dataset.pool_images, theirs[2].dataset.pool_images)


def test_made_again_nothing_is_trained(made, ungated, splits, sampler):
    plan, rows, folder = made

    def never(_row):
        raise AssertionError

    args = (ungated, splits.train, splits.val, sampler, folder)
    again = make_plan(*args, command="signforge plan", on_row=never)
    assert again == plan
    strict = make_plan(*args, confidence=1.0, on_row=never)
    assert {decision.remedy for decision in strict.decisions} == {"nothing"}
    assert len(rows) == 6


@pytest.mark.filterwarnings("ignore:The gate")  # what so short a training says of a class varies
def test_a_gate_is_kept_and_its_acceptance_told(gated, splits, sampler, tmp_path):
    one = changed(gated, "benchmark.seeds", 1)
    train, val = splits.train, splits.val
    plan = make_plan(one, train, val, sampler, tmp_path)
    assert plan.protocol.gate_tau == 0.2
    shares = [decision.acceptance for decision in plan.decisions]
    assert shares[0] is None  # nothing is drawn of the largest class
    assert all(0 <= share <= 1 for share in shares[1:])
    for decision in plan.decisions[1:]:
        assert decision.acceptance >= 0.1 or decision.remedy != "synthetic"
    (folder,) = tmp_path.glob("gate-*")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    gate = shared_gate(one.balance, one.classifier, train, tmp_path)
    stricter = one.balance.model_copy(update={"gate_tau": 0.9})
    other = shared_gate(stricter, one.classifier, train, tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert (gate.tau, other.tau) == (0.2, 0.9)
    assert (other.real_acceptance.nan_to_num() <= gate.real_acceptance.nan_to_num()).all()
    longer = one.balance.model_copy(update={"gate_steps": 3})
    shared_gate(longer, one.classifier, train, tmp_path)
    assert len(list(tmp_path.glob("gate-*"))) == 2
    assert (
        shared_gate(one.balance.model_copy(update={"gate_tau": 0}), one.classifier, train, "x")
        is None
    )


@pytest.fixture
def evidence(made, splits, sampler, ungated):
    """The rows of ``made`` with every image of the validation split right or wrong, as wished."""
    _, rows, _ = made
    stage = Stage(splits.train, splits.val, ungated.classifier, {"versions": {}})
    hits = {"real": 0, "oversample": 0, "synthetic": 1}

    def planned(among=None, **acceptance):
        by_arm = {
            arm: [
                row | {"group_hits": [hit] * 40} | acceptance for row in rows if row["arm"] == arm
            ]
            for arm, hit in hits.items()
        }
        return plan_from_rows(by_arm, stage, sampler, ungated.balance, confidence=0.8, among=among)

    return planned


def test_a_remedy_that_helps_is_chosen_where_the_gate_lets_it(evidence):
    plan = evidence()
    assert [d.remedy for d in plan.decisions] == ["nothing"] + ["synthetic"] * 3
    assert plan.counts() == {1: 120, 2: 120, 3: 120}
    plan = evidence(acceptance=[None, 0.9, 0.05, 0.1])
    assert [d.remedy for d in plan.decisions] == ["nothing", "synthetic", "nothing", "synthetic"]
    assert [d.acceptance for d in plan.decisions] == [None, 0.9, 0.05, 0.1]


def test_a_plan_by_some_groups_sees_no_others(evidence, splits):
    among = (splits.val.labels != 2).numpy()
    plan = evidence(among=among)
    assert [d.num_groups for d in plan.decisions] == [10, 10, 0, 10]
    assert plan.decisions[2].remedy == "nothing"
    assert plan.decisions[1].remedy == "synthetic"


def test_acceptance_is_the_mean_over_seeds():
    rows = [{"acceptance": [None, 0.2]}, {"acceptance": [None, 0.4]}]
    assert mean_acceptance(rows) == [None, pytest.approx(0.3)]
    assert mean_acceptance([{"acceptance": [None, None]}]) is None


def test_the_three_remedies_share_a_seed_and_differ_in_name(splits, sampler, ungated):
    arms = remedy_trials(splits.train, sampler, ungated.balance, None)
    trials = [arm(7) for arm in arms.values()]
    assert [(trial.arm, trial.seed) for trial in trials] == [
        ("real", 7), ("oversample", 7), ("synthetic", 7),
    ]  # fmt: skip
    assert trials[0].settings == {}
    assert trials[2].settings["generator_fingerprint"] == sampler.fingerprint


def test_mistakes_are_told_before_anything_trains(ungated, splits, sampler, tmp_path):
    def refused(match, config=ungated, sampler=sampler, **options):
        with pytest.raises(SignforgeError, match=match):
            make_plan(config, splits.train, splits.val, sampler, tmp_path / "x", **options)
        assert not (tmp_path / "x").exists()

    refused(r"confidence of a plan must lie in 0\.5\.\.1, got 0\.4", confidence=0.4)
    refused("nothing to plan", config=changed(ungated, "balance.max_synthetic_fraction", 0.0))
    refused("nothing to plan", config=changed(ungated, "balance.sampling_strategy", {"red": 120}))
    file = tmp_path / "plan.yaml"
    BalancePlan(decisions=()).save(file)
    refused("is a plan already", config=changed(ungated, "balance.sampling_strategy", str(file)))
    other = type(sampler)()
    other.resolution = 32
    refused("32x32 images, the data are 16x16", sampler=other)


def test_a_generator_of_other_images_is_refused(ungated, splits, tmp_path):
    gan = GanConfig(base_channels=4, z_dim=4, embedding_dim=4)
    card = GeneratorCard(
        gan=gan,
        resolution=16,
        class_names=splits.train.class_names,
        class_counts=tuple(splits.train.class_counts.tolist()),
        train_fingerprint=splits.val.fingerprint,
        seen_kimg=1,
        seconds=1,
        weights_sha256="ab",
    )
    generator = build_generator(gan, num_classes=4, resolution=16)
    sampler = GanSampler(generator, card, torch.device("cpu"))
    with pytest.raises(SignforgeError, match="trained on other images than this training split"):
        make_plan(ungated, splits.train, splits.val, sampler, tmp_path)
