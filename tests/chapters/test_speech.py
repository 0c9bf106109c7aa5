"""Chapters on speech: networks by plan, ensembles and their scores, shares of the data, records."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdrepro import training
from kdrepro.acoustic import batches, frames, posteriors, soft_targets
from kdrepro.acoustic.recognition import Recognizer
from kdrepro.chapters import presets, speech
from kdrepro.chapters.speech import CURVE_FRAMES, Folds, Score, SpeechExperiment, evenly
from kdrepro.errors import InputError
from kdrepro.verdicts import records

# --- the data -------------------------------------------------------------------------------------


def test_what_a_chapter_starts_with(speech_chapter, speech_run):
    assert list(speech_chapter.sets) == ["synthetic"]
    assert speech_run.record_name == "03-acoustic-ensemble.synthetic"
    assert (speech_run.data.name, speech_run.error_metric, speech_chapter.seeds) == (
        "synthetic-smoke",
        "word_error_rate",
        [0, 1],
    )
    assert speech_run.plans is speech_chapter.sizes.synthetic
    assert len(speech_run.data.parts[0].states) == speech_run.plans.states == 160
    assert "synthetic-smoke, " in speech_run.data.describe()
    assert "folds" not in speech_run.data.describe()


def test_a_corpus_is_prepared_once(speech_runs, speech_run, speech_start):
    before = {path: path.stat().st_mtime_ns for path in (speech_runs / "smoke" / "corpora").rglob("*.npy")}
    again = speech_start("04-soft-targets").decides
    assert again.data.fingerprint == speech_run.data.fingerprint
    assert {path: path.stat().st_mtime_ns for path in (speech_runs / "smoke" / "corpora").rglob("*.npy")} == before
    assert before


# --- networks -------------------------------------------------------------------------------------


def test_one_network_for_a_plan_and_a_seed(speech_run, speech_plan, speech_members, speech_never):
    keys = [member[0].key for member in speech_members]
    assert len(set(keys)) == 2
    assert [member[0].seed for member in speech_members] == [0, 1]
    assert [row["epoch"] for row in speech_members[0][0].history] == [1, 2]
    speech_never()  # loaded this time, in another order too
    again = speech_run.train(speech_plan, [1, 0])
    assert [folded[0].key for folded in again] == keys[::-1]
    for a, b in zip(again[::-1], speech_members, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a[0].network.parameters(), b[0].network.parameters(), strict=True))


def test_only_what_is_missing_is_trained(speech_run, speech_plan, speech_members, monkeypatch):
    trained = []
    real = training.fit_many

    def noting(*arguments, seeds, **options):
        trained.append(seeds)
        return real(*arguments, seeds=seeds, **options)

    monkeypatch.setattr(training, "fit_many", noting)
    speech_run.train(speech_plan, [0, 7, 1])
    assert trained == [[7]]
    speech_run.train(speech_plan.but(hidden=[8]), [0])
    speech_run.train(speech_plan.but(hidden=[8]), [0, 1, 2])
    assert trained == [[7], [0], [1, 2]]  # all that are missing in one call


def test_soft_plans_need_teachers_and_hard_ones_none(speech_run, speech_plan, speech_members):
    soft = speech_plan.but(loss="soft", temperature=2.0)
    for wrong, teachers in ((soft, ()), (speech_plan, speech_members), (soft, {0: speech_members, 1: ()})):
        with pytest.raises(ValueError, match="needs teachers if and only if"):
            speech_run.train(wrong, [0, 1], teachers)


def test_students_differ_by_their_teachers(speech_run, speech_plan, speech_members):
    soft = speech_plan.but(loss="soft", temperature=2.0, epochs=1, curve=1)
    keys = [
        speech_run.train(soft, [0], teachers)[0][0].key
        for teachers in (speech_members, speech_members[:1], speech_members[1:])
    ]
    keys.append(speech_run.train(soft.but(teachers="geometric"), [0], speech_members)[0][0].key)
    assert len(set(keys)) == 4
    # One teacher has no mean, whatever its name.
    assert speech_run.train(soft.but(teachers="geometric"), [0], speech_members[:1])[0][0].key == keys[1]
    # A teacher of one's own for each seed.
    own = speech_run.train(soft, [0, 1], {0: speech_members[:1], 1: speech_members[1:]})
    assert own[0][0].key == keys[1]
    assert own[1][0].key not in keys


def test_soft_targets_are_the_teachers_mean_stored_once(
    speech_run, speech_members, speech_never, speech_log_probabilities
):
    folder = speech_run.soft_targets([m[0] for m in speech_members], "arithmetic", 0, 24)
    expected = speech_log_probabilities(speech_run, *speech_members, split="train")
    best = expected.topk(24, dim=1)
    got = soft_targets.SoftTargets(folder).logits(np.arange(len(expected)))
    torch.testing.assert_close(got.gather(1, best.indices).exp(), best.values.exp(), rtol=0, atol=0.02)
    assert (got.argmax(1) == expected.argmax(1)).float().mean() > 0.97  # bf16 and float16 may swap the first two
    speech_never()
    assert speech_run.soft_targets([m[0] for m in speech_members], "arithmetic", 0, 24) == folder


@pytest.mark.parametrize("count", [1, 2])
def test_soft_targets_of_a_share_belong_to_its_frames(
    speech_run, speech_plan, speech_members, count, speech_log_probabilities
):
    """An ensemble's are stored for all frames, a single teacher's for the share; each frame gets its own."""
    soft = speech_plan.but(loss="soft", temperature=2.0, fraction=0.2)
    teachers = [member[0] for member in speech_members[:count]]
    which = speech_run.transfer_set(soft, 3)
    found = speech_run.request(soft, 3, teachers).batches().soft_targets
    assert len(found) == len(which)
    expected = speech_log_probabilities(speech_run, *speech_members[:count], split="train")[which]
    got = found.logits(np.arange(len(which)))
    best = expected.topk(10, dim=1)
    torch.testing.assert_close(got.gather(1, best.indices).exp(), best.values.exp(), rtol=0, atol=0.02)


def test_distillation_without_stored_soft_targets(speech_run, speech_plan, speech_members, monkeypatch):
    """top_k: none. The teachers answer batch by batch; the student comes out nearly the same."""
    soft = speech_plan.but(loss="soft", temperature=2.0)
    stored = speech_run.score(speech_run.train(soft, [0], speech_members)[0]).frame_accuracy
    chapters = {**speech_run.preset.chapters, speech_run.chapter: speech_run.sizes.but(top_k=None)}
    other = replace(speech_run, preset=speech_run.preset.model_copy(update={"chapters": chapters}), record={})
    monkeypatch.setattr(soft_targets, "store_soft_targets", None)
    computed = other.train(soft, [0], speech_members)[0]
    assert computed[0].key != speech_run.train(soft, [0], speech_members)[0][0].key
    assert other.score(computed).frame_accuracy == pytest.approx(stored, abs=0.03)


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", "validation"])
def test_score_of_a_network(speech_run, speech_members, split, speech_log_probabilities):
    score = speech_run.score(speech_members[0], split=split)
    chosen = speech_run.data.parts[0].split(split)
    right = speech_log_probabilities(speech_run, speech_members[0], split=split).argmax(1) == chosen.targets
    assert np.array_equal(score.correct, right.numpy())
    assert score.frame_accuracy == pytest.approx(right.float().mean().item())
    assert score.errors is None
    names = [u["speaker"] for u in chosen.utterances for _ in range(u["frames"])]
    assert score.speaker.tolist() == [sorted(set(names)).index(name) for name in names]
    assert len(score.right) == len(set(names)) == 2
    assert score.right[0] == right.numpy()[score.speaker == 0].sum()


@pytest.mark.parametrize("how", ["arithmetic", "geometric"])
def test_score_of_an_ensemble(speech_run, speech_members, how, speech_log_probabilities):
    score = speech_run.score(speech_members, how=how)
    right = (
        speech_log_probabilities(speech_run, *speech_members, how=how).argmax(1)
        == speech_run.data.parts[0].test.targets
    )
    assert (score.correct == right.numpy()).mean() > 0.999  # rounding may break a tie
    assert score.frame_accuracy > speech_run.score(speech_members[0]).frame_accuracy - 0.02


def test_score_after_decoding(speech_run, speech_members, speech_log_probabilities):
    decoder = speech_run.decoder(speech_members)
    score = speech_run.score(speech_members, decoder=decoder)
    split = speech_run.data.parts[0].test
    found = speech_log_probabilities(speech_run, *speech_members).split([u["frames"] for u in split.utterances])
    expected = decoder[0].errors(split.utterances, found)
    assert score.errors.shape == (len(split.utterances), 4)
    assert np.array_equal(score.errors[:, 3], expected[:, 3])
    assert score.error_rate == pytest.approx(expected[:, :3].sum() / expected[:, 3].sum(), abs=0.02)
    assert np.array_equal(score.correct, speech_run.score(speech_members).correct)
    assert score.errors_by_speaker.shape == (2, 4)
    of_first = [u["speaker"] == split.utterances[0]["speaker"] for u in split.utterances]
    assert score.errors_by_speaker[0].tolist() == score.errors[of_first].sum(0).tolist()


def test_scores_are_computed_once(speech_run, speech_members, speech_never):
    decoder = speech_run.decoder(speech_members)
    first = speech_run.score(speech_members, decoder=decoder), speech_run.score(speech_members[0])
    speech_never()
    again = speech_run.decoder(speech_members)
    assert again[0].acoustic_scale == decoder[0].acoustic_scale
    for a, b in zip(
        first, (speech_run.score(speech_members, decoder=again), speech_run.score(speech_members[0])), strict=True
    ):
        assert np.array_equal(a.correct, b.correct)
    assert speech_run.score(speech_members, decoder=again).error_rate == first[0].error_rate
    others = {"how": "geometric", "decoder": decoder}, {"split": "validation", "decoder": decoder}
    for other in (*others, {"decoder": (decoder[0].with_weights(0.3, 1.0),)}):
        with pytest.raises(AssertionError, match="computed again"):
            speech_run.score(speech_members, **other)


def test_each_system_has_a_decoder_tuned_to_itself_on_validation_speakers(speech_run, speech_members):
    (validation, fresh) = speech_run.data.parts[0].validation, Recognizer.of(speech_run.data.parts[0])
    for system in (speech_members[0], speech_members):
        networks = [net[0].network for net in ([system] if system is speech_members[0] else system)]
        tuned = fresh.tuned(networks, validation)
        (found,) = speech_run.decoder(system)
        assert (found.acoustic_scale, found.insertion_penalty) == (tuned["acoustic_scale"], tuned["insertion_penalty"])
        assert speech_run.validation_rate(system) == tuned["rates"].min()
    assert speech_run.decoder(speech_members[0], order=3)[0].order == 3
    with pytest.raises(ValueError, match="order must be 2"):
        speech_run.decoder(speech_members[0], order=4)


# --- ensembles -------------------------------------------------------------------------------------


def test_ensembles_are_disjoint_and_no_student_begins_as_a_member_of_its_own(speech_run):
    members = speech_run.sizes.members
    for seeds in ([0, 1], [members, members + 1], [10]):  # the last two confirm
        run = replace(speech_run, seeds=seeds, record={})
        ensembles = [run._seeds_of(number) for number in (0, 1)]
        assert [len(each) for each in ensembles] == [members] * 2
        every = {seed for each in ensembles for seed in each}
        assert len(every) == 2 * members
        assert set(run.places) <= set(range(members))
        if seeds[0] < members:
            first = every
        else:
            assert not first & every


def test_a_students_weights_begin_as_those_of_the_other_ensemble(speech_run, monkeypatch):
    asked = []
    monkeypatch.setattr(
        SpeechExperiment, "train", lambda self, plan, seeds, teachers=(), name="": asked.append(seeds) or list(seeds)
    )
    for number in (0, 1):
        students = speech_run.distilled_from(number, speech_run.plans.distilled)
        assert not set(students) & set(speech_run._seeds_of(number))
        assert len(students) == len(speech_run.seeds)
    assert speech_run.distilled_from(0, speech_run.plans.distilled, [1]) == [speech_run._seeds_of(1)[1]]


def test_seeds_that_confirm_begin_nets_that_no_ensemble_has(speech_run, speech_regulariser):
    """Chapter 4 has chapter 3's members, with its first seeds and with those that confirm."""
    members = speech_run.sizes.members
    used = {seed for number in (0, 1) for seed in speech_run._seeds_of(number)}
    assert speech_regulariser.members_seeds == speech_run._seeds_of(0)[:2]
    confirm = list(range(4 * members, 5 * members))
    four, three = (replace(run, seeds=confirm, record={}) for run in (speech_regulariser, speech_run))
    assert four.members_seeds == three.members_seeds == three._seeds_of(0)
    assert not used & set(four.members_seeds)
    across = replace(speech_regulariser, seeds=list(range(3 * members)), record={}).members_seeds
    assert len(set(across)) == 3 * members
    full = presets.load("full")
    at_full = replace(speech_regulariser, preset=full, seeds=list(range(10, 15)), record={})
    assert at_full.members_seeds == list(range(20, 25))  # 10 to 19 are the second ensemble's


