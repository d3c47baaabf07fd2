import json

import pytest

from signforge.benchmark.estimate import dry_run, duration
from signforge.benchmark.fidelity import measure_fidelity
from signforge.benchmark.folder import append_row, config_hash, write_json
from signforge.benchmark.runner import GATE, GENERATOR, run_benchmark
from signforge.errors import SignforgeError
from signforge.evaluate.probe import build_probe
from signforge.gan.checkpoint import last_progress
from signforge.gan.sampler import load_sampler
from signforge.gan.training import train_cgan


@pytest.fixture(scope="module")
def small_gan(config):
    gan = config.gan.model_copy(update={"base_channels": 4, "batch_size": 4, "device": "cpu"})
    return config.model_copy(update={"gan": gan})


STEP, PREDICT, PAIR = 2.0, 0.01, 1e-4
"""Seconds of a training step, of a prediction, and of a pair of images in the fidelity table."""
DRAWN, TRAINED_ON = 50.0, 10.0
"""Images a second that a generator draws, and that the training of one takes."""
GUIDE = 70.0
"""Seconds that the training of the guide takes."""


@pytest.fixture
def known_speeds(monkeypatch):
    """Of a machine that always takes as long."""
    speeds = {
        "estimate.measure_classifier": (STEP, PREDICT),
        "estimate.measure_sampling_rate": DRAWN,
        "estimate.measure_pair_seconds": PAIR,
        "gan_estimate.measure_classifier": (STEP, PREDICT),
        "gan_estimate.measure_guide_seconds": GUIDE,
        "gan_estimate.measure_images_per_second": TRAINED_ON,
    }
    for name, value in speeds.items():
        monkeypatch.setattr(f"signforge.benchmark.{name}", lambda *_args, value=value: value)


def with_options(config, **sections):
    changed = {
        name: getattr(config, name).model_copy(update=options) for name, options in sections.items()
    }
    return config.model_copy(update=changed)


def fidelity_by_hand(rate, cas_steps):
    """190 training and 40 validation images, and as many samples."""
    measured = (190 + 2 * 40) * PREDICT + 40 / rate + 40 * 40 * PAIR
    return measured + cas_steps * (STEP + 16 / rate) + (40 * PREDICT if cas_steps else 0)


def job_by_hand(drawn, seconds_of_image):
    """Three steps, 40 validation and 85 test images, and images drawn in a mean job."""
    return 3 * STEP + (40 + 85) * PREDICT + drawn * seconds_of_image


REFRESHED = 290 * (1 + 0.25 * 3 * 16 / 480)
"""Of the 480 that balancing leaves 290 are drawn, a quarter again in each epoch of 480."""


@pytest.mark.usefixtures("known_speeds")
def test_seconds_add_up_from_steps_and_images(config, splits, sampler, tmp_path):
    plan = dry_run(config, splits, tmp_path, sampler=sampler)
    assert (plan.gan_seconds, plan.gate_seconds) == (0, 0)
    assert plan.extractor_seconds == pytest.approx(5 * STEP)
    assert plan.fidelity_seconds == pytest.approx(fidelity_by_hand(DRAWN, cas_steps=3))
    job = job_by_hand(REFRESHED / 3, 1 / DRAWN)  # one arm of three draws
    assert plan.classifier_seconds == pytest.approx(job)
    shared = 5 * STEP + plan.fidelity_seconds
    assert plan.total_seconds == pytest.approx(shared + 6 * job)

    for arm in ("real", "oversample"):
        append_row(tmp_path, {"arm": arm, "seed": 0, "config_hash": config_hash(config)})
    rest = dry_run(config, splits, tmp_path, sampler=sampler)
    job = job_by_hand(REFRESHED * 2 / 4, 1 / DRAWN)  # two of the four that are left
    assert rest.classifier_seconds == pytest.approx(job)
    assert rest.total_seconds == pytest.approx(shared + 4 * job)


