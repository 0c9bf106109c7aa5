"""Chapter 9: equal trials, students by loss, fidelity, and the figures that its arrays give again."""

import re
from collections import Counter

import nbformat
import numpy as np
import pytest
import torch

from kdrepro import chapters, losses, paths, training
from kdrepro.chapters import ch09_after_2015 as ch09
from kdrepro.chapters import presets, searches
from kdrepro.chapters.images import OBJECTIVES
from kdrepro.chapters.sizes import Network, Training
from kdrepro.errors import InputError
from kdrepro.verdicts import records
from kdrepro.verdicts.recompute import later

LOSSES = {"dkd": {"loss": "dkd", "beta": 2.0}, "standardised": {"loss": "standardised"}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDREPRO_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield chapters.start("09-after-2015", preset="smoke", changes=["09-after-2015.fidelity_cases=50"])


@pytest.fixture(scope="module")
def teachers(run):
    return run.train_seeds(run.preset.chapters["02-mnist"].teacher.but(epochs=3, curve=0), name="teacher")


@pytest.fixture(scope="module")
def base(run):
    return run.preset.chapters["02-mnist"].distilled.but(epochs=2, curve=0, temperature=3.0, soft_weight=0.5)


@pytest.mark.parametrize("name", ["smoke", "full"])
def test_every_method_has_as_many_trials(name):
    for search in presets.load(name).chapters["09-after-2015"].searches.values():
        trials = Counter(re.split("[, ]", student)[0] for student in search.students)
        assert set(trials) == {"hinton", "dkd", "standardised"}
        assert len(set(trials.values())) == 1
        of_losses = Counter(change.get("loss", "soft") for change in search.students.values())
        assert of_losses == {"soft": trials["hinton"], "dkd": trials["dkd"], "standardised": trials["standardised"]}


@pytest.mark.parametrize("method", LOSSES)
def test_a_plans_loss_is_the_packages(base, method, generator):
    plan = base.but(**LOSSES[method])
    z, v = torch.randn(2, 12, 10, generator=generator)
    batch = training.Batch(torch.zeros(12), torch.arange(12) % 10, v)
    given = {"temperature": 3.0, "soft_weight": 0.5}
    expected = {
        "dkd": lambda: losses.decoupled_loss(z, v, batch.labels, beta=2.0, **given),
        "standardised": lambda: losses.standardised_loss(z, v, batch.labels, **given),
    }[method]()
    assert OBJECTIVES[plan.loss](plan)(z, batch).item() == expected.item()


def test_plans_without_what_came_later_keep_their_names(base):
    assert "beta" not in base.model_dump()
    assert base.but(**LOSSES["dkd"]).model_dump()["beta"] == 2
    recipe = base.recipe
    for wrong in ({"loss": "dkd"}, {"loss": "soft", "beta": 1.0}):
        with pytest.raises(ValueError, match="loss dkd needs beta"):
            Training(network=Network(hidden=[3]), recipe=recipe, **wrong)


def test_what_is_wrong_in_the_preset_is_said_before_anything_trains():
    with pytest.raises(InputError, match="hinton, dkd and standardised"):
        presets.load("smoke", ["09-after-2015.wide={hinton: {}}"])
    with pytest.raises(InputError, match="temperatur"):
        presets.load("smoke", ["09-after-2015.wide.hinton={temperatur: 4}"])


@pytest.mark.parametrize("method", LOSSES)
def test_students_train_by_each_loss_and_are_told_apart(run, base, teachers, method):
    hinton, other = (run.train_seeds(plan, teachers) for plan in (base, base.but(**LOSSES[method])))
    assert {net.key for net in hinton}.isdisjoint({net.key for net in other})
    assert run.logits(hinton[0]).shape == run.logits(other[0]).shape


def test_fidelity(run, base, teachers):
    students = run.train_seeds(base, teachers)
    means = ch09.publish_fidelity(run, "hinton", students, teachers)
    kept = run.predictions["hinton.divergence"]
    assert kept.shape == (2, 50)
    which = torch.arange(50) * (len(run.data.test_images) // 50)  # evenly over all test images
    own, taught = (run.logits(nets[0])[which] for nets in (students, teachers))
    expected = losses.distillation_loss(own, taught, temperature=1.0)
    assert means[0] == pytest.approx(expected.item(), rel=1e-4)
    assert later.divergence(run.predictions, "hinton") == pytest.approx(means)
    shares = ch09.publish_agreement(run, "hinton", students, teachers)
    assert shares[0] == pytest.approx((own.argmax(1) == taught.argmax(1)).float().mean().item())
    assert later.agreeing(run.predictions, "hinton") == pytest.approx(shares)
    in_training = ch09.publish_agreement(run, "hinton", students, teachers, "train")
    assert later.agreeing(run.predictions, "hinton", " in training") == pytest.approx(in_training)
    assert ch09.publish_agreement(run, "itself", teachers, teachers).tolist() == [1, 1]
    assert searches.agreement(run, teachers[0], teachers[0], "test") == 1
    assert 0 <= searches.agreement(run, students[0], teachers[0], "train") <= 1


def test_each_seeds_ensemble_begins_with_its_own_teacher(teachers):
    assert ch09.ensembles_of([0, 1, 2, 3], 3) == [[0, 1, 2], [1, 2, 3], [2, 3, 0], [3, 0, 1]]
    assert ch09.ensembles_of([0], 3) == [[0]]


class Answered:
    """A run whose nets are the test images that they get wrong, of 100."""

    def wrong(self, net):
        return np.isin(np.arange(100), net)


def test_all_comparisons_are_corrected_together():
    before = [range(10), range(12), range(11)]
    pairs = {"a": (before, [range(8), range(9), range(9)]), "b": (before, [range(10), range(13), range(11)])}
    table = ch09.compared(Answered(), pairs)
    assert table.loc["a", "saved [95 %]"].startswith("+2.3 [")
    assert float(table.loc["b", "p, by Holm"]) >= float(table.loc["a", "p, by Holm"])
    assert ch09.compared(Answered(), {"a": ([range(10)], [range(8)])}).loc["a", "p, by Holm"] == "–"


def test_another_test_set_would_move_what_is_saved():
    table = ch09.compared(Answered(), {"a": ([range(20)], [range(10, 20)]), "same": ([range(9)], [range(9)])})
    assert table["± by test images"].tolist() == ["3.0", "0.0"]  # of 100 images 10 are saved: 100 x .1 x .9 is 9


def test_a_pair_of_the_same_nets_is_told_once(teachers, run, base):
    students = run.train_seeds(base, teachers, name="student")
    pairs = {"a": (teachers, students), "b": (students, teachers), "c": (teachers, list(students))}
    assert list(ch09.distinct(pairs)) == ["a", "b"]


# --- the figures again -----------------------------------------------------------------------------------------------


def arrays_of(errors, cases=80, **also):
    """As a record's: by name, errors of each seed as packed bits of what is right."""
    found = {"cases": np.array(cases)}
    for name, counts in errors.items():
        found[f"{name}.right"] = np.packbits([[i >= count for i in range(cases)] for count in counts], axis=1)
    return found | also


def test_what_arrays_give_of_the_claims():
    names = ["hinton", "hinton, narrow", "dkd", "dkd, narrow", "stored, long", "patient", "patient, long"]
    names += ["short teacher", "smoothed teacher", "of short teachers", "of smoothed teachers", "labels alone"]
    names += ["of several", "of its like", "hinton, as standardised", "hinton, published", "standardised, published"]
    names += ["hinton, as dkd", "labels, moved images, long"]
    errors = {name: [10 + i, 12 + i, 11 + 2 * i] for i, name in enumerate(names)}
    arrays = arrays_of(errors)
    found = {
        claim: way(arrays)
        for claim, way in later.WAYS.items()
        if claim.startswith("after.") and claim != "after.fidelity"
    }
    assert found["after.dkd"]["errors_saved"].tolist() == [-2, -2, -4]
    assert found["after.dkd"]["errors_saved_equal"].tolist() == [15, 15, 30]
    assert set(found["after.dkd"]) == {"errors_saved", "errors_saved_30", "errors_saved_equal", "errors_of_hinton"}
    assert found["after.patient"]["errors_saved"].tolist() == [-2, -2, -4]
    assert found["after.patient"]["errors_saved_over_labels"].tolist() == [12, 12, 24]
    assert found["after.patient"]["errors_of_stored"].tolist() == errors["stored, long"]
    assert found["after.smoothing"]["errors_added_to_student"].tolist() == [1, 1, 2]
    assert found["after.ensemble"]["errors_saved_by_self"].tolist() == [-2, -2, -4]
    assert found["after.standardised"]["errors_saved_equal"].tolist() == [-2, -2, -4]


def test_fidelity_from_arrays():
    # In the order of the divergences, 1 to 7; the closest, of the stored ones, is never the best.
    errors = {kind: [10 + i, 20 - i] for i, kind in enumerate(later.PAPERS_LOSS)}
    divergences = {f"{kind}.divergence": np.full((2, 4), 1.0 + i) for i, kind in enumerate(later.PAPERS_LOSS)}
    others = {"dkd": [0, 0], "standardised": [0, 0]}  # whose divergence tells something else
    divergences |= {f"{kind}.divergence": np.full((2, 4), 0.1) for kind in others}
    agrees = {
        "hinton.agrees": np.packbits([[1, 1, 1, 0], [1, 1, 1, 1]], axis=1),
        "hinton.agrees in training": np.packbits([[1, 1, 0, 0], [1, 0, 0, 0]], axis=1),
        "hinton.divergence in training": np.full((2, 4), 0.5),
    }
    found = later.WAYS["after.fidelity"](arrays_of(errors | others, **divergences, **agrees))
    assert found["divergence_ratio"].tolist() == [2, 2]
    assert found["fidelity_correlation"] == pytest.approx([1, -1])
    # Closest is "hinton"; the best by the other seed is the last for the first seed, and the first for the second.
    assert found["errors_added_by_closest"].tolist() == [10 - 16, 20 - 20]
    assert found["share_agreeing"].tolist() == [0.75, 1]
    assert found["share_agreeing_in_training"].tolist() == [0.5, 0.25]


def by_kind(**rows):
    return {kind: np.array(row, float) for kind, row in rows.items()}


def test_the_closest_kind_and_the_best_one_are_chosen_by_the_other_seeds():
    apart = by_kind(a=[1, 1, 1], b=[2, 2, 2])
    assert later.added_by_closest(apart, by_kind(a=[9, 9, 9], b=[5, 6, 7])).tolist() == [4, 3, 2]
    assert later.added_by_closest(apart, by_kind(a=[5, 6, 7], b=[9, 9, 9])).tolist() == [0, 0, 0]
    # b is the best of all by its luck on the first seed, which does not choose for itself.
    assert later.added_by_closest(apart, by_kind(a=[9, 9, 9], b=[0, 10, 10])).tolist() == [0, -1, -1]
    assert later.added_by_closest(by_kind(a=[1], b=[2]), by_kind(a=[9], b=[5])).tolist() == [0]


def test_the_same_students_by_two_names_count_once():
    apart, wrong = by_kind(a=[1, 1], b=[2, 2], c=[3, 3]), by_kind(a=[1, 3], b=[3, 2], c=[2, 1])
    found = later.fidelity_correlation(apart, wrong)
    assert found == pytest.approx([0.5, -1])
    twice = [{**of, "again": of["c"]} for of in (apart, wrong)]
    assert later.fidelity_correlation(*twice) == pytest.approx(found)
    two = by_kind(a=[1], b=[2])
    assert later.fidelity_correlation(two, two).tolist() == [0]


def test_students_with_the_papers_loss_are_those_of_the_notebook():
    cells = nbformat.read(paths.NOTEBOOKS / "09-after-2015.ipynb", 4).cells
    (source,) = (cell.source for cell in cells if cell.source.startswith("kinds = {"))
    kinds = re.findall(r'^    "(.+?)": \w+,$', source, re.MULTILINE)
    assert [kind for kind in kinds if kind in later.PAPERS_LOSS] == list(later.PAPERS_LOSS)
    assert set(kinds) - set(later.PAPERS_LOSS) == {"dkd", "standardised", "standardised, published"}


@pytest.mark.parametrize("name", ["smoke", "full"])
def test_what_is_compared_at_equal_settings_has_them(name):
    sizes = presets.load(name).chapters["09-after-2015"]
    equal, published = (sizes.published[kind] for kind in ("hinton, as standardised", "standardised, published"))
    assert published == {"loss": "standardised", **equal}
    assert sizes.second.methods["standardised, published"] == published


@pytest.mark.parametrize("preset", ["full", "paper"])
def test_photographs_are_taught_by_chapter_5s_generalist(preset):
    found = presets.load(preset).chapters
    second, fifth = found["09-after-2015"].second, found["05-specialists"]
    assert (second.images, second.generalist) == (fifth.images, fifth.generalist)


def test_photographs_have_a_record_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setenv("KDREPRO_RUNS", str(tmp_path))
    changes = [f"09-after-2015.second.{what}" for what in ("images.per_class=10", "generalist.recipe.epochs=1")]
    photographs = chapters.beside(chapters.start("09-after-2015", preset="smoke", changes=changes))
    nets = ch09.of_photographs(photographs)
    table = ch09.photographs_table(photographs, nets)
    assert list(table.index) == ["generalist", *photographs.sizes.methods]
    assert table.loc["generalist", "answers as the generalist, %"] == 100
    (path,) = tmp_path.glob("*/results/*.json")
    assert path.stem == f"09-after-2015.{photographs.data.name}"
    equal = records.read(path)["claims"]["after.standardised"]["metrics"]["errors_saved_equal"]
    pair = ("hinton, as standardised", "standardised, published")
    assert equal == np.subtract(*(photographs.errors(nets[method]) for method in pair)).tolist()
    assert nets["dkd"][0].key != nets["hinton, published"][0].key
