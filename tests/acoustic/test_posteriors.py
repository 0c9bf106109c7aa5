"""What networks say of frames: alone, as an ensemble, and utterance by utterance."""

import pytest
import torch
from acoustic_cases import chosen, network

from kdrepro import ensembles
from kdrepro.acoustic import posteriors


def test_a_network_learns_from_frames(tiny, teachers):
    most = torch.bincount(tiny.test.targets).max().item() / len(tiny.test)
    found = posteriors.accuracy(teachers[0], tiny.test, torch.arange(len(tiny.test)))
    assert found > 1.5 * most
    assert posteriors.accuracy(network(tiny.states, 5), tiny.test, torch.arange(len(tiny.test))) < most + 0.1


def test_accuracy_of_some_frames(tiny, teachers, windows):
    right = teachers[0](windows.float()).argmax(1) == tiny.test.targets
    for which in (torch.arange(len(windows)), chosen(tiny.test, 7), torch.tensor([3])):
        assert posteriors.accuracy(teachers[0], tiny.test, which) == pytest.approx(right[which].float().mean().item())


@pytest.mark.parametrize("how", ["arithmetic", "geometric"])
def test_mean_of_networks_is_the_ensembles(teachers, windows, how):
    some = windows[:200]
    logits = torch.stack([net(some.float()) for net in teachers]).detach()
    found = posteriors.mean_log_probabilities(teachers, some, how)
    torch.testing.assert_close(found.exp(), ensembles.average(logits, how), rtol=1e-4, atol=1e-6)
    assert torch.isfinite(found).all()
    one = posteriors.mean_log_probabilities(teachers[:1], some, how)
    torch.testing.assert_close(one, logits[0].log_softmax(1), rtol=1e-4, atol=1e-4)


def test_mean_of_very_sure_networks_is_finite(windows):
    class Sure(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, -500.0]]).expand(len(x), 2)

    found = posteriors.mean_log_probabilities([Sure(), Sure()], windows[:3])
    assert torch.isfinite(found).all()
    with pytest.raises(ValueError, match=r"how must be .* not 'mean'"):
        posteriors.mean_log_probabilities([Sure()], windows[:3], "mean")


def test_log_probabilities_by_utterance(tiny, teachers):
    seen = []
    every = posteriors.mean_log_probabilities(teachers, torch.cat(list(tiny.train.windows())))
    for utterances, found in posteriors.by_utterance(teachers, tiny.train):
        for utterance, one in zip(utterances, found, strict=True):
            seen.append(utterance["index"])
            rows = slice(utterance["first"], utterance["first"] + utterance["frames"])
            torch.testing.assert_close(one, every[rows], rtol=1e-4, atol=1e-4)
    assert seen == list(range(len(tiny.train.utterances)))
