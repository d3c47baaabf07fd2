import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from signforge.errors import SignforgeError
from signforge.gan import losses
from signforge.gan.augment import diff_augment
from signforge.gan.batches import BatchSource
from signforge.gan.distributed import Share
from signforge.gan.ema import ema_update
from signforge.gan.networks import UNKNOWN_CLASS, ProjectionDiscriminator
from signforge.gan.step import (
    build_training_state,
    dropout_factors,
    gan_step,
    measure_images_per_second,
)
from signforge.gan.warmup import set_warmup
from signforge.seeds import derive_seed

CPU = torch.device("cpu")
GOLDEN = Path(__file__).with_name("golden_losses.json")


def run_steps(config, train, steps):
    """Losses and state after so many steps, as ``train_cgan`` takes them."""
    state = build_training_state(
        config, num_classes=train.num_classes, resolution=train.resolution, device=CPU
    )
    batches = BatchSource(train, config.class_prior, CPU)
    values = []
    for step in range(steps):
        rng = torch.Generator().manual_seed(derive_seed(config.seed, step))
        penalty = step % config.r1_every_steps == 0
        values.append(gan_step(state, batches, config, rng, with_penalty=penalty))
    return values, state


def weights(state):
    return {
        f"{name}.{key}": value.clone()
        for name, module in state.modules().items()
        for key, value in module.state_dict().items()
    }


def test_losses_of_twenty_steps_are_the_golden_ones(make_config, make_train):
    # To renew the file on purpose, store what the failing test prints.
    values, _ = run_steps(make_config(), make_train(), 20)
    fresh = [
        {key: round(float(v), 6) for key, v in asdict(step).items() if key != "finite"}
        for step in values
    ]
    golden = json.loads(GOLDEN.read_text())
    assert len(golden) == 20
    for got, wanted in zip(fresh, golden, strict=True):
        assert got == pytest.approx(wanted, rel=1e-3, abs=2e-4), json.dumps(fresh)


def test_a_step_moves_both_players_and_gives_finite_scalars(make_config, make_train):
    config, train = make_config(), make_train()
    _, start = run_steps(config, train, 0)
    values, state = run_steps(config, train, 1)
    for value in asdict(values[0]).values():
        assert value.shape == ()
        assert value.isfinite()
        assert not value.requires_grad
    before, after = weights(start), weights(state)
    for name, module in state.modules().items():
        for key, _ in module.named_parameters():
            same = torch.equal(before[f"{name}.{key}"], after[f"{name}.{key}"])
            assert same == (name in {"ema", "guide"}), f"{name}.{key}"
    assert all(p.requires_grad for p in state.discriminator.parameters())


@pytest.mark.parametrize("fresh", [True, False])
def test_fakes_are_drawn_anew_for_the_generator_or_once_for_both(make_config, make_train, fresh):
    config, train = make_config(augment=[], fresh_fakes=fresh), make_train()
    state = build_training_state(config, num_classes=3, resolution=8, device=CPU)
    drawn, judged = [], []
    state.generator.register_forward_hook(lambda _module, _inputs, images: drawn.append(images))
    state.discriminator.register_forward_pre_hook(
        lambda _module, inputs: judged.append(inputs[0].detach().clone())
    )
    rng = torch.Generator().manual_seed(0)
    gan_step(state, BatchSource(train, "uniform", CPU), config, rng, with_penalty=False)
    assert len(drawn) == (2 if fresh else 1)
    assert [images.requires_grad for images in drawn] == ([False, True] if fresh else [True])
    of_discriminator, of_generator = judged
    assert torch.equal(of_discriminator[config.batch_size :], drawn[0])
    assert torch.equal(of_generator, drawn[-1])
    assert torch.equal(drawn[0], drawn[-1]) != fresh


