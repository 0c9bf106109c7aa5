"""Chapter 8: each switch is named by the doctor, students are paired, and what is published gives the figures again."""

import copy

import nbformat
import numpy as np
import pytest
import torch

import kdrepro
from kdrepro import chapters, data, losses, paths, training
from kdrepro.chapters import ch02_mnist, presets
from kdrepro.chapters import ch08_pitfalls as ch08
from kdrepro.diagnosis import finding
from kdrepro.networks import MLP
from kdrepro.verdicts.recompute import later

SIZES = ("teacher_epochs=4", "epochs=3", "students_each=2", "hidden=[8]")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDREPRO_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield chapters.start("08-pitfalls", preset="smoke", changes=[f"08-pitfalls.{one}" for one in SIZES])


@pytest.fixture(scope="module")
def plan(run):
    sizes, recipes = run.sizes, run.preset.chapters["02-mnist"]
    return recipes.distilled.but(
        hidden=sizes.hidden, epochs=sizes.epochs, learning_rate=sizes.learning_rate, curve=1, soft_weight=0.7
    )


@pytest.fixture(scope="module")
def teachers(run):
    plan = run.preset.chapters["02-mnist"].teacher.but(epochs=run.sizes.teacher_epochs, curve=0)
    return run.train_seeds(plan, name="teacher")


@pytest.fixture(scope="module")
def right(run, plan, teachers):
    return ch08.students(run, plan, teachers)


@pytest.fixture(scope="module")
def distillation():
    """The loss with its switches, as the notebook has it."""
    cells = nbformat.read(paths.NOTEBOOKS / "08-pitfalls.ipynb", 4).cells
    (source,) = (cell.source for cell in cells if cell.source.startswith("def distillation("))
    names = {"F": torch.nn.functional, "torch": torch} | vars(finding)
    exec(source, names)
    return names["distillation"]


def test_without_a_mistake_it_is_the_packages_loss(distillation, generator):
    z, v = 3 * torch.randn(2, 40, 10, generator=generator, dtype=torch.float64)
    labels = torch.arange(40) % 10
    for temperature, weight in ((1.0, 0.3), (20.0, 0.9)):
        expected = losses.distillation_loss(z, v, labels, temperature=temperature, soft_weight=weight)
        assert distillation(z, v, labels, temperature, weight).item() == pytest.approx(expected.item(), rel=1e-5)


OF_THE_LOSS = [
    *(finding.CLASS_MEAN, finding.NO_T2, finding.ONE_LOG, finding.RELU, finding.SWAPPED, finding.HALF, finding.ALPHA)
]


@pytest.mark.parametrize("mistake", ["", *OF_THE_LOSS])
def test_the_doctor_names_every_switch_of_the_loss(distillation, mistake, run, plan, teachers, right):
    teacher = copy.deepcopy(teachers[0].network).requires_grad_(False)
    batch = run.data.train_images[:64].float() / 255, run.data.train_labels[:64]
    found = kdrepro.doctor(
        teacher,
        right[0].network,
        batch,
        loss=lambda z, v, y, t: distillation(z, v, y, t, 0.7, mistake),
        temperature=plan.temperature,
        soft_weight=0.7,
    )
    assert [one.fault for one in found] == [mistake] * bool(mistake)


def test_every_line_of_the_table_says_where_it_was_seen():
    assert set(ch08.SEEN) == {
        *OF_THE_LOSS,
        *(finding.TRAIN_MODE, finding.MOVED, finding.SHUFFLED, finding.SMOOTHED, ch08.EPOCH, ch08.SHIFT),
    }
    assert all(seen.address.startswith("https://") for seen in ch08.SEEN.values())


def test_students_with_and_without_a_mistake_start_alike_and_differ_by_it(run, plan, teachers, right):
    def same(z, batch):  # no mistake at all, under a mistake's name
        return losses.distillation_loss(
            z, batch.teacher_logits, batch.labels, temperature=plan.temperature, soft_weight=plan.soft_weight
        )

    seeds = [seed for turn in (0, 1000) for seed in (turn, turn + 1)]
    assert [net.seed for net in right] == seeds
    named = ch08.students(run, plan, teachers, "none", same)
    assert [net.key for net in named] != [net.key for net in right]
    for one, other in zip(right, named, strict=True):
        assert one.seed == other.seed
        torch.testing.assert_close(run.logits(one), run.logits(other), rtol=1e-3, atol=1e-3)
    again = ch08.students(run, plan, teachers, "none", same)
    assert [net.key for net in again] == [net.key for net in named]


