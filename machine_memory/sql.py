"""The SQL of this package: the clock of each database, and one statement for each step.

``{name}`` stands for a column of the model or a fragment from this page, ``%(name)s`` for a parameter. Rows that say
what was granted are token, data, version, fence, and what is known of an expired lease that was taken over.
"""

# The database's own time, in UTC, at this statement. On PostgreSQL never CURRENT_TIMESTAMP, which stands still for a
# whole transaction; on MySQL and MariaDB never NOW(), which is the wall time of the session.
NOW = {
    "postgresql": "STATEMENT_TIMESTAMP()",
    "mysql": "UTC_TIMESTAMP(6)",
    "sqlite": "STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'now')",
}
# As much later as a parameter says: a float of seconds, an int of microseconds, a text such as '+1.500 seconds'.
LATER = {
    "postgresql": "(STATEMENT_TIMESTAMP() + MAKE_INTERVAL(secs => {}))",
    "mysql": "(UTC_TIMESTAMP(6) + INTERVAL {} MICROSECOND)",
    "sqlite": "STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'now', {})",
}
# When a lease begins and ends. SQLite leaves out what has passed of a millisecond: no lease is to end so much early.
LEASE_START = {**NOW, "sqlite": "STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '+0.001 seconds')"}
LEASE_END = {**LATER, "sqlite": "STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'now', '+0.001 seconds', {})"}
# The least that the fence of a new lease may be, in microseconds since 1970: so fences go on growing where the latest
# are lost, with a row that is deleted or with a server that fails. SQLite's clock is this host's, but tells
# milliseconds: too coarse for two rows in a row.
FENCE_CLOCK = {
    "postgresql": "(EXTRACT(EPOCH FROM STATEMENT_TIMESTAMP()) * 1000000)::bigint",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    "sqlite": "{}",
}
FIRST_FENCE = {**FENCE_CLOCK, "sqlite": "MAX({}, 1 + (SELECT fence FROM machine_memory_fence))"}

KEEP_FENCES = (
    "CREATE TABLE IF NOT EXISTS machine_memory_fence (id INTEGER PRIMARY KEY CHECK (id = 1), fence BIGINT NOT NULL)",
    "INSERT OR IGNORE INTO machine_memory_fence VALUES (1, 0)",
    """
        CREATE TRIGGER IF NOT EXISTS machine_memory_removal AFTER DELETE ON machine_memory_machinerecord
        BEGIN UPDATE machine_memory_fence SET fence = MAX(fence, OLD.fence); END
    """,
)
"""SQLite alone: one row with the highest fence of those that were deleted."""
FORGET_FENCES = ("DROP TABLE IF EXISTS machine_memory_fence",)

# The bytes of state as text.
STORED_BYTES = {
    "postgresql": "OCTET_LENGTH(({})::text)",
    "mysql": "OCTET_LENGTH({})",
    "sqlite": "LENGTH(CAST({} AS BLOB))",
}

LOCK_WAIT = 0.5
"""Seconds for which ``lock`` waits where it cannot skip the row: on SQLite, and on PostgreSQL to insert it."""
BOUND_WAIT = f"SET_CONFIG('lock_timeout', '{LOCK_WAIT}s', TRUE)"
"""PostgreSQL's bound; it ends with the transaction."""
BOUND_WAIT_SQLITE = "PRAGMA busy_timeout = {:.0f}"
WITHOUT_WAITING = "SET STATEMENT innodb_lock_wait_timeout = 0 FOR "
"""MariaDB's, for the statement that follows."""

FRAGMENTS = {
    # No index serves this, so the row is found by its key alone: with statistics of a quieter hour PostgreSQL takes the
    # index of leases for the better one, and goes through all that are live.
    "live": "COALESCE({lease_expires_at} > {now}, FALSE)",
    "open": "NOT {live}",
    "mine": "({lease_token} = %(token)s AND {live})",
    "evicted": "CASE WHEN {lease_token} IS NOT NULL THEN COALESCE({lease_trace}, '') END",
    # The drivers of PostgreSQL parse "json" themselves, each in its way.
    "stored": "{data}{text}",
    "grant": "{lease_token}, {stored}, {version}, {fence}, {lease_evicted}",
    "no_lease": """
        {lease_token} = NULL, {lease_owner} = NULL, {lease_trace} = NULL, {lease_evicted} = NULL,
        {lease_acquired_at} = NULL, {lease_expires_at} = NULL
    """,
    "next_fence": "{greatest}({fence} + 1, {fence_clock})",
    "new_lease": """
        {fence} = {next_fence}, {lease_evicted} = {evicted}, {lease_token} = %(token)s, {lease_owner} = %(owner)s,
        {lease_trace} = %(trace)s, {lease_acquired_at} = {lease_start}, {lease_expires_at} = {lease_end}
    """,
    "insert_lease": """
        INSERT INTO {table} ({id}, {version}, {created_at}, {fence},
            {lease_token}, {lease_owner}, {lease_trace}, {lease_acquired_at}, {lease_expires_at})
        SELECT %(id)s{text}, 0, {now}, {first_fence},
            %(token)s{text}, %(owner)s{text}, %(trace)s{text}, {lease_start}, {lease_end}
    """,
    "root_of_parent": """
        COALESCE((SELECT p.{root} FROM {table} p WHERE p.{id} = %(parent)s), %(parent)s{text}, %(id)s{text})
    """,
}

