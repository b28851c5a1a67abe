"""What stands in the place of a callback that nobody gave."""


def nothing() -> None:
    """Do nothing."""
