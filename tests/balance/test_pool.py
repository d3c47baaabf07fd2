import copy
import pickle
from collections import Counter
from fractions import Fraction

import pytest
import torch

from signforge.balance.pool import SyntheticPool, num_blocks, redraws
from signforge.errors import SignforgeError
from signforge.seeds import derive_seed

LABELS = torch.arange(4).repeat_interleave(torch.tensor([30, 0, 17, 25]))


@pytest.fixture
def make_pool(make_sampler):
    def make(labels=LABELS, refresh=0.25, seed=0, size=(8, 8), sampler=None, **options):
        return SyntheticPool(
            sampler or make_sampler(),
            labels,
            real_labels=torch.tensor([0, 1, 2, 3, 2, 0]),
            size=size,
            refresh=refresh,
            seed=seed,
            **options,
        )

    return make


def test_every_slot_shows_its_class(make_pool):
    pool = make_pool()
    assert pool.images.shape == (72, 3, 8, 8)
    assert pool.rows.tolist() == list(range(72))
    assert pool.substitutes.tolist() == [-1] * 72
    # the templates differ by class in red: 53 * label + noise below 32
    assert (pool.images[:, 0].amin(dim=(1, 2)) // 53).tolist() == LABELS.tolist()


@pytest.mark.parametrize("refresh", [0.0, 0.03, 0.25, 0.6, 1.0])
def test_content_depends_on_the_epoch_alone(make_pool, refresh):
    straight = make_pool(refresh=refresh)
    contents = []
    for epoch in range(9):
        straight.set_epoch(epoch)
        contents.append(straight.images.clone())
    wandering = make_pool(refresh=refresh)
    for epoch in (8, 3, 3, 0, 7, 1, 6):
        wandering.set_epoch(epoch)
        assert wandering.epoch == epoch
        assert torch.equal(wandering.images, contents[epoch])


def test_refresh_replaces_its_share_of_every_class(make_pool):
    labels = torch.arange(3).repeat_interleave(1000)
    pool = make_pool(labels, refresh=0.25)
    for epoch in range(1, 6):
        before = pool.images.clone()
        pool.set_epoch(epoch)
        changed = (pool.images != before).flatten(1).any(dim=1)
        for label in range(3):
            assert changed[labels == label].float().mean() == pytest.approx(0.25, abs=0.01)


def test_after_one_round_nothing_is_left(make_pool):
    pool = make_pool(refresh=0.25)
    before = pool.images.clone()
    pool.set_epoch(4)
    assert (pool.images != before).flatten(1).any(dim=1).all()


@pytest.mark.parametrize(("refresh", "changes"), [(0.0, False), (1.0, True), (True, True)])
def test_extremes_of_refresh(make_pool, refresh, changes):
    pool = make_pool(refresh=refresh)
    before = pool.images.clone()
    pool.set_epoch(1)
    assert (pool.images != before).flatten(1).any(dim=1).tolist() == [changes] * len(pool)


def test_another_seed_gives_other_images(make_pool):
    assert torch.equal(make_pool(seed=1).images, make_pool(seed=1).images)
    assert not torch.equal(make_pool(seed=1).images, make_pool(seed=2).images)


def test_only_what_is_due_is_drawn(make_pool, make_sampler):
    sampler = make_sampler()
    pool = make_pool(torch.zeros(1000, dtype=torch.int64), sampler=sampler, refresh=0.1)
    assert sum(map(len, sampler.calls)) == 1000
    sampler.calls.clear()
    pool.set_epoch(0)
    assert sampler.calls == []
    pool.set_epoch(1)
    assert [len(call) for call in sampler.calls] == [50, 50]


@pytest.mark.parametrize(("slots", "blocks"), [(0, 0), (3, 3), (72, 20), (5120, 20), (5121, 21)])
def test_num_blocks(slots, blocks):
    assert num_blocks(slots) == blocks


def test_redraws_by_hand():
    quarter = Fraction(1, 4)
    table = [[redraws(block, epoch, 8, quarter) for block in range(8)] for epoch in range(5)]
    assert table == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1],
    ]


def test_seeds_are_fixed_for_good():
    assert derive_seed(0, 0, 0, 0) == 3798811674703423765
    assert len({derive_seed(a, b) for a in range(20) for b in range(20)}) == 400


