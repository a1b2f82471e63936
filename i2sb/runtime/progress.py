"""Progress on the screen."""

from collections.abc import Iterable, Sequence


def track(items: Sequence, description: str) -> Iterable:
    """Iterate over `items` beside a bar with count and time left, on standard error."""
    from rich.console import Console
    from rich.progress import track as rich_track

    return rich_track(items, description=description, console=Console(stderr=True), transient=True)