def test_the_guide_sees_the_fakes_in_another_light_and_place_at_every_step(make_config, make_train):
    config = make_config(augment=[], fresh_fakes=False)
    state = build_training_state(config, num_classes=3, resolution=8, device=CPU)
    drawn, looked_at = [], []
    state.generator.register_forward_hook(lambda _module, _inputs, images: drawn.append(images))
    state.guide.register_forward_pre_hook(lambda _module, inputs: looked_at.append(inputs[0]))
    batches = BatchSource(make_train(), "uniform", CPU)
    rng, again = (torch.Generator().manual_seed(5) for _ in range(2))
    gan_step(state, batches, config, rng, with_penalty=False)
    batches.batch(config.batch_size, again)
    torch.randn((config.batch_size, config.z_dim), generator=again)
    (fakes,), (view,) = drawn, looked_at
    assert torch.equal(view, diff_augment(fakes, ("color", "translation"), again))
    assert not torch.equal(view, fakes)
    assert view.requires_grad


def test_each_player_gets_gradients_from_its_own_loss_only(make_config, make_train, monkeypatch):
    config, train = make_config(), make_train()
    state = build_training_state(config, num_classes=3, resolution=8, device=CPU)
    seen = {}
    original = losses.generator_loss

    def spy(fake_logits):
        seen["generator"] = [p.grad for p in state.generator.parameters()]
        seen["discriminator"] = [p.grad.clone() for p in state.discriminator.parameters()]
        return original(fake_logits)

    monkeypatch.setattr(losses, "generator_loss", spy)
    rng = torch.Generator().manual_seed(0)
    gan_step(state, BatchSource(train, "uniform", CPU), config, rng, with_penalty=True)
    assert all(grad is None for grad in seen["generator"])
    assert any(grad.abs().sum() > 0 for grad in seen["discriminator"])
    after = [p.grad for p in state.discriminator.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(seen["discriminator"], after, strict=True))
    assert any(p.grad.abs().sum() > 0 for p in state.generator.parameters())


def test_the_penalty_changes_the_discriminator_but_not_the_loss(make_config, make_train):
    train = make_train()
    one, two = (run_steps(make_config(r1_gamma=gamma), train, 1) for gamma in (0.0, 1.0))
    assert torch.equal(one[0][0].discriminator_loss, two[0][0].discriminator_loss)
    a, b = weights(one[1]), weights(two[1])
    assert any(not torch.equal(a[key], b[key]) for key in a if key.startswith("discriminator."))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_is_bit_identical_and_another_is_not(make_config, make_train, precision):
    train = make_train()
    one, two, other = (
        run_steps(make_config(seed=seed, precision=precision), train, 3) for seed in (5, 5, 6)
    )
    assert one[0] == two[0]
    a, b, c = weights(one[1]), weights(two[1]), weights(other[1])
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert any(not torch.equal(a[key], c[key]) for key in a)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_nothing_reads_or_moves_the_global_random_state(make_config, make_train, dropout):
    config = make_config(discriminator_dropout=dropout)
    before = torch.random.get_rng_state()
    one = run_steps(config, make_train(), 2)[0]
    assert torch.equal(before, torch.random.get_rng_state())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        two = run_steps(config, make_train(), 2)[0]
    assert one == two
    assert (dropout == 0) == (one == run_steps(make_config(), make_train(), 2)[0])


def test_dropout_leaves_out_whole_channels_and_keeps_the_mean(make_config):
    config = make_config(discriminator_dropout=0.25, batch_size=1000)
    rng = torch.Generator().manual_seed(0)
    factors = dropout_factors(8, config, rng, Share(parts=2))
    assert factors.shape == (2000, 8, 1, 1)
    assert factors.unique().tolist() == pytest.approx([0, 4 / 3])
    assert factors.mean() == pytest.approx(1, abs=5 * (1 / 3 / 16000) ** 0.5)


