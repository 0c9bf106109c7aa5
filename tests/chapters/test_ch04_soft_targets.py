"""Chapter 4: its plans, Table 5 and its claims, early stopping, teachers, figures, and what its text quotes."""

from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from kdrepro import paths
from kdrepro.chapters import ch03_acoustic_ensemble, ch04_soft_targets, display
from kdrepro.chapters.experiment import Trained
from kdrepro.chapters.speech import Score, SpeechExperiment
from kdrepro.errors import InputError
from kdrepro.verdicts import recompute, records
from kdrepro.verdicts.recompute import speech as speech_recompute


def a_net(plan, *curve, seed=0):
    """A network of one fold with (epoch, accuracy in training, on validation speakers) rows; one without, first.

    On test speakers it is a tenth less than on validation speakers.
    """
    rows = [{"epoch": e, "train_frame_accuracy": t, "validation_frame_accuracy": v} for e, t, v in curve]
    rows = [{**row, "test_frame_accuracy": row["validation_frame_accuracy"] - 0.1} for row in rows]
    return (Trained(None, "", seed, plan, [{"epoch": 1}, *rows]),)


# --- plans ------------------------------------------------------------------------------------------------------------


def test_plans_at_other_shares(speech_regulariser, speech_cell, capsys):
    """The notebook's cell: as many steps at every share, with hard and with soft targets."""
    sizes = speech_regulariser.sizes
    own = {"hard": sizes.little.training, "soft": sizes.little.distilled}
    names = {"own": {"synthetic": own}, "main": "synthetic", "synthetic": speech_regulariser, "sizes": sizes}
    plans_at = speech_cell("04-soft-targets", "def plans_at(", **names)["plans_at"]
    assert plans_at(sizes.little.training.fraction) == own
    assert plans_at(1) == {"hard": speech_regulariser.plans.training}
    for share in (0.003, 0.02, 0.3, 0.9):
        plans = plans_at(share)
        assert [plan.fraction for plan in plans.values()] == [share, share]
        ratio = sizes.little.training.fraction / share
        assert {plan.recipe.epochs for plan in plans.values()} == {max(1, round(own["hard"].recipe.epochs * ratio))}
        assert plans["hard"].early_stopping
        assert plans["hard"].curve >= 1
    assert capsys.readouterr().out.startswith("10 %: 12 epochs of hard targets, 12 epochs of soft targets")


def test_hard_and_soft_targets_are_trained_as_long(speech_regulariser):
    little = speech_regulariser.sizes.little
    assert little.training.recipe == little.distilled.recipe
    assert (little.training.early_stopping, little.distilled.early_stopping) == (True, False)


def test_the_teacher_is_chosen_by_its_student_on_validation_speakers(speech_regulariser, monkeypatch):
    """Whatever it gets right itself: validation figures are given here, and the shorter training is the worse net."""
    right = {2: {"teacher": 0.5, "student": 0.45}, 3: {"teacher": 0.6, "student": 0.4}}
    asked = []

    def train(run, plan, seeds, teachers=None, name=""):
        asked.append((plan.loss, seeds))
        epochs = teachers[seeds[0]][0][0].plan.recipe.epochs if teachers else plan.recipe.epochs
        return [a_net(plan, (epochs, 0.7, right[epochs]["student" if teachers else "teacher"]))]

    def score(run, net, split):
        assert split == "validation"
        correct = np.arange(100) < round(100 * net[0].history[-1]["validation_frame_accuracy"])
        return Score(correct, np.zeros(100, int), voice=np.zeros(1, int))

    monkeypatch.setattr(SpeechExperiment, "train", train)
    monkeypatch.setattr(SpeechExperiment, "score", score)
    run = replace(speech_regulariser, record={}, predictions={})
    table = ch04_soft_targets.candidates(run, run.sizes.little)
    assert table["passes"].tolist() == [2, 3]
    assert ch04_soft_targets.chosen(table) == (2, 2.0)
    assert {tuple(seeds) for loss, seeds in asked if loss == "soft"} == {(0,)}
    assert {tuple(seeds) for loss, seeds in asked if loss == "hard"} == {(1,)}  # not the student's initial weights
    assert table["teacher, training frames, %"].tolist() == [70, 70]
    # What is published says the same, and equals go to the first.
    assert speech_recompute.teacher(run.predictions) == {"teacher_passes": 2, "teacher_temperature": 2}
    equal = {name: np.full_like(of, 7) for name, of in run.predictions.items() if name.endswith("validation right")}
    assert speech_recompute.teacher(equal) == {"teacher_passes": 2, "teacher_temperature": 2}
    assert speech_recompute.teacher({}) == {}

    confirming = replace(run, seeds=[10, 11], into="confirm/soft.soft3", record={}, predictions={})
    with pytest.raises(InputError, match="run 04-soft-targets --preset smoke` first"):
        ch04_soft_targets.candidates(confirming, confirming.sizes.little)
    records.write(paths.runs("smoke") / "results" / f"{run.record_name}.json", run.record, {})
    asked.clear()
    assert ch04_soft_targets.candidates(confirming, confirming.sizes.little).equals(table)
    assert not asked
    assert "teachers" not in confirming.record


