"""Figures of claims from small arrays whose answers can be worked out by hand, or that the package gives otherwise."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdrepro import biases, losses
from kdrepro.verdicts import recompute, stats
from kdrepro.verdicts.recompute import arrays, digits, specialists, speech, theory


def bits(*rows):
    return np.packbits(np.array(rows, bool), axis=1)


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_errors_by_what_is_in_a_name():
    right = {
        "a, T 2.right": bits([1, 1, 0]),
        "a, T 10.right": bits([0, 0, 1]),
        "a, T of its own.right": bits([1, 1, 1]),
    }
    found = arrays.errors_by({"cases": np.array(3), **right, "b, T 2.right": bits([0, 0, 0])}, "a, T ")
    assert {t: e.tolist() for t, e in found.items()} == {2: [1], 10: [2]}
    with pytest.raises(KeyError):
        arrays.errors_by(right, "c, T ")


# --- Section 2 --------------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_package(generator):
    student, teacher = (torch.randn(4, 7, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = losses.soft_target_gradient(student[0], teacher[0], 3.0)
    np.testing.assert_allclose(theory.gradient(student.numpy(), teacher.numpy(), 3.0)[0], expected)
    published = {
        "plain.logits": student.numpy().astype(np.float32),
        "teacher.logits": teacher.numpy().astype(np.float32),
        "temperatures": np.array([1.0, 20.0, 100.0, 1000.0]),
    }
    assert theory.t2_law(published)["exponent"] == pytest.approx([-2] * 4, abs=0.1)
    found = theory.logit_limit(published)
    assert found["angle_degrees"] == pytest.approx([0] * 4, abs=0.2)
    assert found["norm_ratio"] == pytest.approx([1] * 4, abs=0.01)


def test_a_small_students_temperature_is_chosen_on_the_other_seeds():
    table = {1.0: np.array([9, 9, 9]), 2.0: np.array([1, 5, 5]), 4.0: np.array([4, 4, 3])}
    found = recompute.small_student(table, np.array([10, 10, 10]))
    # The other seeds prefer 4 (of 3.5 against 5), 3 against 3.5 prefers 2 only for the last two.
    assert found["best_temperature"].tolist() == [4, 2, 2]
    assert found["gain_over_logit_matching"].tolist() == [6, 5, 5]
    assert found["gain_over_t1"].tolist() == [5, 4, 4]
    alone = recompute.small_student({t: e[:1] for t, e in table.items()}, np.array([10]))
    assert alone["best_temperature"].tolist() == [2]


def test_relative_variance_is_of_the_gradients_themselves(generator):
    g = torch.randn(50, 3, generator=generator, dtype=torch.float64).numpy() + 1
    mean = g.mean(0)
    expected = ((g - mean) ** 2).sum(1).mean() / (mean**2).sum()
    assert recompute.relative_variance((g**2).sum(1), g @ mean) == pytest.approx(expected)


def test_highest_rates_stay_within_half_more_than_the_best():
    table = {0.1: np.array([30, 10]), 0.001: np.array([10, 12]), 0.01: np.array([15, 20])}
    assert recompute.highest_rates(table) == pytest.approx([0.01, 0.1])


def test_highest_rates_interpolate_and_are_censored():
    table = {0.001: np.array([12.0]), 0.01: np.array([10.0]), 0.1: np.array([40.0])}
    # From 10 to 40 errors over one decade, log-log: twice the best is half of the way.
    assert recompute.highest_rates(table, 2) == pytest.approx([10**-1.5])
    assert recompute.highest_rates(table, 5) == pytest.approx([0.1])
    none = {rate: errors * 0 for rate, errors in table.items()}
    assert recompute.highest_rates(none, 2) == pytest.approx([0.1])


def test_data_ratio_interpolates_and_is_censored():
    hard = {0.1: np.array([100.0, 100.0]), 1.0: np.array([1.0, 1.0])}
    assert recompute.data_ratio(hard, np.array([10.0, 0.0]), 0.1) == pytest.approx([math.sqrt(10), 10])


# --- Section 3 --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 4))
def test_the_best_shift_is_that_of_the_logits(seed, cases, unseen):
    made = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(cases, 5, generator=made), torch.randint(5, (cases,), generator=made)
    inside = torch.arange(5) < unseen
    published = {"net.needed": biases.needed(logits, range(unseen)).numpy()[None]}
    for kind, left_out in (("seen", inside), ("unseen", ~inside)):
        answers = logits.masked_fill(left_out, -1e30).argmax(1)
        published[f"net.{kind} right"] = bits((answers == labels).tolist())
    (shift,), (wrong,) = digits.best_shift(published, "net")
    assert shift == pytest.approx(biases.best_shift(logits, labels, range(unseen)), rel=1e-6, abs=1e-6)
    (row,) = biases.compare(logits, labels, range(unseen), {"best": shift})
    assert wrong == row["errors"]


def test_the_figures_of_temperatures():
    seeds = np.arange(12.0) % 3
    table = {1.0: 120 + seeds, 2.0: 112 + seeds, 3.0: 100 + seeds, 6.0: 105 + seeds[::-1], 20.0: 130 + seeds}
    narrow = recompute.narrow_temperatures(table, 12)
    assert narrow["gain_over_higher"].mean() == pytest.approx(17.5)
    assert narrow["gain_over_lower"].mean() == pytest.approx(16)
    expected = max(stats.holm([stats.one_sided_p(table[6.0] - table[3.0]), stats.one_sided_p(table[2.0] - table[3.0])]))
    assert narrow["neighbours_p"] == expected < 0.001
    alike, unlike = {10.0: 100 + seeds, 20.0: 101 + seeds}, {10.0: 100 + seeds, 20.0: 115 + seeds}
    assert recompute.wide_temperatures([alike], 12)["equivalence_p"] < 0.05
    assert recompute.wide_temperatures([alike, unlike], 12)["equivalence_p"] > 0.95
    alone = recompute.wide_temperatures([{10.0: seeds[:1] + 1, 20.0: seeds[:1] + 1}], 12)
    assert alone.get("equivalence_p") is None


def test_students_of_one_teacher_are_one_witness():
    """Copies of a teacher's student change no test; what is counted as students are students."""
    few = {t: np.array([t, t + 2, t + 5]) for t in (1.0, 2.0, 3.0, 6.0, 10.0, 20.0)}
    copies = {t: np.concatenate([counts, counts]) for t, counts in few.items()}
    for figures in (recompute.narrow_temperatures, lambda table, count: recompute.wide_temperatures([table], count)):
        one, other = (figures(table, 3) for table in (few, copies))
        assert (one.pop("seeds_each"), other.pop("seeds_each")) == (3, 6)
        assert {k: np.asarray(v).tolist() for k, v in one.items()} == {
            k: np.asarray(v).tolist() for k, v in other.items()
        }
    assert digits.by_teacher(np.array([1.0, 2, 3, 5, 9]), 2).tolist() == [13 / 3, 3.5]
    assert digits.by_teacher(np.array([1.0, 2]), 5).tolist() == [1, 2]


