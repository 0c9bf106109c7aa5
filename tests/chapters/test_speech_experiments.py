"""Chapters on speech: networks by plan, ensembles and their scores, the share of chapter 4, records and figures."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdrepro import chapters, ensembles, store, training
from kdrepro.acoustic import batches, frames, posteriors, soft_targets
from kdrepro.acoustic.recognition import Recognizer
from kdrepro.chapters import ch03_acoustic_ensemble, ch04_soft_targets, presets, speech
from kdrepro.chapters.speech import CURVE_FRAMES, Folds, Score, SpeechExperiment, evenly
from kdrepro.errors import InputError
from kdrepro.verdicts import records


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One folder of runs for the module, so that the corpus is made once."""
    return tmp_path_factory.mktemp("runs")


def start(runs, chapter, seeds=2):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDREPRO_RUNS", str(runs))
        return chapters.start(chapter, seeds=seeds)


@pytest.fixture(scope="module")
def chapter(runs):
    return start(runs, "03-acoustic-ensemble")


@pytest.fixture(scope="module")
def run(chapter) -> SpeechExperiment:
    return chapter.decides


@pytest.fixture(scope="module")
def plan(run):
    return run.plans.member.but(epochs=2, curve=2)


@pytest.fixture(scope="module")
def members(run, plan):
    return run.train(plan, [0, 1], name="member")


@pytest.fixture(scope="module")
def regulariser(runs) -> SpeechExperiment:
    return start(runs, "04-soft-targets").decides


def log_probabilities(run, *members, how="arithmetic", split="test"):
    """The mean of networks over all frames of a split, the plain way."""
    inputs = torch.cat(list(run.data.parts[0].split(split).windows())).float()
    with torch.no_grad():
        logits = torch.stack([member[0].network(inputs) for member in members])
    return ensembles.average(logits, how).log()


@pytest.fixture
def never(monkeypatch):
    """Nothing may be computed from here on."""

    def refuse(*_, **__):
        raise AssertionError("computed again")

    def arm():
        monkeypatch.setattr(posteriors, "by_utterance", refuse)
        monkeypatch.setattr(store.Store, "_save", refuse)
        monkeypatch.setattr(soft_targets, "store_soft_targets", refuse)

    return arm


# --- the data -------------------------------------------------------------------------------------


def test_what_a_chapter_starts_with(chapter, run):
    assert list(chapter.sets) == ["synthetic"]
    assert run.record_name == "03-acoustic-ensemble.synthetic"
    assert (run.data.name, run.error_metric, chapter.seeds) == ("synthetic-smoke", "word_error_rate", [0, 1])
    assert run.plans is chapter.sizes.synthetic
    assert len(run.data.parts[0].states) == run.plans.states == 160
    assert "synthetic-smoke, " in run.data.describe()
    assert "folds" not in run.data.describe()


def test_a_corpus_is_prepared_once(runs, run):
    before = {path: path.stat().st_mtime_ns for path in (runs / "smoke" / "corpora").rglob("*.npy")}
    again = start(runs, "04-soft-targets").decides
    assert again.data.fingerprint == run.data.fingerprint
    assert {path: path.stat().st_mtime_ns for path in (runs / "smoke" / "corpora").rglob("*.npy")} == before
    assert before


# --- networks -------------------------------------------------------------------------------------


def test_one_network_for_a_plan_and_a_seed(run, plan, members, never):
    keys = [member[0].key for member in members]
    assert len(set(keys)) == 2
    assert [member[0].seed for member in members] == [0, 1]
    assert [row["epoch"] for row in members[0][0].history] == [1, 2]
    never()  # loaded this time, in another order too
    again = run.train(plan, [1, 0])
    assert [folded[0].key for folded in again] == keys[::-1]
    for a, b in zip(again[::-1], members, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a[0].network.parameters(), b[0].network.parameters(), strict=True))


def test_only_what_is_missing_is_trained(run, plan, members, monkeypatch):
    trained = []
    real = training.fit_many

    def noting(*arguments, seeds, **options):
        trained.append(seeds)
        return real(*arguments, seeds=seeds, **options)

    monkeypatch.setattr(training, "fit_many", noting)
    run.train(plan, [0, 7, 1])
    assert trained == [[7]]
    run.train(plan.but(hidden=[8]), [0])
    run.train(plan.but(hidden=[8]), [0, 1, 2])
    assert trained == [[7], [0], [1, 2]]  # all that are missing in one call


