"""The brokerage in memory: it lives with the simulator, and tests of every folder use it."""

from exitguard.sim.memory_broker import MemoryBroker as FakeBroker
from exitguard.sim.memory_broker import Wire

__all__ = ["FakeBroker", "Wire"]
