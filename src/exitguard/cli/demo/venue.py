"""The demo's view of the paper exchange: its admin API, and its accounts as somebody behind the manager sees them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Self
from urllib.parse import quote as quote_url

import aiohttp
import orjson

from exitguard.broker.decoding import decode_quote
from exitguard.core.errors import ExitguardError
from exitguard.core.quote import Quote

_TIMEOUT = aiohttp.ClientTimeout(total=60.0)


# Wall seconds that the exchange gives its clients between two rounds of quotes when it plays as fast as it can.
REACTION = 0.003


class VenueFailed(ExitguardError):
    """The paper exchange did not answer as it should."""


@dataclass(frozen=True, slots=True)
class Credential:
    """Keys of one account at the exchange."""

    key: str
    secret: str
    account_number: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers that name the account."""
        return {"APCA-API-KEY-ID": self.key, "APCA-API-SECRET-KEY": self.secret}


@dataclass(frozen=True, slots=True)
class Addresses:
    """The first line of `exitguard paper --json`."""

    rest: str
    stream: str
    data: str
    data_stream: str
    option_stream: str
    accounts: dict[str, Credential]

    @classmethod
    def read(cls, line: bytes) -> Self:
        """Read the line. Raises VenueFailed when it is something else."""
        try:
            body = orjson.loads(line)
            accounts = {
                name: Credential(each["key"], each["secret"], each["account_number"])
                for name, each in body["accounts"].items()
            }
            return cls(body["rest"], body["stream"], body["data"], body["data_stream"], body["option_stream"], accounts)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise VenueFailed(f"the paper exchange introduced itself with {line[:200]!r}") from error


@dataclass(frozen=True, slots=True)
class Contract:
    """One option contract of the chain."""

    symbol: str
    underlying: str
    is_call: bool
    expiry: date
    strike: Decimal


