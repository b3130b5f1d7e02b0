"""The ledger in memory: it lives with the simulator, and tests of every folder use it."""

from exitguard.sim.memory_store import AccountLedger, MemoryLedger, MemoryStore

__all__ = ["AccountLedger", "MemoryLedger", "MemoryStore"]