def test_soft_plans_need_teachers_and_hard_ones_none(run, plan, members):
    soft = plan.but(loss="soft", temperature=2.0)
    for wrong, teachers in ((soft, ()), (plan, members), (soft, {0: members, 1: ()})):
        with pytest.raises(ValueError, match="needs teachers if and only if"):
            run.train(wrong, [0, 1], teachers)


def test_students_differ_by_their_teachers(run, plan, members):
    soft = plan.but(loss="soft", temperature=2.0, epochs=1, curve=0)
    keys = [run.train(soft, [0], teachers)[0][0].key for teachers in (members, members[:1], members[1:])]
    keys.append(run.train(soft.but(teachers="geometric"), [0], members)[0][0].key)
    assert len(set(keys)) == 4
    # One teacher has no mean, whatever its name.
    assert run.train(soft.but(teachers="geometric"), [0], members[:1])[0][0].key == keys[1]
    # A teacher of one's own for each seed.
    own = run.train(soft, [0, 1], {0: members[:1], 1: members[1:]})
    assert own[0][0].key == keys[1]
    assert own[1][0].key not in keys


def test_soft_targets_are_the_teachers_mean_stored_once(run, members, never):
    folder = run.soft_targets([m[0] for m in members], "arithmetic", 0, 24)
    expected = log_probabilities(run, *members, split="train")
    best = expected.topk(24, dim=1)
    got = soft_targets.SoftTargets(folder).logits(np.arange(len(expected)))
    torch.testing.assert_close(got.gather(1, best.indices).exp(), best.values.exp(), rtol=0, atol=0.02)
    assert (got.argmax(1) == expected.argmax(1)).float().mean() > 0.97  # bf16 and float16 may swap the first two
    never()
    assert run.soft_targets([m[0] for m in members], "arithmetic", 0, 24) == folder


@pytest.mark.parametrize("count", [1, 2])
def test_soft_targets_of_a_share_belong_to_its_frames(run, plan, members, count):
    """An ensemble's are stored for all frames, a single teacher's for the share; each frame gets its own."""
    soft = plan.but(loss="soft", temperature=2.0, fraction=0.2)
    teachers = [member[0] for member in members[:count]]
    which = run.transfer_set(soft, 3)
    found = run._targets(soft, 3, teachers, 0, which)["soft_targets"]
    assert len(found) == len(which)
    expected = log_probabilities(run, *members[:count], split="train")[which]
    got = found.logits(np.arange(len(which)))
    best = expected.topk(10, dim=1)
    torch.testing.assert_close(got.gather(1, best.indices).exp(), best.values.exp(), rtol=0, atol=0.02)


def test_distillation_without_stored_soft_targets(run, plan, members, monkeypatch):
    """top_k: none. The teachers answer batch by batch; the student comes out nearly the same."""
    soft = plan.but(loss="soft", temperature=2.0)
    stored = run.score(run.train(soft, [0], members)[0]).frame_accuracy
    chapters = {**run.preset.chapters, run.chapter: run.sizes.but(top_k=None)}
    other = replace(run, preset=run.preset.model_copy(update={"chapters": chapters}), record={})
    monkeypatch.setattr(soft_targets, "store_soft_targets", None)
    computed = other.train(soft, [0], members)[0]
    assert computed[0].key != run.train(soft, [0], members)[0][0].key
    assert other.score(computed).frame_accuracy == pytest.approx(stored, abs=0.03)


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", "validation"])
def test_score_of_a_network(run, members, split):
    score = run.score(members[0], split=split)
    chosen = run.data.parts[0].split(split)
    right = log_probabilities(run, members[0], split=split).argmax(1) == chosen.targets
    assert np.array_equal(score.correct, right.numpy())
    assert score.frame_accuracy == pytest.approx(right.float().mean().item())
    assert score.errors is None
    names = [u["speaker"] for u in chosen.utterances for _ in range(u["frames"])]
    assert score.speaker.tolist() == [sorted(set(names)).index(name) for name in names]
    assert len(score.by_speaker()) == len(set(names)) == 2
    assert score.by_speaker()[0] == pytest.approx(right.numpy()[score.speaker == 0].mean())


@pytest.mark.parametrize("how", ["arithmetic", "geometric"])
def test_score_of_an_ensemble(run, members, how):
    score = run.score(members, how=how)
    right = log_probabilities(run, *members, how=how).argmax(1) == run.data.parts[0].test.targets
    assert (score.correct == right.numpy()).mean() > 0.999  # rounding may break a tie
    assert score.frame_accuracy > run.score(members[0]).frame_accuracy - 0.02


