"""Chapter 6: mixtures of experts, what a parallel training exchanges, and overfitting read off validation curves."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from kdrepro import store, training
from kdrepro.chapters import ch06_mixtures
from kdrepro.chapters.committees import ON_HALVES, ON_VALIDATION
from kdrepro.networks import MixtureOfExperts

NETWORK = {"channels": [4, 8], "experts": 3, "gate_channels": [4], "in_channels": 1, "classes": 5}


def mixture(seed=0) -> MixtureOfExperts:
    return MixtureOfExperts(**NETWORK, generator=torch.Generator().manual_seed(seed))


def test_its_logits_are_the_log_of_the_gates_mean(generator):
    net, x = mixture().eval(), torch.rand(6, 8, 8, generator=generator)
    gate = net.gate(x).softmax(1)
    expected = sum(gate[:, e : e + 1] * expert(x).softmax(1) for e, expert in enumerate(net.experts))
    torch.testing.assert_close(net(x).exp(), expected)
    torch.testing.assert_close(net(x).softmax(1), expected)  # a softmax leaves log-probabilities as they are
    torch.testing.assert_close(net.shares(x).sum(1), torch.ones(6))


def test_experts_differ_and_seeds_repeat():
    net = mixture()
    first, second = (next(expert.parameters()) for expert in net.experts[:2])
    assert not torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), mixture().parameters(), strict=True))


def test_the_store_builds_mixtures():
    built = store.build({"network": NETWORK, "seed": 4})
    assert isinstance(built, MixtureOfExperts)
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), mixture(4).parameters(), strict=True))


def test_gate_and_experts_learn_together(digits):
    net = MixtureOfExperts(**{**NETWORK, "classes": 10}, generator=torch.Generator().manual_seed(0))
    before = [next(part.parameters()).clone() for part in (net.gate, *net.experts)]
    batches = training.Batches(digits.train_images, digits.train_labels, batch_size=64)
    recipe = training.Recipe(epochs=6, batch_size=64, learning_rate=1e-2, precision="fp32")
    training.fit(net, batches, training.hard_targets, recipe)
    assert all(
        not torch.equal(a, next(part.parameters())) for a, part in zip(before, (net.gate, *net.experts), strict=True)
    )
    right = training.logits(net, digits.test_images).argmax(1) == digits.test_labels
    assert right.float().mean() > 0.7


def test_experts_have_the_blocks_that_are_asked_for():
    net = MixtureOfExperts(**NETWORK, blocks=[0, 2])
    assert all(len(expert.stages[1].more) == 1 for expert in net.experts)
    assert not hasattr(net.experts[0].stages[0], "first")


def test_a_mixture_of_one_is_none():
    with pytest.raises(ValueError, match="at least 2 experts, not 1"):
        MixtureOfExperts(**{**NETWORK, "experts": 1})


def test_what_two_processes_exchange(committee_run, committee_generalist, committee_of_four):
    """The jobs of the chapter's two trainings; that they are counted right, tests/training/test_exchange.py says."""
    net = MixtureOfExperts(**{**NETWORK, "classes": 8}, generator=torch.Generator().manual_seed(0))
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ch06_mixtures, "count_exchange", lambda jobs: found.update(jobs) or "counted")
        mixed = replace(committee_generalist, network=net)
        assert ch06_mixtures.exchange(committee_run, mixed, committee_of_four, steps=3) == "counted"
    together, apart = found["mixture of experts"], found["specialists"]
    assert (together.together, apart.together) == (True, False)
    assert len(apart.networks) == len(apart.cases) == 4
    for job in (together, apart):
        for network, (x, y) in zip(job.networks, job.cases, strict=True):
            assert len(x) == len(y) == 3 * 32
            assert network(x).shape[0] == len(x)
            assert 0 <= y.min() <= y.max() < network(x).shape[1]
    assert all(net is not one for one in (*together.networks, *apart.networks))


def test_gate_shares_are_means_over_the_test_images(committee_run, committee_generalist):
    net = MixtureOfExperts(**{**NETWORK, "classes": 8}, generator=torch.Generator().manual_seed(0)).eval()
    shares = ch06_mixtures.gate_shares(committee_run, replace(committee_generalist, network=net))
    with torch.no_grad():
        expected = net.shares(training.as_inputs(committee_run.data.test_images)).mean(0)
    torch.testing.assert_close(torch.from_numpy(shares), expected)


def history(*values, halves=None):
    """Looked at after every second epoch. halves: of each value, on the halves of the images."""
    rows = []
    for epoch in range(1, 2 * len(values) + 1):
        rows.append({"epoch": epoch})
        if epoch % 2 == 0:
            of_halves = halves[epoch // 2 - 1] if halves else (values[epoch // 2 - 1],) * 2
            rows[-1] |= {ON_VALIDATION: values[epoch // 2 - 1], **dict(zip(ON_HALVES, of_halves, strict=True))}
    return rows


@pytest.fixture
def with_histories(committee_of_four):
    """A committee whose specialists have these histories."""

    def made(*histories):
        nets = [replace(committee_of_four.specialists[0], history=h) for h in histories]
        return replace(committee_of_four, specialists=nets)

    return made


def test_validation_means_are_over_specialists_and_committees(with_histories):
    each = [with_histories(history(0.2, 0.5), history(0.4, 0.5)), with_histories(history(0.6, 0.2), history(0.6, 0.2))]
    means = ch06_mixtures.validation_means({"one": each, "two": each[1:]})
    assert means.index.tolist() == [2, 4]
    assert means["one"].tolist() == pytest.approx([45, 35])
    assert means["two"].tolist() == pytest.approx([60, 20])


def test_overfitting_is_what_is_lost_after_the_best_epoch(with_histories):
    kinds = {
        "rises": history(0.1, 0.2, 0.3),
        "falls": history(0.1, 0.25, 0.21),
        "is noisy": history(0.2, 0.25, 0.2, halves=[(0.2, 0.2), (0.3, 0.2), (0.2, 0.2)]),
    }
    found = ch06_mixtures.overfitting({name: [with_histories(h, h)] for name, h in kinds.items()})
    assert found.loc["rises"].tolist() == pytest.approx([6, 30, 0])
    assert found.loc["falls"].tolist() == pytest.approx([4, 25, 4])
    # The second half sees none of the peak of the first; and from its own best epoch on nothing is lost.
    assert found.loc["is noisy"].tolist() == pytest.approx([4, 25, 0])


def test_published_curves_have_a_column_a_half(with_histories):
    each = [with_histories(history(0.5, 0.4, halves=[(0.6, 0.4), (0.3, 0.5)]))]
    assert ch06_mixtures.validation_halves(each).tolist() == [[[[0.6, 0.4], [0.3, 0.5]]]]


def test_before_training_a_specialist_is_its_generalist(committee_run, committee_of_four):
    run, generalist = committee_run, committee_of_four.generalist
    p = run.logits(generalist, "validation").softmax(1)
    each = [run.conditional_right(p, [subset], "validation").mean() for subset in committee_of_four.subsets]
    assert ch06_mixtures.before_training(run, [committee_of_four]) == pytest.approx(100 * sum(each) / 4)


def test_validation_curves_have_a_line_a_way_and_the_start():
    means = pd.DataFrame({"labels": [10.0, 20.0], "soft": [12.0, 18.0]}, index=[1, 2])
    figure = ch06_mixtures.validation_curves(means, start=8.0)
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert lines == {"labels": [10, 20], "soft": [12, 18], "generalist": [8, 8]}
    plt.close(figure)
