"""Which commands there are, and what help says of them. Imports nothing."""

COMMANDS = {
    "new": ("new", "Make a project: three services, a workflow, tests and a README."),
    "dev": ("dev", "Run all services in one process; start again when a file is saved."),
    "run": ("run", "Run services until SIGTERM."),
    "send": ("send", "Send a command, or publish an event."),
    "status": ("status", "Show services, what waits for them, and what needs a person."),
    "list": ("instances", "List workflow instances, the latest first."),
    "show": ("instances", "Show all that is known under a business key."),
    "follow": ("instances", "Print what happens under a business key, as it happens."),
    "failures": ("failures", "Look at dead letters, send them again, or put them away."),
    "migrate": ("migrate", "Make the tables in a PostgreSQL database, or bring them up to date."),
    "graph": ("flow", "Draw the message flow as Mermaid text."),
    "check": ("flow", "Look for messages without a receiver before anything runs."),
    "doctor": ("doctor", "Examine the engine: versions, settings, limits, rights, clocks."),
    "move": ("move", "Move from a SQLite file to another engine, with what is under way."),
    "demo": ("demo", "Run the example shop through failures and show that nothing is lost."),
}

ABOUT = """Workflows that outlast failures.

The engine is named by --url, else by OUTLAST_URL, else by url in [tool.outlast] of pyproject.toml.
Every command prints JSON with --json."""

EXIT_CODES = (
    "Exit codes: 0 done, 1 unexpected error, 2 wrong usage, 3 not found or ambiguous, 4 engine not reachable, "
    "5 finished but some items failed, 6 refused, 7 time ran out, 8 problems found, 130 interrupted."
)
