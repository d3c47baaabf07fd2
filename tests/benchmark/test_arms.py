from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from signforge.balance.plan import BalancePlan, ClassDecision
from signforge.benchmark.arm_selection import (
    may_use_gate,
    needs_cosines,
    needs_generator,
    select_arms,
)
from signforge.benchmark.arms import ARMS, ArmContext, LossArm
from signforge.classify.losses import LDAM_SCALE, Focal, LogitAdjusted, loss_at
from signforge.config import BalanceConfig
from signforge.errors import SignforgeError

DATA_ARMS = [name for name, arm in ARMS.items() if not isinstance(arm, LossArm)]
LOSS_ARMS = [name for name, arm in ARMS.items() if isinstance(arm, LossArm)]


def context(sampler=None, seed=0, gate=None, **balance):
    return ArmContext(seed=seed, sampler=sampler, balance=BalanceConfig(**balance), gate=gate)


def keep_all(_images, labels):
    return torch.ones(len(labels), dtype=torch.bool)


def set_up(name, train, ctx):
    (arm,) = select_arms([name]).values()
    return arm(train, ctx)


def shown(setup):
    """How often an epoch of a setup shows each class."""
    indices = range(len(setup.dataset)) if setup.sampler is None else list(setup.sampler)
    labels = Counter(int(setup.dataset[i][1]) for i in indices)
    return tuple(labels[label] for label in range(4))


def test_real_is_the_data_untouched(splits):
    setup = ARMS["real"](splits.train, context())
    assert setup.dataset is splits.train
    assert setup.sampler is None
    assert setup.class_counts == tuple(splits.train.class_counts.tolist())
    assert not setup.uses_generator


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_shows_the_counts_that_it_says(splits, sampler, name):
    setup = set_up(name, splits.train, context(sampler, gate=keep_all))
    assert shown(setup) == setup.class_counts
    full, tenth = (120, 120, 120, 120), (120, 48, 33, 17)
    expected = {"real": (120, 40, 24, 6), "oversample": full, "oversample_tenth": tenth}
    expected |= dict.fromkeys(
        [name for name in DATA_ARMS if "tenth" in name and name != "oversample_tenth"], tenth
    )
    expected |= dict.fromkeys((*LOSS_ARMS, "real_relit"), (120, 40, 24, 6))
    assert setup.class_counts == expected.get(name, full)


@pytest.mark.parametrize("name", [*ARMS, "synthetic+ldam_drw", "oversample+focal_loss"])
def test_what_an_arm_needs_is_known_from_its_name(splits, sampler, name):
    setup = set_up(name, splits.train, context(sampler, gate=keep_all))
    assert setup.uses_generator == needs_generator((name,))
    assert setup.uses_gate == may_use_gate((name,))
    assert (setup.cosine_scale == LDAM_SCALE) == needs_cosines((name,))


def test_arms_of_others_may_use_the_gate():
    assert may_use_gate(("real", "mine"))
    assert not may_use_gate(("real+focal_loss", "synthetic_ungated"))


@pytest.mark.parametrize("name", ["synthetic", "synthetic_tenth", "synthetic_relit"])
def test_what_an_arm_draws_follows_the_seed_and_the_share_to_refresh(splits, sampler, name):
    def pool(seed, refresh=0.0, epoch=0):
        dataset = ARMS[name](splits.train, context(sampler, seed, refresh=refresh)).dataset
        dataset.set_epoch(epoch)
        return dataset.pool_images.clone()

    first = pool(0)
    assert torch.equal(pool(0), first)
    assert not torch.equal(pool(1), first)
    assert torch.equal(pool(0, epoch=9), first)
    kept = (pool(0, refresh=1.0, epoch=1) == first).flatten(1).all(1)
    assert not kept.any()


@pytest.mark.parametrize("name", ["oversample", "oversample_tenth", "synthetic_then_real"])
def test_images_are_repeated_in_an_order_of_the_seed(splits, sampler, name):
    def order(seed):
        setup = ARMS[name](splits.train, context(sampler, seed))
        return list(setup.ending.sampler if setup.ending else setup.sampler)

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert sorted(splits.train.labels[order(0)]) == sorted(splits.train.labels[order(1)])


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_oversample_shows_the_same_classes_as_synthetic(splits, sampler, fraction):
    ctx = context(sampler, max_synthetic_fraction=fraction)
    for repeated, drawn in (("oversample", "synthetic"), ("oversample_tenth", "synthetic_tenth")):
        of_real, of_both = ARMS[repeated](splits.train, ctx), ARMS[drawn](splits.train, ctx)
        assert of_real.class_counts == of_both.class_counts
        assert of_real.dataset is splits.train


