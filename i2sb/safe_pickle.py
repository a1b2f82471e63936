"""Which options are secret; until the logger and the writers no longer see any."""

import re

_SECRET = re.compile(r"(api_?key|token|password|secret)$", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """Whether an option of this name must not be written to any file."""
    return _SECRET.search(name) is not None