def test_score_after_decoding(run, members):
    score = run.score(members, decode=True)
    recognizer, split = run.recognizer(0), run.data.parts[0].test
    found = log_probabilities(run, *members).split([u["frames"] for u in split.utterances])
    expected = recognizer.errors(split.utterances, found)
    assert score.errors.shape == (len(split.utterances), 4)
    assert np.array_equal(score.errors[:, 3], expected[:, 3])
    assert score.error_rate == pytest.approx(expected[:, :3].sum() / expected[:, 3].sum(), abs=0.02)
    assert np.array_equal(score.correct, run.score(members).correct)


def test_scores_are_computed_once(run, members, never):
    first = run.score(members, decode=True), run.score(members[0])
    never()
    again = run.score(members, decode=True), run.score(members[0])
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.correct, b.correct)
    assert np.array_equal(first[0].errors, again[0].errors)
    for other in ({"how": "geometric", "decode": True}, {"split": "validation", "decode": True}):
        with pytest.raises(AssertionError, match="computed again"):
            run.score(members, **other)


def test_the_decoder_is_tuned_with_the_baseline_on_validation_speakers(run, members, monkeypatch):
    recognizer = run.recognizer(0)
    (baseline,) = run.train(run.plans.member, [0])
    fresh = Recognizer.of(run.data.parts[0])
    tuned = fresh.tuned(baseline[0].network, run.data.parts[0].validation)
    assert [recognizer.acoustic_scale, recognizer.insertion_penalty] == [
        tuned["acoustic_scale"],
        tuned["insertion_penalty"],
    ]
    assert run.recognizer(0) is recognizer


def test_another_baseline_decodes_anew(run, members):
    """Errors depend on the decoder's weights, and those on the baseline that chose them."""
    rows = run.score(members[1], decode=True).errors
    plans = run.plans.but(member=run.plans.member.but(epochs=1, learning_rate=1e-5).model_dump())
    chapters = {**run.preset.chapters, run.chapter: run.sizes.but(synthetic=plans.model_dump())}
    other = replace(run, preset=run.preset.model_copy(update={"chapters": chapters}), record={})
    assert (other.recognizer(0).acoustic_scale, other.recognizer(0).insertion_penalty) != (
        run.recognizer(0).acoustic_scale,
        run.recognizer(0).insertion_penalty,
    )
    assert not np.array_equal(other.score(members[1], decode=True).errors, rows)


def test_ensembles_of_every_size(run, members):
    alone, growing = ch03_acoustic_ensemble.ensemble_sizes(run, members)
    assert alone.tolist() == pytest.approx([run.score(member).frame_accuracy for member in members])
    assert growing[0] == alone[0]
    assert growing[1] == pytest.approx(run.score(members).frame_accuracy, abs=1e-3)


def test_two_folds_are_scored_together(run, plan):
    """The same speech taken for two folds: every network once a fold, all test speakers in one score."""
    part = run.data.parts[0]
    other = replace(part, fingerprint=part.fingerprint[::-1])
    folded = replace(run, data=Folds((part, other)), record={})
    (net,) = folded.train(plan, [0])
    assert len(net) == 2
    assert net[0].key != net[1].key
    score = folded.score(net)
    one = run.score(net[:1])
    assert np.array_equal(score.correct, np.tile(one.correct, 2))
    assert score.speaker.tolist() == [*one.speaker, *(one.speaker + 2)]
    assert "2 folds by speaker" in folded.data.describe()
    assert folded.data.fingerprint == f"{part.fingerprint}-{other.fingerprint}"


# --- learning curves and early stopping -----------------------------------------------------------


def test_curves_look_at_all_three_splits(run, plan, members):
    row = members[0][0].history[-1]
    assert "validation_frame_accuracy" not in members[0][0].history[0]  # every second epoch
    for split in ("train", "validation", "test"):
        chosen = run.data.parts[0].split(split)
        found = posteriors.accuracy(members[0][0].network, chosen, torch.arange(len(chosen)))
        assert row[f"{split}_frame_accuracy"] == pytest.approx(found, abs=1e-6)


def test_curves_look_at_frames_evenly():
    for count in (1, CURVE_FRAMES, CURVE_FRAMES + 1, 10 * CURVE_FRAMES + 7):
        found = evenly(torch.arange(count), CURVE_FRAMES)
        assert len(found) <= CURVE_FRAMES
        assert len(found) > min(count, CURVE_FRAMES) / 2 - 1
        assert len(set(found.diff().tolist())) <= 1


