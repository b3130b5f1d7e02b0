"""The paper exchange behind HTTP and websockets: trading and data REST, trade stream, data sockets, admin, status page.

Thin over `engine/` (what happens) and `market/` (what the prices are): nothing here decides a fill. It imports `core`
and its two siblings only.
"""
