"""Defaults for deployments that ran before exitguard: they move over without a settings file and without renaming.

In use only when there is no file and AWS_REGION and ACCOUNT_NAME are set. Paper trading only: an account that trades
real money, or that opens positions (risk limits have no default), gets a file.
"""

from typing import Any

# Names of the resources that existed before us; all of them are defaults of settings and appear nowhere else.
DATABASE_SECRET = "ops-pipeline/db"  # noqa: S105 - the name of a secret, not a secret
ALPACA_SECRET = "ops-pipeline/alpaca"  # noqa: S105
PARAMETER_PREFIX = "/ops-pipeline"
# The account whose secret carries no suffix.
FIRST_ACCOUNT = "large"


def legacy_body(account: str) -> dict[str, Any]:
    """What a settings file of such a deployment would say for one account."""
    secret = ALPACA_SECRET if account == FIRST_ACCOUNT else f"{ALPACA_SECRET}/{account}"
    return {
        "database": {
            "host": f"aws-ssm:{PARAMETER_PREFIX}/db_host",
            "port": f"aws-ssm:{PARAMETER_PREFIX}/db_port",
            "name": f"aws-ssm:{PARAMETER_PREFIX}/db_name",
            "username": f"aws-sm:{DATABASE_SECRET}#username",
            "password": f"aws-sm:{DATABASE_SECRET}#password",
        },
        "accounts": {
            account: {
                "tier": account,
                "mode": "paper",
                "rest_url": f"aws-sm:{secret}#base_url?",
                "trade_stream_url": "wss://paper-api.alpaca.markets/stream",
                "data_url": "https://data.alpaca.markets",
                "stock_stream_url": "wss://stream.data.alpaca.markets/v2/iex",
                "option_stream_url": "wss://stream.data.alpaca.markets/v1beta1/indicative",
                "key": f"aws-sm:{secret}#api_key",
                "secret": f"aws-sm:{secret}#api_secret",
            }
        },
    }
