"""What several tests of images need, made once."""

import pytest

from kdrepro.data.characters import Fonts


@pytest.fixture(scope="session")
def fonts() -> Fonts:
    return Fonts()
