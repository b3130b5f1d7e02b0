"""The table of commands. Each is imported when it is called, so that a quick question gets a quick answer."""

from cyclopts import App, Group

DESCRIPTION = "Watches every open stock and option position of every brokerage account and gets each one out."
EPILOGUE = (
    "Exit codes: 0 fine, 1 something is wrong, 2 usage, 69 a service is not there, 70 a defect of ours,"
    " 73 cannot write, 75 try again, 78 configuration."
)

_RUN = Group("Run", sort_key=1)
_LOOK = Group("Look", sort_key=2)
_ACT = Group("Act", sort_key=3)
_PREPARE = Group("Prepare", sort_key=4)

# name, where it lives, one line of help, group
_COMMANDS: tuple[tuple[str, str, str, Group], ...] = (
    ("demo", "exitguard.cli.demo:demo", "Play one whole trading day on this machine, no account needed.", _RUN),
    ("run", "exitguard.cli.run:run", "Manage the accounts of the settings file until stopped.", _RUN),
    ("paper", "exitguard.cli.paper:paper", "Start the Alpaca-compatible paper exchange.", _RUN),
    ("record", "exitguard.cli.record:record", "Record a live data connection for the paper exchange.", _RUN),
    ("bench", "exitguard.cli.bench:bench", "Measure speed and size against baselines of the same run.", _RUN),
    ("sim", "exitguard.cli.sim:sim", "Simulate managers under faults and crashes, from seeds.", _RUN),
    ("crashes", "exitguard.cli.crashes:crashes", "Kill every part at every point and tell what became of it.", _RUN),
    ("soak", "exitguard.cli.soak:soak", "Manage a large house for an hour of market time under faults.", _RUN),
    ("figures", "exitguard.cli.figures:figures", "Measure and render what docs/guarantees.md publishes.", _RUN),
    ("positions", "exitguard.cli.look:positions", "List positions with marks, protection and deadlines.", _LOOK),
    ("events", "exitguard.cli.look:events", "List what happened, newest last.", _LOOK),
    ("health", "exitguard.cli.health:health", "Tell whether every account is watched; exit 1 if not.", _LOOK),
    ("alarms", "exitguard.cli.alarms:alarms", "List the alarms that are on, and every kind there is.", _LOOK),
    ("sync", "exitguard.cli.sync:sync", "Compare the broker with our books, or repair them; exit 1 if unequal.", _LOOK),
    ("audit", "exitguard.cli.audit:app", "Prove that nobody changed the ledger: verify.", _LOOK),
    ("policy", "exitguard.cli.policy:policy", "Show the effective numbers of the exit policies.", _LOOK),
    ("version", "exitguard.cli.version:version", "Tell which build this is.", _LOOK),
    ("close", "exitguard.cli.close:close", "Ask the running manager to close positions.", _ACT),
    ("adopt", "exitguard.cli.adopt:adopt", "Take a position that nobody manages under management.", _ACT),
    ("forget", "exitguard.cli.forget:forget", "Close a position that is gone, with written evidence.", _ACT),
    ("init", "exitguard.cli.init:init", "Write a commented settings file.", _PREPARE),
    ("db", "exitguard.cli.db:app", "The ledger: migrate, query, psql, url, the embedded server.", _PREPARE),
)

# What a command's own --help says below its line: cyclopts shows this instead of the docstring.
_MORE = {
    # With its box of options it has to fit one screen of thirty lines.
    "paper": """\
No account, no keys, no network: change a bot's base URLs to those it prints.
It speaks Alpaca's REST API, trade stream and data sockets; stocks and options,
every session and holiday. GET / is a status page; /admin moves the clock, sets
quotes, switches faults on. Ctrl-C stops it. docs/exchange.md tells the rest.

  exitguard paper --port 8900 --account me:100000 --market calm SPY=crash+wild""",
    "record": """\
Records quotes, trades and halts from the data connection of an account of the
settings file, or from the URLs and keys given, until Ctrl-C, SIGTERM or
--seconds. A killed recorder leaves a file that plays up to its last second.

  exitguard record day.csv.gz --stocks AAPL SPY --options AAPL261218C00190000""",
}


def command_names() -> frozenset[str]:
    """The names of all commands."""
    return frozenset(name for name, *_ in _COMMANDS)


def build_app() -> App:
    """Make the command-line application. Imports no command."""
    app = App(
        name="exitguard",
        help=DESCRIPTION,
        help_epilogue=EPILOGUE,
        version_flags=[],
        help_format="plaintext",
        # Failures become one line and an exit code in `main`, and nowhere else.
        print_error=False,
        exit_on_error=False,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for order, (name, target, line, group) in enumerate(_COMMANDS):
        more = f"{line}\n\n{_MORE[name]}" if name in _MORE else line
        app.command(target, name=name, help=more, group=group, sort_key=order)
    return app
