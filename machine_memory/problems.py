"""What can be wrong around a memory, as messages of Django's system checks; each id has its line in the README."""

from django.core.checks import ERROR, WARNING, CheckMessage

_PROBLEMS = {
    "E001": (
        "{error}",
        "Correct MACHINE_MEMORIES: see Settings in the README.",
    ),
    "E101": (
        "The cache {cache!r} ignores exceptions: whoever shares it takes an outage for an absent value.",
        "Give the memory an alias of its own, without IGNORE_EXCEPTIONS.",
    ),
    "E102": (
        "The cache {cache!r} names {count} servers: with replicas or shards, a lease is not on all of them.",
        "Give the memory an alias with the primary server alone, or Sentinel.",
    ),
    "W101": (
        "The client of Redis waits for ever where the server does not answer.",
        "Set SOCKET_TIMEOUT and SOCKET_CONNECT_TIMEOUT in the OPTIONS of the cache.",
    ),
    "W102": (
        "Redis evicts by {policy}: under memory pressure, machines would vanish.",
        "Set maxmemory-policy to noeviction, or keep the memory on a server of its own.",
    ),
    "W103": (
        "Redis keeps no append-only file: a restart loses state and leases.",
        "Set appendonly to yes, and appendfsync to always where no acknowledged write may be lost.",
    ),
    "W104": (
        "Redis did not say how it is set up ({error}).",
        "Let the user of the cache run INFO while this is checked, or compare the settings by hand.",
    ),
    "E201": (
        "The database {using!r} has AUTOCOMMIT off: a transaction is always open, and every lock is refused.",
        "Leave AUTOCOMMIT on, or give the memory an alias of the same database where it is, as `using`.",
    ),
    "W201": (
        "The database {using!r} has ATOMIC_REQUESTS on: inside a view, every lock is refused with LockInTransaction.",
        "Exempt the views that lock with transaction.non_atomic_requests, or give the memory a second alias of the same"
        " database, without ATOMIC_REQUESTS, as `using`.",
    ),
    "W202": (
        "A transaction in the SQLite database {using!r} begins as a reader: where it writes after others have written,"
        ' it fails at once with "database is locked".',
        'Set "transaction_mode": "IMMEDIATE" in the OPTIONS of the database.',
    ),
    "W203": (
        "The isolation_level of the database {using!r} is {level}: two that lock absent machines can deadlock.",
        'Set "isolation_level": "read committed" in the OPTIONS of the database, or leave it out.',
    ),
    "W301": (
        "The memory is in this process alone, and DEBUG is off: each process has machines and leases of its own, and"
        " loses them when it ends.",
        "Keep machines in a database or in Redis: see Settings in the README.",
    ),
}


def problem(id: str, **values: object) -> CheckMessage:
    text, hint = _PROBLEMS[id]
    level = ERROR if id.startswith("E") else WARNING
    return CheckMessage(level, text.format(**values), hint, id=f"machine_memory.{id}")