ACQUIRE = {
    # Skips a row that somebody else works on, and tells nothing of one that is absent: see INSERT_LEASE.
    "postgresql": """
        UPDATE {table} SET {new_lease}
        WHERE {id} = (SELECT {id} FROM {table} WHERE {id} = %(id)s AND {open} FOR UPDATE SKIP LOCKED)
        RETURNING {grant}
    """,
    # Returns the row, changed or not: the token tells. Assignments see those before them: what was evicted is told
    # before the token and the trace are new, and the expiry comes last.
    "mariadb": """
        {without_waiting} {insert_lease} ON DUPLICATE KEY UPDATE
            {fence} = IF({open}, {next_fence}, {fence}),
            {lease_evicted} = IF({open}, {evicted}, {lease_evicted}),
            {lease_token} = IF({open}, VALUES({lease_token}), {lease_token}),
            {lease_owner} = IF({open}, VALUES({lease_owner}), {lease_owner}),
            {lease_trace} = IF({open}, VALUES({lease_trace}), {lease_trace}),
            {lease_acquired_at} = IF({open}, VALUES({lease_acquired_at}), {lease_acquired_at}),
            {lease_expires_at} = IF({open}, VALUES({lease_expires_at}), {lease_expires_at})
        RETURNING {grant}
    """,
    # There is one writer at a time, so nothing to skip.
    "sqlite": """
        {insert_lease} WHERE TRUE ON CONFLICT ({id}) DO UPDATE SET {new_lease} WHERE {open}
        RETURNING {grant}
    """,
}
# PostgreSQL alone: a row that is there is left alone, whoever holds it; an insert by somebody else is waited for.
INSERT_LEASE = """
    WITH bound AS MATERIALIZED (SELECT {bound_wait})
    {insert_lease} FROM bound WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {id} = %(id)s)
    ON CONFLICT DO NOTHING
    RETURNING {grant}
"""

RENEW = "UPDATE {table} SET {lease_expires_at} = {lease_end} WHERE {id} = %(id)s AND {mine}"
# Of tokens, and their ids; passes over what somebody else works on.
RENEW_EACH = {
    "postgresql": """
        UPDATE {table} SET {lease_expires_at} = {lease_end} WHERE {id} IN (
            SELECT {id} FROM {table} WHERE {id} = ANY(%(ids)s{texts}) AND {lease_token} = ANY(%(tokens)s{texts})
                AND {live}
            ORDER BY {id} FOR UPDATE SKIP LOCKED)
        RETURNING {lease_token}
    """,
    "sqlite": """
        UPDATE {table} SET {lease_expires_at} = {lease_end} WHERE {id} IN (SELECT value FROM JSON_EACH(%(ids)s))
            AND {lease_token} IN (SELECT value FROM JSON_EACH(%(tokens)s)) AND {live}
        RETURNING {lease_token}
    """,
}
RELEASE = "UPDATE {table} SET {no_lease} WHERE {id} = %(id)s AND {lease_token} = %(token)s"
GRANTED = "SELECT {grant} FROM {table} WHERE {id} = %(id)s AND {lease_token} = %(token)s"
STANDING = """
    SELECT CASE WHEN {lease_expires_at} > {now} THEN {lease_token} END, {version} FROM {table} WHERE {id} = %(id)s
"""
READ = "SELECT {stored} FROM {table} WHERE {id} = %(id)s"

# Parent and root are those of the first write; an absent label stays as it is. The version comes last, see ACQUIRE.
WRITE = """
    UPDATE {table} SET {ancestry} {lease_change}
        {data} = {json}, {written_at} = {now}, {status} = COALESCE(%(status)s, {status}),
        {source} = COALESCE(%(source)s, {source}), {initiator} = COALESCE(%(initiator)s, {initiator}),
        {version} = {next_version}
    WHERE {id} = %(id)s AND {guard} {returning_version}
"""
ANCESTRY = """
    {parent} = CASE WHEN {version} = 0 THEN %(parent)s{text} ELSE {parent} END,
    {root} = CASE WHEN {version} = 0 THEN {root_of_parent} ELSE {root} END,
"""
WRITE_FIRST = """
    INSERT INTO {table} ({id}, {data}, {version}, {status}, {source}, {initiator}, {parent}, {root}, {fence},
        {created_at}, {written_at})
    SELECT %(id)s{text}, {json}, 1, %(status)s{text}, %(source)s{text}, %(initiator)s{text}, %(parent)s{text},
        {root_of_parent}, {first_fence}, {now}, {now}
    {unless_present}
"""

# What the doctor asks.
CLOCK = {vendor: f"SELECT {now}" for vendor, now in NOW.items()}
SESSION = {
    "postgresql": """
        SELECT name, setting FROM pg_settings WHERE name IN ('transaction_isolation', 'transaction_read_only')
    """,
    # The former names are those of MariaDB up to 11.0.
    "mysql": """
        SHOW VARIABLES WHERE Variable_name IN
            ('tx_isolation', 'tx_read_only', 'transaction_isolation', 'transaction_read_only', 'read_only')
    """,
}
"""Names and values."""
TIME_ZONE = "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW()), @@time_zone"
BACKEND_PID = "SELECT PG_BACKEND_PID()"
JOURNAL = "PRAGMA journal_mode"
