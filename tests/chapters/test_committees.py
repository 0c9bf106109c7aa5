"""A generalist and its specialists on a few small images: what is trained, what is loaded, what is combined."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdrepro import specialists, training
from kdrepro.chapters import committees
from kdrepro.chapters.committees import ON_VALIDATION
from kdrepro.data import families
from kdrepro.store import Store

CLASSES = 8


@pytest.fixture
def run(committee_run):
    return committee_run


@pytest.fixture
def generalist(committee_generalist):
    return committee_generalist


@pytest.fixture
def committee(committee_of_four):
    return committee_of_four


def never(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(training, "fit", fail)
    monkeypatch.setattr(training, "fit_many", fail)


def test_the_generalist_learns_something(run, generalist):
    assert run.right(run.logits(generalist)).mean() > 2 / CLASSES


def test_specialists_are_loaded_and_each_can_be_trained_alone(run, generalist, committee, monkeypatch, tmp_path):
    alone = replace(run, store=Store(tmp_path))
    alone._logits.update(run._logits)
    copy = alone.train(run.sizes.generalist, 0)
    (one,) = alone.committee(run.sizes.specialist, copy, committee.subsets[2:3]).specialists
    assert one.key == committee.specialists[2].key
    for a, b in zip(one.network.parameters(), committee.specialists[2].network.parameters(), strict=True):
        assert torch.equal(a, b)
    never(monkeypatch)
    again = run.committee(run.sizes.specialist, generalist, committee.subsets[::-1])
    assert [t.key for t in again.specialists] == [t.key for t in committee.specialists[::-1]]


def test_all_that_are_missing_are_trained_in_one_call(run, generalist, committee, monkeypatch):
    calls = []
    real = training.fit_many
    monkeypatch.setattr(
        training, "fit_many", lambda nets, *rest, **o: (calls.append(len(nets)), real(nets, *rest, **o))
    )
    run.committee(
        run.sizes.specialist, generalist, [*committee.subsets[:1], torch.tensor([0, 7]), torch.tensor([1, 6])]
    )
    assert calls == [2]


def test_specialists_start_from_the_generalist(run, generalist, committee):
    request = run._specialist(run.sizes.specialist, generalist, committee.subsets[0], "specialist")
    network = request.build(request.config).eval()
    inputs = training.as_inputs(run.data.test_images)
    whole = generalist.network(inputs)[:, committee.subsets[0]]
    torch.testing.assert_close(network(inputs)[:, :-1], whole)


def test_only_active_cases_are_looked_at(run, generalist, committee):
    logits = run.specialist_logits(committee, "test", 2)
    active = specialists.active(run.logits(generalist).softmax(1), committee.subsets, 2)
    for i, (trained, found) in enumerate(zip(committee.specialists, logits, strict=True)):
        expected = training.logits(trained.network, run.data.test_images)
        torch.testing.assert_close(found[active[:, i]], expected[active[:, i]])
        assert (found[~active[:, i]] == 0).all()


def test_stored_logits_are_of_the_cases_that_are_active_now(run, generalist, committee, monkeypatch):
    """The generalist's logits differ a little from device to device, and so may what it finds most probable."""
    run.specialist_logits(committee, "test", 2)
    others = {(generalist.key, "test"): run.logits(generalist).roll(1, 0)}  # as many cases are active, but others
    monkeypatch.setattr(run, "_logits", others)
    test_only_active_cases_are_looked_at(run, generalist, committee)


def test_combined_is_eq_5_of_every_specialists_corrected_opinion(run, generalist, committee):
    p = run.logits(generalist).double().softmax(1)
    others = []
    for trained, subset in zip(committee.specialists, committee.subsets, strict=True):
        logits = training.logits(trained.network, run.data.test_images).double()
        others.append(specialists.correct_dustbin(logits, (CLASSES - 3) / 3).softmax(1))
        assert run._oversampling(subset, "words") == pytest.approx(0.5 / (3 / CLASSES))
    expected = specialists.combine(p, others, committee.subsets, top_n=2)
    torch.testing.assert_close(run.combined(committee, top_n=2), expected)
    torch.testing.assert_close(run.combined(committee.first(0)), p)


@pytest.mark.parametrize("options", [{"top_n": 2}, {"how": "mean"}, {"correction": "words"}], ids=str)
def test_cases_are_combined_in_parts_where_classes_are_many(run, committee, monkeypatch, options):
    """And only what is right is kept: distributions over thousands of classes would be gigabytes."""
    whole = run.combined(committee, **options)
    expected = run.answers([whole], committee.subsets)
    monkeypatch.setattr(committees, "OF_ANSWERS", 7 * CLASSES)
    parts = list(run.combined_in_parts(committee, **options))
    assert {len(q) for q in parts[:-1]} == {7}
    torch.testing.assert_close(torch.cat(parts), whole)
    found = run.answers(run.combined_in_parts(committee, **options), committee.subsets)
    assert (found.right == expected.right).all()
    assert (found.right == run.right(whole)).all()
    assert found.conditional.tolist() == expected.conditional.tolist()
    assert found.conditional.sum() == run.conditional_right(whole, committee.subsets).sum()


