"""Chapter 3: its tables, claims, figures, and what its text quotes."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from kdrepro.chapters import ch03_acoustic_ensemble, display
from kdrepro.chapters.speech import SpeechExperiment
from kdrepro.verdicts import recompute


def test_ensembles_of_every_size(speech_run, speech_members):
    alone, growing = ch03_acoustic_ensemble.ensemble_sizes(speech_run, speech_members)
    assert alone.tolist() == pytest.approx([speech_run.score(member).frame_accuracy for member in speech_members])
    assert growing[0] == alone[0]
    assert growing[1] == pytest.approx(speech_run.score(speech_members).frame_accuracy, abs=1e-3)


@pytest.fixture(scope="module")
def scored(speech_run, speech_plan, speech_members):
    """Two "ensembles" of one and the same two members, with a student for each seed."""
    soft = speech_plan.but(loss="soft", temperature=2.0)
    distilled = [(net, net) for net in speech_run.train(soft, speech_run.seeds, speech_members, name="distilled")]
    decoder = speech_run.decoder(speech_members[0])
    return distilled, {
        "baseline": [[speech_run.score(net, decoder=decoder)] * 2 for net in speech_members],
        "ensemble": [[speech_run.score(speech_members, decoder=decoder)] * 2],
        "distilled": [[speech_run.score(net, decoder=decoder) for net in nets] for nets in distilled],
    }


def test_tables(speech_run, scored):
    _, scores = scored
    table = ch03_acoustic_ensemble.table1([(speech_run, scores)])
    assert list(table.index) == ["baseline", "ensemble", "distilled"]
    assert table.loc["baseline", ("paper", "frame accuracy")] == "58.9 %"
    ours, ten = table.loc["ensemble", ("synthetic-smoke", "frame accuracy")], scores["ensemble"][0][0]
    assert float(ours.split()[0]) == pytest.approx(100 * ten.frame_accuracy, abs=0.051)
    each = ch03_acoustic_ensemble.by_ensemble(scores)
    assert each.index.tolist() == [1, 2]
    assert each.loc[1].equals(each.loc[2])
    assert each.loc[1, "ensemble, %"] == pytest.approx(100 * ten.frame_accuracy, abs=0.0051)


def test_differences_over_speakers(speech_run, scored):
    for name, found in scored[1].items():
        speech_run.publish_scores(name, found)
    table = ch03_acoustic_ensemble.differences(speech_run).loc["synthetic-smoke"]
    one, ten = (ch03_acoustic_ensemble.accuracies(scored[1][name]).mean() for name in ("baseline", "ensemble"))
    assert float(table.loc["ensemble − baseline", "frames gained"]) == pytest.approx(100 * (ten - one), abs=0.0051)
    low, high = map(float, table.loc["ensemble − baseline", "95 % of that"].split(" to "))
    assert low <= 100 * (ten - one) <= high
    saved = [ch03_acoustic_ensemble.error_rates(scored[1][name]).mean() for name in ("baseline", "ensemble")]
    assert float(table.iloc[0]["errors saved"]) == pytest.approx(100 * (saved[0] - saved[1]), abs=0.0051)


def test_what_tuning_chose(speech_run, speech_members):
    systems = {"one": speech_members[0], "both": speech_members}
    table = ch03_acoustic_ensemble.decoders_table(speech_run, systems, 2)
    assert table.index.tolist() == [("one", "bigram"), ("one", "trigram"), ("both", "bigram")]
    rates = table.loc["one", "validation error rate, %"]
    order = ch03_acoustic_ensemble.chosen_order(speech_run, speech_members[0])
    assert order == (3 if rates["trigram"] < rates["bigram"] else 2)


def test_calibration(speech_run, speech_members, speech_log_probabilities):
    found = ch03_acoustic_ensemble.calibration(speech_run, {"both": speech_members}, bins=1).loc["both"]
    p = speech_log_probabilities(speech_run, *speech_members, split="validation")
    targets = speech_run.data.parts[0].validation.targets.long()
    right, sure = (p.argmax(1) == targets).float().mean().item(), p.exp().amax(1).mean().item()
    assert found["right, %"] == pytest.approx(100 * right, abs=0.1)
    assert found["confidence, %"] == pytest.approx(100 * sure, abs=0.1)
    assert found["calibration error, points"] == pytest.approx(100 * abs(right - sure), abs=0.15)  # of a single bin
    loss = torch.nn.functional.nll_loss(p, targets).item()
    assert found["log loss, nats"] == pytest.approx(loss, abs=1e-3)
    finer = ch03_acoustic_ensemble.calibration(speech_run, {"both": speech_members}).loc["both"]
    assert finer["calibration error, points"] >= found["calibration error, points"] - 0.01


def test_accuracy_by_pass(speech_members):
    found = ch03_acoustic_ensemble.by_pass({"baseline": speech_members})
    assert found["pass"].tolist() == [2, 2]
    noted = [100 * net[0].history[-1]["validation_frame_accuracy"] for net in speech_members]
    assert found["accuracy, %"].tolist() == pytest.approx(noted)
    rows = [("baseline", net, epoch, 50 + epoch * (epoch < 5)) for net in "ab" for epoch in range(1, 11)]
    curves = pd.DataFrame(rows, columns=["system", "net", "pass", "accuracy, %"])
    assert ch03_acoustic_ensemble.last_rise(curves, "baseline") == 0
    assert ch03_acoustic_ensemble.last_rise(curves[curves["pass"] < 5], "baseline") == 1
    (ax,) = ch03_acoustic_ensemble.passes_figure(curves).axes
    assert len(ax.lines) == 2


def test_baselines_of_half_as_many_passes_again(speech_run, monkeypatch):
    """Of the same seeds, otherwise alike; half a pass is a whole one."""
    asked = {}
    monkeypatch.setattr(
        SpeechExperiment, "train", lambda self, plan, seeds, name="": asked.setdefault(name, (plan, list(seeds)))
    )
    ch03_acoustic_ensemble.half_again(speech_run)
    (plan, seeds), (longer, again) = asked.values()
    assert plan == speech_run.plans.training
    assert (plan.recipe.epochs, longer.recipe.epochs) == (3, 5)
    assert longer.but(epochs=3) == plan
    assert seeds == again == speech_run._seeds_of(0)[: speech_run.sizes.sweep_seeds]


def test_table_of_half_as_many_passes_again(speech_run, speech_members):
    decoder = speech_run.decoder(speech_members[0])
    nets = {"as long": speech_members, "one": speech_members[:1]}
    scores = {name: [speech_run.score(net, decoder=decoder) for net in found] for name, found in nets.items()}
    table = ch03_acoustic_ensemble.half_again_table(speech_run, nets, scores)
    assert table["seeds"].tolist() == [2, 1]
    assert table.loc["one", "error rate, %"] == pytest.approx(100 * scores["one"][0].error_rate, abs=0.0051)
    expected = speech_run.score(speech_members[0], split="validation").frame_accuracy
    assert table.loc["one", "validation frames right, %"] == pytest.approx(100 * expected, abs=0.0051)


def test_table_of_kept_states(speech_run, speech_members):
    table = ch03_acoustic_ensemble.top_k_table(speech_run, speech_members, [1, 8], temperatures=(1, 10))
    distances = [float(x) for x in table["KL at T = 1, nats"][:3]]
    assert distances == sorted(distances, reverse=True)
    assert list(table["bytes a frame"])[:3] == [4, 32, 320]
    cost = ch03_acoustic_ensemble.cost(speech_members[0][0], repeats=3)
    assert cost["parameters"] == speech_members[0][0].parameters
    assert cost["µs a frame, alone"] > 0


def test_accuracy_in_training_and_divergences(speech_run, speech_members, speech_never, speech_log_probabilities):
    """On all frames they are what the definitions give, and on some of them nearly so."""
    student, other = speech_members
    answers = speech_log_probabilities(speech_run, student, split="train").argmax(1)
    right = (answers == speech_run.data.parts[0].train.targets).float().mean().item()
    assert ch03_acoustic_ensemble.accuracy_in_training(speech_run, student, most=10**6) == pytest.approx(
        right, abs=1e-6
    )
    assert ch03_acoustic_ensemble.accuracy_in_training(speech_run, student, most=1000) == pytest.approx(right, abs=0.1)
    table = ch03_acoustic_ensemble.divergences(speech_run, speech_members, {"one": student, "other": other}, most=10**6)
    for split, column in (("train", "training frames"), ("validation", "other speakers' frames")):
        p, q = (
            speech_log_probabilities(speech_run, *speech_members, split=split),
            speech_log_probabilities(speech_run, student, split=split),
        )
        assert table.loc["one", column] == pytest.approx((p.exp() * (p - q)).sum(1).mean().item(), rel=1e-4)
    assert (table.loc["one"] != table.loc["other"]).all()


def test_boundary(speech_run, speech_members):
    """It is drawn of any data; what it shows is looked at in the book."""
    assert len(ch03_acoustic_ensemble.boundary(speech_run, speech_members, (1, 5)).axes) == 2
    plt.close("all")


def test_figures_of_numbers():
    found = pd.DataFrame({"temperature": [1, 1, 2, 2], "frame accuracy, %": [40.0, 42.0, 43.0, 44.0]})
    (ax,) = ch03_acoustic_ensemble.temperature_figure(found, level=50.0).axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "2"]
    assert ax.get_ylim()[0] < 40 < 50 < ax.get_ylim()[1]  # the level is in sight, wherever it is
    (ax,) = ch03_acoustic_ensemble.sizes_figure(np.array([0.4, 0.5]), np.array([0.4, 0.55])).axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [pytest.approx([40, 55]), pytest.approx([40, 50])]
    plt.close("all")


# --- claims, and what the text quotes of them -------------------------------------------------------------------------


def test_claims_of_table_1(speech_chapter, speech_run, speech_members, speech_cell, scored):
    """The notebook's cell: a value a seed, the mean over ensembles; what it publishes gives its figures again."""
    distilled, scores = scored
    names = {"np": np, "chapter": speech_chapter, "synthetic": speech_run, "display": display, "main": "synthetic"}
    names |= {"scores": {"synthetic": scores}, "ensembles": {"synthetic": [speech_members] * 2}}
    names |= {"ch03_acoustic_ensemble": ch03_acoustic_ensemble}
    longer = {recompute.AS_LONG: speech_members, recompute.LONGER: speech_members[::-1]}
    of_longer = {name: [each[0] for each in scores["baseline"]] for name in longer}
    names |= {"longer": {"synthetic": longer}, "of_longer": {"synthetic": of_longer}}
    speech_cell(
        "03-acoustic-ensemble", 'run.claim_published("speech.baseline"', **names, distilled={"synthetic": distilled}
    )
    claims = speech_run.record["claims"]
    assert set(claims) == {f"speech.{name}" for name in ("baseline", "ensemble", "distilled", "recovered", "words")}
    one, ten, student = (ch03_acoustic_ensemble.accuracies(found)[:, 0] for found in scores.values())
    metrics = {name: entry["metrics"] for name, entry in claims.items()}
    assert metrics["speech.baseline"]["frame_accuracy"] == pytest.approx(one)
    assert metrics["speech.baseline"]["gain_of_ensemble"] == pytest.approx(ten - one, abs=1e-7)
    assert claims["speech.ensemble"]["pooled"]["frame_accuracy"] == pytest.approx(ten[0])
    assert metrics["speech.recovered"]["recovered"] == pytest.approx((student - one) / (ten - one), rel=1e-6)
    assert metrics["speech.distilled"]["relative_gain"] == pytest.approx((student - one) / one, abs=1e-7)
    assert claims["speech.words"]["pooled"]["word_errors_saved_by_half_again"] == 0
    for name in ("baseline", "ensemble", "distilled", "recovered", "words"):
        assert claims[f"speech.{name}"]["pooled"]["gain_of_half_again"] == 0  # the same two nets
    assert claims["speech.recovered"]["seconds"] > claims["speech.baseline"]["seconds"] > 0
    again = recompute.figures(speech_run.record, speech_run.predictions)
    for name, entry in claims.items():
        for metric, found in {**entry["metrics"], **entry.get("pooled", {})}.items():
            assert again[name][metric] == pytest.approx(found, abs=1e-6), metric


