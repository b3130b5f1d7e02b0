"""Settings, secrets, policies, logging, build identity and paths.

Everything that a process needs to know before it starts, as frozen values. Loading is a pure function of a file and an
environment, called by a command after logging is up; importing this package reads nothing and changes nothing (F74).
Imports core only. Secrets are references here; `secrets` turns them into values at the last moment.
"""
