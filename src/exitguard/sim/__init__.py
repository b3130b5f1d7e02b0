"""The simulator: the real manager under a virtual clock, a faulty broker, a lossy store and crashes, from one seed.

`loop` runs everything in virtual time, `memory_store` and `memory_broker` keep the contracts of the real ones,
`scenario` and `faults` decide what happens, `world` lets it happen, `checks` judges it, `shrink` makes a failure small,
`mutants` plants the bugs that must be found. May import `core`, `manager` and the ports; nothing but the CLI and tests
imports it. Nothing here does I/O, sleeps, or reads a clock or a random number that the seed does not decide.
"""
