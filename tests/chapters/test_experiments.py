"""What a chapter asks for: networks by plan, subsets, averaged teachers, the record."""

import json
from dataclasses import replace

import pytest
import torch

from kdrepro import chapters, ensembles, store, training
from kdrepro.chapters import experiment, images
from kdrepro.chapters.sizes import Network, Training
from kdrepro.chapters.start import check_device
from kdrepro.errors import InputError
from kdrepro.losses import soften
from kdrepro.training import Recipe

PLAN = Training(
    network=Network(hidden=[8]), recipe=Recipe(epochs=1, batch_size=128, learning_rate=1e-2, precision="fp32")
)


@pytest.fixture
def run():
    return chapters.start("02-mnist", seeds=2)


def test_seeds_and_first_seed():
    assert chapters.start("02-mnist", seeds=3, first_seed=5).seeds == [5, 6, 7]


def test_same_plan_and_seed_is_one_network(run):
    a, b, c = run.train(PLAN, 0), run.train(PLAN, 0), run.train(PLAN, 1)
    assert a.key == b.key != c.key
    assert torch.equal(run.logits(a), run.logits(b))
    assert len(run.trainings) == 2


def test_names_in_the_store_are_what_they_were(run):
    """Moving code must not train a network anew: these are the names of what is trained at smoke, written down once."""
    assert run.store.key(run.request(run.sizes.teacher, 0).config) == "70a0391e1661c1ef"
    assert run.store.key(run.request(run.sizes.plain, 0).config) == "6798565033baefd1"


def test_a_later_setting_leaves_earlier_names_alone(run):
    """What was trained before beta2 and classes existed is found again; other values are other nets."""
    config = run.request(PLAN, 0).config
    assert "classes" not in config
    assert not {"beta2", "momentum_rise"} & config["recipe"].keys()
    assert "initial_std" not in config["network"]
    others = [PLAN.but(beta2=0.9), PLAN.but(classes=[1, 2]), PLAN.but(initial_std=0.01)]
    others.append(PLAN.but(optimizer="sgd", momentum_rise=2))
    keys = {run.store.key(run.request(plan, 0).config) for plan in [PLAN, *others]}
    assert len(keys) == 5


def test_a_training_can_start_from_another_networks_weights(run):
    """A rate near 0 leaves them where they were; such a network is another than one that starts at random."""
    first = run.train(PLAN, 0)
    still = PLAN.but(learning_rate=1e-12)
    moved, *others = run.train_seeds(still, starts=[first, first])
    for before, after in zip(first.network.parameters(), moved.network.parameters(), strict=True):
        torch.testing.assert_close(before, after)
        assert before.data_ptr() != after.data_ptr()
    assert len({net.key for net in (moved, *others, run.train(still, 0))}) == 3


def test_many_at_once_are_the_networks_that_are_asked_for_one_by_one(run, tmp_path, monkeypatch):
    """Bit for bit, whatever their losses, teachers, cases and curves; and in the order in which they are asked for."""
    teachers = run.train_seeds(PLAN)
    soft = PLAN.but(loss="soft", temperature=4.0)
    wanted = [
        *((soft.but(temperature=t), seed, teachers[seed]) for t in (1.0, 8.0) for seed in run.seeds),
        (PLAN.but(fraction=0.5), 1),
        (soft.but(classes=[7, 8]), 0, teachers[0]),
        (PLAN.but(loss="logits"), 0, teachers),
        (PLAN.but(curve=1, epochs=2), 1),
        (PLAN.but(jitter=1, hidden=[4]), 0),
    ]
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path / "one by one"))
    other = chapters.start("02-mnist", seeds=2)
    alone = [other.train(*one) for one in wanted]
    together = run.train_many([run.request(*one) for one in wanted])
    assert [net.key for net in together] == [net.key for net in alone]
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(other.logits(a), run.logits(b))
    assert [net.history[-1].get("errors") for net in together] == [None] * 7 + [run.errors(together[7]), None]


def test_a_network_that_is_asked_for_twice_is_trained_once(run, monkeypatch):
    trained, real = [], training.fit_many
    monkeypatch.setattr(
        training, "fit_many", lambda *a, seeds, **k: trained.extend(seeds) or real(*a, seeds=seeds, **k)
    )
    first, second, third = run.train_many([run.request(PLAN, seed) for seed in (0, 1, 0)])
    assert first.network is third.network
    assert trained == [0, 1]
    again = run.train_many([run.request(PLAN, seed) for seed in (1, 0)])
    assert [net.key for net in again] == [second.key, first.key]
    assert trained == [0, 1]


