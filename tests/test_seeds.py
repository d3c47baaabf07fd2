import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from signforge.seeds import derive_seed

parts = st.lists(st.integers(-(2**70), 2**70), max_size=4).map(tuple)


def test_seeds_never_change_between_versions():
    # A changed value would make every recorded run unrepeatable.
    assert derive_seed() == 2847183694713211083
    assert derive_seed(0, 0) == 5104172916443561106
    assert derive_seed(1, 2, 3) == 2904650318439132554


@settings(deadline=None)
@given(parts)
def test_a_seed_fits_what_torch_takes(given_parts):
    seed = derive_seed(*given_parts)
    assert 0 <= seed < 2**63
    assert seed == derive_seed(*given_parts)
    torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(parts, parts)
def test_other_parts_give_another_seed(one, two):
    assert (derive_seed(*one) == derive_seed(*two)) == (one == two)


def test_steps_of_one_run_differ_in_the_bits_that_torch_reads():
    assert len({derive_seed(0, step) % 2**32 for step in range(20_000)}) == 20_000
    firsts = {
        float(torch.rand((), generator=torch.Generator().manual_seed(derive_seed(seed, step))))
        for seed in range(20)
        for step in range(20)
    }
    assert len(firsts) == 400


def test_an_integer_of_any_type_is_that_integer():
    assert derive_seed(np.int64(3), np.uint8(0)) == derive_seed(3, 0)
    assert derive_seed(True) == derive_seed(1)
    with pytest.raises(TypeError):
        derive_seed(1.5)
