"""Rows and accounts for the dispatcher's tests."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from exitguard.config.settings import AccountSettings, RiskSettings
from exitguard.core.orders import BrokerAccount
from exitguard.core.records import RecommendationRecord

# A Monday, 11:00 in New York.
NOW = datetime(2025, 3, 3, 16, 0, tzinfo=UTC)
CALL = "AAPL250321C00100000"
PUT = "AAPL250321P00100000"


def row(**fields: Any) -> RecommendationRecord:
    """A sound signal to buy AAPL, with fields replaced."""
    values: dict[str, Any] = {
        "account_name": "large",
        "id": 7,
        "ticker": "AAPL",
        "option_symbol": None,
        "action": "BUY_STOCK",
        "strategy_type": "swing",
        "qty": None,
        "stop_loss": None,
        "take_profit": None,
        "max_hold_minutes": None,
        "confidence": None,
        "features": {},
        "created_at": NOW,
        "expires_at": None,
    }
    return RecommendationRecord(**{**values, **fields})


def risk(**fields: Any) -> RiskSettings:
    """Limits that allow everything in moderation."""
    values = {
        "max_position_fraction": Decimal("0.10"),
        "max_open_positions": 10,
        "max_total_exposure_fraction": Decimal("0.80"),
        "allow_short": True,
        "allow_options": True,
    }
    return RiskSettings.model_validate({**values, **fields})


def settings(**fields: Any) -> AccountSettings:
    """An account on loopback."""
    values: dict[str, Any] = {
        "name": "large",
        "tier": "large",
        "mode": "paper",
        "rest_url": "http://127.0.0.1:1",
        "trade_stream_url": "ws://127.0.0.1:1/stream",
        "data_url": "http://127.0.0.1:1",
        "stock_stream_url": "ws://127.0.0.1:1/v2/iex",
        "option_stream_url": "ws://127.0.0.1:1/v1beta1/indicative",
        "key": "env:KEY",
        "secret": "env:SECRET",
        "risk": risk(),
    }
    return AccountSettings.model_validate({**values, **fields})


def broker_account(equity: str = "100000", **fields: Any) -> BrokerAccount:
    """A margin account with nothing in it."""
    values: dict[str, Any] = {
        "id": "id",
        "account_number": "PA1",
        "status": "ACTIVE",
        "equity": Decimal(equity),
        "last_equity": Decimal(equity),
        "cash": Decimal(equity),
        "buying_power": Decimal(equity) * 4,
        "options_buying_power": Decimal(equity),
        "options_trading_level": 3,
        "shorting_enabled": True,
        "trading_blocked": False,
    }
    return BrokerAccount(**{**values, **fields})