def test_the_control_of_the_headline_has_its_recipe():
    published = {
        name: bits(*rows)
        for name, rows in {
            "teacher.right": ([1, 1, 1, 1],),
            "plain.right": ([0, 0, 0, 1],),
            "distilled.right": ([1, 1, 1, 0],),
            "distilled, student 2.right": ([1, 0, 1, 0],),
            f"{digits.ALIKE}.right": ([0, 0, 1, 1],),
        }.items()
    }
    found = digits.WAYS["mnist.distilled"]({"cases": np.array(4), **published})
    assert found["errors"].tolist() == [1.5]
    assert found["recovered"].tolist() == [0.5]
    assert (found["errors_of_labels"].tolist(), found["errors_saved"].tolist()) == ([2], [0.5])


# --- Sections 4 and 6 -------------------------------------------------------------------------------------------------


def test_accuracies_of_a_learning_curve_are_those_of_the_epoch_that_was_kept():
    curve = np.array([[[[0.2, 0.5, 0.5], [0.4, 0.3, 0.4]]], [[[0.1, 0.1, 0.1], [0.3, 0.4, 0.2]]]])  # two seeds, a fold
    published = {
        "frames": np.array(2),
        **{f"{name}, hard.correct": bits([1, 0], [1, 1]) for name in ("all", "little")},
        **{f"{name}, hard.errors": np.array([[[1, 0, 1, 4]]] * 2) for name in ("all", "little")},
        "little, hard.curve": curve,
        "little, hard.kept": np.array([[0], [1]]),
    }
    found = speech.WAYS["soft.hard3"](published)
    assert found["train_frame_accuracy"].tolist() == [0.2, 0.3]
    assert found["overfit"] == pytest.approx([-0.3, -0.7])
    assert found["gain_of_stopping"] == pytest.approx([0.1, 0])
    assert found["word_error_rate"].tolist() == [0.5, 0.5]
    assert "train_frame_accuracy" not in speech.WAYS["soft.full"](published)