def test_nets_to_compare_with_students_begin_as_they_do(speech_run, monkeypatch):
    asked = []
    monkeypatch.setattr(
        SpeechExperiment, "train", lambda self, plan, seeds, teachers=(), name="": asked.append(seeds) or list(seeds)
    )
    assert speech_run.distilled_from(0, speech_run.plans.distilled) == speech_run.students_seeds(0)
    assert speech_run.students_seeds(0, [1]) == [speech_run._seeds_of(1)[1]]


def test_systems_differ_in_their_targets_alone(speech_run):
    plans = speech_run.plans
    hard, soft = plans.training.model_dump(), plans.distilled.model_dump()
    assert {name for name in hard if hard[name] != soft[name]} == {"loss", "temperature", "soft_weight"}
    assert hard["early_stopping"]
    with pytest.raises(ValueError, match="Extra inputs"):
        plans.but(soft={**plans.soft.model_dump(), "epochs": 3})
    with pytest.raises(ValueError, match="its loss must be hard"):
        plans.but(training=plans.distilled.model_dump())


def test_two_folds_are_scored_together(speech_run, speech_plan):
    """The same speech taken for two folds: every network once a fold, all test speakers in one score."""
    part = speech_run.data.parts[0]
    other = replace(part, fingerprint=part.fingerprint[::-1])
    folded = replace(speech_run, data=Folds((part, other)), record={})
    (net,) = folded.train(speech_plan, [0])
    assert len(net) == 2
    assert net[0].key != net[1].key
    score = folded.score(net)
    one = speech_run.score(net[:1])
    assert np.array_equal(score.correct, np.tile(one.correct, 2))
    assert score.speaker.tolist() == [*one.speaker, *(one.speaker + 2)]
    assert score.voice.tolist() == [0, 1, 0, 1]  # whoever is in two folds is one voice
    assert "2 folds by speaker" in folded.data.describe()
    assert folded.data.fingerprint == f"{part.fingerprint}-{other.fingerprint}"


