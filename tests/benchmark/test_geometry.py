import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signforge.benchmark.geometry import columns, count_ticks, gain_axis, mark, nice_limit
from signforge.benchmark.statistics import Gain

SHARES = st.floats(-1, 1, allow_nan=False)


def gain(mean: float, low: float, high: float) -> Gain:
    return Gain(mean=mean, low=low, high=high, seeds=2, p=0.5, image_sd=0.1, seed_sd=0.1)


@given(st.floats(1e-3, 1e6))
@settings(deadline=None)
def test_a_nice_limit_is_the_next_one(value):
    limit = nice_limit(value)
    assert value <= limit * 1.000001
    assert limit <= 2.0 * value * 1.000001


@given(st.lists(st.tuples(SHARES, SHARES, SHARES), min_size=1, max_size=9))
@settings(deadline=None)
def test_every_mean_lies_on_the_axis(triples):
    gains = [gain(mid, low, high) for low, mid, high in map(sorted, triples)]
    axis = gain_axis(gains)
    for found in gains:
        drawn = mark(axis, found)
        assert drawn.at == pytest.approx(axis.at(found.mean), abs=0.01)
        assert 0 <= drawn.low <= drawn.at <= drawn.high <= 100
        assert drawn.cut_low == (axis.at(found.low) < 0)
        assert drawn.cut_high == (axis.at(found.high) > 100)


def test_one_wild_interval_does_not_set_the_scale():
    usual = gain(0.02, -0.01, 0.05)
    wild = gain(0.01, -1.0, 1.0)
    axis = gain_axis([usual, wild])
    assert axis.limit == 3
    drawn = mark(axis, wild)
    assert (drawn.low, drawn.high, drawn.cut_low, drawn.cut_high) == (0, 100, True, True)
    assert [tick.text for tick in axis.ticks] == ["\u22123", "\u22121.5", "0", "+1.5", "+3"]
    assert [tick.at for tick in axis.ticks] == [0, 25, 50, 75, 100]


def test_an_axis_without_gains():
    assert gain_axis([]).limit == pytest.approx(0.6)
    assert gain_axis([gain(0, 0, 0)]).limit == pytest.approx(0.6)


def test_columns_stand_in_order_with_the_shorter_bar_in_front():
    series = {"real": (10, 100), "synthetic": (100, 100)}
    first, second = columns(series, [1, 0])
    assert (first.label, second.label) == (1, 0)
    assert first.left < first.left + first.width < second.left
    # Of two equal bars the first series, before balancing, is drawn last.
    assert [bar.series for bar in first.bars] == [1, 0]
    assert [(bar.series, bar.height) for bar in second.bars] == [(1, 100), (0, 10)]
    assert all(bar.top + bar.height == pytest.approx(100) for bar in first.bars)
    assert [tick.text for tick in count_ticks(series)] == ["25", "50", "75", "100"]
