"""`exitguard run`: the composition root. Builds every account's parts from the settings and keeps them running."""

import asyncio
import signal
from typing import Annotated

import structlog
import uvloop
from cyclopts import Parameter

from exitguard.cli.context import load, selected_accounts
from exitguard.cli.endpoint import open_endpoint
from exitguard.cli.exits import CommandFailed, Exit
from exitguard.cli.ledger import open_ledger
from exitguard.cli.output import ConfigFile
from exitguard.cli.supervision import AccountUnit, Fleet
from exitguard.config import logs
from exitguard.config.build import build_info
from exitguard.config.errors import ConfigError
from exitguard.config.paths import ensure_state_dir
from exitguard.config.settings import AccountSettings, RunMode, Settings
from exitguard.core.policy import policy_body, policy_hash


def run(
    *,
    account: Annotated[
        list[str] | None, Parameter(negative="", help="Only this account; may be repeated. Else all of the file.")
    ] = None,
    once: Annotated[bool, Parameter(negative="", help="One cycle of management, then end; as RUN_MODE=ONCE.")] = False,
    standby: Annotated[
        bool, Parameter(negative="", help="Wait while another process manages an account, and take over from it.")
    ] = False,
    config: ConfigFile = None,
) -> int:
    """Manage the accounts until stopped (SIGTERM or SIGINT, exit 0). Logs go to stderr.

    An account that cannot run does not stop the others, but the exit code is then that of its failure. An account that
    another process manages is such a failure, unless this one is a standby.
    """
    logs.setup("info", "json")
    try:
        settings = load(config)
        accounts = _accounts(settings, account)
    except ConfigError as error:
        for problem in error.problems:
            structlog.get_logger().error(
                "Configuration error", where=problem.where, key=problem.key, problem=str(problem)
            )
        raise
    logs.setup(settings.log.level, settings.log.format)
    ensure_state_dir()
    once = once or settings.run_mode is RunMode.ONCE
    if once and standby:
        raise CommandFailed("--standby waits for its turn and then stays: it cannot be one cycle", Exit.USAGE)
    _announce(settings, accounts, once)
    return uvloop.run(_serve(settings, accounts, once, standby))


def _accounts(settings: Settings, names: list[str] | None) -> tuple[AccountSettings, ...]:
    if not names:
        return selected_accounts(settings, None)
    return tuple(selected_accounts(settings, name)[0] for name in dict.fromkeys(names))


def _announce(settings: Settings, accounts: tuple[AccountSettings, ...], once: bool) -> None:
    """Say what is in force: build, configuration, and every number that an exit depends on (F11, F77, F90)."""
    log = structlog.get_logger().bind(build=build_info().label)
    mode = RunMode.ONCE if once else settings.run_mode
    log.info(
        "exitguard starting",
        run_mode=mode.value,
        accounts=[account.name for account in accounts],
        settings=settings.source,
        config_hash=settings.config_hash,
        git_commit=build_info().git_commit,
        schema_version=build_info().schema_version,
    )
    for account in accounts:
        for policy in settings.policies_of(account):
            log.info(
                "Effective policy",
                account=account.name,
                policy=policy.name,
                policy_hash=policy_hash(policy),
                numbers=policy_body(policy),
            )
        if account.risk is not None:
            log.info("Effective limits", account=account.name, limits=account.risk.model_dump(mode="json"))


async def _serve(settings: Settings, accounts: tuple[AccountSettings, ...], once: bool, standby: bool) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _request_stop, stop, number)
    async with open_ledger(settings) as url:
        fleet = Fleet(stop, start_silence=settings.watch.start_silence_seconds)
        units = [AccountUnit(account, settings, url, fleet, once=once, standby=standby) for account in accounts]
        async with open_endpoint(settings.watch.listen, fleet), asyncio.TaskGroup() as tasks:
            reminder = tasks.create_task(fleet.remind())
            running = [tasks.create_task(unit.run(), name=f"account {unit.name}") for unit in units]
            await asyncio.wait(running)
            reminder.cancel()
    return _conclude(fleet)


def _request_stop(stop: asyncio.Event, number: int) -> None:
    log = structlog.get_logger()
    if stop.is_set():
        log.warning("still stopping", signal=signal.Signals(number).name)
        return
    log.info("stop requested", signal=signal.Signals(number).name)
    stop.set()


def _conclude(fleet: Fleet) -> int:
    if not fleet.failures:
        return Exit.OK
    failures = list(fleet.failures.values())
    others = f" (also failed: {', '.join(each.account_name for each in failures[1:])})" if failures[1:] else ""
    first = failures[0]
    raise CommandFailed(f"account {first.account_name}: {first.reason}{others}", first.code)
