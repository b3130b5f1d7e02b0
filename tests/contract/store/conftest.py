"""The ledgers that keep the contract of `store.port.AccountStore`: PostgreSQL, and the one in memory that tests use."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import uuid4

import pytest
from tests.support.memory_store import MemoryLedger, MemoryStore
from tests.support.postgres import Databases, store_maker

from exitguard.core.records import CommandVerb
from exitguard.store.operator import Operator
from exitguard.store.port import AccountStore, Lease


class World(Protocol):
    """A ledger, and what people and signal engines do to it."""

    async def store(self, account: str) -> AccountStore: ...

    async def recommend(self, account: str, **columns: Any) -> int: ...

    async def command(self, account: str, verb: CommandVerb, **columns: Any) -> int: ...

    async def recommendation_status(self, account: str, number: int) -> tuple[str, str | None]: ...

    async def command_answer(self, number: int, account: str) -> tuple[bool | None, str | None]: ...


async def leased(world: World, account: str, component: str = "manager") -> tuple[AccountStore, Lease]:
    """A store that holds its account's lease."""
    store = await world.store(account)
    return store, await store.acquire_lease(f"holder {uuid4()}", timedelta(seconds=30), component)


class MemoryWorld:
    """`tests.support.memory_store`."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger(lambda: datetime.now(UTC))

    async def store(self, account: str) -> AccountStore:
        return MemoryStore(self.ledger, account)

    async def recommend(self, account: str, **columns: Any) -> int:
        return self.ledger.recommend(account, **columns)

    async def command(self, account: str, verb: CommandVerb, **columns: Any) -> int:
        return self.ledger.command(account, verb, **columns)

    async def recommendation_status(self, account: str, number: int) -> tuple[str, str | None]:
        stored = self.ledger.account(account).recommendations[number]
        return stored.status.value, stored.reason

    async def command_answer(self, number: int, account: str) -> tuple[bool | None, str | None]:
        stored = self.ledger.account(account).commands[number]
        return stored.ok, stored.result


class PostgresWorld:
    """`store.repository`."""

    def __init__(self, url: str, operator: Operator, maker: Any) -> None:
        self.url = url
        self.operator = operator
        self._maker = maker

    async def store(self, account: str) -> AccountStore:
        made: AccountStore = await self._maker(account)
        return made

    async def recommend(self, account: str, **columns: Any) -> int:
        return (await self.operator.insert_recommendations([{"account_name": account, **columns}]))[0]

    async def command(self, account: str, verb: CommandVerb, **columns: Any) -> int:
        return await self.operator.insert_command(account, verb, requested_by="tester", **columns)

    async def recommendation_status(self, account: str, number: int) -> tuple[str, str | None]:
        found = await self.operator.query(f"SELECT status, reason FROM dispatch_recommendations WHERE id = {number}")
        return found.rows[0]  # type: ignore[return-value]

    async def command_answer(self, number: int, account: str) -> tuple[bool | None, str | None]:
        (found,) = await self.operator.answers([number])
        return found["ok"], found["result"]


@pytest.fixture(params=["memory", "postgres"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Each ledger in turn."""
    if request.param == "memory":
        yield MemoryWorld()
        return
    databases: Databases = request.getfixturevalue("databases")
    url = databases.borrow()
    try:
        async with store_maker(url) as maker, await Operator.connect(url) as operator:
            yield PostgresWorld(url, operator, maker)
    finally:
        databases.give_back(url)
