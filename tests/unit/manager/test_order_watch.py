"""The look at open orders gives way to whatever is due: an exit waits for a few orders, not for all of them."""

import asyncio
from decimal import Decimal

from tests.support.managed import Managed, Venue

from exitguard.core.orders import OrderClass, OrderRequest, OrderSide, OrderType, PositionIntent, TimeInForce
from exitguard.core.session import table_calendar
from exitguard.manager.alarms import Alarms
from exitguard.manager.context import AccountContext
from exitguard.manager.ledger import Ledger
from exitguard.manager.order_watch import OrderWatch
from exitguard.manager.pieces import PIECE

ORDERS = 200


async def test_i7_a_breach_waits_for_a_few_open_orders_and_not_for_all() -> None:
    account = Managed(Venue())
    ledger = Ledger(account.store, account.clock)
    context = AccountContext(
        account.options, account.broker, account.clock, ledger, Alarms(ledger, account.name), table_calendar()
    )
    for number in range(ORDERS):
        await account.broker.submit(
            OrderRequest(
                f"by-hand-{number}", "NVDA", OrderSide.BUY, Decimal(1), OrderType.LIMIT, TimeInForce.DAY,
                PositionIntent.BUY_TO_OPEN, limit_price=Decimal(1), order_class=OrderClass.SIMPLE,
            )
        )  # fmt: skip
    for order in await account.broker.open_orders():
        context.know_order(order)
    watch = OrderWatch(context)
    looking = asyncio.ensure_future(watch.look(set(), account.clock.now()))
    turns = 0
    while not looking.done():
        await asyncio.sleep(0)
        turns += 1
    assert len(watch.findings) == ORDERS
    assert turns > 3 * ORDERS / PIECE