@pytest.mark.usefixtures("known_speeds")
def test_arms_are_charged_for_what_they_draw_and_for_the_gate_they_use(
    config, splits, sampler, tmp_path
):
    balance = {"gate_tau": 0.5, "gate_steps": 100, "gate_folds": 3}
    arms = {"arms": ("real", "synthetic_ungated", "synthetic_tenth+focal_loss")}
    some = with_options(with_options(config, balance=balance), benchmark=arms)
    plan = dry_run(some, splits, tmp_path, sampler=sampler)
    drawn = (1 / DRAWN + (1 / DRAWN + 3 * PREDICT) / 10) / 3
    assert plan.classifier_seconds == pytest.approx(job_by_hand(REFRESHED, drawn))


@pytest.mark.usefixtures("known_speeds")
@pytest.mark.parametrize("refresh", [0.0, 1.0])
def test_a_gate_takes_its_folds_and_a_look_at_every_draw(
    config, splits, sampler, tmp_path, refresh
):
    balance = {"gate_tau": 0.5, "gate_steps": 100, "gate_folds": 3, "refresh": refresh}
    plan = dry_run(with_options(config, balance=balance), splits, tmp_path, sampler=sampler)
    assert plan.gate_seconds == pytest.approx(3 * 100 * STEP + 190 * PREDICT)
    drawn = 290 * (1 + refresh * 3 * 16 / 480)
    job = job_by_hand(drawn / 3, 1 / DRAWN + 3 * PREDICT)
    assert plan.classifier_seconds == pytest.approx(job)
    shared = plan.gate_seconds + plan.extractor_seconds + plan.fidelity_seconds
    assert plan.total_seconds == pytest.approx(shared + 6 * job)


@pytest.mark.usefixtures("known_speeds")
def test_a_gan_to_be_trained_takes_its_images_and_draws_four_times_as_fast(
    config, splits, tmp_path
):
    gan = {"total_kimg": 7.5, "max_minutes": None, "guide_weight": 0, "probe_every_kimg": None}
    plan = dry_run(with_options(config, gan=gan), splits, tmp_path)
    assert (plan.gan_kimg, plan.gan_seconds) == (7.5, pytest.approx(7500 / TRAINED_ON))
    rate = 4 * TRAINED_ON
    assert plan.fidelity_seconds == pytest.approx(fidelity_by_hand(rate, cas_steps=3))
    assert plan.classifier_seconds == pytest.approx(job_by_hand(REFRESHED / 3, 1 / rate))
    shared = plan.gan_seconds + plan.extractor_seconds + plan.fidelity_seconds
    assert plan.total_seconds == pytest.approx(shared + 6 * plan.classifier_seconds)


@pytest.mark.usefixtures("known_speeds")
def test_guide_and_probe_are_charged_until_they_are_there(config, splits, sampler, tmp_path):
    gan = {"probe_classifier": "test_resnet", "probe_steps": 2, "probe_every_kimg": 1.5}
    gan |= {"total_kimg": 3.2, "max_minutes": None, "base_channels": 4, "batch_size": 4}
    asked = with_options(config, gan=gan | {"device": "cpu"})
    run = tmp_path / GENERATOR
    # After 1.5 and 3 kimg and at the end, 32 samples of each of four classes; the real images are
    # 40 for validation, as many of training, and 32, 32, 24 and 6 of the classes.
    looks = (40 + 40 + 94) * PREDICT + 3 * 4 * 32 * (1 / (4 * TRAINED_ON) + PREDICT)
    every = dry_run(asked, splits, tmp_path)
    assert every.gan_seconds == pytest.approx(3200 / TRAINED_ON + GUIDE + 2 * STEP + looks)
    assert "6 min 49 s, guide and probe included" in "\n".join(every.lines)
    build_probe(asked.gan, splits, run)(sampler, 0.0)
    kept = dry_run(asked, splits, tmp_path)
    assert kept.gan_seconds == pytest.approx(3200 / TRAINED_ON + GUIDE + looks)
    few = asked.gan.model_copy(update={"total_kimg": 0.032, "guide_steps": 2})
    train_cgan(few, splits.train, run)
    begun = dry_run(asked, splits, tmp_path)
    assert begun.gan_seconds == pytest.approx(3168 / TRAINED_ON + looks)