def test_pool_has_the_size_of_the_real_images(make_pool, make_sampler):
    pool = make_pool(size=(12, 10), sampler=make_sampler(resolution=32))
    assert pool.images.shape == (72, 3, 12, 10)
    assert (pool.images[:, 0].amin(dim=(1, 2)) // 53).tolist() == LABELS.tolist()


def test_gate_redraws_what_it_rejects(make_pool):
    def gate(images, labels):
        # keeps about half of the draws
        return images[:, 0, 0, 0].long() - 53 * labels < 16

    pool = make_pool(gate=gate, gate_attempts=30)
    assert (pool.substitutes == -1).all()
    assert gate(pool.images, pool.labels).all()
    ungated = make_pool()
    passed = gate(ungated.images, ungated.labels)
    assert 0 < int(passed.sum()) < len(pool)
    assert torch.equal(pool.images[passed], ungated.images[passed])


def test_a_class_that_never_passes_is_taken_from_the_real_images(make_pool, make_sampler):
    sampler = make_sampler()
    pool = make_pool(
        sampler=sampler, gate=lambda _, labels: labels != 2, gate_attempts=3, refresh=1.0
    )
    assert torch.equal(pool.substitutes >= 0, LABELS == 2)
    assert set(pool.substitutes[LABELS == 2].tolist()) == {2, 4}
    drawn = [label for call in sampler.calls for label in call]
    assert drawn.count(2) == 3 * 17
    assert drawn.count(0) == 30
    first = pool.substitutes.clone()
    pool.set_epoch(5)
    assert not torch.equal(pool.substitutes, first)
    pool.set_epoch(0)
    assert torch.equal(pool.substitutes, first)


def test_a_gate_cannot_change_the_pool(make_pool):
    def gate(images, labels):
        images.zero_()
        labels.zero_()
        return torch.ones(len(labels), dtype=torch.bool)

    assert torch.equal(make_pool(gate=gate).images, make_pool().images)
    assert int(make_pool(gate=gate).labels.max()) == 3


@pytest.mark.parametrize(
    "answer", [torch.ones(3, dtype=torch.bool), torch.tensor(True), torch.ones(4)]
)
def test_bad_gate(make_pool, answer):
    with pytest.raises(SignforgeError, match=r"gate must return a bool mask of shape \(4,\)"):
        make_pool(torch.zeros(80, dtype=torch.int64), gate=lambda *_: answer)


def test_failed_drawing_is_made_good_at_the_next_call(make_pool, make_sampler):
    sampler, draw = make_sampler(), make_sampler().sample
    pool = make_pool(sampler=sampler, refresh=1.0)
    calls = []

    def fail_at_the_third(labels, seed):
        calls.append(seed)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return draw(labels, seed)

    sampler.sample = fail_at_the_third
    with pytest.raises(RuntimeError, match="out of memory"):
        pool.set_epoch(1)
    assert pool.epoch == 0
    pool.set_epoch(1)
    expected = make_pool(refresh=1.0)
    expected.set_epoch(1)
    assert torch.equal(pool.images, expected.images)


def test_bad_options(make_pool):
    with pytest.raises(SignforgeError, match=r"refresh must lie in 0\.\.1, got 1.5"):
        make_pool(refresh=1.5)
    with pytest.raises(SignforgeError, match=r"refresh must lie in 0\.\.1, got None"):
        make_pool(refresh=None)
    with pytest.raises(SignforgeError, match="gate_attempts must be at least 1"):
        make_pool(gate_attempts=0)
    with pytest.raises(SignforgeError, match="epoch must be 0 or more, got -1"):
        make_pool().set_epoch(-1)


def test_a_copy_has_no_generator_but_all_images(make_pool):
    pool = make_pool()
    twin = copy.copy(pool)
    assert torch.equal(twin.images, pool.images)
    for epoch in (0, 1):  # nothing is due at epoch 0
        with pytest.raises(SignforgeError, match="copy of the data set, without the generator"):
            twin.set_epoch(epoch)
    assert pool.epoch == 0


def test_more_than_memory_holds(make_pool):
    with pytest.raises(SignforgeError, match=r"No room for .* GiB of synthetic images"):
        make_pool(size=(2**22, 2**22))


def test_an_empty_pool_never_calls_the_sampler(make_pool, make_sampler):
    sampler = make_sampler()
    pool = make_pool(LABELS[:0], sampler=sampler)
    pool.set_epoch(3)
    assert len(pool) == 0
    assert sampler.calls == []


OVERSAMPLED = torch.tensor([False, False, True, False])


def test_gathered_images_are_a_copy_of_the_slots(make_pool):
    pool = make_pool(oversampled=OVERSAMPLED)
    slots = torch.tensor([71, 0, 50, 0])
    found = pool.gather(slots)
    assert torch.equal(found, pool.images[pool.rows[slots]])
    # red says which class is shown: 53 * label + noise below 32
    assert (found[:, 0].amin(dim=(1, 2)) // 53).tolist() == [3, 0, 3, 0]
    found.zero_()
    assert pool.images.flatten(1).any(dim=1).all()


def test_an_oversampled_class_is_never_drawn(make_pool, make_sampler):
    sampler = make_sampler()
    pool = make_pool(sampler=sampler, oversampled=OVERSAMPLED, refresh=1.0)
    pool.set_epoch(1)
    drawn = Counter(label for call in sampler.calls for label in call)
    assert drawn == {0: 60, 3: 50}
    assert len(pool) == 72
    assert pool.images.shape == (55, 3, 8, 8)
    assert torch.equal(pool.substitutes >= 0, LABELS == 2)
    assert torch.equal(pool.rows >= 0, LABELS != 2)
    assert pool.rows[pool.rows >= 0].tolist() == list(range(55))


def test_every_real_item_of_an_oversampled_class_appears_equally_often(make_pool):
    # real_labels of the fixture: class 2 is items 2 and 4
    pool = make_pool(oversampled=OVERSAMPLED)
    more_often = set()
    for epoch in range(12):
        pool.set_epoch(epoch)
        times = Counter(pool.substitutes[LABELS == 2].tolist())
        assert sorted(times.values()) == [8, 9]
        assert set(times) == {2, 4}
        more_often.add(max(times, key=times.__getitem__))
    assert more_often == {2, 4}


@pytest.mark.parametrize("refresh", [0.0, 0.25])
def test_oversampled_items_depend_on_the_epoch_alone(make_pool, refresh):
    straight, wandering = (
        make_pool(refresh=refresh, oversampled=OVERSAMPLED, seed=4) for _ in range(2)
    )
    shown = []
    for epoch in range(6):
        straight.set_epoch(epoch)
        shown.append((straight.substitutes.clone(), straight.images.clone()))
    assert len({tuple(substitutes.tolist()) for substitutes, _ in shown}) > 1
    for epoch in (5, 0, 3, 3, 1):
        wandering.set_epoch(epoch)
        assert torch.equal(wandering.substitutes, shown[epoch][0])
        assert torch.equal(wandering.images, shown[epoch][1])


def test_oversampled_classes_do_not_change_each_other(make_pool):
    alone, both = (
        make_pool(oversampled=torch.tensor(which))
        for which in ([False, False, True, False], [True, False, True, False])
    )
    for epoch in range(4):
        alone.set_epoch(epoch)
        both.set_epoch(epoch)
        assert torch.equal(alone.substitutes[LABELS == 2], both.substitutes[LABELS == 2])


def test_a_pool_of_oversampled_classes_alone_needs_no_image(make_pool, make_sampler):
    sampler = make_sampler()
    pool = make_pool(sampler=sampler, oversampled=torch.ones(4, dtype=torch.bool))
    pool.set_epoch(2)
    assert sampler.calls == []
    assert pool.images.shape == (0, 3, 8, 8)
    assert (pool.substitutes >= 0).all()


def test_beyond_the_cap_the_same_images_lie_in_a_file(make_pool, tmp_path):
    filed = make_pool(memory_cap_mib=0, folder=tmp_path)
    filed.set_epoch(3)
    straight = make_pool()
    straight.set_epoch(3)
    assert torch.equal(filed.images, straight.images)
    with pytest.raises(SignforgeError, match="pool_folder"):
        make_pool(memory_cap_mib=0, folder=tmp_path / "missing")


def test_a_pickled_copy_shows_the_same(make_pool):
    pool = make_pool(oversampled=OVERSAMPLED)
    pool.set_epoch(2)
    twin = pickle.loads(pickle.dumps(pool))
    slots = (pool.rows >= 0).nonzero().flatten()
    assert twin.epoch == 2
    assert torch.equal(twin.gather(slots), pool.gather(slots))
    assert torch.equal(twin.substitutes, pool.substitutes)
