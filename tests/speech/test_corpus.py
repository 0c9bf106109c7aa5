"""What all corpora have in common."""

import subprocess
import sys


def test_speech_needs_no_torch():
    code = "import sys, kdrepro.speech.folder, kdrepro.speech.timit; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
