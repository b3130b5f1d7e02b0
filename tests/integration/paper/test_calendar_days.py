"""Holidays, early closes and clock changes, played through a whole exchange with a generated market."""

from datetime import UTC, datetime
from typing import Any

from tests.integration.paper.conftest import Client, running

from exitguard.core.session import NEW_YORK
from exitguard.paper.market.generated import GeneratorSettings
from exitguard.paper.market.player import Shown

# A quote a quarter of an hour is enough to see when there are any.
SLOW = GeneratorSettings(interval=900.0, extended_interval=3600.0, halt_probability_a_day=0.0)


def listen(client: Client) -> list[datetime]:
    """The times of all rounds with quotes from now on."""
    times: list[datetime] = []

    def hear(shown: Shown) -> None:
        if shown.quotes:
            times.append(shown.at)

    client.server.host.player.listeners.append(hear)
    return times


async def to(client: Client, moment: str) -> dict[str, Any]:
    status, body = await client.post("/admin/advance", {"to": moment})
    assert status == 200, body
    return (await client.get("/v2/clock"))[1]


async def status_of(client: Client, order: dict[str, Any]) -> str:
    return (await client.get(f"/v2/orders/{order['id']}"))[1]["status"]


async def test_f115_thanksgiving_and_its_early_close() -> None:
    start = datetime(2026, 11, 25, 20, 30, tzinfo=UTC)  # Wednesday 15:30
    async with running(manual={}, symbols=["AAPL"], start=start, generator=SLOW) as client:
        times = listen(client)
        await client.post("/admin/advance", {"seconds": 1000})
        day = await client.buy(type="limit", limit_price="1")
        good = await client.buy(type="limit", limit_price="1", time_in_force="gtc")
        clock = await to(client, "2026-11-26T11:00:00")
        assert (clock["is_open"], clock["next_open"]) == (False, "2026-11-27T09:30:00-05:00")
        assert clock["next_close"] == "2026-11-27T13:00:00-05:00"
        assert [await status_of(client, each) for each in (day, good)] == ["expired", "new"]
        holiday = await client.buy(qty=1)
        assert holiday["expires_at"] == "2026-11-27T18:00:00Z", "a day order lives until the early close"
        await client.post("/admin/advance", {"seconds": 60})
        assert await status_of(client, holiday) == "accepted"
        assert (await to(client, "2026-11-27T12:59:00"))["is_open"]
        assert await status_of(client, holiday) == "filled"
        last = await client.buy(type="limit", limit_price="1")
        clock = await to(client, "2026-11-27T13:00:01")
        assert (clock["is_open"], clock["next_open"]) == (False, "2026-11-30T09:30:00-05:00")
        assert [await status_of(client, each) for each in (last, good)] == ["expired", "new"]
        # Wednesday's evening is already Thursday in UTC: market days are New York's.
        (row,) = (await client.get("/v2/calendar?start=2026-11-27&end=2026-11-27"))[1]
        assert (row["close"], row["session_close"]) == ("13:00", "1700")
        await to(client, "2026-11-27T23:00:00")
        assert times[-1].astimezone(NEW_YORK).strftime("%d %H:%M") == "27 16:00", "the after-market ends at 17:00"
        days = {at.astimezone(NEW_YORK).date().isoformat() for at in times}
        assert days == {"2026-11-25", "2026-11-27"}


async def test_f107_both_clock_changes_move_the_open_in_utc() -> None:
    for friday, monday, before, after in (
        ("2026-03-06", "2026-03-09", 14, 13),
        ("2026-10-30", "2026-11-02", 13, 14),
    ):
        start = datetime.fromisoformat(f"{friday}T15:00:00+00:00")
        async with running(manual={}, symbols=["AAPL"], start=start, generator=SLOW) as client:
            times = listen(client)
            clock = await to(client, f"{friday}T17:00:00")
            assert clock["next_open"].startswith(f"{monday}T09:30:00")
            opening = await client.buy(qty=1)
            await to(client, f"{monday}T09:29:59")
            assert await status_of(client, opening) == "accepted"
            await to(client, f"{monday}T09:46:00")
            assert await status_of(client, opening) == "filled"
            regular = [at for at in times if at.date().isoformat() == monday and at.minute == 30 and at.hour >= 13]
            assert (regular[0].hour, start.hour - 1) == (after, 14)
            closes = (await client.get(f"/v2/calendar?start={friday}&end={monday}"))[1]
            assert [(each["date"], each["open"]) for each in closes] == [(friday, "09:30"), (monday, "09:30")]
            assert before != after


async def test_an_option_that_expires_before_a_holiday_ends_with_the_session_before_it() -> None:
    # Good Friday 2026 is 3 April: what would expire on it is last traded on Thursday.
    start = datetime(2026, 4, 2, 14, 0, tzinfo=UTC)
    async with running(manual={}, symbols=["AAPL"], start=start, generator=SLOW) as client:
        await client.post("/admin/advance", {"seconds": 1000})
        query = "underlying_symbols=AAPL&expiration_date_lte=2026-04-03&limit=1000"
        listed = (await client.get(f"/v2/options/contracts?{query}"))[1]["option_contracts"]
        worthless = next(each for each in reversed(listed) if each["type"] == "call")
        await client.buy(worthless["symbol"], qty=1)
        await client.post("/admin/advance", {"seconds": 1000})
        assert [each["symbol"] for each in (await client.get("/v2/positions"))[1]] == [worthless["symbol"]]
        clock = await to(client, "2026-04-03T12:00:00")
        assert (clock["is_open"], clock["next_open"]) == (False, "2026-04-06T09:30:00-04:00")
        assert worthless["symbol"] not in {each["symbol"] for each in (await client.get("/v2/positions"))[1]}
        await to(client, "2026-04-06T04:00:01")
        kinds = {each["activity_type"] for each in (await client.get("/v2/account/activities"))[1]}
        assert kinds & {"OPEXP", "OPEXC"}
