"""The trade stream, `/stream`: JSON in binary frames, one connection an account, no replay."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import orjson

from exitguard.paper.engine import Account
from exitguard.paper.server.auth import account_of, has_credentials
from exitguard.paper.server.host import Host
from exitguard.paper.server.outbox import Outbox
from exitguard.paper.server.sockets import accept, decode, next_message, refuse_handshake, with_writer
from exitguard.paper.server.stream_faults import TradeUpdateFaults, stale_seconds
from exitguard.paper.server.wire import Receive, Scope, Send, headers_of

STREAMS = ("trade_updates",)
_TOO_MANY = b'{"code":42910000,"message":"too many requests."}'


def _single(chunks: Sequence[bytes], _: int) -> bytes:
    """A trade stream frame holds one message."""
    (frame,) = chunks
    return frame


class StreamSession:
    """One connection."""

    def __init__(self, outbox: Outbox, encode: Callable[[Any], bytes]) -> None:
        self.outbox = outbox
        self.account: Account | None = None
        self.streams: list[str] = []
        # Still connected, still answering pings, and never heard of again.
        self.mute = False
        self._encode = encode

    def say(self, message: dict[str, Any]) -> bool:
        """Queue a message; False when the client is too slow."""
        if self.mute:
            return True
        return self.outbox.put_frame(self._encode(message))


class TradeStream:
    """All sessions, and the delivery of the engine's updates to them."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._limits = host.settings.limits
        self._sessions: set[StreamSession] = set()
        self._held: dict[str, int] = {}
        self._faults = host.exchange.faults
        self._updates = TradeUpdateFaults(host.exchange.faults, self.deliver)
        self._listeners = host.exchange.trade_update_listeners
        host.busy_checks.append(self._has_pending)

    def _has_pending(self) -> bool:
        return any(session.outbox.pending for session in self._sessions)

    def connections(self, account_name: str) -> int:
        """How many places of an account are taken, by live and by stale sessions."""
        live = sum(1 for session in self._sessions if session.account and session.account.name == account_name)
        return live + self._held.get(account_name, 0)

    def listeners(self, account_name: str) -> int:
        """Sessions of an account that listen to trade updates."""
        return sum(1 for one in self._sessions if one.streams and one.account and one.account.name == account_name)

    def connection_counts(self) -> dict[str, int]:
        """Places taken for each account."""
        return {name: self.connections(name) for name in self._host.accounts}

    def _is_full(self, account: Account) -> bool:
        return self._limits.one_trade_stream_per_account and self.connections(account.name) > 0

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection from handshake to end."""
        headers = headers_of(scope)
        account = account_of(self._host.exchange, headers)
        if account is not None and self._is_full(account):
            await refuse_handshake(receive, send, 429, _TOO_MANY)
            return
        if account is None and has_credentials(headers):
            await refuse_handshake(receive, send, 401, b'{"code":40110000,"message":"request is not authorized"}')
            return
        await accept(receive, send)
        encode: Callable[[Any], bytes] = msgpack.packb if "msgpack" in headers.get("content-type", "") else orjson.dumps
        session = StreamSession(Outbox(send, self._limits.backlog_bytes, text=False, join=_single), encode)
        # Header credentials take the place at once; the authorization message is still answered.
        session.account = account
        if not self._sessions:
            # Without anybody there the engine need not even describe what happens.
            self._listeners.append(self.on_update)
        self._sessions.add(session)
        try:
            await with_writer(session.outbox.run, lambda: self._read(session, receive))
        finally:
            self._sessions.discard(session)
            if not self._sessions:
                self._listeners.remove(self.on_update)
            self._release(session)

    def _release(self, session: StreamSession) -> None:
        if session.account is None:
            return
        name = session.account.name
        always = self._limits.stale_session_seconds
        seconds = stale_seconds(self._faults, "stream_half_dead", name, "/stream", always)
        if seconds <= 0:
            return
        self._held[name] = self._held.get(name, 0) + 1

        def free() -> None:
            self._held[name] -= 1

        asyncio.get_running_loop().call_later(seconds, free)

    async def _read(self, session: StreamSession, receive: Receive) -> None:
        while (payload := await next_message(receive)) is not None:
            message = decode(payload)
            if message is None:
                self._fail(session, "invalid message: expected a JSON object")
                return
            action = message.get("action")
            if action in ("authenticate", "auth"):
                if not self._authenticate(session, message):
                    return
            elif action == "listen":
                self._listen(session, message)
            else:
                self._fail(session, f"invalid action: {str(action)[:40]}")
                return

    def _fail(self, session: StreamSession, text: str) -> None:
        session.say({"action": "error", "data": {"error_message": text}})
        session.outbox.close(1008, text)

    def _authenticate(self, session: StreamSession, message: dict[str, Any]) -> bool:
        data = message.get("data")
        nested = data if isinstance(data, dict) else {}
        key = message.get("key") or nested.get("key_id")
        secret = message.get("secret") or nested.get("secret_key")
        account = self._host.exchange.account_by_key(str(key), str(secret))
        if account is None:
            session.say({"stream": "authorization", "data": {"status": "unauthorized", "action": "authenticate"}})
            return True
        if session.account is not account:
            # The handshake could not know who this is: here is the first place to refuse a second connection.
            if self._is_full(account):
                self._fail(session, "connection limit exceeded")
                return False
            session.account = account
        session.say({"stream": "authorization", "data": {"status": "authorized", "action": "authenticate"}})
        return True

    def _listen(self, session: StreamSession, message: dict[str, Any]) -> None:
        if session.account is None:
            session.say({"stream": "authorization", "data": {"status": "unauthorized", "action": "listen"}})
            return
        data = message.get("data")
        wanted = data.get("streams") if isinstance(data, dict) else None
        names = wanted if isinstance(wanted, list) else []
        # The full desired set each time; names that do not exist are left out of the answer without a word.
        session.streams = [name for name in STREAMS if name in names]
        session.say({"stream": "listening", "data": {"streams": session.streams}})

    def on_update(self, account: Account, data: dict[str, Any]) -> None:
        """Deliver one update to whoever listens; nobody listening means that it is lost, as on the real service."""
        self.apply_faults(account)
        self._updates.pass_on(account, data)

    def apply_faults(self, account: Account | None = None) -> None:
        """Cut or mute sessions by the faults that are on: asked when faults change and before each update."""
        if not (self._faults.is_on("stream_disconnect") or self._faults.is_on("stream_mute")):
            return
        for session in list(self._sessions):
            if session.account is None or (account is not None and session.account is not account):
                continue
            name = session.account.name
            if self._faults.strike("stream_disconnect", account=name, endpoint="/stream"):
                session.streams = []
                session.outbox.cut()
            elif not session.mute and self._faults.strike("stream_mute", account=name, endpoint="/stream"):
                session.mute = True

    def deliver(self, account: Account, message: dict[str, Any]) -> None:
        """Send a message to the account's listening sessions."""
        for session in list(self._sessions):
            if session.account is account and session.streams:
                self._host.activity += 1
                if not session.say(message):
                    session.outbox.close(1008, "slow client")

    def close_all(self) -> None:
        """Say goodbye to everybody: the exchange stops."""
        for session in list(self._sessions):
            session.outbox.close(1001, "the exchange is stopping")
