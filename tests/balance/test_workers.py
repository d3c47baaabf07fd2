"""Item i of epoch e is a function of (seed, e, i), whoever reads it, however and when."""

import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    StackDataset,
    Subset,
    get_worker_info,
)

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.errors import SignforgeError
from support.processes import FORKS

EPOCHS = (0, 1, 4)
N = 36


def some_pass(images, labels):
    """Nothing of class 2, which is then oversampled; about half of the others."""
    return (images[:, 0, 0, 0] % 2 == 0) & (labels != 2)


@pytest.fixture
def make_balanced(make_real, make_sampler):
    def make(**options):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the gate's
            return SyntheticBalancedDataset(
                make_real(),
                make_sampler(),
                gate=some_pass,
                gate_attempts=1,
                refresh=0.25,
                third_element="index",
                seed=11,
                **options,
            )

    return make


@pytest.fixture
def expected(make_balanced, make_real):
    """All images of each epoch, read one by one from a data set that saw no other epoch."""
    real = make_real()
    contents = {}
    for epoch in EPOCHS:
        fresh = make_balanced()
        fresh.set_epoch(epoch)
        contents[epoch] = torch.stack([fresh[i][0] for i in range(N)])
        assert torch.equal(contents[epoch][:20], real.images)
        assert 0 < sum(fresh.is_synthetic(i) for i in range(N)) < 9
    first, last = contents[EPOCHS[0]], contents[EPOCHS[-1]]
    assert (first[20:] != last[20:]).flatten(1).any(dim=1).sum() >= 5
    return contents


class ChosenBatches:
    """A batch sampler whose batches may be chosen anew before each pass of one loader."""

    batches: tuple[list[int], ...] = ()

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def orders(epoch):
    """Ways to go through the data set: lists of batches of indices."""
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(epoch)).tolist()
    for size in (1, 7, N):
        yield BatchSampler(range(N), size, drop_last=False)
    yield BatchSampler(shuffled, 5, drop_last=True)
    for rank in range(2):
        sampler = DistributedSampler(range(N), num_replicas=2, rank=rank, seed=3)
        sampler.set_epoch(epoch)
        yield BatchSampler(sampler, 4, drop_last=False)


@pytest.mark.parametrize(
    ("start_method", "num_workers"),
    [
        (None, 0),
        ("fork", 1),
        ("fork", 4),
        (FORKS, 1),
        (FORKS, 4),
        ("spawn", 1),
        pytest.param("spawn", 4, marks=pytest.mark.slow),
    ],
    ids=["0", "fork-1", "fork-4", "forkserver-1", "forkserver-4", "spawn-1", "spawn-4"],
)
def test_workers_see_the_same_items_of_every_epoch(
    make_balanced, expected, tmp_path, start_method, num_workers
):
    """The same processes serve every epoch and batch size, since starting them takes seconds."""
    in_memory, in_file = make_balanced(), make_balanced(memory_cap_mib=0, pool_folder=tmp_path)
    backwards = Subset(in_memory, range(N)[::-1])
    chosen = ChosenBatches()
    with warnings.catch_warnings():
        # newer Pythons warn of fork in a process with threads, which torch's own threads are
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        loader = DataLoader(
            StackDataset(in_memory, in_file, backwards),
            batch_sampler=chosen,
            num_workers=num_workers,
            multiprocessing_context=start_method,
            persistent_workers=num_workers > 0,
        )
        for epoch in EPOCHS:
            in_memory.set_epoch(epoch)
            in_file.set_epoch(epoch)
            for order in orders(epoch):
                chosen.batches = tuple(order)
                for indices, seen in zip(chosen.batches, loader, strict=True):
                    rows = torch.tensor(indices)
                    for (images, labels, positions), shown in zip(
                        seen, (rows, rows, N - 1 - rows), strict=True
                    ):
                        assert torch.equal(images, expected[epoch][shown])
                        assert labels.tolist() == [in_memory.targets[i] for i in shown]
                        assert torch.equal(positions, shown)


def test_workers_that_live_for_an_epoch(make_balanced, expected):
    dataset = make_balanced()
    loader = DataLoader(dataset, batch_size=8, num_workers=1, multiprocessing_context=FORKS)
    for epoch in EPOCHS[::2]:
        dataset.set_epoch(epoch)
        assert torch.equal(torch.cat([images for images, *_ in loader]), expected[epoch])


def set_another_epoch(_):
    get_worker_info().dataset.set_epoch(4)


@pytest.mark.parametrize("start_method", ["fork", FORKS], ids=["fork", "forkserver"])
def test_a_worker_that_sets_the_epoch_is_refused_and_changes_nothing(
    make_balanced, expected, start_method
):
    dataset = make_balanced()
    loader = DataLoader(
        dataset,
        batch_size=N,
        num_workers=1,
        multiprocessing_context=start_method,
        worker_init_fn=set_another_epoch,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        with pytest.raises(SignforgeError, match="a copy of the data set, without the generator"):
            next(iter(loader))
    assert dataset.epoch == 0
    for epoch in (0, 4):
        dataset.set_epoch(epoch)
        assert torch.equal(torch.stack([dataset[i][0] for i in range(N)]), expected[epoch])


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks into Linux's /proc")
def test_only_a_pool_beyond_the_cap_is_a_file(make_balanced, tmp_path):
    def files():
        links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return [path for path in links if str(tmp_path) in str(path.readlink())]

    in_memory = make_balanced(pool_folder=tmp_path)
    assert files() == []
    in_file = make_balanced(memory_cap_mib=0, pool_folder=tmp_path)
    assert files() != []
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(in_file[30][0], in_memory[30][0])


def test_two_ranks_share_out_the_items(make_balanced, expected):
    """Each rank makes its own data set, as processes do; the second one joins later."""
    for epoch in EPOCHS[1:]:
        seen = []
        for rank in range(2):
            dataset = make_balanced()
            for past in range(epoch) if rank == 0 else ():
                dataset.set_epoch(past)
            dataset.set_epoch(epoch)
            sampler = DistributedSampler(dataset, num_replicas=2, rank=rank, seed=3)
            sampler.set_epoch(epoch)
            for images, _, positions in DataLoader(dataset, batch_size=5, sampler=sampler):
                assert torch.equal(images, expected[epoch][positions])
                seen += positions.tolist()
        assert sorted(seen) == list(range(N))
