"""Chapter 5 on tiny examples: its tables, their metrics and its figures."""

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest

from kdrepro import paths, specialists
from kdrepro.chapters import ch05_specialists, committees
from kdrepro.verdicts import recompute

CLASSES = 8


@pytest.fixture
def run(committee_run):
    return committee_run


@pytest.fixture
def committee(committee_of_four):
    return committee_of_four


def test_coverage_rows_add_up(run, committee):
    table = ch05_specialists.by_coverage(run, committee)
    labels = run.data.test_labels
    assert table["cases"].sum() == len(labels)
    right = run.right(run.combined(committee)).sum() - run.right(run.logits(committee.generalist)).sum()
    assert table["change"].sum() == right
    counts = specialists.coverage(committee.subsets, CLASSES)
    assert table["cases"].to_dict() == {
        int(n): int((counts[labels] == n).sum()) for n in counts.unique() if (counts[labels] == n).any()
    }
    assert len(ch05_specialists.table4([table, table])) == len(table)


def test_right_of_each_class_and_of_each_subset(run, committee):
    q = run.combined(committee)
    (by_class,) = ch05_specialists.of_class(run, [run.right(q)])
    assert by_class.sum() == run.right(q).sum()
    assert by_class[0] == run.right(q)[run.data.test_labels.numpy() == 0].sum()
    (answers,) = ch05_specialists.answers_of(run, [committee.subsets], {"q": [[q]]})["q"]
    assert (answers.right == run.right(q)).all()
    assert answers.conditional.tolist() == [run.conditional_right(q, [s]).sum() for s in committee.subsets]


def test_what_is_published_gives_the_figures_of_tables_2_to_4(run, committee):
    generalist = committee.generalist
    systems = {"generalist": [[run.logits(generalist)]], "+ specialists": [run.combined_in_parts(committee)]}
    systems["longer generalist"] = systems["generalist"]
    answers = ch05_specialists.answers_of(run, [committee.subsets], systems)
    nets = {name: [generalist] for name in ("generalist", "longer generalist")}
    arrays = ch05_specialists.publish(run, [committee.subsets], answers, nets)
    run.predictions.clear()
    found = committees.gains(run, [committee])
    table3 = recompute.claimed("specialists.table3", arrays)
    assert table3["accuracy"] == pytest.approx(found["accuracy +"])
    assert table3["relative_gain"] == pytest.approx(found["relative gain"])
    assert table3["gain_of_longer"] == [0]
    conditional = recompute.claimed("specialists.table3.conditional", arrays)
    assert conditional["conditional_accuracy"] == pytest.approx(found["conditional +"])
    assert conditional["conditional_accuracy_of_longer_generalist"] == pytest.approx(found["conditional"])
    table4 = recompute.claimed("specialists.table4", arrays)
    counts = specialists.coverage(committee.subsets, CLASSES)
    assert table4["pooled"]["coverages"] == len(counts.unique())
    assert 0 <= table4["pooled"]["class_p"] <= 1
    assert recompute.claimed("specialists.table2", arrays)["within_over_between"] == pytest.approx(
        [recompute.within_over_between([s.numpy() for s in committee.subsets], arrays["families"])]
    )


def test_figures_of_a_run_are_those_of_its_record(run):
    assert ch05_specialists.figures_of(None).empty
    run.claim("specialists.table4", [], class_correlation=[0.5, 0.7], pooled={"class_p": 0.01})
    shown = ch05_specialists.figures_of(run)
    run.record["claims"].clear()
    assert shown.index.tolist() == [("table4", "class correlation"), ("table4", "p over classes")]
    assert shown["mean [95 % over seeds]"].tolist()[1] == "0.01, all seeds together"


def test_heard_counts_special_cases_whose_specialist_is_active(run, committee):
    found = {n: ch05_specialists.heard(run, committee, n) for n in (1, CLASSES)}
    best, labels = run.logits(committee.generalist).argmax(1).tolist(), run.data.test_labels.tolist()
    pairs = [
        (b in s, y in s)
        for s in (subset.tolist() for subset in committee.subsets)
        for b, y in zip(best, labels, strict=True)
    ]
    assert found[1] == pytest.approx(sum(b and y for b, y in pairs) / sum(y for _, y in pairs))
    assert found[CLASSES] == 1  # every specialist has one of all classes


def test_table_3_shows_means_with_intervals_beside_the_papers():
    columns = ("accuracy", "accuracy +", "relative gain", "conditional", "conditional +", "relative gain, conditional")
    found = pd.DataFrame([(0.5, 0.6, 0.2, 0.4, 0.3, -0.25), (0.5, 0.7, 0.4, 0.4, 0.3, -0.25)], columns=columns)
    table = ch05_specialists.table3(found)
    assert table.loc["accuracy", ("paper", "relative")] == "+4.4 %"
    assert table.loc["accuracy", ("this run", "+ specialists")].startswith("65.0 % [")
    assert table.loc["conditional accuracy", ("this run", "relative")].startswith("-25.0 % [")
    one = ch05_specialists.table3(found[:1])  # of one seed there is no interval
    assert one.loc["accuracy", ("this run", "baseline")] == "50.0 %"


def test_percent_right_is_of_the_first_seeds_of_those_that_have_them():
    right = {"a": [np.array([True, False]), np.array([True, True])], "b": [np.array([False, False])]}
    assert ch05_specialists.percent_right(right, 1) == {"a": 50.0, "b": 0.0}
    assert ch05_specialists.percent_right(right, 2) == {"a": 75.0}


def test_the_figure_of_clusters_has_a_row_a_specialist(run, committee):
    figure = ch05_specialists.clusters(run, committee.subsets, rows=3, columns=5)
    titles = [ax.get_title() for ax in figure.axes]
    chosen = [committee.subsets[i].tolist() for i in (0, 2, 3)]
    assert titles == [t for s in chosen for t in ["abcdefgh"[label] for label in s] + [""] * (5 - len(s))]
    plt.close(figure)


def test_every_way_to_eq_5_comes_nearer_to_the_minimum(run, committee):
    figure = ch05_specialists.convergence(run, committee, cases=5, top_n=2, steps=(1, 8, 40))
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(lines) == ["plain EM", "gradient descent on logits", "Newton's method"]
    for gaps in lines.values():
        assert gaps[-1] < gaps[0]
    assert lines["Newton's method"][-1] <= 1e-10
    plt.close(figure)


def test_what_decides_is_written_before_the_second_data_set_is_begun():
    code = [cell.source for cell in nbformat.read(paths.NOTEBOOKS / "05-specialists.ipynb", 4).cells]
    whole = "\n".join(code)
    assert whole.count("run.finish()") == whole.count("chapters.beside(") == 1
    assert whole.rindex("run.claim(") < whole.index("run.finish()") < whole.index("chapters.beside(")
