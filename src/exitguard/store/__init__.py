"""PostgreSQL: everything that exitguard remembers. May import `core`; knows no broker and no policy.

- `port`        what one account's processes may read and write
- `repository`  the port on PostgreSQL; `connection` below it; `queries` finds the statements in `sql/`
- `encoding`    JSON of records and batches
- `migrate`     brings a database to this build's version from the numbered files in `migrations/`
- `schema`      which version a database has and which one this build needs; loads without the migrations
- `journal`, `journaled`  commits while the database is away
- `operator`    all accounts, read-only, and what a person may ask for
- `embedded`    PostgreSQL as a child process (`embedded_place`: where and as whom, `embedded_process`: how)
"""