# --- learning curves and early stopping -----------------------------------------------------------


def test_curves_look_at_all_three_splits(speech_run, speech_plan, speech_members):
    row = speech_members[0][0].history[-1]
    assert "validation_frame_accuracy" not in speech_members[0][0].history[0]  # every second epoch
    for split in ("train", "validation", "test"):
        chosen = speech_run.data.parts[0].split(split)
        found = posteriors.accuracy(speech_members[0][0].network, chosen, torch.arange(len(chosen)))
        assert row[f"{split}_frame_accuracy"] == pytest.approx(found, abs=1e-6)


def test_curves_look_at_frames_evenly():
    for count in (1, CURVE_FRAMES, CURVE_FRAMES + 1, 10 * CURVE_FRAMES + 7):
        found = evenly(torch.arange(count), CURVE_FRAMES)
        assert len(found) <= CURVE_FRAMES
        assert len(found) > min(count, CURVE_FRAMES) / 2 - 1
        assert len(set(found.diff().tolist())) <= 1


def test_early_stopping_keeps_the_best_epoch(speech_regulariser, monkeypatch):
    """Whichever it is: here the second of four, since the figures are given and not measured."""
    plan = speech_regulariser.sizes.little.training.but(epochs=4, curve=1, learning_rate=0.011)  # no other test's
    given, weights = iter([0.2, 0.6, 0.5, 0.4]), []

    def evaluate(network):
        weights.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return {"validation_frame_accuracy": next(given)}

    request = replace(speech_regulariser.request(plan, 0), evaluate=evaluate)
    assert request.keep_best == "validation_frame_accuracy"
    (net,) = speech_regulariser.train_many([request])
    assert [row["validation_frame_accuracy"] for row in net.history] == [0.2, 0.6, 0.5, 0.4]
    kept = net.network.state_dict()
    same = [all(torch.equal(kept[name], epoch[name]) for name in kept) for epoch in weights]
    assert same == [False, True, False, False]


