"""Times of phones and words beside a recording, and a sentence for each fault."""

import pytest
from recordings import LINES, SAMPLE, sentence, wrong

from kdrepro.speech.corpus import SLACK, Segment
from kdrepro.speech.timit import timit


@pytest.mark.parametrize(("past", "length"), [(0, 4000), (-500, 3500), (1, 4000), (SLACK, 4000)])
def test_waveform_and_last_phone_end_together(sample, past, length):
    last = f"{4000 + past}"
    sentence(sample / "timit" / SAMPLE[0], "sx0", LINES.replace("4000", last), words=f"1000 {last} she")
    (one,) = timit(sample).utterances("fab10")
    assert len(one.waveform) == one.phones[-1].end == one.words[-1].end == length


def test_words_may_overlap_leave_gaps_and_be_absent(sample):
    folder = sample / "timit" / SAMPLE[0]
    sentence(folder, "sx0", words="1800 2600 Your\n1000 2000 HAD\n\n")
    (one,) = timit(sample).utterances("fab10")
    assert one.words == (Segment("had", 1000, 2000), Segment("your", 1800, 2600))
    (folder / "sx0.wrd").unlink()
    assert timit(sample).utterances("fab10")[0].words == ()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("", "sx0.phn has no phones"),
        (LINES.replace("1800 2600", "1900 2600"), "line 3: iy starts at sample 1900 where 1800 was due .a gap"),
        (LINES.replace("1800 2600", "1700 2600"), "line 3: .*an overlap"),
        (LINES.replace("0 1000", "10 1000", 1), "line 1: .*a gap"),
        ("0 0 h#\n0 4000 sh\n", "line 1: .*not after its start"),
        (LINES.replace("4000", "4401"), "line 4: .*past the end of the recording .4000 samples"),
        ("0 4000 h#\n4000 4050 sh\n", "the last phone, sh, starts at sample 4000, past the end"),
        (LINES.replace("sh", "zz"), "line 2: 'zz' is not a phone"),
        (LINES.replace("1800 2600", "1800.0 2600"), "line 3: '1800.0 2600 iy' is not `start end label`"),
        ("0 1000\n", "line 1: '0 1000' is not"),
        ("0 1000 h# sh\n", "line 1: .* is not"),
        ("\xff".join("ab"), "sx0.phn, line 1"),
    ],
)
def test_wrong_phone_times(sample, lines, said):
    sentence(sample / "timit" / SAMPLE[0], "sx0", lines)
    assert SAMPLE[0] in wrong(said, timit(sample).utterances, "fab10")


@pytest.mark.parametrize("words", ["2000 1000 she", "-5 1000 she", "4000 4100 she"])
def test_wrong_word_times(sample, words):
    sentence(sample / "timit" / SAMPLE[0], "sx0", words=words)
    wrong("sx0.wrd, word 1: she is from sample .* not a stretch", timit(sample).utterances, "fab10")


def test_labels_that_are_no_text_or_gone(sample):
    path = sample / "timit" / SAMPLE[0] / "sx0.phn"
    corpus = timit(sample)
    path.write_bytes(b"0 1000 \xff\n")
    wrong("not text in UTF-8", corpus.utterances, "fab10")
    path.unlink()
    wrong("sx0.phn cannot be read", corpus.utterances, "fab10")
