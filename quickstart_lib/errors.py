"""The one exception quickstart shows to a person."""


class QuickstartError(Exception):
    """Something the person can act on. The text says what was found, what was expected and the next step."""


class ServerGone(QuickstartError):
    """ComfyUI ended, or does not answer any more."""