def test_early_stopping_keeps_the_best_epoch(regulariser):
    """With a rate that ruins what was learnt, the best epoch is not the last."""
    plan = regulariser.sizes.hard.but(epochs=5, curve=1, learning_rate=0.05, schedule="constant")
    for seed in range(4):
        (net,) = regulariser.train(plan, [seed])[0]
        curve = [row["validation_frame_accuracy"] for row in net.history]
        if curve.index(max(curve)) < len(curve) - 1:
            break
    assert max(curve) > curve[-1]
    validation = regulariser.data.parts[0].validation
    found = posteriors.accuracy(net.network, validation, torch.arange(len(validation)))
    assert found == pytest.approx(max(curve), abs=1e-6)
    best = net.history[curve.index(max(curve))]
    assert ch04_soft_targets.train_accuracy((net,)) == best["train_frame_accuracy"]
    last = replace(net, plan=plan.but(early_stopping=False))
    assert ch04_soft_targets.train_accuracy((last,)) == net.history[-1]["train_frame_accuracy"]


# --- chapter 4's shares ---------------------------------------------------------------------------


def test_the_chapters_own_share(regulariser):
    sizes = regulariser.sizes
    for fraction in (None, sizes.fraction):
        plans = ch04_soft_targets.regulariser_plans(regulariser, fraction)
        assert plans == {"hard": sizes.hard, "soft": sizes.soft}
    assert plans["hard"].early_stopping
    assert not plans["soft"].early_stopping
    assert plans["hard"].fraction == plans["soft"].fraction == sizes.fraction


def test_other_shares_take_other_epochs(regulariser):
    plans = ch04_soft_targets.regulariser_plans(regulariser, 0.3)
    own = ch04_soft_targets.regulariser_plans(regulariser)
    assert [plan.fraction for plan in plans.values()] == [0.3, 0.3]
    assert plans["soft"].recipe.epochs == round(own["soft"].recipe.epochs / 3)  # as many steps
    assert plans["hard"].recipe.epochs == round(own["hard"].recipe.epochs / 3**0.5)
    assert plans["hard"].early_stopping
    assert plans["hard"].curve >= 1
    whole = ch04_soft_targets.regulariser_plans(regulariser, 1.0)
    assert whole["hard"] == regulariser.plans.member
    assert "soft" not in whole
    assert all(plan.recipe.epochs >= 1 for plan in ch04_soft_targets.regulariser_plans(regulariser, 1e-3).values())


def test_a_share_is_trained_on_alone(regulariser, members, monkeypatch):
    plans = {k: p.but(epochs=1, curve=1) for k, p in ch04_soft_targets.regulariser_plans(regulariser).items()}
    train = regulariser.data.parts[0].train
    seen = {}
    real = batches.FrameBatches

    def noting(split, which, **options):
        seen.setdefault(len(seen), which)
        return real(split, which, **options)

    monkeypatch.setattr("kdrepro.acoustic.batches.FrameBatches", noting)
    regulariser.train(plans["hard"], [0, 1])
    regulariser.train(plans["soft"], [0, 1], {seed: [members[seed]] for seed in (0, 1)})
    for seed in (0, 1):
        share = frames.share_of(train, 0.1, "utterances", seed)
        assert torch.equal(seen[seed], share)  # hard
        assert torch.equal(seen[2 + seed], share)  # soft
        assert torch.equal(regulariser.transfer_set(plans["soft"], seed), share)
        assert 0.04 < len(share) / len(train) < 0.18
    assert not torch.equal(seen[0], seen[1])
    single = regulariser.transfer_set(plans["hard"].but(sampling="frames"), 0)
    assert len(single) == round(0.1 * len(train))


# --- records --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(run, plan, members):
    distilled = run.train(plan.but(loss="soft", temperature=2.0), run.seeds, members, name="distilled")
    return distilled, {
        "baseline": [run.score(net, decode=True) for net in members],
        "ensemble": [run.score(members, decode=True)],
        "distilled": [run.score(net, decode=True) for net in distilled],
    }


