"""Numbered SQL files, one a schema version, and the runner that applies them.

A file is plain SQL for PostgreSQL 15, run in one transaction. Its trailing `--!` lines are the postcondition: one
SELECT that must return true before the transaction commits. A file that has been released never changes.
"""
