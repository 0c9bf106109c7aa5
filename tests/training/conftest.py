"""The training room's data is on the device of `pytest --device`."""

import pytest


@pytest.fixture(scope="session")
def digits(digits, device):
    return digits.to(device)
