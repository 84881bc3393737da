import itertools

from hypothesis import given, strategies as st

from svdistill.training.reproducibility import derive_seed

PART = st.one_of(st.integers(0, 10**6), st.text("abcdefghij", min_size=1))


@given(st.lists(PART, min_size=1, max_size=5))
def test_fits_every_generator(parts):
    assert 0 <= derive_seed(*parts) < 2**63
    assert derive_seed(*parts) == derive_seed(*parts)


def test_stays_the_same_for_ever():
    """Runs must be repeatable in another process and in another version."""
    assert derive_seed(0, "order", 0, 0) == 1778561849141805087


def test_neighbours_do_not_meet():
    """Neither (1, 23) and (12, 3), nor any two places of a run."""
    places = list(itertools.product([0, 1, 11], ["order", "views"], range(3), range(30)))
    assert len({derive_seed(*place) for place in places}) == len(places)
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert derive_seed("a", "b") != derive_seed("ab")