def test_the_curve_is_the_accuracy_on_validation_frames(speech_regulariser):
    plan = speech_regulariser.sizes.little.training.but(epochs=2, curve=1, learning_rate=0.012)
    (net,) = speech_regulariser.train(plan, [0])[0]
    curve = [row["validation_frame_accuracy"] for row in net.history]
    validation = speech_regulariser.data.parts[0].validation
    found = posteriors.accuracy(net.network, validation, torch.arange(len(validation)))
    assert found == pytest.approx(max(curve), abs=1e-6)


# --- chapter 4's shares ---------------------------------------------------------------------------


def test_a_share_is_trained_on_alone(speech_regulariser, speech_members, monkeypatch):
    sizes = speech_regulariser.sizes
    short = {"epochs": 1, "curve": 1, "learning_rate": 1e-4}  # no other test's, so that nothing is loaded
    plans = {"hard": sizes.little.training.but(**short), "soft": sizes.little.distilled.but(**short)}
    train = speech_regulariser.data.parts[0].train
    seen = {}
    real = batches.FrameBatches

    def noting(split, which, **options):
        seen.setdefault(len(seen), which)
        return real(split, which, **options)

    monkeypatch.setattr("kdrepro.chapters.speech.FrameBatches", noting)
    speech_regulariser.train(plans["hard"], [0, 1])
    speech_regulariser.train(plans["soft"], [0, 1], {seed: [speech_members[seed]] for seed in (0, 1)})
    for seed in (0, 1):
        share = frames.share_of(train, 0.1, "utterances", seed)
        assert torch.equal(seen[seed], share)  # hard
        assert torch.equal(seen[2 + seed], share)  # soft
        assert torch.equal(speech_regulariser.transfer_set(plans["soft"], seed), share)
        assert 0.04 < len(share) / len(train) < 0.18
    assert not torch.equal(seen[0], seen[1])
    single = speech_regulariser.transfer_set(plans["hard"].but(sampling="frames"), 0)
    assert len(single) == round(0.1 * len(train))


