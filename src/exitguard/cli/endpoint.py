"""The health endpoint of `exitguard run`: /healthz, /readyz, /metrics, /version (F98, F140).

/healthz fails when an account that is to be managed is not, or makes no progress: whoever restarts processes by it
restarts the right ones. Alarms that a person has to look at are told there, but fail nothing: a restart mends none.
"""

import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import orjson
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.supervision import Fleet, State
from exitguard.config.build import build_info

# The watchdog looks every second: an event loop that did not let it for this long stands still.
SILENT_LOOK_SECONDS = 15.0


@contextlib.asynccontextmanager
async def open_endpoint(listen: str | None, fleet: Fleet) -> AsyncIterator[str | None]:
    """Serve while the context lasts; yields the address, None where none is wanted. Raises CommandFailed."""
    if listen is None:
        yield None
        return
    host, _, port = listen.rpartition(":")
    runner = web.AppRunner(_app(fleet), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host.strip("[]"), int(port))
        try:
            await site.start()
        except OSError as error:
            reason = f"watch.listen: cannot listen on {listen}: {error.strerror or error}"
            raise CommandFailed(reason, Exit.CANNOT_WRITE) from error
        address = f"http://{host}:{runner.addresses[0][1]}"
        structlog.get_logger().info("Health endpoint listening", address=address)
        yield address
    finally:
        await runner.cleanup()


def _app(fleet: Fleet) -> web.Application:
    registry = CollectorRegistry()
    registry.register(FleetMetrics(fleet))

    async def healthz(_: web.Request) -> web.Response:
        body = health_of(fleet)
        return _json(body, 200 if body["healthy"] else 503)

    async def readyz(_: web.Request) -> web.Response:
        states = {name: state.value for name, state in fleet.states.items()}
        ready = bool(states) and all(state is State.RUNNING for state in fleet.states.values())
        return _json({"ready": ready, "accounts": states}, 200 if ready else 503)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def version(_: web.Request) -> web.Response:
        build = build_info()
        return _json({"build": build.label, "git_commit": build.git_commit, "schema_version": build.schema_version})

    app = web.Application()
    routes = {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics, "/version": version}
    app.add_routes([web.get(path, handler) for path, handler in routes.items()])
    return app


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body) + b"\n", status=status, content_type="application/json")


def health_of(fleet: Fleet) -> dict[str, Any]:
    """What /healthz says: whether every account makes progress, why not, and every alarm that is on."""
    problems = [f"{each.account_name}: {each.reason}" for each in (*fleet.failures.values(), *fleet.waiting.values())]
    accounts: dict[str, Any] = {}
    for name, state in fleet.states.items():
        vitals = fleet.vitals.get(name)
        if vitals is None or vitals.look_age is None:
            accounts[name] = {"state": state.value}
            continue
        if state is State.RUNNING:
            problems += [f"{name}: {key}" for key in vitals.silent]
            if vitals.look_age > SILENT_LOOK_SECONDS:
                problems.append(f"{name}: nothing moves since {vitals.look_age:.0f} s")
        accounts[name] = {
            "state": state.value,
            "broker_account_number": vitals.broker_account_number,
            "open_positions": vitals.open_positions,
            "closing_positions": vitals.closing_positions,
            "protection": vitals.protection,
            "trade_stream_up": vitals.stream_up,
            "seconds_since": {
                "sweep": round(vitals.sweep_age, 1),
                "broker_poll": round(vitals.poll_age, 1),
                "heartbeat": round(vitals.heartbeat_age, 1),
            },
            "alarms": list(vitals.alarms),
        }
    return {"healthy": not problems, "problems": problems, "build": build_info().label, "accounts": accounts}


_STATES = tuple(state.value for state in State)
_FIGURES = {
    "open_positions": "Positions that are open",
    "closing_positions": "Positions whose close is under way",
    "sweep_age": "Seconds of venue time since the last completed sweep",
    "poll_age": "Seconds of venue time since the broker was last heard over REST",
    "heartbeat_age": "Seconds of venue time since the last heartbeat reached the database",
    "clock_skew": "Seconds by which the venue's clock is ahead of this machine's",
    "stream_up": "1 while the trade stream is authenticated and listens",
    "refused_changes": "Changes that the database refused since the start",
    "positions_created": "Positions created since the start",
    "look_age": "Wall seconds since the watchdog last looked",
}


class FleetMetrics(Collector):
    """The newest vitals of every account as Prometheus metrics."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterable[Metric]:
        """Yield every family."""
        build = GaugeMetricFamily("exitguard_build_info", "The build that runs", labels=["build"])
        build.add_metric([build_info().label], 1)
        yield build
        states = GaugeMetricFamily("exitguard_account_state", "1 for the account's state", labels=["account", "state"])
        for name, state in self._fleet.states.items():
            for each in _STATES:
                states.add_metric([name, each], float(each == state.value))
        yield states
        known = {name: vitals for name, vitals in self._fleet.vitals.items() if vitals.looked_at is not None}
        for figure, about in _FIGURES.items():
            family = GaugeMetricFamily(f"exitguard_{figure}", about, labels=["account"])
            for name, vitals in known.items():
                family.add_metric([name], float(getattr(vitals, figure)))
            yield family
        protection = GaugeMetricFamily(
            "exitguard_positions", "Positions by what protects them", labels=["account", "protection"]
        )
        alarms = GaugeMetricFamily("exitguard_alarms", "Alarms that are on", labels=["account", "alarm"])
        for name, vitals in known.items():
            for state_name, count in vitals.protection.items():
                protection.add_metric([name, state_name], count)
            kinds = [key.partition(":")[0] if not key.startswith("silence:") else key for key in vitals.alarms]
            for kind in dict.fromkeys(kinds):
                alarms.add_metric([name, kind], kinds.count(kind))
        yield protection
        yield alarms
