"""What goes wrong with workers; both command lines say it in one line."""


class SpreadError(RuntimeError):
    """Workers that cannot be had, or were lost; the text says what to do."""