# --- records --------------------------------------------------------------------------------------


def test_a_chapters_record(speech_chapter, speech_run, speech_members, tmp_path):
    decoder = speech_run.decoder(speech_members[0])
    scores = [speech_run.score(net, decoder=decoder) for net in speech_members]
    right = np.array([score.frame_accuracy for score in scores])
    trained = [one for net in speech_members for one in net]
    speech_run.claim("speech.baseline", trained, frame_accuracy=right, gain_of_ensemble=np.array([np.inf, 0.1]))
    speech_run.publish_scores("baseline", scores)
    speech_run.publish_scores("two", [scores, scores[::-1]])
    of_others = [speech_run.score(net, split="validation") for net in speech_members]
    speech_run.publish_scores("baseline", of_others, "validation")
    (path,) = speech_chapter.finish()
    assert path.is_relative_to(tmp_path)
    record = json.loads(path.read_text())
    claim = record["claims"]["speech.baseline"]
    assert claim["verdict"] == "not run"  # a smoke corpus does not decide
    assert claim["metrics"] == {"frame_accuracy": pytest.approx(right.tolist())}  # what is not finite is left out
    assert claim["seconds"] > 0
    assert record["data"] == {"name": "synthetic-smoke", "fingerprint": speech_run.data.fingerprint}
    with np.load(path.with_suffix(".npz")) as published:
        assert published["frames of speaker"].sum() == len(scores[0].correct)
        assert published["baseline.right"].tolist() == [score.right.tolist() for score in scores]
        assert published["baseline.errors by speaker"].sum((1, 2)).tolist() == [s.errors.sum() for s in scores]
        assert published["voice of speaker"].tolist() == [0, 1]
        assert published["two.right"].shape == (2, 2, 2)  # seeds, ensembles, speakers
        assert published["baseline.validation right"].tolist() == [score.right.tolist() for score in of_others]
        assert published["frames of validation speaker"].sum() == len(of_others[0].correct)
        assert len(published["voice of validation speaker"]) == len(published["frames of validation speaker"])
    assert records.files("03-acoustic-ensemble", path.parent) == [path]
    found = records.claim_by_data("speech.baseline", "03-acoustic-ensemble", path.parent)
    assert found == {"synthetic-smoke": claim}
    assert records.claim_by_data("soft.full", "03-acoustic-ensemble", path.parent) == {}


