"""One data set of photographs for all tests of training."""

import pytest
from small_runs import photos


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """40 images: ten steps of 4 are an epoch, so that a resume after 3 or 11 steps lies inside one."""
    return photos(tmp_path_factory.mktemp("data") / "photos")