def test_a_plan_names_what_would_be_done_and_writes_nothing(config, splits, sampler, tmp_path):
    run_dir = tmp_path / "run"
    plan = dry_run(config, splits, run_dir, sampler=sampler)
    assert not run_dir.exists()
    assert plan.jobs == plan.jobs_left == 6
    assert plan.class_counts == (120, 40, 24, 6)
    assert plan.balanced_counts == (120, 120, 120, 120)
    assert plan.gan_kimg is None
    assert plan.gan_seconds == 0
    assert plan.classifier_seconds > 0
    assert plan.fidelity_seconds > 0
    shared = plan.extractor_seconds + plan.fidelity_seconds
    assert plan.total_seconds == pytest.approx(shared + 6 * plan.classifier_seconds)
    text = "\n".join(plan.lines)
    assert "190 images to train on (6 to 120 a class, imbalance ratio 20.0)" in text
    assert "Balancing adds 290 images and leaves 120 a class." in text
    assert "6 (real, oversample, synthetic with seeds 0, 1), test_resnet, 3 steps of 16" in text
    assert "Fidelity of the generator: " in text
    assert str(run_dir) in text
    assert "GAN:" not in text
    assert "Gate" not in text
    assert json.loads(json.dumps(plan.as_dict()))["total_seconds"] == plan.total_seconds


def test_the_gan_counts_where_it_must_be_trained(small_gan, splits, tmp_path):
    plan = dry_run(small_gan, splits, tmp_path)
    assert plan.gan_kimg == small_gan.gan.total_kimg
    assert plan.gan_seconds > 0
    assert plan.total_seconds > plan.gan_seconds
    gan = small_gan.gan.model_copy(update={"max_minutes": 0.001})
    capped = dry_run(small_gan.model_copy(update={"gan": gan}), splits, tmp_path)
    assert capped.gan_seconds == pytest.approx(0.06)


def test_a_gan_counts_by_what_is_left_of_it(small_gan, splits, tmp_path):
    benchmark = small_gan.benchmark.model_copy(update={"cas_steps": 0})

    def planned(**gan):
        changed = {"gan": small_gan.gan.model_copy(update=gan), "benchmark": benchmark}
        return dry_run(small_gan.model_copy(update=changed), splits, tmp_path)

    trained = small_gan.gan.model_copy(update={"total_kimg": 0.032})
    train_cgan(trained, splits.train, tmp_path / GENERATOR)
    done = last_progress(tmp_path / GENERATOR)
    assert done.seen_images == 32
    more = planned(total_kimg=0.132)
    assert more.gan_kimg == pytest.approx(0.1)
    assert more.gan_seconds > 0
    # The clock goes on too; what it has ended is not trained, and its generator is the one to use.
    minutes = done.seconds / 60
    assert planned(total_kimg=1e6, max_minutes=minutes + 0.001).gan_seconds == pytest.approx(0.06)
    for finished in ({"total_kimg": 0.032}, {"total_kimg": 9.0, "max_minutes": minutes / 2}):
        plan = planned(**finished)
        assert (plan.gan_kimg, plan.gan_seconds) == (None, 0)
        assert plan.fidelity_seconds > 0
    sampler = load_sampler(tmp_path / GENERATOR)
    found = {"sampler_fingerprint": sampler.fingerprint, "per_class": {}}
    write_json(tmp_path / "fidelity.json", found)
    assert planned(total_kimg=0.032).fidelity_seconds == 0


