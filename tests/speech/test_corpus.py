"""What all corpora have in common."""

import subprocess
import sys
from types import SimpleNamespace

from kdrepro.speech import corpus, synthesis


def test_speech_needs_no_torch():
    code = "import sys, kdrepro.speech.folder, kdrepro.speech.timit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_speaker_has_a_voice_of_ones_own_unless_the_corpus_says_otherwise():
    assert corpus.voice_of(SimpleNamespace(name="recorded"), "ann") == "ann"
    synthetic = synthesis.synthetic_speech(0.1)
    assert corpus.voice_of(synthetic, "train-00000") == synthetic.voice("train-00000")