def by_speaker(right, wrong):
    """Arrays of systems: frames that are right, and words that are wrong of ten, [seeds, ensembles, two speakers]."""
    found = {"frames of speaker": np.array([60, 40])}
    for name, counts in right.items():
        errors = np.zeros((*np.shape(wrong[name]), 4), int)
        errors[..., 0], errors[..., 3] = wrong[name], 10
        found |= {f"{name}.right": np.array(counts), f"{name}.errors by speaker": errors}
    return found


def test_two_ensembles_are_averaged_and_the_worse_one_is_named():
    right = {
        "baseline": [[[20, 20], [20, 20]], [[22, 20], [20, 22]]],
        "ensemble": [[[30, 20], [30, 30]]],
        "distilled": [[[28, 20], [24, 20]], [[30, 20], [26, 20]]],
    }
    wrong = {
        "baseline": [[[4, 4], [4, 4]], [[4, 4], [4, 4]]],
        "ensemble": [[[2, 2], [2, 2]]],
        "distilled": [[[3, 3], [3, 3]], [[2, 4], [3, 1]]],
    }
    arrays = by_speaker(right, wrong)
    kept = speech.WAYS["speech.recovered"](arrays)
    assert kept.keys() == {"recovered", "recovered_of_worse_ensemble"}
    assert kept["recovered"] == pytest.approx([(0.08 + 0.04) / (0.10 + 0.20), (0.08 + 0.04) / (0.08 + 0.18)])
    assert kept["recovered_of_worse_ensemble"] == pytest.approx(0.08 / 0.38)
    gains = speech.WAYS["speech.distilled"](arrays)["relative_gain"]
    assert gains == pytest.approx([0.06 / 0.40, 0.06 / 0.42])
    assert speech.WAYS["speech.ensemble"](arrays)["frame_accuracy"] == pytest.approx(0.55)
    words = speech.WAYS["speech.words"](arrays)
    assert words["word_errors_saved"] == pytest.approx([0.1, 0.15])
    assert words["word_errors_saved_by_ensemble"] == pytest.approx([0.2, 0.2])
    assert words["word_errors_above_ensemble"] == pytest.approx([0.1, 0.05])
    assert words["word_errors_saved_past_half"] == pytest.approx([0, 0.05])
    assert "word_errors_saved_by_half_again" not in words
    # The means over seeds and ensembles: 4 wrong words of each speaker, and 2.75 of both with a distilled net.
    assert (words["word_errors_saved_low"], words["word_errors_saved_high"]) == pytest.approx((0.125, 0.125))
    low, high = recompute.gained_by_voices(arrays, "distilled", "baseline")
    assert low < 0.06 < high
    for name, errors in ((speech.AS_LONG, [[4, 4], [4, 4]]), (speech.LONGER, [[4, 2], [3, 3]])):
        arrays |= by_speaker({name: [[0, 0]] * 2}, {name: errors})
    assert speech.WAYS["speech.words"](arrays)["word_errors_saved_by_half_again"] == pytest.approx(0.1)