@pytest.mark.parametrize(("ensemble", "kept", "kept_words"), [(0.6, "75.0 %", "50.0 %"), (0.52, "–", "–")])
def test_texts_of_table_1(ensemble, kept, kept_words):
    """Where the ensemble gains nothing there is no share of it."""
    rates = {
        "baseline": (0.52, 0.2),
        "ensemble": (ensemble, 0.1 if ensemble > 0.52 else 0.2),
        "distilled": (0.58, 0.15),
    }
    claims = {
        f"speech.{system}": {"mean": {"frame_accuracy": right, "word_error_rate": wrong}}
        for system, (right, wrong) in rates.items()
    }
    mean = {"recovered": 0.75} if ensemble > 0.52 else {}
    claims["speech.recovered"] = {"mean": mean, "verdict": "not run"}
    texts = ch03_acoustic_ensemble.table1_texts(claims)
    assert (texts["baseline"], texts["distilled"], texts["verdict"]) == ("52.0 %", "58.0 %", "not run")
    assert (texts["kept"], texts["kept_words"]) == (kept, kept_words)
    assert texts["wer"].startswith("20.0, ")


def test_texts_of_the_temperatures():
    found = pd.DataFrame({"temperature": [1, 1, 5, 5], "frame accuracy, %": [40.0, 42.0, 43.0, 44.0]})
    texts = ch03_acoustic_ensemble.temperature_texts(found)
    assert texts == {"at_two": "–", "at_best": "43.5 %", "best_t": "5"}
    assert ch03_acoustic_ensemble.temperature_texts(found.replace({5: 2}))["at_two"] == "43.5 %"


def test_texts_of_what_is_stored():
    found = [ch03_acoustic_ensemble.states_kept(k, 160) for k in (24, 160, 400, None)]
    assert found == ["24 states", "all states", "all states", "all states"]
