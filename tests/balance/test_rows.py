import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from signforge.balance.rows import rows_by_class


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), max_size=30))
def test_rows_are_those_that_a_pass_over_the_labels_finds(labels):
    found = rows_by_class(torch.tensor(labels, dtype=torch.int64), 7)
    for label in range(7):
        assert found[label].tolist() == [row for row, own in enumerate(labels) if own == label]
