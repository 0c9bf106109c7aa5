"""The one error that a user's bad input raises."""


class InputError(ValueError):
    """Something given from outside is wrong: one sentence says what, where, and what to do."""
