"""Which classes of SyntheticBalancedDataset get no synthetic image: gate, floor and plan."""

from collections import Counter

import pytest
import torch

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.balance.plan import BalancePlan, ClassDecision
from signforge.errors import SignforgeError
from support.items import equal

NAMES = ("stop", "yield", "no entry", "ahead")
SEEDS = {"seed": 11, "refresh": 0.25}


@pytest.fixture
def balanced(make_real, make_sampler):
    """The default: no gate, no plan, pairs, images in memory."""
    return SyntheticBalancedDataset(make_real(), make_sampler(), **SEEDS)


def test_a_class_below_the_floor_is_oversampled_whole(make_real, make_sampler):
    real, sampler = make_real(), make_sampler()
    with pytest.warns(
        UserWarning, match=r"keeps less than 10% .* of class 2 \('no entry'\) \(0%\); oversampled"
    ) as caught:
        dataset = SyntheticBalancedDataset(
            real, sampler, gate=lambda _, labels: labels != 2, refresh=1.0
        )
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert dataset.acceptance[[0, 2, 3]].tolist() == [1.0, 0.0, 1.0]
    assert dataset.acceptance[1].isnan()  # full already, so nothing was tried
    assert dataset.oversampled_counts.tolist() == [0, 0, 7, 0]
    assert dataset.class_counts.tolist() == [9, 9, 9, 9]
    drawn = Counter(label for call in sampler.calls for label in call)
    assert drawn == {0: 64 + 4, 2: 64, 3: 64 + 5}
    originals = [i for i in range(20) if real.targets[i] == 2]
    slots = [i for i in range(20, 36) if dataset.targets[i] == 2]
    assert not any(dataset.is_synthetic(i) for i in slots)
    shown = Counter(dataset.real_indices(torch.tensor(slots)).tolist())
    assert sorted(shown) == originals
    assert sorted(shown.values()) == [3, 4]
    for i in slots:
        assert equal(dataset[i], real[int(dataset.real_indices(torch.tensor([i])))])
    for item, i in zip(dataset.__getitems__(range(36)), range(36), strict=True):
        assert equal(item, dataset[i])
    # the class has been named once; the next epochs are silent (warnings are errors here)
    dataset.set_epoch(1)


def test_the_floor_does_not_change_items_of_other_classes_labels(make_real, make_sampler):
    with pytest.warns(UserWarning, match="oversampled"):
        gated = SyntheticBalancedDataset(
            make_real(), make_sampler(), gate=lambda _, labels: labels != 2, **SEEDS
        )
    assert gated.targets == SyntheticBalancedDataset(make_real(), make_sampler()).targets


def test_without_a_floor_single_slots_fall_back_to_real_items(make_real, make_sampler):
    with pytest.warns(
        UserWarning, match=r"every draw for some .* class 2 \('no entry'\) \(7 of 7\); oversampled"
    ) as caught:
        dataset = SyntheticBalancedDataset(
            make_real(), make_sampler(), gate=lambda _, labels: labels != 2, min_acceptance=0
        )
    assert len(caught) == 1
    assert dataset.acceptance[2] == 0.0
    assert dataset.oversampled_counts.tolist() == [0, 0, 7, 0]


def test_the_trial_leaves_the_images_as_they_are(balanced, make_real, make_sampler):
    gated = SyntheticBalancedDataset(
        make_real(), make_sampler(), gate=lambda _, labels: labels >= 0, **SEEDS
    )
    for epoch in (0, 3):
        balanced.set_epoch(epoch)
        gated.set_epoch(epoch)
        assert all(equal(gated[i], balanced[i]) for i in range(36))


def test_acceptance_is_measured_in_the_size_of_the_real_images(make_real, make_sampler):
    sizes = set()

    def gate(images, labels):
        sizes.add(tuple(images.shape[1:]))
        return labels >= 0

    SyntheticBalancedDataset(make_real(resolution=12), make_sampler(resolution=16), gate=gate)
    assert sizes == {(3, 12, 12)}


@pytest.mark.parametrize("floor", [-0.1, 1.1, float("nan")])
def test_bad_floor(make_real, make_sampler, floor):
    with pytest.raises(SignforgeError, match=r"min_acceptance must lie in 0\.\.1"):
        SyntheticBalancedDataset(make_real(), make_sampler(), min_acceptance=floor)