def test_speakers_who_share_a_voice_are_drawn_together():
    """Four speakers of two voices are worth two speakers of as much speech, and those of one voice tell nothing."""
    right = {"one": [[10, 10, 30, 30]], "other": [[8, 18, 30, 31]]}
    arrays = {f"{name}.right": np.array(counts) for name, counts in right.items()}
    arrays |= {"frames of speaker": np.array([20, 20, 40, 40])}
    apart = recompute.gained_by_voices(arrays, "other", "one")
    shared = recompute.gained_by_voices(arrays | {"voice of speaker": np.array([0, 0, 1, 1])}, "other", "one")
    assert shared == pytest.approx((1 / 80, 6 / 40))  # one of the two voices, twice
    assert apart != shared
    assert recompute.gained_by_voices(arrays | {"voice of speaker": np.zeros(4, int)}, "other", "one") is None
    errors = np.zeros((1, 4, 4), int)
    errors[..., 3] = 10
    arrays |= {"other.errors by speaker": errors, "one.errors by speaker": errors + np.eye(4, dtype=int)[0]}
    arrays |= {"voice of speaker": np.array([0, 0, 1, 1])}
    assert recompute.saved_by_voices(arrays, "other", "one") == pytest.approx((0.1, 0.1))


def test_what_half_as_many_passes_again_give():
    """The mean over seeds of all validation frames, and the upper end over voices; in three claims, for all seeds."""
    arrays = {"frames of validation speaker": np.array([50, 50]), "voice of validation speaker": np.array([0, 1])}
    arrays |= {"baseline, as long.validation right": np.array([[20, 30], [20, 30]])}
    assert speech.half_again(arrays) == {}
    arrays |= {"baseline, half as long again.validation right": np.array([[22, 30], [24, 30]])}
    found = speech.half_again(arrays)
    assert found == {"gain_of_half_again": pytest.approx(0.03), "gain_of_half_again_high": pytest.approx(0.06)}
    one_voice = arrays | {"voice of validation speaker": np.array([0, 0])}
    assert speech.half_again(one_voice) == {"gain_of_half_again": pytest.approx(0.03)}
    of_test = {name: [[[20, 20]]] for name in ("baseline", "ensemble", "distilled")}
    arrays |= by_speaker(of_test, {name: [[[1, 1]]] for name in of_test})
    for claim in ("speech.ensemble", "speech.distilled", "speech.recovered"):
        assert recompute.claimed(claim, arrays)["pooled"].items() >= found.items()


def test_targets_are_compared_at_the_same_rate():
    arrays = {"frames of speaker": np.array([100])}
    rates = {"all, hard": 60, "little, hard": 40, "little, soft": 55}
    rates |= {"little, hard, annealed": 50, "little, soft, annealed": 58}
    arrays |= {f"{name}.right": np.array([[right]]) for name, right in rates.items()}
    arrays |= {f"{name}.errors by speaker": np.array([[[1, 0, 0, 4]]]) for name in rates}
    full, soft = (speech.WAYS[claim](arrays) for claim in ("soft.full", "soft.soft3"))
    assert (full["gain_over_hard3"], full["gain_over_annealed"]) == pytest.approx((0.2, 0.1))
    assert (soft["recovered"], soft["recovered_over_annealed"]) == pytest.approx((0.75, 0.8))
    del arrays["little, hard, annealed.right"]  # as the first published arrays
    assert "recovered_over_annealed" not in speech.WAYS["soft.soft3"](arrays)


