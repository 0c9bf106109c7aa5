"""A chapter whose networks are trained elsewhere is the chapter, bit for bit."""

import pickle

import cloudpickle
import pytest
import torch

from kdrepro import chapters, training
from kdrepro.chapters import experiment, searches
from kdrepro.chapters.sizes import Network, Training
from kdrepro.errors import DivergedError
from kdrepro.executors import tasks
from kdrepro.store import Store
from kdrepro.training import Recipe

PLAN = Training(
    network=Network(hidden=[8]), recipe=Recipe(epochs=1, batch_size=128, learning_rate=1e-2, precision="fp32")
)


@pytest.fixture
def elsewhere(workers, here):
    """Makes a run whose networks others train."""

    def make(cluster=None, store=None, **given):
        run = chapters.start("02-mnist", seeds=2)
        run.workers = workers(cluster or here(), run.log, **given)
        run.store = store or run.store
        return run

    return make


def test_a_run_of_workers_is_the_run_of_one_process(elsewhere, here, monkeypatch, run_chapter_2, in_this_process):
    cluster = here()
    run = elsewhere(cluster)
    monkeypatch.setattr(chapters, "start", lambda *_, **__: run)
    assert run_chapter_2() == in_this_process
    # A stack for each kind of net, shared out among two workers, and nothing asked of a worker twice.
    assert sorted(cluster.order) == sorted(
        f"{kind} seed {s}" for kind in ("teacher", "plain", "distilled") for s in (0, 1)
    )
    assert len(cluster.parts) == 1


def test_a_store_in_memory_serves_as_well(elsewhere, here):
    pytest.importorskip("fsspec")
    run = elsewhere(here(), Store("memory://elsewhere/store", folders="x"))
    net = run.train(PLAN, 0)
    assert isinstance(net, experiment.Promised)
    assert [row["epoch"] for row in net.history] == [1]
    assert run.store.entry(run.request(PLAN, 0).config)["made"]["precision"] == "fp32"


def test_a_name_is_known_at_once_and_students_do_not_wait_for_it(elsewhere, here):
    cluster = here()
    held, cluster.ended = cluster.ended, lambda seconds: []
    run = elsewhere(cluster)
    teacher = run.train(PLAN, 0)
    student = run.train(PLAN.but(loss="soft", temperature=4.0), 0, teacher)
    assert (teacher.key, teacher.seed) == (run.store.key(run.request(PLAN, 0).config), 0)
    assert cluster.order == []
    cluster.ended = held
    assert student.parameters > 0
    assert cluster.order == ["hard seed 0", "soft seed 0"]


def test_what_the_store_has_needs_no_worker(elsewhere, here):
    here_first = chapters.start("02-mnist", seeds=2)
    expected = here_first.train(PLAN, 0)
    run = elsewhere(here())
    run.workers._started = lambda: pytest.fail("a cluster was started")
    found = run.train(PLAN, 0)
    assert torch.equal(run.logits(found), here_first.logits(expected))


def test_what_is_damaged_meanwhile_is_trained_here(elsewhere, here):
    run = elsewhere(here())
    net, other = run.train(PLAN, 0), run.train(PLAN, 1)
    assert other.history
    run.workers.wait(net.key)
    run.store.warn = lambda line: None
    run.store.place.write(f"{net.key}/network.safetensors", b"damaged")
    assert net.parameters > 0
    assert run.store.entry(run.request(PLAN, 0).config) is not None


def test_a_stack_is_shared_out_among_the_workers(elsewhere, here):
    cluster = here(workers=3)
    run = elsewhere(cluster)
    wide, soft = PLAN.but(hidden=[9]), PLAN.but(loss="soft", temperature=4.0)
    teacher = run.train(PLAN, 0)
    nets = run.train_many(
        [
            *(
                run.request(soft.but(temperature=t), seed, teacher, f"T {t}")
                for t in (1.0, 2.0, 4.0)
                for seed in (0, 1)
            ),
            run.request(wide, 0, name="wide"),
            run.request(PLAN.but(fraction=0.5), 0, name="half"),
        ]
    )
    assert all(net.history for net in nets)
    assert sorted(cluster.order[1:]) == sorted(
        ["T 1.0 seed 0 and 1 more", "T 2.0 seed 0 and 1 more", "T 4.0 seed 0 and 1 more", "wide seed 0", "half seed 0"]
    )


def test_a_network_that_diverges_is_the_sentence_that_it_is_here(elsewhere):
    run = elsewhere()
    wild, tame = run.train(PLAN.but(learning_rate=1e30), 0), run.train(PLAN, 0)
    with pytest.raises(DivergedError, match="lower the learning rate"):
        run.errors(wild)
    assert run.errors(tame) >= 0  # it ends no other


