"""How figures are written for a reader."""

from kdrepro.verdicts import wording


def test_interval():
    assert wording.interval((1.04, 2)) == "1.0 to 2.0"
    assert wording.interval((-0.012, 0.02), "{:+.2f}", 100) == "-1.20 to +2.00"
    assert wording.interval(None) == "–"
