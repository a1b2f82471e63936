"""The one exception for what a user can put right."""


class UserError(ValueError):
    """A wrong value, file or setting: its text is one line that says what, which value, and what to do.

    The entry scripts print it without a traceback and exit with code 2.
    """