def test_the_first_arrays_and_later_ones_give_the_same():
    old = {"frames": np.array(4), "baseline.correct": bits([1, 0, 1, 0]), "baseline.errors": np.array([[[1, 1, 0, 8]]])}
    old |= {"ensemble.correct": bits([1, 1, 1, 0]), "ensemble.errors": np.array([[[0, 1, 0, 8]]])}
    new = {"frames of speaker": np.array([2, 2]), "baseline.right": np.array([[[1, 1]]])}
    new |= {"ensemble.right": np.array([[[2, 1]]])}
    new |= {"baseline.errors by speaker": np.array([[[[1, 0, 0, 4], [0, 1, 0, 4]]]])}
    new |= {"ensemble.errors by speaker": np.array([[[[0, 0, 0, 4], [0, 1, 0, 4]]]])}
    for claim in ("speech.baseline", "speech.ensemble"):
        found = [speech.WAYS[claim](arrays) for arrays in (old, new)]
        assert found[0].keys() == found[1].keys()
        for metric, values in found[0].items():
            assert np.allclose(values, found[1][metric]), metric


def test_the_figures_of_temperature_two():
    table = {1.0: np.array([0.5, 0.52]), 2.0: np.array([0.55, 0.53]), 5.0: np.array([0.54, 0.56])}
    found = speech.temperature(table)
    assert found["gain_of_t2"] == pytest.approx([0.01, -0.03])  # against T = 5, the best of the others by its mean
    assert found["best_temperature"] == 5
    arrays = {f"T = {t:g}.right": (100 * values)[:, None] for t, values in table.items()}
    again = speech.WAYS["speech.temperature"](arrays | {"frames of speaker": np.array([100])})
    assert again["gain_of_t2"] == pytest.approx(found["gain_of_t2"])
    # Of arrays that are not there, as of seeds that have not confirmed yet, there are no figures.
    every = {"claims": dict.fromkeys(speech.WAYS)}
    assert recompute.figures(every, {}) == {}
    assert recompute.figures(every, arrays | {"frames of speaker": np.array([100])}).keys() == {"speech.temperature"}


def test_what_alignment_costs():
    arrays = {"frames of speaker": np.array([10, 10]), "labels by hand.right": np.array([[5, 5]])}
    found = speech.WAYS["speech.aligned"](arrays | {"labels aligned.right": np.array([[4, 5]])})
    assert found["lost_by_alignment"] == pytest.approx([0.05])
    assert found["relative_loss"] == pytest.approx([0.1])


def test_what_stopping_would_have_saved_a_net_that_was_not_stopped():
    curve = np.array([[[[0.2, 0.5, 0.45], [0.4, 0.3, 0.4]]], [[[0.1, 0.1, 0.1], [0.3, 0.4, 0.2]]]])
    assert speech.lost_at_the_end(curve) == pytest.approx([0.05, 0])


# --- Sections 5 to 8 --------------------------------------------------------------------------------------------------


def test_within_over_between():
    families = np.array([0, 0, 1, 1])  # a third of all pairs are of one family
    assert recompute.within_over_between(np.array([[0, 1], [2, 3]]), families) == 3
    assert recompute.within_over_between(np.array([[0, 2]]), families) == 0
    with pytest.raises(ValueError, match="No two classes share a family"):
        recompute.within_over_between(np.array([[0, 1]]), np.arange(2))


@pytest.mark.parametrize(("after", "expected"), [([0, 1, 2, 3], 1.0), ([3, 2, 1, 0], -1.0), ([1, 1, 1, 1], 0.0)])
def test_correlations_of_coverage_and_gain(after, expected):
    covering, cases, before = np.arange(4), np.full(4, 100), np.full(4, 10)
    right = np.stack([before, before + after])
    assert recompute.rank_correlation(covering, cases, right) == pytest.approx(expected)
    assert recompute.class_correlation(covering, cases, right) == pytest.approx(expected)
    more = np.append(covering, 9), np.append(cases, 1), np.append(right, [[1], [0]], axis=1)
    assert recompute.rank_correlation(*more, least=50) == pytest.approx(expected)


def test_rows_of_a_coverage_are_added_before_their_change_is_taken():
    covering, cases = np.array([0, 0, 1, 2]), np.full(4, 10)
    right = np.array([[1, 9, 5, 5], [2, 8, 6, 7]])  # changes of 0 in 10, 1 in 5, 2 in 5
    assert recompute.rank_correlation(covering, cases, right) == 1
    assert recompute.class_correlation(covering, cases, right) < 1
    assert recompute.rank_correlation(covering[:2], cases[:2], right[:, :2]) == 0