@pytest.mark.parametrize("share", ["", "_tenth"])
def test_relit_arms_change_the_light_of_what_they_add_and_nothing_else(splits, sampler, share):
    train = splits.train
    added = {}
    for name in (f"synthetic{share}", f"synthetic{share}_relit", f"oversample{share}_relit"):
        data = ARMS[name](train, context(sampler, gate=keep_all)).dataset
        shown = torch.stack([data[i][0] for i in range(len(data))])
        assert torch.equal(shown[: len(train)], train.images)
        added[name] = shown[len(train) :]
    plain, lit, real = added.values()
    assert plain.shape == lit.shape == real.shape
    assert not torch.equal(plain, lit)
    lights = train.images.float().mean((1, 2, 3))
    assert lit.float().mean((1, 2, 3)).max() <= lights.max() + 1
    assert not torch.equal(real, lit)


def test_real_relit_changes_the_light_of_about_half_of_the_images(splits):
    setup = ARMS["real_relit"](splits.train, context())
    same = [torch.equal(a[0], b[0]) for a, b in zip(setup.dataset, splits.train, strict=True)]
    assert 65 <= sum(same) <= 125
    other = ARMS["real_relit"](splits.train, context(seed=1))
    assert not all(
        torch.equal(a[0], b[0]) for a, b in zip(setup.dataset, other.dataset, strict=True)
    )


def test_the_gate_decides_what_synthetic_draws(splits, sampler):
    def no_yellow(_images, labels):
        return labels != 3

    with pytest.warns(UserWarning, match="yellow"):
        gated = ARMS["synthetic"](splits.train, context(sampler, gate=no_yellow))
    assert gated.dataset.oversampled_counts.tolist() == [0, 0, 0, 114]
    assert gated.class_counts == (120, 120, 120, 120)
    ungated = ARMS["synthetic_ungated"](splits.train, context(sampler, gate=no_yellow))
    assert ungated.dataset.oversampled_counts.tolist() == [0, 0, 0, 0]
    plain = ARMS["synthetic"](splits.train, context(sampler))
    assert not plain.uses_gate
    for a, b in zip(ungated.dataset, plain.dataset, strict=True):
        assert torch.equal(a[0], b[0])


def test_a_class_may_be_let_in_whatever_the_gate_says(splits, sampler):
    def rarely(_images, labels):
        return torch.arange(len(labels)) % 20 == 0

    ctx = context(sampler, gate=rarely, min_acceptance=0.0)
    with pytest.warns(UserWarning, match="rejected every draw"):
        setup = ARMS["synthetic"](splits.train, ctx)
    assert 0 < int(setup.dataset.oversampled_counts.sum()) < 290


def test_the_last_layer_is_tuned_on_real_images_of_all_classes_alike(splits, sampler):
    setup = ARMS["synthetic_then_real"](splits.train, context(sampler))
    assert setup.ending.dataset is splits.train
    labels = splits.train.labels[list(setup.ending.sampler)]
    assert torch.bincount(labels).tolist() == [120] * 4
    other = ARMS["oversample"](splits.train, context())
    assert list(other.sampler) != list(setup.ending.sampler)


@pytest.mark.parametrize("name", ["synthetic", "synthetic_tenth"])
def test_separate_statistics_change_nothing_but_the_norms(splits, sampler, name):
    ctx = context(sampler)
    plain, apart = (ARMS[arm](splits.train, ctx) for arm in (name, f"{name}_separate_statistics"))
    assert apart.class_counts == plain.class_counts
    assert apart.uses_generator
    for number, (image, label, synthetic) in enumerate(apart.dataset):
        assert torch.equal(image, plain.dataset[number][0])
        assert label == plain.dataset[number][1]
        assert synthetic == plain.dataset.is_synthetic(number)


@pytest.mark.parametrize("data", DATA_ARMS)
@pytest.mark.parametrize("loss", LOSS_ARMS)
def test_a_loss_combines_with_any_data_and_looks_at_its_counts(splits, sampler, data, loss):
    ctx = context(sampler)
    alone, both = (set_up(n, splits.train, ctx) for n in (data, f"{data}+{loss}"))
    assert shown(both) == shown(alone)
    assert (both.ending is None) == (alone.ending is None)
    expected = ARMS[loss].make(alone.class_counts)
    logits, labels = torch.randn(8, 4), torch.arange(8) % 4
    for step in (0, 9):
        ours, theirs = loss_at(both.loss, step, 10), loss_at(expected, step, 10)
        assert ours(logits, labels) == theirs(logits, labels)


