"""What a cell may take: by profile, stretched on a slow machine, and never shortened."""

import pytest

from vlm_utils.course import limits
from vlm_utils.course.limits import CELL_SECONDS, REFERENCE_SECONDS, Limit


@pytest.mark.parametrize(("step", "scale"), [
    (REFERENCE_SECONDS / 3, 1.0), (REFERENCE_SECONDS * 2.5, 2.5), (1e9, limits.MOST)])
@pytest.mark.parametrize("profile", CELL_SECONDS)
def test_a_slow_machine_gets_more_time_and_a_fast_one_not_less(monkeypatch, step, scale, profile):
    monkeypatch.setattr(limits, "reference_step", lambda: step)
    limit = Limit.of(profile)
    assert limit.seconds == pytest.approx(CELL_SECONDS[profile] * scale)
    assert str(limit) == f"{limit.seconds:.0f} s = {CELL_SECONDS[profile]} x {scale:.1f}"


def test_a_limit_is_stretched_when_the_machine_slows_down_and_kept_when_it_recovers(monkeypatch):
    monkeypatch.setattr(limits, "machine_scale", lambda: 3.0)
    limit = Limit(30, scale=1.5, measured=True).again()
    assert (limit.seconds, limit.scale) == (60, 3.0)
    monkeypatch.setattr(limits, "machine_scale", lambda: 1.0)
    assert limit.again() == limit


def test_a_limit_that_somebody_has_set_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr(limits, "machine_scale", lambda: 20.0)
    assert Limit(30).again() == Limit(30) and str(Limit(30)) == "30 s"


def test_the_reference_step_takes_time_and_more_of_it_takes_longer(monkeypatch):
    """Compared by a factor that no neighbour on the machine makes up for."""
    monkeypatch.setattr(limits, "STEPS", 1)
    short = min(limits.reference_step() for _ in range(3))
    monkeypatch.setattr(limits, "STEPS", 200)
    assert 0 < short < limits.reference_step()
