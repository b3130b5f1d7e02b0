"""Who is calling: key headers, HTTP Basic, or a bearer token."""

import base64
import binascii
from collections.abc import Mapping

from exitguard.paper.engine import Account, Exchange


def account_of(exchange: Exchange, headers: Mapping[str, str]) -> Account | None:
    """The account of a request's credentials, None where there are none or they are wrong.

    A bearer token is `KEY:SECRET`, plain or in base64: the exchange has no OAuth server to hand out others.
    """
    key = headers.get("apca-api-key-id")
    if key is not None:
        return exchange.account_by_key(key, headers.get("apca-api-secret-key", ""))
    scheme, _, credential = headers.get("authorization", "").partition(" ")
    scheme, credential = scheme.lower(), credential.strip()
    if scheme not in ("basic", "bearer") or not credential:
        return None
    pair = credential if scheme == "bearer" and ":" in credential else _decoded(credential)
    key, separator, secret = pair.partition(":")
    return exchange.account_by_key(key, secret) if separator else None


def has_credentials(headers: Mapping[str, str]) -> bool:
    """Whether a request carries credentials at all."""
    return "apca-api-key-id" in headers or "authorization" in headers


def _decoded(credential: str) -> str:
    try:
        return base64.b64decode(credential, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
