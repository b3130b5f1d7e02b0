"""The admin API under /admin: market time, hand-made quotes, halts, faults, and the true state of every account."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from exitguard.core.errors import InvalidInput
from exitguard.core.instrument import parse_instrument
from exitguard.core.quote import Quote
from exitguard.core.session import NEW_YORK
from exitguard.paper.engine import ApiError
from exitguard.paper.market.ticks import StatusChange
from exitguard.paper.server.host import Host
from exitguard.paper.server.trading_api import method_not_allowed, not_found
from exitguard.paper.server.wire import Request, Response, json_response

_LONGEST_ADVANCE = timedelta(days=366)


def bad(message: str) -> ApiError:
    """A request that cannot be meant."""
    return ApiError(422, {"code": 42210000, "message": message})


class AdminApi:
    """Handlers; `on_faults` is called after the switched-on faults have changed."""

    def __init__(self, host: Host, on_faults: Callable[[], None]) -> None:
        self._host = host
        self._on_faults = on_faults

    async def handle(self, request: Request) -> Response:
        """Answer one request. Raises ApiError for every refusal."""
        path, method = request.path.rstrip("/"), request.method
        try:
            if path == "/admin/advance" and method == "POST":
                return await self._advance(request)
            if path == "/admin/clock" and method == "POST":
                return await self._set_clock(request)
        except InvalidInput as error:
            raise bad(str(error)) from error
        simple = {
            ("GET", "/admin/clock"): self._clock,
            ("POST", "/admin/quote"): self._quote,
            ("POST", "/admin/halt"): self._halt,
            ("GET", "/admin/faults"): self._faults,
            ("POST", "/admin/faults"): self._add_fault,
            ("DELETE", "/admin/faults"): self._clear_faults,
            ("GET", "/admin/state"): self._state,
            ("GET", "/admin/fills"): self._fills,
        }.get((method, path))
        if simple is not None:
            return simple(request)
        if method == "DELETE" and path.startswith("/admin/faults/"):
            return self._remove_fault(path.removeprefix("/admin/faults/"))
        if path in ("/admin/clock", "/admin/advance", "/admin/quote", "/admin/halt", "/admin/faults"):
            raise method_not_allowed()
        raise not_found()

    # Time
    def clock_json(self) -> dict[str, Any]:
        """The market's clock."""
        clock = self._host.clock
        now = self._host.now()
        return {
            "now": now.isoformat(),
            "speed": clock.speed,
            "paused": clock.paused,
            "is_open": self._host.calendar.is_open(now),
            "ended": self._host.player.ended,
            "rounds_played": self._host.player.rounds_played,
        }

    def _clock(self, _: Request) -> Response:
        return json_response(self.clock_json())

    async def _set_clock(self, request: Request) -> Response:
        body = request.json()
        unknown = sorted(set(body) - {"speed", "pause", "resume", "jump_to"})
        if unknown or not body:
            raise bad(f"expected speed, pause, resume or jump_to, found {', '.join(unknown) or 'nothing'}")
        paused = True if body.get("pause") else False if body.get("resume") else None
        speed = _number(body, "speed")
        if paused is True:
            self._host.player.set_clock(paused=True)
        if "jump_to" in body:
            await self._host.player.jump(_moment(body["jump_to"], "jump_to"))
        if speed is not None or paused is False:
            self._host.player.set_clock(speed=speed, paused=paused)
        return json_response(self.clock_json())

    async def _advance(self, request: Request) -> Response:
        body = request.json()
        seconds, speed = _number(body, "seconds"), _number(body, "speed")
        if (seconds is None) == ("to" not in body):
            raise bad("expected either seconds or to")
        if seconds is not None:
            if not 0 <= seconds <= _LONGEST_ADVANCE.total_seconds():
                raise bad(f"seconds must be from 0 to {_LONGEST_ADVANCE.total_seconds():.0f}, was {seconds}")
            to = self._host.clock.reached + timedelta(seconds=seconds)
        else:
            to = _moment(body["to"], "to")
            if to - self._host.clock.reached > _LONGEST_ADVANCE:
                raise bad(f"to is more than {_LONGEST_ADVANCE.days} days ahead")
        reaction = _number(body, "reaction")
        if reaction is not None and not 0 <= reaction <= 1:
            raise bad(f"reaction must be from 0 to 1 wall second, was {reaction}")
        usual = self._host.settings.reaction_seconds
        self._host.reaction_seconds = usual if reaction is None else reaction
        try:
            await self._host.player.advance(to, speed)
        finally:
            self._host.reaction_seconds = usual
        return json_response(self.clock_json())

    # Market
    def _quote(self, request: Request) -> Response:
        """A quote now: symbol, bid, ask; optional bid_size, ask_size, last, trade_size, at, feed_only, hold."""
        body = request.json()
        player = self._host.player
        try:
            symbol = parse_instrument(str(body.get("symbol"))).symbol
        except InvalidInput as error:
            raise bad(str(error)) from error
        if "hold" in body:
            (player.held.add if body["hold"] else player.held.discard)(symbol)
            if "bid" not in body and "ask" not in body:
                return json_response({"symbol": symbol, "held": bool(body["hold"])})
        if symbol not in self._host.symbols() and not self._host.is_listed_option(symbol):
            raise ApiError(404, {"code": 40410000, "message": f"asset not found for {symbol}"})
        quote = Quote(
            symbol,
            _price(body, "bid"),
            _price(body, "ask"),
            _moment(body["at"], "at") if "at" in body else self._host.now(),
            int(_number(body, "bid_size") or 100),
            int(_number(body, "ask_size") or 100),
            _price(body, "last") if "last" in body else None,
        )
        trade_size = int(_number(body, "trade_size") or (100 if quote.last is not None else 0))
        player.publish(quote, trade_size=trade_size, feed_only=bool(body.get("feed_only", False)))
        return json_response(
            {"symbol": symbol, "bid": str(quote.bid), "ask": str(quote.ask), "at": quote.at.isoformat()}
        )

    def _halt(self, request: Request) -> Response:
        """Halt or resume a stock: symbol, halted (default true)."""
        body = request.json()
        symbol, halted = str(body.get("symbol")), bool(body.get("halted", True))
        if symbol not in self._host.symbols():
            raise ApiError(404, {"code": 40410000, "message": f"asset not found for {symbol[:40]}"})
        change = StatusChange(symbol, halted, str(body.get("reason", "T1")))
        self._host.change_status(change)
        return json_response({"symbol": symbol, "halted": halted})

    # Faults
    def _faults(self, _: Request) -> Response:
        return json_response(self._host.exchange.faults.to_json())

    def _add_fault(self, request: Request) -> Response:
        fault = self._host.add_fault(request.json())
        self._on_faults()
        return json_response(fault.to_json())

    def _remove_fault(self, text: str) -> Response:
        if not text.isdigit() or not self._host.exchange.faults.remove(int(text)):
            raise ApiError(404, {"code": 40410000, "message": f"fault not found: {text[:20]}"})
        self._on_faults()
        return Response(204)

    def _clear_faults(self, _: Request) -> Response:
        self._host.exchange.faults.clear()
        self._on_faults()
        return Response(204)

    # State
    def _state(self, _: Request) -> Response:
        return json_response(self._host.exchange.state_json())

    def _fills(self, _: Request) -> Response:
        return json_response(self._host.exchange.fills_json())


def _number(body: dict[str, Any], name: str) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise bad(f"{name} must be a number, was {str(value)[:40]!r}")
    return float(value)


def _price(body: dict[str, Any], name: str) -> Decimal:
    try:
        price = Decimal(str(body[name]))
    except KeyError as error:
        raise bad(f"{name} is required") from error
    except InvalidOperation as error:
        raise bad(f"{name} must be a price, was {str(body[name])[:40]!r}") from error
    if not price.is_finite() or price < 0:
        raise bad(f"{name} must be a price from 0 up, was {price}")
    return price


def _moment(text: Any, name: str) -> datetime:
    """A time; without a zone it is New York time."""
    try:
        at = datetime.fromisoformat(str(text))
    except ValueError as error:
        raise bad(f"{name} must be an ISO time, was {str(text)[:40]!r}") from error
    return (at.replace(tzinfo=NEW_YORK) if at.tzinfo is None else at).astimezone(UTC)
