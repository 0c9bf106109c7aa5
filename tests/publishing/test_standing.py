"""Where the claims stand, by the records that are published."""

import shutil

from kdrepro import paths
from kdrepro.publishing import standing
from kdrepro.verdicts import claims, records, wording


def test_every_claim_stands_with_the_record_that_decides_it(these):
    assert [one.claim.id for one in these] == list(claims.load())
    for one in these:
        if one.record is not None:
            record = records.read(one.record)
            assert one.claim.id in record["claims"]
            assert record["data"]["name"] == one.entry["data"]
            assert one.first == record["claims"][one.claim.id]
        assert one.verdict in standing.MARKS


def test_anchors_and_sections_are_told_apart(these):
    assert len({one.anchor for one in these}) == len(these)
    parts = standing.by_section(these)
    assert list(parts) == sorted(standing.TITLES)
    assert sum(map(len, parts.values())) == len(these)


def test_tally_of_all_is_that_of_the_records(these):
    assert standing.tally(these) == claims.tally(claims.load().values(), records.read_all())


def test_fresh_seeds_are_the_ones_that_are_shown(these):
    confirmed = [one for one in these if one.entry and one.entry.get("confirm")]
    assert confirmed
    for one in confirmed:
        metric, fresh = one.claim.metric, one.entry["confirm"]
        values = fresh["metrics"].get(metric, [])  # none of a figure of all seeds together
        assert one.seeds() == ", ".join(wording.written(metric, value) for value in values)
        if values:
            assert values != one.first["metrics"][metric]
            assert one.mean == fresh["mean"][metric] != one.first["mean"][metric]


def test_without_records_nothing_is_run(tmp_path):
    these = standing.standings(tmp_path)
    assert {one.verdict for one in these} == {"not run"}
    assert all(one.record is None and one.mean is None and one.seeds() == "" for one in these)


def test_other_data_decides_nothing(tmp_path):
    shutil.copy(paths.RESULTS / "03-acoustic-ensemble.timit-sample.json", tmp_path)
    these = {one.claim.id: one for one in standing.standings(tmp_path)}
    assert these["speech.ensemble"].verdict == "not run"
    assert these["speech.ensemble"].mean is not None
    assert not these["speech.ensemble"].decided
