import pytest

from signforge.gan.metrics import Progress
from signforge.gan.schedule import learning_rate_factor, learning_rates, reachable_kimg


def test_the_learning_rate_falls_linearly_to_zero_at_the_end(make_config):
    config = make_config(total_kimg=10.0, learning_rate_decay_from_kimg=6.0)
    factors = [learning_rate_factor(config, seen) for seen in (0.0, 6.0, 7.0, 9.0, 10.0, 11.0)]
    assert factors == pytest.approx([1.0, 1.0, 0.75, 0.25, 0.0, 0.0])
    assert learning_rate_factor(make_config(total_kimg=10.0), 9.9) == 1.0


def test_where_the_time_ends_first_the_learning_rate_falls_earlier(make_config):
    config = make_config(total_kimg=10.0, learning_rate_decay_from_kimg=6.0)
    factors = [learning_rate_factor(config, seen, 5.0) for seen in (3.0, 3.5, 4.5, 5.0)]
    assert factors == pytest.approx([1.0, 0.75, 0.25, 0.0])
    assert learning_rate_factor(make_config(total_kimg=10.0), 4.9, 5.0) == 1.0

    timed = make_config(total_kimg=10.0, max_minutes=2.0)
    # 2 kimg in the 40 seconds since the guide was ready; another 60 seconds are left.
    progress = Progress(seen_images=2000, seconds=60.0, one_off_seconds=20.0)
    assert reachable_kimg(timed, progress) == pytest.approx(5.0)
    assert reachable_kimg(make_config(total_kimg=4.9, max_minutes=2.0), progress) is None
    assert reachable_kimg(make_config(total_kimg=10.0), progress) is None


def test_each_rollback_halves_both_learning_rates(make_config):
    config = make_config(
        generator_learning_rate=0.5,
        discriminator_learning_rate=1.0,
        total_kimg=10.0,
        learning_rate_decay_from_kimg=0.0,
    )
    assert learning_rates(config, Progress()) == (0.5, 1.0)
    assert learning_rates(config, Progress(seen_images=5000, rollbacks=2)) == (0.0625, 0.125)
