"""The pure domain: instruments, quotes, positions, policy, decisions, closing, sessions.

Nothing here knows of time, network, database, files or threads; nothing here imports another
room of exitguard. A function takes (state, event, now) and returns (new state, effects).
"""