def test_a_search_goes_on_after_a_student_that_diverges(elsewhere, here):
    """And workers are asked for all students at once."""
    cluster = here()
    run = elsewhere(cluster)
    given, rows = [], []

    def tried(name, plan):
        def ask():
            given.append(name)
            return [run.train(plan, 0, name=name)]

        return {"teacher": "", "student": name}, ask, lambda net: {"student": name, "errors": run.errors(net)}

    tries = [tried("wild", PLAN.but(learning_rate=1e30)), tried("tame", PLAN)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searches, "write", lambda run, name, rows: None)
        searches._try_all(run, "both", tries, rows)
    assert given == ["wild", "tame"] * 2
    assert (rows[0]["student"], rows[0]["errors"]) == ("wild", None)
    assert (rows[-1]["student"], len(rows)) == ("tame", 3)
    assert sorted(cluster.order) == ["tame seed 0", "wild seed 0"]


def test_a_network_starts_from_another_that_is_still_to_be_trained(elsewhere):
    run = elsewhere()
    first = run.train(PLAN, 0)
    still = run.train_seeds(PLAN.but(learning_rate=1e-12), seeds=[0], starts=[first])[0]
    for before, after in zip(first.network.parameters(), still.network.parameters(), strict=True):
        torch.testing.assert_close(before, after)


def test_finish_waits_for_all_that_was_asked_for(elsewhere):
    run = elsewhere()
    run.train_seeds(PLAN)
    run.finish()
    assert run.record["provenance"]["networks"] == 2


def test_what_workers_are_sent_has_no_images_but_once(elsewhere, here):
    """Nor a teacher's weights: they are in the store."""
    cluster = here()
    run = elsewhere(cluster)
    teacher = run.train(PLAN.but(hidden=[400]), 0)
    task = run._task([run.request(PLAN.but(loss="soft", temperature=4.0), 0, teacher)])
    assert len(tasks.pack(task, "o", 1).content) < 10_000
    assert len(run._shared.content) > run.data.train_images.numel()


def test_specialists_and_their_validation_travel_without_images(workers, here):
    cluster = here()
    run = chapters.start("05-specialists", seeds=1, changes=["05-specialists.generalist.recipe.epochs=1"])
    run.workers = workers(cluster, run.log)
    generalist = run.train(run.sizes.generalist, 0)
    subsets = [torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])]
    found = run.committee(run.sizes.specialist, generalist, subsets)
    for request in run._promised.values():
        assert len(tasks.pack(run._task([request]), "o", 1).content) < 10_000
    assert all(net.history for net in found.specialists)
    assert len(cluster.order) == 3  # nets that form no stack, one by one


def test_frames_of_speech_travel_as_their_folder(tiny):
    content = cloudpickle.dumps(tiny)
    assert len(content) < tiny.train.shards[0].features.nbytes + 4 * len(tiny.train)
    again = pickle.loads(content)
    assert again.train.fingerprint == tiny.train.fingerprint
    features, _ = again.train.pool([0])
    assert torch.equal(features, tiny.train.pool([0])[0])


# --- precision ------------------------------------------------------------------------------------


def auto(run):
    return PLAN.model_copy(update={"recipe": Recipe(epochs=1, batch_size=128, learning_rate=1e-2)})


@pytest.mark.parametrize(("gains", "means", "other"), [(True, "bf16", "fp32"), (False, "fp32", "bf16")])
def test_precision_is_the_drivers_and_stands_in_the_name_where_it_is_not_what_auto_means(
    monkeypatch, elsewhere, gains, means, other
):
    monkeypatch.setattr(training, "gains_from_bf16", lambda device: gains)
    run = elsewhere()
    plan, usual = auto(run), run.request(auto(run), 0).config
    assert usual["recipe"]["precision"] == "auto"
    assert run.resolved(plan.recipe).precision == means
    run.precision = means
    assert run.request(plan, 0).config == usual
    run.precision = other
    assert run.request(plan, 0).config["recipe"]["precision"] == other
    # A worker's machine has no say.
    run.precision = "auto"
    sent = pickle.loads(run._shared.content)
    monkeypatch.setattr(training, "gains_from_bf16", lambda device: not gains)
    assert sent.resolved(plan.recipe).precision == means


def test_a_network_of_another_precision_is_named_in_the_log(elsewhere, monkeypatch):
    run = chapters.start("02-mnist", seeds=2)
    run.train(auto(run), 0)
    monkeypatch.setattr(training, "gains_from_bf16", lambda device: True)
    other = chapters.start("02-mnist", seeds=2)
    if run.resolved(auto(run).recipe).precision == "bf16" == other._usual_precision:
        run.precision = "fp32"
    other.train(auto(other), 0)
    log = experiment.log_path(other.chapter, other.preset.name).read_text()
    made = other.store.entry(other.request(auto(other), 0).config)["made"]["precision"]
    assert (f"was trained in {made}" in log) == (made != "bf16")