def test_what_is_lost_after_the_best_epoch_is_of_the_mean_curve():
    curves = np.array([[[0.1, 0.5, 0.3], [0.1, 0.3, 0.3]]])
    assert specialists.overfit(np.stack([curves, curves], axis=-1)) == pytest.approx([0.1])


def test_noise_does_not_overfit():
    """The images that choose the best epoch do not say what is lost after it."""
    noise = np.random.default_rng(0).normal(0.5, 0.1, (400, 3, 10, 2))
    found = specialists.overfit(noise)
    assert abs(found.mean()) < 4 * found.std() / 20
    naive = noise.mean((1, 3))
    assert (naive.max(1) - naive[:, -1]).mean() > 0.03
    peak = noise.copy()
    peak[:, :, 4] += 0.3  # an epoch that is better on both halves
    assert specialists.overfit(peak).mean() == pytest.approx(0.3, abs=0.03)


def test_what_the_soft_targets_save_is_against_the_dustbin():
    falling, flat = np.array([[[[0.5, 0.5], [0.3, 0.3]]]] * 2), np.full((2, 1, 2, 2), 0.4)
    ways = ("dustbin", "dustbin, stopped early", "full softmax, labels", "+ soft targets by class")
    found = {f"{way}.right": bits([1, 0, 0, 0], [1, 1, 0, 0]) for way in ways} | {"cases": np.array(4)}
    found |= {"dustbin.validation": falling, "+ soft targets by class.validation": flat}
    found["+ soft targets by class.right"] = bits([1, 1, 0, 0], [1, 1, 1, 0])
    ours = recompute.claimed("soft.specialists", found)
    assert ours["overfit_of_dustbin"] == pytest.approx([0.2, 0.2])
    assert ours["overfit_saved"] == pytest.approx([0.2, 0.2])
    assert ours["gain_over_labels"] == pytest.approx([0.25, 0.25])


