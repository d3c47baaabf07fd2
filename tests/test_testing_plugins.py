"""Executors and readers that break one rule each fail its check; good ones pass."""

from dataclasses import replace

import pytest
import torch

from signforge.benchmark.runner import run_in_process
from signforge.data.images import LabeledImages
from signforge.testing import ExecutorContract, ReaderContract, check_executor, check_reader


def reads(argument):
    labels = torch.arange(2).repeat(4)
    images = torch.full((8, 3, 4, 4), len(argument), dtype=torch.uint8)
    names = tuple("abcdefgh")
    train = LabeledImages(images, labels, torch.arange(8), ("x", "y"), names, "test")
    return {"train": train, "test": train}


def reads_at_random(argument):
    splits = reads(argument)
    train = splits["train"]
    rng = torch.Generator()
    rng.seed()
    images = torch.randint(0, 256, train.images.shape, generator=rng).to(torch.uint8)
    return {"train": replace(train, images=images)}


def moves_the_global_state(argument):
    torch.rand(1)
    return reads(argument)


READERS = {
    moves_the_global_state: "changes the global random state of torch",
    reads_at_random: "gives other images or labels in train",
    lambda argument: {"test": reads(argument)["test"]}: "returns no split called train",
    lambda argument: {**reads(argument), "dev": 1}: "returns a split called 'dev'",
    lambda argument: {**reads(argument), "val": 1}: "returns a int as val",
    lambda argument: [argument]: "The reader returns a list",
    lambda argument: {
        **reads(argument),
        "val": replace(reads(argument)["train"], class_names=("x", "z")),
    }: "gives val other class names",
    lambda argument: int(argument): "The reader fails on 'words'",
}


@pytest.mark.parametrize(("reader", "sentence"), READERS.items(), ids=range(len(READERS)))
def test_broken_readers(reader, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_reader(reader, "words")


def collects_all(jobs, work):
    return iter([work(job) for job in jobs])


def loses_one(jobs, work):
    return run_in_process(jobs[1:], work)


def runs_twice(jobs, work):
    return run_in_process([*jobs, *jobs], work)


def yields_rows(jobs, work):
    return (work(job).row for job in jobs)


def changes_rows(jobs, work):
    return (replace(r, row={**r.row, "more": 1}) for r in run_in_process(jobs, work))


def hides_errors(jobs, work):
    for job in jobs:
        try:
            yield work(job)
        except Exception:
            return


def translates_errors(jobs, work):
    try:
        yield from map(work, jobs)
    except Exception as error:
        raise RuntimeError("remote") from error


EXECUTORS = {
    collects_all: "keeps results until all jobs are done",
    loses_one: "gives results of the jobs",
    runs_twice: "gives results of the jobs",
    yields_rows: "The executor yields a dict",
    changes_rows: "changes the result of arm",
    hides_errors: "is silent about a job that raised",
    translates_errors: "raises RuntimeError where the job raised SignforgeError",
}


@pytest.mark.parametrize(("executor", "sentence"), EXECUTORS.items(), ids=lambda e: str(e)[:20])
def test_broken_executors(executor, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_executor(executor, patience=0.2)


class TestRunInProcess(ExecutorContract):
    @pytest.fixture
    def executor(self):
        return run_in_process

    def test_check_executor(self, executor):
        check_executor(executor)


class TestReads(ReaderContract):
    @pytest.fixture
    def reader(self):
        return reads

    @pytest.fixture
    def argument(self):
        return "words"

    def test_check_reader(self, reader, argument):
        check_reader(reader, argument)
