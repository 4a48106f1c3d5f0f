"""What goes wrong on the way to another library."""


class CannotExpressError(ValueError):
    """The module holds what the other library can not compute; the message names it and says why."""
