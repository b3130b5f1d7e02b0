"""The root of every error that exitguard raises on purpose."""


class ExitguardError(Exception):
    """Something went wrong that a person can act on; the message says what, where and what to do."""


class InvalidInput(ExitguardError):
    """A value from outside (symbol, price, row, file) that cannot be what it claims to be."""