class Venue:
    """A client of one running exchange. Use as an async context manager."""

    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()

    async def _call(
        self,
        method: str,
        url: str,
        *,
        account: str | None = None,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, str] | None = None,
        allow: Iterable[int] = (),
    ) -> Any:
        assert self._session is not None, "use as a context manager"
        headers = self.addresses.accounts[account].headers if account is not None else {}
        try:
            async with self._session.request(
                method,
                url,
                data=orjson.dumps(body) if body is not None else None,
                params=params,
                headers={**headers, "Content-Type": "application/json"},
            ) as answer:
                raw = await answer.read()
                if answer.status >= 400 and answer.status not in allow:
                    raise VenueFailed(f"{method} {url}: HTTP {answer.status} {raw[:200]!r}")
                return orjson.loads(raw) if raw else None
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
            raise VenueFailed(f"{method} {url}: {error or type(error).__name__}") from error

    def _admin(self, path: str) -> str:
        return f"{self.addresses.rest}/admin/{path}"

    # Market time ------------------------------------------------------------------------------------------------

    async def pause(self) -> datetime:
        """Stop the market's clock; returns its time."""
        return _now(await self._call("POST", self._admin("clock"), body={"pause": True}))

    async def jump(self, to: datetime) -> None:
        """Go to a moment without playing what lies between."""
        await self._call("POST", self._admin("clock"), body={"jump_to": to.isoformat()})

    async def advance(self, to: datetime, speed: float | None = None) -> datetime:
        """Play up to a moment; `speed` in market seconds a wall second, None for as fast as it goes."""
        body: dict[str, Any] = {"to": to.isoformat(), "reaction": REACTION}
        if speed is not None:
            body["speed"] = speed
        return _now(await self._call("POST", self._admin("advance"), body=body))

    async def resume(self, speed: float) -> None:
        """Let the clock run by itself."""
        await self._call("POST", self._admin("clock"), body={"speed": speed, "resume": True})

    # Truth ------------------------------------------------------------------------------------------------------

    async def state(self) -> dict[str, Any]:
        """Orders, positions and cash of every account, as the engine has them."""
        found: dict[str, Any] = await self._call("GET", self._admin("state"))
        return found

    async def fills(self) -> Any:
        """Every execution of every account."""
        return await self._call("GET", self._admin("fills"))

    async def fault(self, kind: str, **fields: Any) -> int:
        """Switch a fault on; returns its number."""
        body = await self._call("POST", self._admin("faults"), body={"kind": kind, **fields})
        return int(body["id"])

    async def injected(self) -> dict[str, int]:
        """How often each kind of fault has struck."""
        body = await self._call("GET", self._admin("faults"))
        return {str(kind): int(count) for kind, count in body["injected"].items()}

    async def remove_fault(self, number: int) -> None:
        """Switch a fault off; one that ended by itself is fine."""
        await self._call("DELETE", self._admin(f"faults/{number}"), allow=(404,))

    async def publish(self, symbol: str, bid: Decimal, ask: Decimal) -> None:
        """Show a quote of this contract now."""
        body = {"symbol": symbol, "bid": str(bid), "ask": str(ask)}
        await self._call("POST", self._admin("quote"), body=body)

    async def hold(self, symbol: str) -> None:
        """Keep the market's own quotes of a stock out: its price stays where somebody sets it."""
        await self._call("POST", self._admin("quote"), body={"symbol": symbol, "hold": True})

    # As an account ----------------------------------------------------------------------------------------------

    async def quotes(self, account: str, symbols: Iterable[str]) -> dict[str, Quote]:
        """Latest quotes, stocks and options."""
        wanted = sorted(set(symbols))
        stocks = [s for s in wanted if len(s) <= 6]
        options = [s for s in wanted if len(s) > 6]
        found: dict[str, Quote] = {}
        for path, names in (("/v2/stocks/quotes/latest", stocks), ("/v1beta1/options/quotes/latest", options)):
            if names:
                url = f"{self.addresses.data}{path}"
                body = await self._call("GET", url, account=account, params={"symbols": ",".join(names)})
                found |= {name: decode_quote(name, row) for name, row in body["quotes"].items()}
        return found

    async def chain(self, account: str, underlyings: Iterable[str], first: date, last: date) -> list[Contract]:
        """Option contracts between two expiries."""
        params = {
            "underlying_symbols": ",".join(underlyings),
            "expiration_date_gte": first.isoformat(),
            "expiration_date_lte": last.isoformat(),
            "limit": "10000",
        }
        contracts: list[Contract] = []
        while True:
            url = f"{self.addresses.rest}/v2/options/contracts"
            body = await self._call("GET", url, account=account, params=params)
            contracts += [
                Contract(
                    row["symbol"],
                    row["underlying_symbol"],
                    row["type"] == "call",
                    date.fromisoformat(row["expiration_date"]),
                    Decimal(row["strike_price"]),
                )
                for row in body["option_contracts"]
            ]
            token = body.get("next_page_token")
            if not token:
                return contracts
            params = {**params, "page_token": token}

    async def buy(self, account: str, symbol: str, qty: int) -> str:
        """Buy at the market, as somebody on the dashboard would; returns the order's id."""
        order = {"symbol": symbol, "qty": str(qty), "side": "buy", "type": "market", "time_in_force": "day"}
        body = await self._call("POST", f"{self.addresses.rest}/v2/orders", account=account, body=order)
        return str(body["id"])

    async def positions(self, account: str) -> list[dict[str, Any]]:
        """What the account holds."""
        found: list[dict[str, Any]] = await self._call("GET", f"{self.addresses.rest}/v2/positions", account=account)
        return found

    async def orders(self, account: str, **query: str) -> list[dict[str, Any]]:
        """Orders of the account, newest first, at most 500."""
        params = {"limit": "500", **query}
        url = f"{self.addresses.rest}/v2/orders"
        found: list[dict[str, Any]] = await self._call("GET", url, account=account, params=params)
        return found

    async def cancel_stop_leg(self, account: str, symbol: str) -> bool:
        """Cancel a resting stop as somebody on the dashboard would; False when there is none."""
        url = f"{self.addresses.rest}/v2/orders"
        params = {"status": "open", "nested": "true", "symbols": symbol, "limit": "500"}
        orders = await self._call("GET", url, account=account, params=params)
        for order in orders:
            for leg in (order, *(order.get("legs") or ())):
                if leg["type"] in ("stop", "stop_limit") and leg["status"] in ("new", "held", "accepted"):
                    await self._call("DELETE", f"{url}/{quote_url(leg['id'])}", account=account, allow=(422, 404))
                    return True
        return False


def _now(body: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(body["now"])
