"""From frames of speech to error rates: cases, soft targets, decoding graphs, search."""
