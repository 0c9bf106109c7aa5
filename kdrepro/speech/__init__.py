"""From recordings to frames: corpora, speech from text, log-mel windows, HMM states. Free of torch, so that the
processes which prepare a corpus start in a moment."""