@pytest.mark.parametrize("rank", [0, 1])
def test_dropout_of_a_share_is_a_part_of_that_of_the_batch(make_config, rank):
    config = make_config(discriminator_dropout=0.5, batch_size=6)
    whole, own = (
        dropout_factors(4, config, torch.Generator().manual_seed(1), share)
        for share in (Share(parts=2), Share(rank, 2, 2))
    )
    pair = whole.unflatten(0, (2, 6))[:, 3 * rank : 3 * rank + 3]
    assert torch.equal(own, pair.flatten(0, 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "relativistic"},
        {"loss": "hinge"},
        {"fresh_fakes": True},
        {"spectral_norm": True},
        {"lecam_weight": 0.1},
        {"gsr_weight": 0.5},
        {"guide_weight": 0.0},
        {"upsample": "resize"},
        {"augment": ("geometric",)},
        {"class_prior": "tempered"},
    ],
    ids=str,
)
def test_every_option_trains_and_makes_a_difference(make_config, make_train, changes):
    train = make_train()
    _, plain = run_steps(make_config(), train, 3)
    values, changed = run_steps(make_config(**changes), train, 3)
    assert all(value.isfinite() for value in asdict(values[-1]).values())
    a, b = weights(plain), weights(changed)
    shared = a.keys() & b.keys()
    assert any(not torch.equal(a[key], b[key]) for key in shared if a[key].shape == b[key].shape)


@pytest.mark.parametrize("poisoned", ["discriminator", "generator"])
def test_a_network_whose_loss_is_not_finite_is_left_as_it_was(
    make_config, make_train, monkeypatch, poisoned
):
    config, train = make_config(), make_train()
    _, state = run_steps(config, train, 2)
    original = getattr(losses, f"{poisoned}_loss")
    monkeypatch.setattr(
        losses, f"{poisoned}_loss", lambda *logits: original(*logits) * float("nan")
    )
    before = {k: v.clone() for k, v in weights(state).items()}
    moments = copy.deepcopy(getattr(state, f"{poisoned}_optimizer").state_dict()["state"])
    rng = torch.Generator().manual_seed(99)
    values = gan_step(state, BatchSource(train, "uniform", CPU), config, rng, with_penalty=False)

    assert not values.finite
    trained = {
        name: [f"{name}.{key}" for key, _ in state.modules()[name].named_parameters()]
        for name in ("discriminator", "generator")
    }
    after = weights(state)
    for name, keys in trained.items():
        same = all(torch.equal(before[key], after[key]) for key in keys)
        assert same == (name == poisoned)
    now = getattr(state, f"{poisoned}_optimizer").state_dict()["state"]
    assert all(torch.equal(moments[i][key], now[i][key]) for i in moments for key in moments[i])


def test_a_gradient_that_is_not_finite_counts_though_the_loss_is(
    make_config, make_train, monkeypatch
):
    config, train = make_config(), make_train()
    _, state = run_steps(config, train, 1)

    def endless_slope(fake_logits):
        return (fake_logits - fake_logits.detach()).abs().sqrt().sum()

    monkeypatch.setattr(losses, "generator_loss", endless_slope)
    before = {k: v.clone() for k, v in weights(state).items()}
    rng = torch.Generator().manual_seed(99)
    values = gan_step(state, BatchSource(train, "uniform", CPU), config, rng, with_penalty=False)
    assert values.generator_loss.isfinite()
    assert not values.finite
    for key, _ in state.generator.named_parameters():
        assert torch.equal(before[f"generator.{key}"], weights(state)[f"generator.{key}"])


def test_ordinary_steps_are_finite(make_config, make_train):
    assert all(values.finite for values in run_steps(make_config(), make_train(), 3)[0])


def test_speed_is_measured_in_images_a_second(make_config, make_train):
    assert measure_images_per_second(make_config(), make_train(), steps=2) > 1


# --- what an ablation may add --------------------------------------------------------------------

ALMOST_FROZEN = 1e-9


def gaps(values):
    """By how much real images get higher logits than fakes of the same classes, in each step."""
    return torch.stack([step.real_logits_mean - step.fake_logits_mean for step in values])


def test_the_anchors_follow_the_means_of_real_and_of_fake_logits(make_config, make_train):
    config = make_config(loss="relativistic", lecam_weight=0.1)
    (values,), state = run_steps(config, make_train(), 1)
    assert abs(float(gaps([values]))) > 0.01
    means = torch.stack([values.real_logits_mean, values.fake_logits_mean])
    anchors = state.discriminator.logit_anchors
    torch.testing.assert_close(anchors, 0.01 * means, rtol=1e-4, atol=0)


def test_a_relativistic_discriminator_comes_to_prefer_real_images(make_config, make_train):
    config = make_config(loss="relativistic", generator_learning_rate=ALMOST_FROZEN)
    values, _ = run_steps(config, make_train(), 30)
    assert gaps(values)[-5:].mean() > gaps(values)[0] + 0.3


