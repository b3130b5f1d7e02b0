"""PostgreSQL: numbered SQL migrations, SQL in files, the account-scoped repository, the journal, the embedded server.

May import `core`. Knows no broker and no policy.
"""
