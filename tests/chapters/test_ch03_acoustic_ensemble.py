"""Chapter 3: its tables, claims, figures, and what its text quotes."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from kdrepro.chapters import ch03_acoustic_ensemble, display
from kdrepro.chapters.speech import Score


def test_ensembles_of_every_size(speech_run, speech_members):
    alone, growing = ch03_acoustic_ensemble.ensemble_sizes(speech_run, speech_members)
    assert alone.tolist() == pytest.approx([speech_run.score(member).frame_accuracy for member in speech_members])
    assert growing[0] == alone[0]
    assert growing[1] == pytest.approx(speech_run.score(speech_members).frame_accuracy, abs=1e-3)


@pytest.fixture(scope="module")
def scored(speech_run, speech_plan, speech_members):
    distilled = speech_run.train(
        speech_plan.but(loss="soft", temperature=2.0), speech_run.seeds, speech_members, name="distilled"
    )
    return distilled, {
        "baseline": [speech_run.score(net, decode=True) for net in speech_members],
        "ensemble": [speech_run.score(speech_members, decode=True)],
        "distilled": [speech_run.score(net, decode=True) for net in distilled],
    }


def test_tables(speech_run, speech_members, scored):
    _, scores = scored
    table = ch03_acoustic_ensemble.table1([(speech_run, scores)])
    assert list(table.index) == ["baseline", "ensemble", "distilled"]
    assert table.loc["baseline", ("paper", "frame accuracy")] == "58.9 %"
    ours = table.loc["ensemble", ("synthetic-smoke", "frame accuracy")]
    assert float(ours.split()[0]) == pytest.approx(100 * scores["ensemble"][0].frame_accuracy, abs=0.051)
    tests = ch03_acoustic_ensemble.paired_tests([(speech_run, scores)])
    assert len(tests) == 3
    difference = np.mean(scores["ensemble"][0].by_speaker() - np.mean([s.by_speaker() for s in scores["baseline"]], 0))
    assert float(tests.iloc[0, 0]) == pytest.approx(100 * difference, abs=0.0051)


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


def test_figures(speech_run, speech_members):
    """They are drawn of any data; what they show is looked at in the book."""
    test = speech_run.data.parts[0].test
    drawn = ch03_acoustic_ensemble.labelled_spectrograms(test, speakers=5)
    assert len(drawn.axes) == 2  # as many as there are
    utterance = test.utterances[3]
    features = ch03_acoustic_ensemble.features_of(test, utterance)
    windows = torch.cat(list(test.windows()))[utterance["first"] : utterance["first"] + utterance["frames"]]
    assert np.array_equal(features, windows.view(-1, 26, 40)[:, 20].float().numpy())
    assert torch.equal(ch03_acoustic_ensemble._windows(test, utterance), windows)
    assert (
        len(
            ch03_acoustic_ensemble.decoded_utterance(
                speech_run, {"one": speech_members[:1], "both": speech_members}
            ).axes
        )
        == 2
    )
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


def a_score(right: float, wrong: float = 0.5) -> Score:
    return Score(np.arange(100) < round(100 * right), np.zeros(100, int), np.array([[100 * wrong, 0, 0, 100]]))


def test_claims_of_table_1(speech_chapter, speech_run, speech_members, speech_cell, scored):
    """The notebook's cells: a value a seed, whose baseline is the member of that seed; one ensemble for all."""
    distilled, scores = scored
    names = {"np": np, "chapter": speech_chapter, "synthetic": speech_run, "display": display}
    names |= {"scores": {"synthetic": scores}, "members": {"synthetic": speech_members}}
    names = speech_cell(
        "03-acoustic-ensemble", "run.publish_scores(system", **names, distilled={"synthetic": distilled}
    )
    speech_cell("03-acoustic-ensemble", 'run.claim("speech.baseline"', **names)
    claims = speech_run.record["claims"]
    assert set(claims) == {"speech.baseline", "speech.ensemble", "speech.distilled", "speech.recovered"}
    one = [score.frame_accuracy for score in scores["baseline"]]
    ten = scores["ensemble"][0].frame_accuracy
    student = [score.frame_accuracy for score in scores["distilled"]]
    metrics = {name: entry["metrics"] for name, entry in claims.items()}
    assert metrics["speech.baseline"]["frame_accuracy"] == pytest.approx(one)
    assert metrics["speech.baseline"]["gain_of_ensemble"] == pytest.approx([ten - b for b in one], abs=1e-7)
    assert claims["speech.ensemble"]["pooled"]["frame_accuracy"] == pytest.approx(ten)
    assert metrics["speech.ensemble"]["relative_gain"] == pytest.approx([(ten - b) / b for b in one], abs=1e-7)
    recovered = [(s - b) / (ten - b) for s, b in zip(student, one, strict=True)]
    assert metrics["speech.recovered"]["recovered"] == pytest.approx(recovered, rel=1e-6)
    assert metrics["speech.distilled"]["word_error_rate"] == pytest.approx([s.error_rate for s in scores["distilled"]])
    assert claims["speech.recovered"]["seconds"] > claims["speech.baseline"]["seconds"] > 0
    assert set(speech_run.predictions) >= {"baseline.correct", "ensemble.correct", "distilled.errors"}


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


def test_texts_of_the_control():
    control = pd.DataFrame(
        {"frame accuracy, %": [50.0, 52.0, 55.0], "error rate, %": [14.0, 12.0, 13.0]},
        index=["baseline", "longer baseline", "distilled"],
    )
    texts = ch03_acoustic_ensemble.control_texts(control, a_score(0.56, wrong=0.11))
    assert texts["kept_longer"] == "75.0 %"
    assert [texts[f"words_{name}"] for name in ("longer", "distilled", "ensemble")] == ["12.0 %", "13.0 %", "11.0 %"]


def test_texts_of_the_temperatures():
    found = pd.DataFrame({"temperature": [1, 1, 5, 5], "frame accuracy, %": [40.0, 42.0, 43.0, 44.0]})
    texts = ch03_acoustic_ensemble.temperature_texts(found)
    assert texts == {"at_two": "–", "at_best": "43.5 %", "best_t": "5"}
    assert ch03_acoustic_ensemble.temperature_texts(found.replace({5: 2}))["at_two"] == "43.5 %"


def test_texts_of_what_is_stored():
    found = [ch03_acoustic_ensemble.states_kept(k, 160) for k in (24, 160, 400, None)]
    assert found == ["24 states", "all states", "all states", "all states"]