def test_claims_of_table_1(chapter, run, members, scored, tmp_path):
    distilled, scores = scored
    ch03_acoustic_ensemble.claim_table1(run, members, distilled, scores)
    for name, found in scores.items():
        run.publish_scores(name, found)
    (path,) = chapter.finish()
    record = json.loads(path.read_text())
    assert path.is_relative_to(tmp_path)
    claims = record["claims"]
    assert set(claims) == {"speech.baseline", "speech.ensemble", "speech.distilled", "speech.recovered"}
    assert {entry["verdict"] for entry in claims.values()} == {"not run"}  # a smoke corpus does not decide
    baseline = [score.frame_accuracy for score in scores["baseline"]]
    ensemble = scores["ensemble"][0].frame_accuracy
    student = [score.frame_accuracy for score in scores["distilled"]]
    assert claims["speech.baseline"]["metrics"]["frame_accuracy"] == pytest.approx(baseline)
    gains = [ensemble - b for b in baseline]
    assert claims["speech.baseline"]["metrics"]["gain_of_ensemble"] == pytest.approx(gains, abs=1e-7)
    assert claims["speech.ensemble"]["pooled"]["frame_accuracy"] == pytest.approx(ensemble)
    recovered = [(s - b) / (ensemble - b) for s, b in zip(student, baseline, strict=True)]
    assert claims["speech.recovered"]["metrics"]["recovered"] == pytest.approx(recovered, rel=1e-6)
    assert claims["speech.distilled"]["metrics"]["word_error_rate"] == pytest.approx(
        [score.error_rate for score in scores["distilled"]]
    )
    assert claims["speech.recovered"]["seconds"] > claims["speech.baseline"]["seconds"] > 0
    assert record["data"] == {"name": "synthetic-smoke", "fingerprint": run.data.fingerprint}

    with np.load(path.with_suffix(".npz")) as published:
        bits = np.unpackbits(published["baseline.correct"], axis=1, count=int(published["frames"])).astype(bool)
        assert np.array_equal(bits, np.stack([score.correct for score in scores["baseline"]]))
        assert np.array_equal(published["ensemble.errors"], scores["ensemble"][0].errors[None])
        assert np.array_equal(published["speaker"], scores["baseline"][0].speaker)

    assert records.files("03-acoustic-ensemble", path.parent) == [path]
    assert records.claim_by_data("speech.baseline", "03-acoustic-ensemble", path.parent) == {
        "synthetic-smoke": claims["speech.baseline"]
    }
    assert records.claim_by_data("soft.full", "03-acoustic-ensemble", path.parent) == {}


def test_records_of_a_chapter(tmp_path):
    for name in ("03-a.json", "03-a.synthetic.json", "03-a.timit-sample.json", "03-ab.json", "03-a.npz"):
        (tmp_path / name).write_text("{}")
    found = [path.name for path in records.files("03-a", tmp_path)]
    assert found == ["03-a.json", "03-a.synthetic.json", "03-a.timit-sample.json"]
    with pytest.raises(InputError, match="is not a run record"):
        records.claim_by_data("x", "03-a", tmp_path)


def test_tables(run, members, scored):
    _, scores = scored
    table = ch03_acoustic_ensemble.table1([(run, scores)])
    assert list(table.index) == ["baseline", "ensemble", "distilled"]
    assert table.loc["baseline", ("paper", "frame accuracy")] == "58.9 %"
    ours = table.loc["ensemble", ("synthetic-smoke", "frame accuracy")]
    assert float(ours.split()[0]) == pytest.approx(100 * scores["ensemble"][0].frame_accuracy, abs=0.051)
    tests = ch03_acoustic_ensemble.paired_tests([(run, scores)])
    assert len(tests) == 3
    difference = np.mean(scores["ensemble"][0].by_speaker() - np.mean([s.by_speaker() for s in scores["baseline"]], 0))
    assert float(tests.iloc[0, 0]) == pytest.approx(100 * difference, abs=0.0051)
    rows = speech.rows(run, members, kind="x")
    assert [(row["kind"], row["seed"]) for row in rows] == [("x", 0), ("x", 1)]
    assert rows[1]["error rate, %"] == pytest.approx(100 * scores["baseline"][1].error_rate)


def test_table_of_kept_states(run, members):
    table = ch03_acoustic_ensemble.top_k_table(run, members, [1, 8], temperatures=(1, 10))
    distances = [float(x) for x in table["KL at T = 1, nats"][:3]]
    assert distances == sorted(distances, reverse=True)
    assert list(table["bytes a frame"])[:3] == [4, 32, 320]
    cost = ch03_acoustic_ensemble.cost(members[0][0], repeats=3)
    assert cost["parameters"] == members[0][0].parameters
    assert cost["µs a frame, alone"] > 0


