"""Keeps secret values out of everything that is printed or logged (F82)."""

import re

HIDDEN = "[hidden]"

# A value this short could be part of an ordinary word; it is never a credential.
_SHORTEST_SECRET = 6
_secrets: set[str] = set()

# user:password@ inside any URL, known as a secret or not.
_URL_PASSWORD = re.compile(r"(?P<head>[a-zA-Z][a-zA-Z0-9+.-]*://[^\s:/@]*):[^\s/@]+@")
# Names of fields whose value is hidden, whatever it is. Client order ids and the like must stay readable.
_SENSITIVE_NAME = re.compile(
    r"(^|[_.-])(secret|password|passwd|passphrase|token|api_?key|credential|credentials)$", re.I
)


def remember_secret(value: str) -> None:
    """From now on hide `value` wherever it turns up."""
    if len(value) >= _SHORTEST_SECRET:
        _secrets.add(value)


def redact(text: str) -> str:
    """Hide known secrets, and passwords inside URLs."""
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\g<head>:{HIDDEN}@", text)
    return text


def is_sensitive_name(name: str) -> bool:
    """Whether a field of this name holds a secret."""
    return _SENSITIVE_NAME.search(name) is not None
