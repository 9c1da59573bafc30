"""How a finding words its numbers."""

import pytest

from gpg_vl.report.page.finding import duration


@pytest.mark.parametrize(
    ("seconds", "said"), [(3.14159, "3.14 s"), (600, "10 min"), (4000, "1 h 07 min")]
)
def test_times_as_a_person_reads_them(seconds, said):
    assert duration(seconds) == said