def test_parts_of_logits_are_not_kept(run, generalist, monkeypatch):
    whole = run.logits(generalist, "validation")
    assert next(run.logits_in_parts(generalist, "validation")) is whole
    monkeypatch.setattr(run, "_logits", {})
    parts = list(run.logits_in_parts(generalist, "validation", numbers=5 * CLASSES))
    assert len(parts) > 1
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not run._logits


@pytest.mark.parametrize("method", specialists.METHODS)
def test_clusters_of_predictions_in_parts_are_the_same(run, generalist, monkeypatch, method):
    whole = run.clusters(generalist, method)
    monkeypatch.setattr(committees, "OF_CLUSTERS", 32 * CLASSES)
    assert len(list(run.logits_in_parts(generalist, "train", committees.OF_CLUSTERS))) > 2
    for found, expected in zip(run.clusters(generalist, method), whole, strict=True):
        assert torch.equal(found, expected)


def test_the_photographs_of_chapter_5_are_one_part():
    """So that clusters are what they were, to the last bit, and the names of the specialists with them."""
    assert committees.OF_CLUSTERS >= 100_000 * 200
    assert committees.OF_ANSWERS >= 10_000 * 200


def test_the_plain_mean_shares_each_dustbin_as_the_generalist_would(run, generalist, committee):
    p, opinions, subsets = run.opinions(committee, top_n=2)
    active = specialists.active(p, subsets, 2)
    total = p.clone()
    for i, (one, subset) in enumerate(zip(opinions, subsets, strict=True)):
        others = torch.ones(CLASSES, dtype=torch.bool).index_fill(0, subset, False)
        full = torch.zeros_like(p)
        full[:, subset] = one[:, :-1]
        full[:, others] = one[:, -1:] * p[:, others] / p[:, others].sum(1, keepdim=True)
        total += full * active[:, i : i + 1]
    expected = total / (1 + active.sum(1, keepdim=True))
    torch.testing.assert_close(run.combined(committee, top_n=2, how="mean"), expected, rtol=1e-6, atol=1e-9)


def test_a_committee_as_one_teacher(run, generalist, committee):
    teacher = run.as_teacher(committee)
    q = run.combined(committee)
    found = training.logits(teacher.network, run.data.test_images).double().softmax(1)
    torch.testing.assert_close(found, q, rtol=1e-3, atol=1e-5)
    assert teacher.key != run.as_teacher(committee.first(2)).key
    assert teacher.seconds == pytest.approx(committee.seconds + generalist.seconds)


def test_full_softmaxes_are_averaged_where_they_are_active(run, generalist, committee):
    full = run.committee(run.sizes.specialist.but(output="full"), generalist, committee.subsets, "full")
    assert full.full
    assert not committee.full
    p = run.logits(generalist).double().softmax(1)
    total, count = p.clone(), torch.ones(len(p), 1)
    active = specialists.active(p, full.subsets, 1)
    for i, (trained, subset) in enumerate(zip(full.specialists, full.subsets, strict=True)):
        logits = training.logits(trained.network, run.data.test_images).double()
        own = specialists.correct_full(logits, subset, (CLASSES - 3) / 3).softmax(1)
        total += own * active[:, i : i + 1]
        count += active[:, i : i + 1]
    torch.testing.assert_close(run.combined(full), total / count)


def test_the_teacher_of_section_6_1_is_the_generalist(run, generalist, committee):
    plan = run.sizes.specialist.but(output="full", soft="class", temperature=2.0)
    batches = run._specialist_batches(plan, generalist, committee.subsets[0])
    batch = next(batches.epoch(torch.Generator().manual_seed(0)))
    torch.testing.assert_close(batch.teacher_logits, training.logits(generalist.network, batch.inputs))
    assert batch.labels.max() > 2  # labels of all classes
    kinds = {
        run.committee(p, generalist, committee.subsets[:1]).specialists[0].key for p in (plan, plan.but(soft="case"))
    }
    assert len(kinds) == 2


def test_a_share_of_each_classs_cases(run):
    labels = run.data.train_labels
    kept = run.labels_of(0.1, seed=3)
    there = kept >= 0
    assert torch.equal(kept[there], labels[there])
    assert torch.bincount(labels[there], minlength=CLASSES).tolist() == [3] * CLASSES  # of 30 each
    assert torch.equal(kept, run.labels_of(0.1, seed=3))
    assert not torch.equal(kept, run.labels_of(0.1, seed=4))
    assert torch.equal(run.labels_of(1.0, seed=3), labels)
    assert torch.bincount(labels[run.labels_of(0.001, 0) >= 0], minlength=CLASSES).tolist() == [1] * CLASSES