def test_cases_are_made_for_what_is_trained_only(run):
    """A network that the store has costs no teacher's logits, no subset and no soft targets on disk."""
    run.train(PLAN, 0)
    request = replace(run.request(PLAN, 0), batches=None)
    assert run.train_many([request])[0].key == run.store.key(request.config)


def test_what_has_finished_is_kept_when_another_network_diverges(run):
    apart = PLAN.but(hidden=[4], learning_rate=1e30)
    with pytest.raises(InputError, match="lower the learning rate"):
        run.train_many([run.request(PLAN, 0), run.request(apart, 0)])
    assert run.store.entry(run.request(PLAN, 0).config) is not None


def test_fewer_teachers_than_seeds_are_refused(run):
    teachers = run.train_seeds(PLAN)
    with pytest.raises(ValueError, match="2 seeds but only 1 teachers"):
        run.train_seeds(PLAN.but(loss="soft"), teachers[:1])
    with pytest.raises(ValueError, match="2 seeds but only 1 starts"):
        run.train_seeds(PLAN, starts=teachers[:1])


def test_the_time_left_is_by_the_clock(run, monkeypatch):
    """Not by a network's own seconds, which among others are its share of them."""
    clock = iter([100.0, 130.0, 150.0])
    monkeypatch.setattr(experiment.time, "monotonic", lambda: next(clock))
    progress = run._progress("student", 4)
    for epoch in (1, 2, 3):
        progress({"epoch": epoch, "loss": 1.0, "cases_per_second": 10, "seconds": 2.0 * epoch})
    lines = experiment.log_path(run.chapter, run.preset.name).read_text().splitlines()
    assert [line.rsplit(", ", 1)[1] for line in lines[-3:]] == ["6 s left", "60 s left", "20 s left"]


def test_students_of_different_teachers_differ(run):
    teachers = run.train_seeds(PLAN)
    soft = PLAN.but(loss="soft", temperature=4.0)
    keys = {run.train(soft, 0, t).key for t in (*teachers, teachers)}
    keys.add(run.train(soft.but(teachers="geometric"), 0, teachers).key)
    assert len(keys) == 4


def test_soft_targets_that_would_fill_the_memory_are_asked_for_in_every_batch(run, tmp_path, monkeypatch):
    """Those of 400,000 images of 4,200 classes ended a worker; a student learns the same either way."""
    soft = PLAN.but(loss="soft", temperature=2.0, soft_weight=1.0)
    teacher = run.train(PLAN, 0)
    stored = run.request(soft, 1, teacher).batches()
    student = run.train(soft, 1, teacher)
    monkeypatch.setattr(images, "MOST_STORED", 0)
    asked = run.request(soft, 1, teacher).batches()
    assert (stored.teacher, asked.teacher_logits) == (None, None)
    assert stored.teacher_logits is not None
    assert asked.teacher is teacher.network
    run.store = store.Store(tmp_path / "another")
    again = run.train(soft, 1, teacher)
    assert len(list((tmp_path / "another").iterdir())) == 1, "trained anew"
    torch.testing.assert_close(run.logits(again), run.logits(student), atol=1e-3, rtol=1e-3)


def test_averaged_teachers_enter_as_their_soft_targets(run):
    """T log p, softened at T, is p again."""
    teachers = run.train_seeds(PLAN)
    for how in ("arithmetic", "geometric"):
        plan = PLAN.but(loss="soft", temperature=4.0, teachers=how)
        entering = run._soft_logits(plan, teachers)
        members = torch.stack([run.logits(t, "train") for t in teachers])
        torch.testing.assert_close(torch.softmax(entering / 4.0, -1), ensembles.average(members, how, 4.0))


def test_a_transfer_set_whose_labels_are_partly_known(run):
    teacher = run.train(PLAN, 0)
    soft = PLAN.but(loss="soft", temperature=4.0, soft_weight=0.5)
    batches = run._batches(soft.but(labelled=0.1), 3, [teacher])
    known = run.subset(0.1, seed=3)
    assert torch.equal(batches.labels[known], run.data.train_labels[known])
    assert int((batches.labels >= 0).sum()) == len(known)
    assert "labelled" not in run.request(soft, 0, teacher).config  # the names of networks of before stay
    assert run.request(soft.but(labelled=0.1), 0, teacher).config["labelled"] == 0.1