def test_adjustment_is_for_the_counts_of_the_batches(splits, sampler):
    def offsets(name):
        setup = set_up(name, splits.train, context(sampler))
        assert isinstance(setup.loss, LogitAdjusted)
        return (setup.loss.offsets - setup.loss.offsets[0]).exp() * 120

    assert offsets("logit_adjustment").tolist() == pytest.approx([120, 40, 24, 6])
    assert offsets("synthetic_tenth+logit_adjustment").tolist() == pytest.approx([120, 48, 33, 17])
    # Balanced batches leave nothing to adjust.
    assert offsets("synthetic+logit_adjustment").tolist() == pytest.approx([120] * 4)


@pytest.mark.parametrize(
    "name",
    [
        "synthetic+oversample",
        "focal_loss+logit_adjustment",
        "real+real",
        "focal_loss+focal_loss",
        "logit_adjustment+synthetic",
        "synthetic+focal_loss+focal_loss",
    ],
)
def test_what_does_not_combine_is_told_what_does(name):
    with pytest.raises(
        SignforgeError,
        match=r"is no combination: write one of real, oversample, .*synthetic.*, then \+ and one "
        r"of class_balanced_loss, logit_adjustment, focal_loss, ldam_drw\.",
    ) as caught:
        select_arms([name])
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("name", ["syntetic+focal_loss", "synthetic+focal", "synthetic+", "+"])
def test_unknown_parts_are_named(name):
    with pytest.raises(SignforgeError, match=r"Unknown arm '(syntetic|focal|)'"):
        select_arms([name])


def test_synthetic_needs_a_generator(splits):
    with pytest.raises(SignforgeError, match="generator"):
        ARMS["synthetic"](splits.train, context())
    assert needs_generator(("real", "synthetic+mine"))
    assert not needs_generator(("real", "oversample"))


def test_unknown_arms_are_named_with_the_known_ones():
    with pytest.raises(
        SignforgeError,
        match=r"'oversampel' \(did you mean oversample\?\): the arms are real, oversample",
    ):
        select_arms(["real", "oversampel"])
    with pytest.raises(SignforgeError, match="No arm"):
        select_arms([])


def test_a_users_own_arm_is_one_more_function(splits):
    def halved(train, context):
        return ARMS["real"](train.subset(torch.arange(0, len(train), 2)), context)

    def doubled(_counts):
        return lambda logits, labels: 2 * F.cross_entropy(logits, labels)

    arms = {**ARMS, "halved": halved, "doubled": LossArm(doubled), "a+b": halved}
    assert select_arms(["a+b"], arms) == {"a+b": halved}  # a name of its own comes first
    (both,) = select_arms(["halved+doubled"], arms).values()
    assert len(both(splits.train, context()).dataset) == 95
    logits, labels = torch.randn(8, 4), torch.arange(8) % 4
    loss = both(splits.train, context()).loss
    assert loss(logits, labels) == 2 * F.cross_entropy(logits, labels)
    (focal,) = select_arms(["halved+focal_loss"], arms).values()
    assert focal(splits.train, context()).loss == Focal()
    assert select_arms(["halved", "real", "halved"], arms) == {
        "halved": halved,
        "real": ARMS["real"],
    }
    assert "halved" not in ARMS


@pytest.fixture
def plan_file(splits, sampler, tmp_path):
    """Class 1 is to be oversampled, class 3 filled up with samples, the others left alone."""
    remedies = {1: ("oversample", 120), 3: ("synthetic", 106)}
    decisions = []
    for label, name in enumerate(splits.train.class_names):
        real = int(splits.train.class_counts[label])
        remedy, count = remedies.get(label, ("nothing", real))
        decisions.append(ClassDecision(name=name, remedy=remedy, count=count, real_count=real))
    plan = BalancePlan(decisions=tuple(decisions), generator_fingerprint=sampler.fingerprint)
    plan.save(tmp_path / "plan.yaml")
    return str(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("name", "added", "repeated"),
    [
        ("synthetic", [0, 80, 0, 100], [0, 80, 0, 0]),
        ("synthetic_tenth", [0, 8, 0, 10], [0, 8, 0, 0]),
        ("synthetic_tenth_relit", [0, 8, 0, 10], [0, 8, 0, 0]),
        ("oversample_tenth_relit", [0, 8, 0, 10], [0, 8, 0, 0]),
    ],
)
def test_arms_keep_to_the_remedies_of_a_plan(splits, sampler, plan_file, name, added, repeated):
    """Without a warning: what repeats real images needs no generator that the plan knows."""
    setup = ARMS[name](splits.train, context(sampler, sampling_strategy=plan_file))
    assert setup.dataset.synthetic_counts.tolist() == added
    assert setup.dataset.oversampled_counts.tolist() == repeated