def test_a_relativistic_generator_comes_to_please_the_discriminator(make_config, make_train):
    config = make_config(
        loss="relativistic",
        generator_learning_rate=1e-2,
        discriminator_learning_rate=ALMOST_FROZEN,
        guide_weight=0.0,
    )
    values, _ = run_steps(config, make_train(), 30)
    assert gaps(values)[-5:].mean() < gaps(values)[0] - 0.2


def test_under_a_hinge_a_discriminator_prefers_real_images_and_a_generator_pleases_it(
    make_config, make_train
):
    hinge = {"loss": "hinge", "spectral_norm": True, "r1_gamma": 0.0, "guide_weight": 0.0}
    config = make_config(**hinge, generator_learning_rate=ALMOST_FROZEN)
    values, _ = run_steps(config, make_train(), 60)
    assert gaps(values)[-5:].mean() > gaps(values)[0] + 0.3
    hinge |= {"augment": ()}  # both networks' losses are of the same fakes
    frozen = {"generator_learning_rate": 1e-2, "discriminator_learning_rate": ALMOST_FROZEN}
    values, _ = run_steps(make_config(**hinge, **frozen), make_train(), 30)
    assert gaps(values)[-5:].mean() < gaps(values)[0] - 0.05
    for step in values:
        assert step.generator_loss == pytest.approx(-float(step.fake_logits_mean), abs=0.05)


def test_spectral_norm_holds_every_weight_of_the_discriminator_at_one(make_config, make_train):
    _, state = run_steps(make_config(spectral_norm=True), make_train(), 30)
    discriminator = state.discriminator
    weights = [layer.weight for layer in discriminator.modules() if is_parametrized(layer)]
    assert len(weights) == len(discriminator.downsamples) + 4
    for weight in weights:
        largest = torch.linalg.svdvals(weight.detach().flatten(1))[0]
        assert float(largest) == pytest.approx(1, abs=0.15)


def test_lecam_keeps_real_and_fake_logits_together(make_config, make_train):
    def gap(weight):
        config = make_config(generator_learning_rate=ALMOST_FROZEN, lecam_weight=weight)
        values, _ = run_steps(config, make_train(), 30)
        return float(gaps(values)[-10:].mean())

    assert 0 < gap(1.0) < gap(0.0) / 2


def test_group_spectral_regularisation_shrinks_what_each_class_adds(make_config, make_train):
    train = make_train()

    def penalty(weight):
        _, state = run_steps(make_config(gsr_weight=weight), train, 20)
        vectors = [v.detach() for v in state.generator.class_norm_parameters()]
        return sum(float(losses.group_spectral_penalty(v, train.class_counts)) for v in vectors)

    assert penalty(10.0) < penalty(0.0) / 2


# --- compiled ------------------------------------------------------------------------------------

# torch's tracer looks at the gradient of every input, also of images that the generator made.
tracing = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture
def compiles_cheaply(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.nn.Module]]:
    """Traces and differentiates ahead of time, as the default backend does, but writes no C++ nor
    Triton: that takes a minute and a compiler, and changes no derivative. Yields what it compiled.
    """
    compiled = []
    original = torch.compile

    def spy(call, *args, **options):
        compiled.append(call.__self__)
        return original(call, *args, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", spy)
    torch.compiler.reset()
    yield compiled
    torch.compiler.reset()


@tracing
@pytest.mark.parametrize("changes", [{}, {"loss": "relativistic"}], ids=str)
def test_compiled_networks_take_the_same_steps(make_config, make_train, compiles_cheaply, changes):
    train = make_train()
    config = partial(make_config, r1_every_steps=2, **changes)
    plain, state = run_steps(config(), train, 3)
    assert not compiles_cheaply
    values, compiled = run_steps(config(compile=True), train, 3)
    assert compiles_cheaply == [compiled.generator, compiled.discriminator]
    for one, two in zip(plain, values, strict=True):
        for key, value in asdict(two).items():
            assert float(value) == pytest.approx(float(getattr(one, key)), rel=1e-3, abs=1e-4)
    a, b = weights(state), weights(compiled)
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[key], b[key], rtol=1e-2, atol=1e-3) for key in a)


