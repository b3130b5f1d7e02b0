"""What is wrong with a configuration: every problem, with the file, the key, what was found and what is expected."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from exitguard.config.redaction import redact
from exitguard.core.errors import ExitguardError

MAX_FOUND_LENGTH = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `where` is a file or `environment`, `key` a dotted path or a variable's name."""

    where: str
    key: str
    found: str
    expected: str

    def __str__(self) -> str:
        """The problem in one line."""
        key = f"{self.key}: " if self.key else ""
        return f"{self.where}: {key}found {self.found}, expected {self.expected}"


class ConfigError(ExitguardError):
    """A configuration that cannot be used. Its text is the first problem and how many more there are (exit code 78)."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        if not problems:
            raise ValueError("a configuration error needs at least one problem")
        self.problems = tuple(problems)
        more = len(problems) - 1
        tail = f" (and {more} more problem{'s' if more > 1 else ''}, listed in the log)" if more else ""
        super().__init__(f"configuration error: {problems[0]}{tail}")


class SecretError(ConfigError):
    """A secret reference that leads nowhere, or to something that cannot be the secret."""

    def __init__(self, reference: str, found: str, expected: str) -> None:
        super().__init__([Problem("secret reference", reference, found, expected)])


def show(value: object) -> str:
    """Show a value that came from outside: bounded, on one line, without passwords."""
    text = redact(value if isinstance(value, str) else repr(value))
    text = " ".join(text.split()) if isinstance(value, str) else text
    if len(text) > MAX_FOUND_LENGTH:
        text = text[: MAX_FOUND_LENGTH - 1] + "…"
    return f'"{text}"' if isinstance(value, str) else text


def did_you_mean(word: str, known: Iterable[str], what: str = "key") -> str:
    """A suggestion for a mistyped word, or the list of what is known."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"a known {what}; did you mean {close[0]!r}?"
    return f"one of {', '.join(names)}" if names else f"no {what} here"
