"""One account's actor: discovers, marks, evaluates, closes, records and reconciles its positions.

May import `core`, `broker`, `store` and `config`. Everything runs on one event loop; state changes happen between
awaits and are written through one `Ledger` in the order in which they happened. Only `core.evaluate` decides an exit.
"""
