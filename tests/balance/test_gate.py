import pytest
import torch

from signforge.balance.gate import draw_accepted, measure_acceptance
from signforge.errors import SignforgeError
from signforge.seeds import derive_seed

LABELS = torch.tensor([0, 1, 0, 2, 1])


def marked(labels, attempt):
    """One pixel that says which class it is and at which attempt it was drawn."""
    return (labels * 10 + attempt).view(-1, 1, 1, 1).expand(-1, 3, 1, 1).to(torch.uint8).clone()


def test_without_a_gate_every_first_draw_is_kept():
    images, accepted = draw_accepted(marked, LABELS, gate=None, attempts=3)
    assert images[:, 0, 0, 0].tolist() == [0, 10, 0, 20, 10]
    assert accepted.all()


def test_what_is_rejected_is_drawn_again_up_to_the_last_attempt():
    def gate(images, labels):
        # class c passes from its c-th redrawing on
        return images[:, 0, 0, 0] % 10 >= labels

    images, accepted = draw_accepted(marked, LABELS, gate=gate, attempts=2)
    assert images[:, 0, 0, 0].tolist() == [0, 11, 0, 21, 11]
    assert accepted.tolist() == [True, True, True, False, True]
    images, accepted = draw_accepted(marked, LABELS, gate=gate, attempts=9)
    assert images[:, 0, 0, 0].tolist() == [0, 11, 0, 22, 11]
    assert accepted.all()


def test_acceptance_is_the_share_of_trial_draws_that_pass(make_sampler):
    sampler = make_sampler()
    seen = []

    def gate(images, labels):
        seen.append((images, labels))
        # the noise of the template is uniform on 0..31: three of four pass
        return (labels == 1) | ((labels == 3) & (images[:, 0, 0, 0] - 53 * labels < 24))

    acceptance = measure_acceptance(sampler, gate, torch.tensor([0, 1, 3]), draws=400, seed=5)
    assert acceptance.dtype == torch.float64
    assert acceptance[:2].tolist() == [0.0, 1.0]
    assert acceptance[2].isnan()
    assert acceptance[3] == pytest.approx(0.75, abs=0.09)  # four standard errors
    assert [len(images) for images, _ in seen] == [400] * 3
    last = sampler.sample(torch.full((400,), 3), derive_seed(5, 3))
    assert torch.equal(seen[-1][0], last)
    assert acceptance[3] == gate(last, torch.full((400,), 3)).double().mean()


def test_acceptance_of_a_class_depends_on_the_seed_and_on_no_other_class(make_sampler):
    def gate(images, _):
        return images[:, 1, 2, 3] % 2 == 0

    def measure(labels, seed):
        return measure_acceptance(make_sampler(), gate, torch.tensor(labels), seed=seed)

    assert measure([3], 1)[3] == measure([2, 0, 3], 1)[3]
    assert len({float(measure([3], seed)[3]) for seed in range(8)}) > 1


def test_the_gate_sees_images_in_the_size_of_the_data(make_sampler):
    sizes = set()

    def gate(images, labels):
        sizes.add(tuple(images.shape))
        return torch.ones(len(labels), dtype=torch.bool)

    measure_acceptance(make_sampler(), gate, torch.tensor([0]), draws=6, seed=0, size=(12, 10))
    measure_acceptance(make_sampler(), gate, torch.tensor([0]), draws=6, seed=0)
    assert sizes == {(6, 3, 12, 10), (6, 3, 8, 8)}


def test_no_class_to_try_draws_nothing(make_sampler):
    sampler = make_sampler()
    acceptance = measure_acceptance(sampler, lambda *_: None, torch.tensor([]).long(), seed=0)
    assert acceptance.isnan().all()
    assert sampler.calls == []


def test_trials_report_progress(make_sampler):
    seen = []

    def track(items, description, total):
        seen.append((description, total))
        return iter(items)

    keep = lambda _, labels: labels >= 0  # noqa: E731
    measure_acceptance(make_sampler(), keep, torch.tensor([0, 2]), seed=0, track=track)
    assert seen == [("Trying the gate", 2)]


@pytest.mark.parametrize("answer", [torch.ones(3, dtype=torch.bool), torch.ones(4)])
def test_bad_gate(make_sampler, answer):
    with pytest.raises(SignforgeError, match=r"gate must return a bool mask of shape \(4,\)"):
        measure_acceptance(make_sampler(), lambda *_: answer, torch.tensor([0]), draws=4, seed=0)