def test_no_student_has_the_teacher_of_its_own_seed():
    nets = ["a", "b", "c"]
    assert ch04_soft_targets.shifted([0, 1, 2], nets) == {0: ["b"], 1: ["c"], 2: ["a"]}
    assert ch04_soft_targets.shifted([4], ["a"]) == {4: ["a"]}


# --- Table 5 ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def five(speech_regulariser, speech_members):
    """Networks and scores of Table 5's systems and of two at a falling rate."""
    sizes = speech_regulariser.sizes
    hard, soft = (plan.but(epochs=2, curve=1) for plan in (sizes.little.training, sizes.little.distilled))
    teachers, falling = {seed: [speech_members[seed]] for seed in (0, 1)}, {"schedule": "cosine"}
    nets = {
        "all, hard": speech_members,
        "little, hard": speech_regulariser.train(hard, [0, 1]),
        "little, soft": speech_regulariser.train(soft, [0, 1], teachers),
        "little, hard, annealed": speech_regulariser.train(hard.but(**falling), [0, 1]),
        "little, soft, annealed": speech_regulariser.train(soft.but(**falling), [0, 1], teachers),
    }
    decoder = speech_regulariser.decoder(speech_members[0])
    scores = {name: [speech_regulariser.score(net, decoder=decoder) for net in nets[name]] for name in nets}
    return nets, scores


def test_claims_of_table_5(speech_regulariser, speech_cell, five):
    nets, scores = five
    longer = {name: nets["all, hard"] for name in (recompute.AS_LONG, recompute.LONGER)}
    names = {"chapter": SimpleNamespace(sets={"synthetic": speech_regulariser}), "synthetic": speech_regulariser}
    names |= {"nets": {"synthetic": nets}, "scores": {"synthetic": scores}, "longer": {"synthetic": longer}}
    names |= {"teacher_of": {"synthetic": {0: nets["all, hard"]}}}
    modules = {
        module.__name__.split(".")[-1]: module for module in (ch03_acoustic_ensemble, ch04_soft_targets, display)
    }
    speech_cell("04-soft-targets", 'run.claim_published("soft.full"', **names, **modules)
    claims = speech_regulariser.record["claims"]
    assert set(claims) == {"soft.full", "soft.hard3", "soft.soft3"}
    assert {entry["verdict"] for entry in claims.values()} == {"not run"}
    full, hard, soft, annealed, soft_annealed = (
        np.array([score.frame_accuracy for score in found]) for found in scores.values()
    )
    expected = {
        "soft.full": {"gain_over_hard3": full - hard, "gain_over_annealed": full - annealed, "frame_accuracy": full},
        "soft.hard3": {"overfit": np.array([*map(ch04_soft_targets.train_accuracy, nets["little, hard"])]) - hard},
        "soft.soft3": {
            "recovered": (soft - hard) / (full - hard),
            "recovered_over_annealed": (soft_annealed - annealed) / (full - annealed),
            "word_error_rate": [score.error_rate for score in scores["little, soft"]],
        },
    }
    for claim, metrics in expected.items():
        for metric, values in metrics.items():
            assert claims[claim]["metrics"][metric] == pytest.approx(values, rel=1e-6), metric
        assert "phone_error_rate" not in claims[claim]["metrics"]
    assert claims["soft.full"]["pooled"]["gain_of_half_again"] == 0  # the same nets
    assert claims["soft.soft3"]["seconds"] > claims["soft.full"]["seconds"] > 0
    again = recompute.figures(speech_regulariser.record, speech_regulariser.predictions)
    for name, entry in claims.items():
        for metric, found in entry["metrics"].items():
            assert again[name][metric] == pytest.approx(found, abs=1e-6), metric
    table = ch04_soft_targets.table5([(speech_regulariser, nets, scores)])
    assert table.loc["little, soft", ("paper", "test")] == "57.0 %"
    assert table.loc["little, hard, annealed", ("paper", "test")] == "–"
    assert "recovered" not in ch04_soft_targets.table5_texts(claims)["recovered"]