def test_rows_of_networks(speech_run, speech_members):
    rows = speech.rows(speech_run, speech_members, kind="x")
    assert [(row["kind"], row["seed"]) for row in rows] == [("x", 0), ("x", 1)]
    decoder = speech_run.decoder(speech_members[0])
    assert "error rate, %" not in rows[1]
    rows = speech.rows(speech_run, speech_members, decoder, kind="x")
    expected = speech_run.score(speech_members[1], decoder=decoder).error_rate
    assert rows[1]["error rate, %"] == pytest.approx(100 * expected)


def test_records_of_a_chapter(tmp_path):
    for name in ("03-a.json", "03-a.synthetic.json", "03-a.timit-sample.json", "03-ab.json", "03-a.npz"):
        (tmp_path / name).write_text("{}")
    found = [path.name for path in records.files("03-a", tmp_path)]
    assert found == ["03-a.json", "03-a.synthetic.json", "03-a.timit-sample.json"]
    with pytest.raises(InputError, match="is not a run record"):
        records.claim_by_data("x", "03-a", tmp_path)


def test_error_rate_of_a_score():
    errors = np.array([[1, 2, 0, 10], [0, 0, 3, 2]])
    score = Score(np.array([True, False, True, True]), np.array([0, 0, 1, 1]), errors, np.array([0, 1]))
    assert score.error_rate == 6 / 12
    assert score.frame_accuracy == 0.75
    assert score.right.tolist() == [1, 2]
    assert score.errors_by_speaker.tolist() == errors.tolist()


def test_presets_of_both_chapters_share_their_members():
    for name in ("smoke", "full", "paper"):
        chapters = presets.load(name).chapters
        three, four = chapters["03-acoustic-ensemble"], chapters["04-soft-targets"]
        assert three.synthetic == four.synthetic  # so that the full nets of one are the members of the other
        assert three.members >= max(three.seeds, four.seeds)
