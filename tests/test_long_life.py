"""A long-lived notebook: nothing that a round leaves behind may add up."""

import pandas as pd
import pytest
from long_life import ALLOWED, SETTLED, growth, live


def test_a_notebook_that_lives_on_does_not_grow(tmp_path):
    """Six rounds; `python tests/long_life.py --rounds 30` is the long way."""
    table = live(6, tmp_path)
    grown = growth(table)
    assert {name: grown[name] for name, most in ALLOWED.items() if grown[name] > most} == {}, table


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_what_grows_a_little_each_round_is_seen(name):
    table = pd.DataFrame(100.0, index=pd.RangeIndex(1, 31, name="round"), columns=sorted(ALLOWED))
    assert not growth(table).any()
    table[name] += 2.0 * (table.index - SETTLED)
    assert growth(table)[name] > ALLOWED[name]