def test_labels_enter_the_soft_targets(run):
    teacher = run.train(PLAN, 0)
    plan = PLAN.but(loss="soft", temperature=4.0, label_in_targets=0.25)
    targets = soften(run._batches(plan, 0, [teacher]).teacher_logits, 4.0)
    labels = torch.nn.functional.one_hot(run.data.train_labels, 10)
    torch.testing.assert_close(targets, 0.75 * soften(run.logits(teacher, "train"), 4.0) + 0.25 * labels)
    for wrong in ({"jitter": 1}, {"loss": "hard", "temperature": 1.0}, {"labelled": 0.5}):
        with pytest.raises(ValueError, match="label_in_targets needs"):
            plan.but(**wrong)


def test_subsets_of_one_seed_are_nested(run):
    small, large = (set(run.subset(f, seed=3).tolist()) for f in (0.1, 0.3))
    assert small < large
    assert len(small) == round(0.1 * 1297)
    assert set(run.subset(0.1, seed=4).tolist()) != small
    assert len(run.subset(1.0, seed=3)) == 1297


def test_a_transfer_set_of_some_classes(run):
    labels = run.data.train_labels
    without_3 = PLAN.but(classes=[0, 1, 2, 4, 5, 6, 7, 8, 9])
    chosen = run.transfer_set(without_3, seed=0)
    assert len(chosen) == int((labels != 3).sum())
    assert not (labels[chosen] == 3).any()
    third = run.transfer_set(without_3.but(fraction=0.3), seed=0)
    assert set(third.tolist()) == set(run.subset(0.3, 0).tolist()) & set(chosen.tolist())
    assert run.train(without_3, 0).key != run.train(PLAN, 0).key


def test_a_student_never_shown_a_class_hardly_answers_it(run):
    plan = PLAN.but(epochs=20)
    teacher = run.train(plan, 0)
    student = run.train(plan.but(loss="soft", soft_weight=0.5, temperature=4.0, classes=[7, 8]), 0, teacher)
    answers = run.logits(student).argmax(1)
    assert torch.isin(answers, torch.tensor([7, 8])).float().mean() > 0.5
    assert (run.logits(teacher).argmax(1) == 3).any()


def test_a_teacher_is_needed_exactly_for_soft_losses(run):
    teacher = run.train(PLAN, 0)
    with pytest.raises(ValueError, match="teachers"):
        run.train(PLAN.but(loss="soft"), 0)
    with pytest.raises(ValueError, match="teachers"):
        run.train(PLAN, 0, teacher)


def test_record_and_predictions(run):
    nets = run.train_seeds(PLAN)
    run.claim("mnist.plain", nets, errors=run.errors(nets))
    run.publish_predictions("plain", nets)
    record = json.loads(run.finish().read_text())
    entry = record["claims"]["mnist.plain"]
    assert entry["metrics"]["errors"] == run.errors(nets)
    assert entry["verdict"] == "not run"  # digits do not decide
    p = record["provenance"]
    assert {"git", "dirty", "kdrepro", "torch", "python", "device", "cpu", "date", "config", "threads"} <= p.keys()
    assert p["networks"] == 2
    assert p["trained_on"] == {p["device"]: 2}
    assert p["config"]["sizes"]["plain"]["network"]["hidden"] == [48, 48]


def test_stacks_are_shared_out_among_workers_but_stay_whole_on_a_gpu(run):
    requests = [run.request(PLAN, seed) for seed in range(7)] + [run.request(PLAN.but(epochs=9), 0)]
    assert [len(group) for group in experiment._groups(requests, 4)] == [2, 2, 2, 1, 1]
    assert [len(group) for group in experiment._groups(requests, 4, least=5)] == [5, 2, 1]
    assert [len(group) for group in experiment._groups(requests, 1, least=5)] == [7, 1]


def test_devices_are_checked():
    assert check_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="'cuda' is not there"):
            check_device("cuda")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("800 units, T = 10, seed 3", "800 units, T = 10"),
        ("transfer set without 3 seed 0", "transfer set without 3"),
        ("member 7 seed 17", "member"),
        ("specialist 12, seed 0", "specialist"),
    ],
)
def test_the_kind_of_a_network_keeps_its_own_numbers(name, kind):
    assert experiment.Trained(None, "key", 0, None, [], name).kind == kind