def test_a_gate_for_other_classes_is_refused(make_real, make_sampler):
    class NamedGate:
        def __init__(self, class_names):
            self.class_names = class_names

        def __call__(self, _, labels):
            return labels >= 0

    SyntheticBalancedDataset(make_real(), make_sampler(), gate=NamedGate(list(NAMES)))
    swapped = NamedGate(("stop", "no entry", "yield", "ahead"))
    with pytest.raises(SignforgeError, match="class 1 is 'no entry' to it but 'yield' in the data"):
        SyntheticBalancedDataset(make_real(), make_sampler(), gate=swapped)
    with pytest.raises(SignforgeError, match="gate was made for 3 classes, the data has 4"):
        SyntheticBalancedDataset(make_real(), make_sampler(), gate=NamedGate(NAMES[:3]))


def make_plan(remedies, counts, **options):
    """A plan for the real counts 5, 9, 2, 4 of ``make_real``."""
    decisions = tuple(
        ClassDecision(name=name, remedy=remedy, count=count, real_count=real)
        for name, remedy, count, real in zip(NAMES, remedies, counts, (5, 9, 2, 4), strict=True)
    )
    return BalancePlan(decisions=decisions, **options)


REMEDIES = ("synthetic", "nothing", "oversample", "oversample")


@pytest.mark.parametrize("as_file", [False, True])
def test_a_plan_decides_class_by_class(make_real, make_sampler, tmp_path, as_file):
    plan, sampler = make_plan(REMEDIES, (8, 9, 7, 4)), make_sampler()
    if as_file:
        plan.save(tmp_path / "plan.yaml")
    dataset = SyntheticBalancedDataset(
        make_real(), sampler, sampling_strategy=tmp_path / "plan.yaml" if as_file else plan, **SEEDS
    )
    assert dataset.class_counts.tolist() == [8, 9, 7, 4]
    assert dataset.synthetic_counts.tolist() == [3, 0, 5, 0]
    assert dataset.oversampled_counts.tolist() == [0, 0, 5, 0]
    assert {label for call in sampler.calls for label in call} == {0}
    assert [dataset.is_synthetic(i) for i in range(20, 28)] == [True] * 3 + [False] * 5
    assert dataset.targets[20:] == [0] * 3 + [2] * 5
    dataset.set_epoch(1)
    assert dataset.oversampled_counts.tolist() == [0, 0, 5, 0]


def test_the_cap_holds_for_generated_images_only(make_real, make_sampler):
    dataset = SyntheticBalancedDataset(
        make_real(),
        make_sampler(),
        sampling_strategy=make_plan(REMEDIES, (80, 9, 70, 4)),
        max_synthetic_fraction=0.5,
    )
    assert dataset.class_counts.tolist() == [10, 9, 70, 4]


def test_the_gate_may_decline_a_class_that_the_plan_wants_synthetic(make_real, make_sampler):
    with pytest.warns(UserWarning, match=r"class 0 \('stop'\) \(0%\)"):
        dataset = SyntheticBalancedDataset(
            make_real(),
            make_sampler(),
            sampling_strategy=make_plan(REMEDIES, (8, 9, 7, 4)),
            gate=lambda _, labels: labels < 0,
        )
    assert dataset.oversampled_counts.tolist() == [3, 0, 5, 0]
    assert dataset.acceptance.isnan().tolist() == [False, True, True, True]


def test_a_plan_of_another_generator_is_doubted_once(make_real, make_sampler):
    plan = make_plan(REMEDIES, (8, 9, 7, 4), generator_fingerprint="another")
    with pytest.warns(UserWarning, match="made with another generator") as caught:
        SyntheticBalancedDataset(make_real(), make_sampler(), sampling_strategy=plan)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    known = make_plan(REMEDIES, (8, 9, 7, 4), generator_fingerprint="template-1")
    SyntheticBalancedDataset(make_real(), make_sampler(), sampling_strategy=known)


def test_a_plan_of_other_classes_is_refused(make_real, make_sampler):
    plan = make_plan(REMEDIES, (8, 9, 7, 4))
    others = ("stop", "yield", "no entry", "behind")
    with pytest.raises(SignforgeError, match="Class 3 is 'ahead' in the balance plan but 'behind'"):
        SyntheticBalancedDataset(
            make_real(class_names=others), make_sampler(others), sampling_strategy=plan
        )
