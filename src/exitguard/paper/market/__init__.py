"""Markets of the paper exchange: the controllable clock, recorded and generated prices, option quotes, the player.

Nothing here knows accounts, orders or sockets. Model prices are binary floats inside; every price that leaves is a
Decimal on a legal tick. Imports `core` only.
"""
