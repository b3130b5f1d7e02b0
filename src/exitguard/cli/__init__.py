"""The command line: everything that an operator does, and the composition root that builds processes from settings.

Each command is a module that is imported only when it is called, takes `--json` where it prints a result, and ends
with a documented exit code (`exits`). Nothing imports this package.
"""