def test_a_class_counts_once_over_all_seeds():
    generator = np.random.default_rng(0)
    cover, cases = np.stack([np.arange(40)] * 5), np.full(40, 50)
    noise = generator.integers(-3, 4, (5, 40))
    before = np.full((5, 40), 20)
    trend = np.stack([before, before + cover // 4 + noise], axis=1)
    flat = np.stack([before, before + noise], axis=1)
    assert recompute.class_p(cover, cases, trend) < 1e-3
    assert recompute.class_p(cover, cases, flat) > 0.05
    assert recompute.class_p(cover, cases, trend[:, ::-1]) > 0.99
    # Five copies of a seed are worth no more than it.
    once = recompute.class_p(cover[:1], cases, flat[:1])
    assert recompute.class_p(cover, cases, np.repeat(flat[:1], 5, axis=0)) == pytest.approx(once)
    assert recompute.class_p(np.ones((2, 40)), cases, flat[:2]) == 1


def test_what_was_counted_is_the_claims():
    arrays = {"specialists.exchange": np.array([12, 0, 0, 800]), "mixture of experts.exchange": np.array([6, 7, 90, 8])}
    found = recompute.claimed("moe.parallel", arrays)
    assert found == {
        "pooled": {"synchronisations": 0, "synchronisations_of_mixture": 7, "bytes": 0, "bytes_of_mixture": 90}
    }


def test_what_is_distilled_back_is_a_share_of_what_the_committee_gains():
    kinds = {
        "generalist": ([1, 1, 0, 0], [1, 0, 0, 0]),
        "generalist + specialists": ([1, 1, 1, 1], [1, 1, 1, 0]),
        "student of both": ([1, 1, 1, 0], [1, 1, 0, 0]),
        "student of the generalist": ([1, 1, 1, 0], [1, 0, 0, 0]),
        "trained on, labels only": ([1, 1, 0, 0], [1, 0, 0, 0]),
    }
    arrays = {f"{name}.right": bits(*rows) for name, rows in kinds.items()} | {"cases": np.array(4)}
    found = recompute.claimed("beyond.distil_back", arrays)
    assert found["recovered"].tolist() == [0.5, 0.5]
    assert found["gain_of_committee"].tolist() == [0.5, 0.5]
    assert found["recovered_by_self_distillation"].tolist() == [0.5, 0.0]
    assert found["gain_over_labels"].tolist() == [0.25, 0.25]
    assert found["gain_over_self_distillation"].tolist() == [0.0, 0.25]


def test_going_on_is_measured_on_validation_images():
    arrays = {"generalist.validation": bits([1, 0, 0, 0], [1, 1, 0, 0]), "validation cases": np.array(4)}
    arrays["longer generalist.validation"] = bits([1, 1, 0, 0], [1, 0, 0, 0])
    assert specialists._longer(arrays)["gain_of_longer"].tolist() == [0.25, -0.25]
    assert specialists._longer({}) == {}


def test_the_premises_interval_is_over_images_and_of_all_seeds():
    """By the normal approximation too; an image counts once, however many seeds see it."""
    random, cases = np.random.default_rng(1), 2000
    before = random.random((3, cases)) < 0.5
    after = np.where(random.random((3, cases)) < 0.1, ~before, before)
    arrays = {"generalist.validation": bits(*before), "longer generalist.validation": bits(*after)}
    found = specialists._longer(arrays | {"validation cases": np.array(cases)})
    each = (after.astype(int) - before).mean(0)
    expected = each.mean() + 1.96 * each.std() / np.sqrt(cases)
    assert found["gain_of_longer_high"] == pytest.approx(expected, abs=5e-4)
    assert found["gain_of_longer"].mean() == pytest.approx(each.mean())
    twice = {name: np.repeat(rows, 2, axis=0) for name, rows in arrays.items()}
    again = specialists._longer(twice | {"validation cases": np.array(cases)})
    assert again["gain_of_longer_high"] == pytest.approx(found["gain_of_longer_high"])


def test_rivals_are_compared_on_the_seeds_that_both_have():
    rows = {"generalist": ([1, 0, 0, 0], [1, 0, 0, 0]), "+ specialists": ([1, 1, 0, 0], [1, 1, 1, 0])}
    rows |= {"longer generalist": ([1, 0, 0, 0], [1, 1, 1, 1]), "random subsets": ([1, 1, 1, 0],)}
    rows |= {"two generalists": rows["generalist"], "+ specialists, plain mean": rows["generalist"]}
    arrays = {f"{name}.right": bits(*each) for name, each in rows.items()} | {"cases": np.array(4)}
    found = recompute.claimed("specialists.table3", arrays)
    assert found["gain_over_longer_generalist"].tolist() == [0.25, -0.25]
    assert found["gain_over_random_subsets"].tolist() == [-0.25]
    assert found["gain_over_two_generalists"].tolist() == [0.25, 0.5]
    assert "gain_over_plain_mean" not in found
    counts = {f"{name}.conditional": np.array(each).sum(1)[:, None] for name, each in rows.items()}
    found = recompute.claimed("specialists.table3.conditional", counts | {"conditional cases": np.array([[4], [4]])})
    assert found["gain_over_longer_generalist"].tolist() == [0.25, -0.25]
    assert found["gain_over_random_subsets"].tolist() == [-0.25]


def test_coverages_are_those_of_the_seed_with_the_fewest():
    arrays = {"cases of class": np.full(4, 10), "least cases": np.array(1)}
    arrays["subsets"] = np.array([[[0, 1], [0, 2]], [[0, 1], [2, 3]]])  # covers of 0, 1 and 2, and of 1 alone
    arrays |= {f"{name}.of class": np.full((2, 4), 5) for name in ("generalist", "+ specialists")}
    assert recompute.claimed("specialists.table4", arrays)["pooled"]["coverages"] == 1
