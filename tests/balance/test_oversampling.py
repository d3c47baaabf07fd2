from collections import Counter

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from signforge.balance.oversampling import repeat_evenly


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.integers(0, 60), st.integers(0, 1000))
def test_every_row_appears_equally_often_or_once_more(num_rows, count, seed):
    rows = torch.arange(num_rows) * 7 + 3
    drawn = repeat_evenly(rows, count, torch.Generator().manual_seed(seed)).tolist()
    times = Counter(drawn)
    assert len(drawn) == count
    assert set(times) <= set(rows.tolist())
    assert {times[row] for row in rows.tolist()} <= {count // num_rows, -(-count // num_rows)}


def test_who_appears_once_more_is_drawn():
    rows = torch.arange(10)
    drawn = [repeat_evenly(rows, 13, torch.Generator().manual_seed(seed)) for seed in range(40)]
    assert torch.equal(drawn[0], repeat_evenly(rows, 13, torch.Generator().manual_seed(0)))
    assert set(torch.cat([found[10:] for found in drawn]).tolist()) == set(range(10))
