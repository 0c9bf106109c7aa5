"""The benchmark of a committee as a teacher: one arm asks it step by step, the other about several steps together."""

import committee

TINY = committee.QUICK | {"classes": 12, "specialists": 2, "special_classes": 4, "batch_size": 32, "repeats": 1}


def test_both_arms_are_timed_and_ask_as_they_say(monkeypatch):
    made, asked = committee.committee, []

    def noted(*given):
        teacher = made(*given)
        teacher.register_forward_hook(lambda _, inputs, output: asked.append(len(output)))
        return teacher

    monkeypatch.setattr(committee, "committee", noted)
    found = committee.measure(TINY)
    assert list(found) == [committee.STEP_BY_STEP, committee.TOGETHER]
    assert all(rate > 0 for rate in found.values())
    assert asked == [32] * 9 + [288]