def test_an_extractor_that_is_kept_is_not_counted_again(config, splits, sampler, tmp_path):
    assert dry_run(config, splits, tmp_path, sampler=sampler).extractor_seconds > 0
    measure_fidelity(config, splits, sampler, tmp_path)
    assert dry_run(config, splits, tmp_path, sampler=sampler).extractor_seconds == 0
    steps = config.benchmark.extractor_steps + 1
    benchmark = config.benchmark.model_copy(update={"extractor_steps": steps})
    other = config.model_copy(update={"benchmark": benchmark})
    assert dry_run(other, splits, tmp_path, sampler=sampler).extractor_seconds > 0


def test_the_gate_counts_until_it_is_there(config, splits, sampler, tmp_path):
    balance = config.balance.model_copy(update={"gate_tau": 0.5, "gate_steps": 100})
    gated = config.model_copy(update={"balance": balance})
    plan = dry_run(gated, splits, tmp_path, sampler=sampler)
    assert plan.gate_seconds > 0
    shared = plan.gate_seconds + plan.extractor_seconds + plan.fidelity_seconds
    assert plan.total_seconds == pytest.approx(shared + 6 * plan.classifier_seconds)
    assert "Gate, which keeps bad samples out: " in "\n".join(plan.lines)
    (tmp_path / GATE).mkdir()
    (tmp_path / GATE / "gate.json").touch()
    assert dry_run(gated, splits, tmp_path, sampler=sampler).gate_seconds == 0
    benchmark = config.benchmark.model_copy(update={"arms": ("real", "synthetic_ungated")})
    ungated = gated.model_copy(update={"benchmark": benchmark})
    assert dry_run(ungated, splits, tmp_path / "2", sampler=sampler).gate_seconds == 0


@pytest.mark.usefixtures("known_speeds")
def test_fidelity_counts_by_its_steps_and_until_it_is_measured(config, splits, sampler, tmp_path):
    def planned(cas_steps):
        benchmark = config.benchmark.model_copy(update={"cas_steps": cas_steps})
        asked = config.model_copy(update={"benchmark": benchmark})
        return dry_run(asked, splits, tmp_path, sampler=sampler).fidelity_seconds

    assert planned(0) == pytest.approx(fidelity_by_hand(DRAWN, 0))
    assert planned(2000) == pytest.approx(fidelity_by_hand(DRAWN, 2000))
    found = {"sampler_fingerprint": sampler.fingerprint, "per_class": {}}
    write_json(tmp_path / "fidelity.json", found)
    assert planned(0) == 0
    alone = 20 * (STEP + 16 / DRAWN) + 40 * PREDICT
    assert planned(20) == pytest.approx(alone)
    write_json(tmp_path / "fidelity.json", {**found, "sampler_fingerprint": "other"})
    assert planned(0) > 0


def test_finished_jobs_are_not_counted_again(config, splits, tmp_path):
    benchmark = config.benchmark.model_copy(update={"arms": ("real",), "seeds": 1})
    run_benchmark(config.model_copy(update={"benchmark": benchmark}), splits, None, tmp_path)
    more = benchmark.model_copy(update={"arms": ("real", "oversample"), "seeds": 2})
    plan = dry_run(config.model_copy(update={"benchmark": more}), splits, tmp_path)
    assert (plan.jobs, plan.jobs_left) == (4, 3)
    assert "1 are finished already" in "\n".join(plan.lines)


def test_mistakes_show_in_the_dry_run_too(config, splits, tmp_path):
    benchmark = config.benchmark.model_copy(update={"arms": ("magic",)})
    with pytest.raises(SignforgeError, match="Unknown arm 'magic'"):
        dry_run(config.model_copy(update={"benchmark": benchmark}), splits, tmp_path)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 s"),
        (59.6, "1 min 0 s"),
        (75, "1 min 15 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (7260, "2 h 1 min"),
    ],
)
def test_durations_read_well(seconds, said):
    assert duration(seconds) == said
