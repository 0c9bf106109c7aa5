"""How figures are written for a reader."""

from kdrepro.verdicts import wording


def test_interval():
    assert wording.interval((1.04, 2)) == "1.0 to 2.0"
    assert wording.interval((-0.012, 0.02), "{:+.2f}", 100) == "-1.20 to +2.00"
    assert wording.interval(None) == "–"


def test_networks_that_another_device_has_trained_are_told():
    run = {"device": "cpu", "networks": 5}
    assert wording.trained_elsewhere(run) == ""  # of an older record
    assert wording.trained_elsewhere(run | {"trained_on": {"cpu": 5}}) == ""
    told = wording.trained_elsewhere(run | {"trained_on": {"cpu": 2, "NVIDIA H200": 3}})
    assert told == "; of its 5 networks 3 on NVIDIA H200"