def test_specialists_of_a_share_see_nothing_else(run, generalist, committee):
    plan = run.sizes.specialist.but(fraction=0.1)
    given = run._specialist_batches(plan, generalist, committee.subsets[0])
    assert given.cases == 2 * 9  # three images of each of three classes, and as many others
    epochs = [
        torch.cat([b.inputs.flatten(1) for b in given.epoch(torch.Generator().manual_seed(s))]) for s in range(30)
    ]
    assert len(torch.cat(epochs)) == 30 * 18
    (few,) = run.committee(plan, generalist, committee.subsets[:1]).specialists
    assert few.key != committee.specialists[0].key
    assert committees.cost(run, committees.Committee(generalist, [few], committee.subsets[:1]), 1)["images seen"] == (
        pytest.approx(18 / 240 * 2 / 4)
    )


def test_early_stopping_keeps_the_best_epoch_on_validation(run, generalist, committee):
    plan = run.sizes.specialist.but(early_stopping=True, epochs=3)
    (stopped,) = run.committee(plan, generalist, committee.subsets[:1]).specialists
    best = max(row[ON_VALIDATION] for row in stopped.history)
    assert run._validation(plan, committee.subsets[0])(stopped.network)[ON_VALIDATION] == best


def test_halves_of_the_validation_images_are_the_same_for_every_specialist(run, generalist, committee):
    """Every second image of a class; together they are all of them."""
    labels = run.data.validation_labels
    halves = committees._rank_in_class(labels, CLASSES) % 2
    assert torch.equal(torch.bincount(labels[halves == 0]), torch.bincount(labels[halves == 1]))
    plan, right = run.sizes.specialist.but(output="full"), run.logits(generalist, "validation")
    for subset in committee.subsets:
        found = run._validation(plan, subset)(generalist.network)
        assert found[ON_VALIDATION] == pytest.approx(np.mean([found[name] for name in committees.ON_HALVES]), abs=1e-5)
        first = torch.isin(labels, subset) & (halves == 0)
        among = subset[right[first][:, subset].argmax(1)] == labels[first]
        assert found[committees.ON_HALVES[0]] == pytest.approx(among.float().mean().item(), abs=1e-5)


def test_one_validation_image_a_class_is_both_halves(run, generalist, committee):
    labels = run.data.validation_labels
    first = committees._rank_in_class(labels, CLASSES) == 0
    few = replace(run.data, validation_images=run.data.validation_images[first], validation_labels=labels[first])
    found = replace(run, data=few)._validation(run.sizes.specialist, committee.subsets[0])
    assert len(set(found(committee.specialists[0].network).values())) == 1


def test_conditional_accuracy(run, committee):
    """On a specialist's own cases, among its own classes; a perfect answer and one that is right by restriction."""
    labels = run.data.test_labels
    perfect = torch.nn.functional.one_hot(labels, CLASSES).double()
    assert run.conditional_right(perfect, committee.subsets).all()
    subset = torch.tensor([0, 1, 2])
    outside = torch.zeros(len(labels), CLASSES)
    outside[:, 5], outside[:, 1] = 0.9, 0.1  # 5 is best, 1 the best of the special ones
    found = run.conditional_right(outside, [subset])
    assert found.tolist() == (labels[labels < 3] == 1).tolist()


# --- results --------------------------------------------------------------------------------------


def test_gains(run, committee):
    found = committees.gains(run, [committee])
    before = (run.logits(committee.generalist).argmax(1) == run.data.test_labels).double().mean().item()
    assert found.loc[0, "accuracy"] == pytest.approx(before)
    assert found.loc[0, "relative gain"] == pytest.approx(found.loc[0, "accuracy +"] / before - 1)


def test_cost(run, committee):
    found = committees.cost(run, committee, top_n=1)
    # 4 specialists x 3 of 8 classes, as many others: 4 x 6 / 8 of the images, twice instead of four times.
    assert found["images seen"] == pytest.approx(4 * 6 / 8 * 2 / 4)
    assert 1 <= found["nets a case"] <= 5
    assert found["parameters"] == pytest.approx(4, abs=0.3)


def test_work_is_that_of_the_layers(run, generalist):
    """Three layers of 3 x 3 a stage, on an image of half the side each time, and the output layer."""
    side = run.data.test_images.shape[-1]
    (a, b), products = generalist.plan.network.channels, 0
    for stage, (inputs, channels) in enumerate([(1, a), (a, b)], start=1):
        places = (-(-side // 2**stage)) ** 2
        products += places * 9 * (inputs * channels + 2 * channels * channels)
    assert committees.work_of(run, generalist) == 2 * (products + b * CLASSES)


def test_packed_bits_are_a_row_a_seed():
    right = [np.array([True, False, True]), np.array([False, False, True])]
    assert np.unpackbits(committees.packed(right), axis=1, count=3).tolist() == [[1, 0, 1], [0, 0, 1]]


def test_paired_tests_of_equal_systems():
    right = [np.array([True, False, True, True])] * 2
    row = committees.paired_tests({"a − b": (right, right)}).loc["a − b"]
    assert row["points"] == "+0.00"


def test_families_of_tiny_imagenet():
    assert len(families.TINY_IMAGENET) == 200
    assert len(set(families.TINY_IMAGENET.values())) == 26 + len(families.ALONE)
