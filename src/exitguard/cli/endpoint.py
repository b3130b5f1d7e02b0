"""The health endpoint of `exitguard run`: /livez, /healthz, /readyz, /metrics, /version (F98, F140).

/livez fails when this process stands still and a restart would help: restart by it. /healthz also fails when an account
is not managed, or makes no progress for a reason outside (wrong keys, a database that is away): tell a person by it.
Alarms about positions are told there, but fail nothing.
"""

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Iterable
from typing import Any

import orjson
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.supervision import Fleet, State
from exitguard.config.build import build_info

# The watchdog looks every second: an event loop that did not let it for this long stands still.
SILENT_LOOK_SECONDS = 15.0
# The process that we stand by for has the port; when it dies we want it.
PORT_RETRY_SECONDS = 2.0


@contextlib.asynccontextmanager
async def open_endpoint(listen: str | None, fleet: Fleet) -> AsyncIterator[str | None]:
    """Serve while the context lasts; yields the address, None where there is none (yet).

    A port that is in use is waited for: positions are managed meanwhile, and a standby gets it when the process that
    has it dies. Raises CommandFailed for an address that can never be had.
    """
    if listen is None:
        yield None
        return
    runner = web.AppRunner(_app(fleet), access_log=None)
    await runner.setup()
    waiting: asyncio.Task[None] | None = None
    try:
        try:
            address = await _listen(runner, listen)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = f"watch.listen: cannot listen on {listen}: {error.strerror or error}"
                raise CommandFailed(reason, Exit.CANNOT_WRITE) from error
            structlog.get_logger().warning(
                "Health endpoint not served: another process has its port, waiting for it", listen=listen
            )
            address, waiting = None, asyncio.create_task(_wait_for_port(runner, listen), name="health endpoint")
        yield address
    finally:
        if waiting is not None:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await runner.cleanup()


async def _listen(runner: web.AppRunner, listen: str) -> str:
    """Start listening; returns the address. Raises OSError."""
    host, _, port = listen.rpartition(":")
    site = web.TCPSite(runner, host.strip("[]"), int(port))
    try:
        await site.start()
    except OSError:
        await site.stop()
        raise
    address = f"http://{host}:{runner.addresses[0][1]}"
    structlog.get_logger().info("Health endpoint listening", address=address)
    return address


async def _wait_for_port(runner: web.AppRunner, listen: str) -> None:
    while True:
        await asyncio.sleep(PORT_RETRY_SECONDS)
        try:
            await _listen(runner, listen)
        except OSError as error:
            structlog.get_logger().debug("health endpoint not served yet", reason=str(error), listen=listen)
        else:
            return


def _app(fleet: Fleet) -> web.Application:
    registry = CollectorRegistry()
    registry.register(FleetMetrics(fleet))

    async def livez(_: web.Request) -> web.Response:
        problems = stalls_of(fleet)
        return _json({"live": not problems, "problems": problems}, 503 if problems else 200)

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
    routes = {"/livez": livez, "/healthz": healthz, "/readyz": readyz, "/metrics": metrics, "/version": version}
    app.add_routes([web.get(path, handler) for path, handler in routes.items()])
    return app


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body) + b"\n", status=status, content_type="application/json")


def stalls_of(fleet: Fleet) -> list[str]:
    """What /livez says: what in this process stands still."""
    problems = [f"{each.account_name}: {each.reason}" for each in fleet.hanging()]
    for name, vitals in fleet.vitals.items():
        if fleet.states.get(name) is State.RUNNING:
            problems += [f"{name}: {key}" for key in vitals.stalled]
            if (vitals.look_age or 0.0) > SILENT_LOOK_SECONDS:
                problems.append(f"{name}: nothing moves since {vitals.look_age:.0f} s")
    return problems


def health_of(fleet: Fleet) -> dict[str, Any]:
    """What /healthz says: whether every account makes progress, why not, and every alarm that is on."""
    problems = [f"{each.account_name}: {each.reason}" for each in (*fleet.failures.values(), *fleet.waiting.values())]
    problems += stalls_of(fleet)
    accounts: dict[str, Any] = {}
    for name, state in fleet.states.items():
        vitals = fleet.vitals.get(name)
        if vitals is None or vitals.look_age is None:
            accounts[name] = {"state": state.value}
            continue
        if state is State.RUNNING:
            problems += [f"{name}: {key}" for key in vitals.silent if key not in vitals.stalled]
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
# Name of the metric after exitguard_, the attribute of Vitals, and what it is.
_GAUGES = (
    ("open_positions", "open_positions", "Positions that are open"),
    ("closing_positions", "closing_positions", "Positions whose close is under way"),
    ("sweep_age_seconds", "sweep_age", "Venue time since the last completed sweep"),
    ("poll_age_seconds", "poll_age", "Venue time since the broker was last heard over REST"),
    ("heartbeat_age_seconds", "heartbeat_age", "Venue time since the last heartbeat reached the database"),
    ("clock_skew_seconds", "clock_skew", "By how much the venue's clock is ahead of this machine's"),
    ("trade_stream_up", "stream_up", "1 while the trade stream is authenticated and listens"),
    ("look_age_seconds", "look_age", "Time of this machine since the watchdog last looked"),
)
_COUNTERS = (
    ("refused_changes", "refused_changes", "Changes that the database refused since the account's start"),
    ("positions_created", "positions_created", "Positions created since the account's start"),
)


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
        for kind, figures in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
            for metric, figure, about in figures:
                family = kind(f"exitguard_{metric}", about, labels=["account"])
                for name, vitals in known.items():
                    family.add_metric([name], float(getattr(vitals, figure)))
                yield family
        protection = GaugeMetricFamily(
            "exitguard_positions", "Positions by what protects them", labels=["account", "protection"]
        )
        alarms = GaugeMetricFamily("exitguard_alarms", "Alarms that are on, by kind", labels=["account", "alarm"])
        for name, vitals in known.items():
            for state_name, count in vitals.protection.items():
                protection.add_metric([name, state_name], count)
            for alarm, count in vitals.alarm_kinds.items():
                alarms.add_metric([name, alarm], count)
        yield protection
        yield alarms
