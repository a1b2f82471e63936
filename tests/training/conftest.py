"""One data set of photographs for all tests of training; no test leaves a training behind."""

import pytest
from small_runs import end_what_was_started, photos  # noqa: F401


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """40 images: ten steps of 4 are an epoch, so that a resume after 3 or 11 steps lies inside one."""
    return photos(tmp_path_factory.mktemp("data") / "photos")