@tracing
def test_speed_of_compiled_networks_is_measured_too(make_config, make_train, compiles_cheaply):
    config = make_config(compile=True, r1_every_steps=1)
    assert measure_images_per_second(config, make_train(), steps=2) > 1
    assert len(compiles_cheaply) == 2


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_the_discriminator_is_told_the_class_of_a_share_of_the_images(
    make_config, make_train, monkeypatch, share
):
    config, train = make_config(projection_share=share, batch_size=64), make_train()
    told = []
    original = ProjectionDiscriminator.forward

    def spy(network, images, labels, channel_factors):
        told.append(labels)
        return original(network, images, labels, channel_factors)

    monkeypatch.setattr(ProjectionDiscriminator, "forward", spy)
    before = weights(run_steps(config, train, 0)[1])
    _, state = run_steps(config, train, 4)
    real, fake = told[0].chunk(2)
    assert torch.equal(real, fake)  # no difference in what is told may tell fakes from real images
    known = torch.cat([labels != UNKNOWN_CLASS for labels in told]).double().mean()
    assert float(known) == pytest.approx(share, abs=0.1)
    moved = not torch.equal(
        before["discriminator.embedding.weight"], state.discriminator.embedding.weight
    )
    assert moved == (share > 0)


# --- on another device ---------------------------------------------------------------------------

META = torch.device("meta")


class OnMeta(torch.Generator):
    """What a GPU's generator would be: draws where the images lie."""

    device = META


class Crossings(TorchDispatchMode):
    """Notes what crosses between the host and the device; a GPU's host waits for each."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        if len({t.device for t in tensors}) > 1:
            self.found.append(str(func))
        return out


@pytest.fixture
def adam_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has the fused update for tensors without values, but only lets real devices ask."""
    adam = sys.modules[torch.optim.Adam.__module__]  # torch.optim hides its name
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_, **__: None)


@pytest.mark.usefixtures("adam_on_meta")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "loss": "relativistic",
            "upsample": "resize",
            "lecam_weight": 0.1,
            "gsr_weight": 0.1,
            "projection_share": 0.5,
            "discriminator_dropout": 0.2,
            "augment": ("color", "translation", "geometric", "cutout"),
            "augment_probability": 0.5,
            "class_prior_warmup_kimg": 1.0,
            "conditioning_warmup_kimg": 1.0,
        },
    ],
    ids=["recipe", "all else"],
)
def test_a_step_stays_on_the_device_and_waits_for_nothing(make_config, make_train, changes):
    """Tensors on meta have no values: asking for one is an error there, and a wait on a GPU."""
    config, train = make_config(**changes), make_train()
    state = build_training_state(config, num_classes=3, resolution=8, device=META)
    batches = BatchSource(train, config.class_prior, META)
    with Crossings() as crossings:
        for with_penalty in (True, False):
            set_warmup(state, batches, config, 0.5)
            values = gan_step(state, batches, config, OnMeta(), with_penalty=with_penalty)
            ema_update(state.ema, state.generator, 0.9)
    assert crossings.found == []
    assert {value.device for value in asdict(values).values()} == {META}


def test_what_crosses_to_the_device_is_noticed():
    with Crossings() as crossings:
        torch.zeros(3).to(META)
    assert crossings.found == ["aten._to_copy.default"]
    with pytest.raises(RuntimeError, match=r"\.item\(\)"):
        bool(torch.zeros((), device=META))


def test_an_apple_gpu_is_refused_in_one_sentence(make_config):
    with pytest.raises(SignforgeError, match=r"cannot train on an Apple GPU.* --device cpu"):
        build_training_state(make_config(), num_classes=3, resolution=8, device=torch.device("mps"))


def test_building_networks_seeds_no_generator_of_a_gpu(make_config, monkeypatch):
    def everywhere(_seed):
        raise AssertionError("torch.manual_seed seeds those of every device")

    monkeypatch.setattr(torch, "manual_seed", everywhere)
    before = torch.get_rng_state()
    build_training_state(make_config(), num_classes=3, resolution=8, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
