"""The Broker port and the Alpaca adapter: REST client, trade stream, market data, request budget.

May import `core`. Knows no position, no policy, no database. One client is bound to one account for life.
"""
