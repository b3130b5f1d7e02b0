"""The paper exchange: an Alpaca-compatible venue that runs on a laptop and can be broken on purpose.

`engine/` is the venue itself: synchronous, deterministic, without input or output. `market/` makes its quotes and its
clock. `server/` puts both behind HTTP and websockets. It imports `core` and nothing else of exitguard; only the CLI
and tests import it.
"""