def test_accuracy_in_training_is_that_of_the_weights_that_were_kept(speech_regulariser):
    net = a_net(speech_regulariser.sizes.little.training, (2, 0.5, 0.4), (4, 0.7, 0.3))
    assert ch04_soft_targets.train_accuracy(net) == 0.5
    (one,) = net
    last = replace(one, plan=one.plan.but(early_stopping=False))
    assert ch04_soft_targets.train_accuracy((last,)) == 0.7
    assert ch04_soft_targets.train_accuracy((one, last)) == pytest.approx(0.6)  # the mean over folds


@pytest.mark.parametrize(("mean", "recovered"), [({"recovered": 0.85}, "85.0 %"), ({}, "–")])
def test_texts_of_table_5(mean, recovered):
    """A share of the gap that is not finite in a seed is not in the record."""
    rates = {"full": (0.6, 0.63), "hard3": (0.4, 0.8), "soft3": (0.57, 0.66)}
    claims = {
        f"soft.{name}": {"mean": {"frame_accuracy": test, "train_frame_accuracy": train}, "verdict": "partly"}
        for name, (test, train) in rates.items()
    }
    claims["soft.soft3"]["mean"] |= mean
    texts = ch04_soft_targets.table5_texts(claims)
    assert (texts["hard_train"], texts["soft_test"], texts["full_test"]) == ("80.0 %", "57.0 %", "60.0 %")
    assert (texts["recovered"], texts["verdict"]) == (recovered, "partly")


def test_numbers_in_words():
    assert [ch04_soft_targets.passes(n) for n in (1, 3)] == ["one pass", "3 passes"]


# --- what else is measured ------------------------------------------------------------------------------------------


def test_early_stopping(speech_regulariser):
    plan = speech_regulariser.sizes.little.training
    nets = [a_net(plan, (2, 0.5, 0.4), (4, 0.7, 0.38)), a_net(plan, (2, 0.5, 0.3), (4, 0.7, 0.4), seed=3)]
    table = ch04_soft_targets.stopping(nets)
    assert table.index.tolist() == [0, 3]
    assert table["best epoch"].tolist() == [2, 4]
    assert table["last epoch"].tolist() == [4, 4]
    assert table["validation points lost"].tolist() == [2.0, 0.0]


def test_figures(speech_regulariser):
    plan = speech_regulariser.sizes.little.training
    nets = {
        "hard": [a_net(plan, (2, 0.5, 0.4), (4, 0.7, 0.3))] * 2,
        "soft": [a_net(plan.but(early_stopping=False), (5, 0.5, 0.4))],
    }
    (ax,) = ch04_soft_targets.training_curves(nets).axes
    assert ax.lines[0].get_xdata().tolist() == [2, 4]
    assert ax.lines[0].get_ydata().tolist() == pytest.approx([50, 70])
    rings = [line for line in ax.lines if line.get_marker() == "o"]  # stopped early, at the first look
    assert [ring.get_xdata().tolist() for ring in rings] == [[2], [2]]
    rows = [(3.0, "hard", 30.0), (3.0, "soft", 40.0), (100.0, "hard", 50.0)]
    (ax,) = ch04_soft_targets.shares_figure(pd.DataFrame(rows, columns=["share", "targets", "frame accuracy, %"])).axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["3", "100"]
    plt.close("all")
