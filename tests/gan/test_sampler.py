import errno
import json
import os
import pickle
import re
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_tensors
from scipy import stats

from signforge.errors import SignforgeError
from signforge.files import sha256
from signforge.gan import sampler as sampler_module
from signforge.gan.sampler import (
    NEW_WEIGHTS_FILE,
    ClassConditionalSampler,
    GanSampler,
    draw_latents,
    from_uint8,
    load_sampler,
    read_generator,
    save_sampler,
    to_uint8,
)
from signforge.testing import check_sampler
from support.interruptions import Killed, interrupted

LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2])


@pytest.fixture
def run(make_sampler, tmp_path):
    """A run directory with a generator in it."""
    sampler = make_sampler()
    save_sampler(tmp_path, sampler.generator, sampler.card)
    return tmp_path


class Planted:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def vouch_for(run: Path, weights: bytes) -> None:
    """Puts ``weights`` in place, with the hash that generator.json then needs."""
    card = json.loads((run / "generator.json").read_text())
    card["weights_sha256"] = sha256(weights)
    (run / "generator.safetensors").write_bytes(weights)
    (run / "generator.json").write_text(json.dumps(card))


def test_it_satisfies_the_protocol(make_sampler):
    sampler = make_sampler()
    assert isinstance(sampler, ClassConditionalSampler)
    assert not isinstance(object(), ClassConditionalSampler)
    assert (sampler.num_classes, sampler.resolution) == (3, 8)
    assert sampler.class_names == ("stop", "yield", "no entry")


def test_samples_are_bytes_and_repeat_with_labels_and_seed(make_sampler):
    sampler = make_sampler()
    images = sampler.sample(LABELS, 4)
    assert images.dtype == torch.uint8
    assert images.shape == (7, 3, 8, 8)
    assert images.float().std() > 10
    assert torch.equal(images, sampler.sample(LABELS, 4))
    assert not torch.equal(images, sampler.sample(LABELS, 5))
    other_class = sampler.sample((LABELS + 1) % 3, 4)
    assert (images != other_class).flatten(1).any(dim=1).all()


def test_sampling_neither_reads_nor_moves_the_global_random_state(make_sampler):
    sampler = make_sampler()
    before = torch.random.get_rng_state()
    sampler.sample(LABELS, 4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_images_may_be_changed_in_place(make_sampler):
    images = make_sampler().sample(LABELS, 0)
    images[0] = 0
    assert not images.is_inference()


def test_no_label_is_no_image(make_sampler):
    assert make_sampler().sample(torch.empty(0, dtype=torch.int64), 0).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_images_do_not_depend_on_how_they_are_batched(make_sampler, monkeypatch, batch):
    sampler = make_sampler()
    expected = sampler.sample(LABELS, 4).int()
    monkeypatch.setattr(sampler_module, "SAMPLING_BATCH", batch)
    assert (sampler.sample(LABELS, 4).int() - expected).abs().max() <= 1


@pytest.mark.parametrize(("label", "given"), [(3, "0..3"), (-1, "-1..0")])
def test_a_label_that_is_no_class_is_named(make_sampler, label, given):
    with pytest.raises(SignforgeError, match=f"must lie in 0..2, got {given}"):
        make_sampler().sample(torch.tensor([0, label]), 0)


def test_bytes_and_floats_convert_both_ways():
    levels = torch.arange(256, dtype=torch.uint8)
    floats = from_uint8(levels)
    assert (float(floats[0]), float(floats[-1])) == (-1, 1)
    assert torch.equal(to_uint8(floats), levels)
    assert to_uint8(torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5])).tolist() == [0, 0, 128, 255, 255]


# --- truncation ----------------------------------------------------------------------------------


def truncated(sampler: GanSampler, truncation: float) -> GanSampler:
    return GanSampler(sampler.generator, sampler.card, sampler.device, truncation=truncation)


def test_without_truncation_latents_are_plain_normal_numbers_of_the_seed(make_sampler):
    rng = torch.Generator().manual_seed(4)
    expected = torch.randn((7, 8), generator=rng)
    assert torch.equal(draw_latents(7, 8, 4), expected)
    sampler = make_sampler()
    assert sampler.truncation is None
    assert torch.equal(sampler.sample(LABELS, 4), to_uint8(sampler.generator(expected, LABELS)))


@pytest.mark.parametrize("truncation", [0.01, 0.5, 1.0, 2.0, 6.0, 50.0])
def test_truncated_latents_have_the_normal_law_cut_off(truncation):
    z, full = draw_latents(4000, 10, 0, truncation=truncation), draw_latents(4000, 10, 0)
    assert z.dtype == torch.float32
    assert float(z.abs().max()) <= truncation
    kept = full.abs() <= truncation
    assert torch.equal(z[kept], full[kept])
    law = stats.truncnorm(-truncation, truncation)
    assert stats.kstest(z.flatten().numpy(), law.cdf).pvalue > 0.01
    if kept.sum() < 39_900:  # also of those alone that were drawn anew
        assert stats.kstest(z[~kept].numpy(), law.cdf).pvalue > 0.01
    assert torch.equal(z, draw_latents(4000, 10, 0, truncation=truncation))


