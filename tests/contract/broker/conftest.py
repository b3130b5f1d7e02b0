"""A fake venue and a client of it for every test here."""

from collections.abc import AsyncIterator

import pytest
from tests.support.clients import make_broker
from tests.support.fake_venue import FakeVenue

from exitguard.broker.rest import AlpacaBroker


@pytest.fixture
async def venue() -> AsyncIterator[FakeVenue]:
    async with FakeVenue() as fake:
        yield fake
        fake.check()


@pytest.fixture
async def broker(venue: FakeVenue) -> AsyncIterator[AlpacaBroker]:
    client = make_broker(venue)
    yield client
    await client.close()
