"""What tests of the built site in a browser have in common."""

PATIENCE = 180_000  # milliseconds, for a busy machine: nothing is timed