def test_a_truncated_sampler_draws_other_images_under_another_fingerprint(make_sampler, run):
    check_sampler(truncated(make_sampler(), 0.5))
    full, half, one, wide = (
        load_sampler(run, "cpu", truncation=truncation) for truncation in (None, 0.5, 1, 50.0)
    )
    assert len({sampler.fingerprint[:12] for sampler in (full, half, one, wide)}) == 4
    assert one.fingerprint == load_sampler(run, "cpu", truncation=1.0).fingerprint
    images = [sampler.sample(LABELS, 4) for sampler in (full, half, one, wide)]
    assert torch.equal(images[0], images[3])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(images[a], images[b])


def test_the_smaller_the_truncation_the_less_varied_the_images(make_sampler):
    sampler, labels = make_sampler(), torch.zeros(200, dtype=torch.int64)
    spreads = [
        float(truncated(sampler, t).sample(labels, 0).float().std(dim=0).mean())
        for t in (0.1, 0.5, 1.0, 2.0)
    ]
    assert spreads == sorted(spreads)
    assert spreads[0] < spreads[-1] / 3


@pytest.mark.parametrize("truncation", [0, -1.0, float("nan"), float("inf")])
def test_a_truncation_that_leaves_nothing_is_one_sentence(run, truncation):
    with pytest.raises(SignforgeError, match=f"The truncation is {truncation}; give a positive"):
        load_sampler(run, "cpu", truncation=truncation)


# --- on disk -------------------------------------------------------------------------------------


def test_a_saved_sampler_comes_back_exactly(make_sampler, run):
    saved, loaded = make_sampler(), load_sampler(run, "cpu")
    assert torch.equal(saved.sample(LABELS, 9), loaded.sample(LABELS, 9))
    one, two = saved.generator.state_dict(), loaded.generator.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert loaded.card == saved.card.model_copy(update={"weights_sha256": loaded.fingerprint})
    assert loaded.fingerprint == sha256((run / "generator.safetensors").read_bytes())
    assert not loaded.generator.training
    assert load_sampler(str(run)).fingerprint == loaded.fingerprint