def test_batches_of_a_mistake_reach_the_students(run, plan, teachers, right):
    def shuffled(seed, teacher):
        stored = run.logits(teacher, "train").roll(1, 0)
        return training.Batches(run.data.train_images, run.data.train_labels, batch_size=64, teacher_logits=stored)

    found = ch08.students(run, plan, teachers, finding.SHUFFLED, batches=shuffled)
    assert run.errors(found) != run.errors(right)
    assert ch08.errors(run, found) == pytest.approx(np.reshape(run.errors(found), (2, 2)).mean(0))


def test_a_smoothed_teacher_is_another_one(run, teachers):
    found = ch08.smoothed_teachers(run, teachers[0].plan, 0.2)
    assert {net.key for net in found}.isdisjoint({net.key for net in teachers})
    confidence = [run.logits(nets[0]).softmax(1).amax(1).mean().item() for nets in (found, teachers)]
    assert confidence[0] < confidence[1]


def test_a_teacher_in_train_mode_answers_the_same_images_the_same(generator):
    net = MLP([16, 20, 5], hidden_dropout=0.5, generator=generator).eval()
    asked, x = ch08.in_train_mode(net), torch.rand(12, 16, generator=generator)
    assert torch.equal(asked(x), asked(x))
    assert not torch.allclose(asked(x), net(x))
    assert not net.training
    assert not torch.equal(asked(x + 0.1), asked(x))


def test_what_is_published_gives_the_figures_again(run, plan, teachers, right):
    table = ch08.publish_halves(run, "no fault", right)
    assert table.shape == (4, 2, 3)
    assert table.sum(1)[:, -1].tolist() == run.errors(right)
    sides = ch02_mnist.publish_sides(run, later.SHIFTED, right, [3])
    ch08.publish_right(run, "no fault", right)
    arrays = {**run.predictions, "cases": np.array(len(run.data.test_images))}
    assert later.of_students(arrays, "no fault") == pytest.approx(ch08.errors(run, right))
    again = later.WAYS["pitfalls.choice"](arrays)
    assert again["errors_hidden_by_epoch"] == pytest.approx(ch08.by_teacher(run, later.hidden_by_epoch(table)))
    assert again["errors_hidden_by_shift"] == pytest.approx(ch08.by_teacher(run, later.hidden_by_shift(sides)))
    assert (again["errors_hidden_by_shift"] >= 0).all()


def test_the_table_of_prices():
    prices = {
        finding.NO_T2: (np.array([10.0, 11, 12]), np.array([20.0, 22, 21])),
        ch08.EPOCH: (np.array([10.0, 11, 12]), np.array([9.0, 11, 11])),
    }
    table = ch08.price_table(prices)
    assert table.loc[finding.NO_T2, ["errors without", "with"]].tolist() == ["11.0", "21.0"]
    assert table.loc[finding.NO_T2, "added [95 %]"].startswith("+10.0 [")
    assert len(table) == 2
    # A choice on test images flatters by construction: no test, and none for Holm to count.
    assert table.loc[ch08.EPOCH, "p, by Holm"] == "–"
    assert table.loc[ch08.EPOCH, "added [95 %]"].startswith("-0.7 [")
    alone = ch08.price_table({finding.NO_T2: prices[finding.NO_T2]})
    assert table.loc[finding.NO_T2, "p, by Holm"] == alone.loc[finding.NO_T2, "p, by Holm"]
    single = ch08.price_table({finding.NO_T2: (np.array([10.0]), np.array([20.0]))}).iloc[0]
    assert single.tolist() == ["10.0", "20.0", "+10.0 [–]", "–"]
    assert ch08.sightings().data.count("\n") == 1 + len(ch08.SEEN)


def test_the_preset_names_what_a_user_may_change():
    wide = presets.load("smoke", ["08-pitfalls.hidden=[48,48]"])
    assert wide.chapters["08-pitfalls"].hidden == [48, 48]
    assert data.digits().classes == 10
