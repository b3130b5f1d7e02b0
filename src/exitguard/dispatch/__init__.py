"""The dispatcher: signals of one account become entry orders, each intended in the ledger before it is sent.

`signal` reads rows, `sizing` and `pricing` decide how much and at what limit, `orders` builds requests and reads the
broker's answers, `entries` follows each order until it is terminal, `service` is the loop. Everything but `entries` and
`service` is pure. Nothing here closes a position: exits belong to the manager and share no limit with entries (F16).
"""