def test_the_fingerprint_changes_with_the_weights(make_sampler, run, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    sampler = make_sampler(seed=1)
    save_sampler(other, sampler.generator, sampler.card)
    assert load_sampler(run).fingerprint != load_sampler(other).fingerprint


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(SignforgeError, match=r"holds no generator\.json; give the folder"):
            load_sampler(path)


def test_missing_weights_are_one_sentence(run):
    (run / "generator.safetensors").unlink()
    with pytest.raises(SignforgeError, match=r"cannot be read: .*No such file") as error:
        load_sampler(run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("place", [0, 200, -1])
def test_a_flipped_byte_in_the_weights_is_refused(run, place):
    path = run / "generator.safetensors"
    weights = bytearray(path.read_bytes())
    weights[place] ^= 1
    path.write_bytes(weights)
    with pytest.raises(SignforgeError, match=r"not the file that generator\.json describes"):
        load_sampler(run)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _text: "",
        lambda text: text[: len(text) // 2],
        lambda _text: "[]",
        lambda text: text.replace('"z_dim": 8', '"z_dim": -8'),
        lambda text: text.replace('"z_dim": 8', '"z_dim": 8, "hook": "os.system"'),
        lambda text: text.replace('"resolution": 8', '"resolution": 9'),
        lambda text: text.replace('"seconds"', '"hours"'),
        lambda text: text.replace('"z_dim": 8', '"z_dim": 9'),
        lambda text: text.replace('"no entry"', '"no entry", "one more"'),
        lambda text: re.sub(r'"class_counts": \[\s*\d+,', '"class_counts": [', text),
        lambda text: text.replace('"resolution": 8', '"resolution": ' + "8" * 5000),
        lambda _text: "[" * 200_000,
    ],
)
def test_a_tampered_card_is_one_sentence(run, damage):
    path = run / "generator.json"
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.raises(SignforgeError) as error:
        load_sampler(run)
    assert "\n" not in str(error.value)


def test_a_pickle_in_place_of_the_weights_never_runs(run, tmp_path):
    sentinel = tmp_path / "it-ran"
    payload = pickle.dumps(Planted(sentinel))
    vouch_for(run, payload)
    with pytest.raises(SignforgeError, match=r"does not fit generator\.json"):
        load_sampler(run)
    (run / "generator.json").write_bytes(payload)
    with pytest.raises(SignforgeError, match="cannot be read"):
        load_sampler(run)
    assert not sentinel.exists()
    pickle.loads(payload)
    assert sentinel.exists(), "the payload must be one that works"


@pytest.mark.parametrize("change", ["missing", "surplus", "shape"])
def test_weights_of_another_network_are_one_sentence(make_sampler, run, change):
    weights = make_sampler().generator.state_dict()
    tensors = {name: value.contiguous() for name, value in weights.items()}
    if change == "missing":
        del tensors["to_rgb.bias"]
    elif change == "surplus":
        tensors["more"] = torch.zeros(1)
    else:
        tensors["to_rgb.bias"] = torch.zeros(4)
    vouch_for(run, save_tensors(tensors))
    with pytest.raises(SignforgeError, match=r"does not fit generator\.json: ") as error:
        load_sampler(run)
    assert "\n" not in str(error.value)


def test_a_generator_stored_in_bf16_is_half_as_big_and_draws_nearly_the_same(
    make_sampler, tmp_path
):
    sampler = make_sampler()
    sizes = []
    for name, dtype in (("full", torch.float32), ("half", torch.bfloat16)):
        save_sampler(tmp_path / name, sampler.generator, sampler.card, dtype)
        sizes.append((tmp_path / name / "generator.safetensors").stat().st_size)
    full, half = (load_sampler(tmp_path / name, "cpu") for name in ("full", "half"))
    assert sizes[1] < 0.7 * sizes[0]
    assert all(weights.dtype == torch.float32 for weights in half.generator.parameters())
    assert full.fingerprint != half.fingerprint
    a, b = (model.sample(LABELS, 0).int() for model in (full, half))
    assert 0 < (a - b).abs().float().mean() < 2


# --- interrupted at every place ------------------------------------------------------------------


def save_interrupted(run, sampler, at_call, error) -> list[str]:
    with suppress(Killed, SignforgeError), interrupted(at_call, error) as calls:
        save_sampler(run, sampler.generator, sampler.card)
    return calls


@pytest.mark.parametrize("error", [Killed(), OSError(errno.EIO, "Input/output error")])
def test_saves_interrupted_at_every_write_leave_a_pair_that_loads(
    make_sampler, tmp_path, monkeypatch, error
):
    """Two in a row, since the second finds what the first left; then one that comes to its end."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)  # it only takes time here
    samplers = [make_sampler(seed=seed) for seed in range(4)]
    images = [sampler.sample(LABELS, 0) for sampler in samplers]

    def which(run: Path) -> int:
        loaded = load_sampler(run, "cpu")
        card, files = read_generator(run)
        assert card == loaded.card
        assert sha256(files["generator.safetensors"]) == loaded.fingerprint
        (found,) = (
            n for n, drawn in enumerate(images) if torch.equal(drawn, loaded.sample(LABELS, 0))
        )
        return found

    seen = set()
    for first in range(1, 100):
        for second in range(1, 100):
            run = tmp_path / f"{first}-{second}"
            save_sampler(run, samplers[0].generator, samplers[0].card)
            calls = save_interrupted(run, samplers[1], first, error)
            found = which(run)
            assert found in (0, 1)
            later_calls = save_interrupted(run, samplers[2], second, error)
            assert which(run) in (found, 2)
            seen.add((found, which(run)))
            save_sampler(run, samplers[3].generator, samplers[3].card)
            assert which(run) == 3
            left = {path.name for path in run.iterdir() if not path.name.startswith(".")}
            assert left == {"generator.json", "generator.safetensors"}
            if second > len(later_calls):
                break
        if first > len(calls):
            break
    assert first > len(calls) >= 8
    assert seen == {(0, 0), (0, 2), (1, 1), (1, 2)}


def test_a_first_save_interrupted_at_every_write_leaves_none_or_a_whole_one(make_sampler, tmp_path):
    sampler = make_sampler()
    found = []
    for at_call in range(1, 100):
        run = tmp_path / str(at_call)
        calls = save_interrupted(run, sampler, at_call, Killed())
        if not (run / "generator.json").exists():
            with pytest.raises(SignforgeError, match=r"holds no generator\.json"):
                load_sampler(run)
        else:
            found.append((run / NEW_WEIGHTS_FILE).exists())
            assert torch.equal(load_sampler(run).sample(LABELS, 0), sampler.sample(LABELS, 0))
        if at_call > len(calls):
            break
    assert set(found) == {True, False}


@pytest.mark.parametrize("card", ["", "[]", "{}", "3", None])
def test_a_damaged_card_is_replaced_by_the_next_save(make_sampler, run, card):
    (run / NEW_WEIGHTS_FILE).write_bytes(b"of a save that was killed")
    if card is None:
        (run / "generator.json").unlink()
    else:
        (run / "generator.json").write_text(card)
    sampler = make_sampler(seed=1)
    save_sampler(run, sampler.generator, sampler.card)
    assert torch.equal(load_sampler(run).sample(LABELS, 0), sampler.sample(LABELS, 0))
    assert not (run / NEW_WEIGHTS_FILE).exists()


def test_what_a_killed_save_left_before_its_card_is_passed_over(run):
    expected = load_sampler(run, "cpu")
    (run / NEW_WEIGHTS_FILE).write_bytes(b"half")
    assert load_sampler(run, "cpu").fingerprint == expected.fingerprint