def test_accuracy_in_training_and_divergences(run, members, never):
    """On all frames they are what the definitions give, and on some of them nearly so."""
    student, other = members
    answers = log_probabilities(run, student, split="train").argmax(1)
    right = (answers == run.data.parts[0].train.targets).float().mean().item()
    assert ch03_acoustic_ensemble.accuracy_in_training(run, student, most=10**6) == pytest.approx(right, abs=1e-6)
    assert ch03_acoustic_ensemble.accuracy_in_training(run, student, most=1000) == pytest.approx(right, abs=0.1)
    table = ch03_acoustic_ensemble.divergences(run, members, {"one": student, "other": other}, most=10**6)
    for split, column in (("train", "training frames"), ("validation", "other speakers' frames")):
        p, q = log_probabilities(run, *members, split=split), log_probabilities(run, student, split=split)
        assert table.loc["one", column] == pytest.approx((p.exp() * (p - q)).sum(1).mean().item(), rel=1e-4)
    assert (table.loc["one"] != table.loc["other"]).all()


def test_claims_of_table_5(regulariser, members):
    plans = {k: p.but(epochs=1, curve=1) for k, p in ch04_soft_targets.regulariser_plans(regulariser).items()}
    teachers = {seed: [members[seed]] for seed in (0, 1)}
    nets = {
        "all, hard": members,
        "little, hard": regulariser.train(plans["hard"], [0, 1]),
        "little, soft": regulariser.train(plans["soft"], [0, 1], teachers),
    }
    scores = {name: [regulariser.score(net, decode=True) for net in found] for name, found in nets.items()}
    ch04_soft_targets.claim_table5(regulariser, nets, scores)
    claims = regulariser.record["claims"]
    assert set(claims) == {"soft.full", "soft.hard3", "soft.soft3"}
    assert {entry["verdict"] for entry in claims.values()} == {"not run"}
    full, hard, soft = ([score.frame_accuracy for score in found] for found in scores.values())
    recovered = [(s - h) / (f - h) for f, h, s in zip(full, hard, soft, strict=True)]
    assert claims["soft.soft3"]["metrics"]["recovered"] == pytest.approx(recovered, rel=1e-6)
    overfit = [ch04_soft_targets.train_accuracy(net) - h for net, h in zip(nets["little, hard"], hard, strict=True)]
    assert claims["soft.hard3"]["metrics"]["overfit"] == pytest.approx(overfit, rel=1e-6)
    table = ch04_soft_targets.table5([(regulariser, nets, scores)])
    assert table.loc["little, soft", ("paper", "test")] == "57.0 %"


def test_error_rate_of_a_score():
    errors = np.array([[1, 2, 0, 10], [0, 0, 3, 2]])
    score = Score(np.array([True, False, True, True]), np.array([0, 0, 1, 1]), errors)
    assert score.error_rate == 6 / 12
    assert score.frame_accuracy == 0.75
    assert score.by_speaker().tolist() == [0.5, 1.0]


def test_figures(run, members):
    """They are drawn of any data; what they show is looked at in the book."""
    import matplotlib.pyplot as plt

    test = run.data.parts[0].test
    drawn = ch03_acoustic_ensemble.labelled_spectrograms(test, speakers=5)
    assert len(drawn.axes) == 2  # as many as there are
    utterance = test.utterances[3]
    features = ch03_acoustic_ensemble.features_of(test, utterance)
    windows = torch.cat(list(test.windows()))[utterance["first"] : utterance["first"] + utterance["frames"]]
    assert np.array_equal(features, windows.view(-1, 26, 40)[:, 20].float().numpy())
    assert torch.equal(ch03_acoustic_ensemble._windows(test, utterance), windows)
    assert len(ch03_acoustic_ensemble.decoded_utterance(run, {"one": members[:1], "both": members}).axes) == 2
    assert len(ch03_acoustic_ensemble.boundary(run, members, (1, 5)).axes) == 2
    plt.close("all")


def test_presets_of_both_chapters_share_their_members():
    for name in ("smoke", "full", "paper"):
        chapters = presets.load(name).chapters
        three, four = chapters["03-acoustic-ensemble"], chapters["04-soft-targets"]
        for name in ("corpus", "states"):
            assert getattr(three.synthetic, name) == getattr(four.synthetic, name)
        member = four.synthetic.member
        assert three.synthetic.member in (member, member.but(epochs=four.longer_epochs))
        assert three.members >= max(three.seeds, four.seeds)
