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
# Seconds until the time of a column, and never more.
SECONDS_LEFT = {
    "postgresql": "EXTRACT(EPOCH FROM {} - STATEMENT_TIMESTAMP())",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), {}) * 1e-6",
    "sqlite": "ROUND((JULIANDAY({}) - JULIANDAY('now', '+0.001 seconds')) * 86400, 3)",
}
# A moment, as the text that ``clock.moment`` makes of it; none is null.
MOMENT = {"postgresql": "({}::text || '+00')::timestamptz", "mysql": "{}", "sqlite": "{}"}
# So much later that it doubles with the claims before this one: a parameter as for LATER, on SQLite a float of seconds.
DOUBLED = {
    "postgresql": "{} * POWER(2, LEAST({attempts}, {most}))",
    "mysql": "{} * POWER(2, LEAST({attempts}, {most}))",
    "sqlite": "PRINTF('%%+.3f seconds', {} * (1 << MIN({attempts}, {most})))",
}
# The least that the fence of a new lease may be, in microseconds since 1970: so fences go on growing where the latest
# are lost, with a row that is deleted or with a server that fails. SQLite's clock is this host's, but tells
# milliseconds: too coarse for two rows in a row.
FENCE_CLOCK = {
    "postgresql": "(EXTRACT(EPOCH FROM STATEMENT_TIMESTAMP()) * 1000000)::bigint",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    "sqlite": "{}",
}
FIRST_FENCE = {**FENCE_CLOCK, "sqlite": "MAX({}, 1 + (SELECT fence FROM machine_memory_fence))"}
COPIED_FENCE = "MAX({}, (SELECT fence FROM machine_memory_fence))"

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
BOUND_WAIT = "SET_CONFIG('lock_timeout', %(wait)s, TRUE)"
"""PostgreSQL's bound; it ends with the transaction."""
WAITS = {"lock": f"{LOCK_WAIT}s", "batch": "1ms"}
BOUND_WAIT_SQLITE = "PRAGMA busy_timeout = {:.0f}"
WITHOUT_WAITING = "SET STATEMENT innodb_lock_wait_timeout = 0 FOR "
"""MariaDB's, for the statement that follows."""
ONCE = WITHOUT_WAITING.replace(" FOR ", ", wsrep_retry_autocommit = 0 FOR ")
"""The same, where a server may be a node of Galera: what it repeats by itself returns the rows of each attempt."""
BY_KEY = {
    "UPDATE {table} SET": "UPDATE {table} FORCE INDEX (PRIMARY) SET",
    "FROM {table} WHERE": "FROM {table} FORCE INDEX (PRIMARY) WHERE",
    "DELETE FROM {table} FORCE": "DELETE {table} FROM {table} FORCE",
}
"""What MySQL and MariaDB are told in the place of what the ORM says, one after the other."""
OF_CLUSTER = "SHOW VARIABLES WHERE Variable_name IN ('wsrep_on', 'wsrep_retry_autocommit', 'wsrep_sync_wait')"
NOT_SO = ("off", "0")
"""How a setting says that it is off."""

FRAGMENTS = {
    # No index serves this, so the row is found by its key alone: with statistics of a quieter hour PostgreSQL takes the
    # index of leases for the better one, and goes through all that are live.
    "live": "COALESCE({lease_expires_at} > {now}, FALSE)",
    "open": "NOT {live}",
    "asleep": "COALESCE({wake_at} > {now}, FALSE)",
    "mine": "({lease_token} = %(token)s AND {live})",
    "evicted": "CASE WHEN {lease_token} IS NOT NULL THEN COALESCE({lease_trace}, '') END",
    # The drivers of PostgreSQL parse "json" themselves, each in its way.
    "stored": "{data}{text}",
    "grant": "{lease_token}, {stored}, {version}, {fence}, {lease_evicted}",
    "resumption": "{stored}, {version}, {fence}, {lease_owner}, {seconds_left}",
    "no_lease": """
        {lease_token} = NULL, {lease_owner} = NULL, {lease_trace} = NULL, {lease_evicted} = NULL,
        {lease_acquired_at} = NULL, {lease_expires_at} = NULL
    """,
    "next_fence": "{greatest}({fence} + 1, {fence_clock})",
    "new_lease": """
        {fence} = {next_fence}, {lease_evicted} = {evicted}, {lease_token} = {token}, {lease_owner} = %(owner)s,
        {lease_trace} = %(trace)s, {lease_acquired_at} = {lease_start}, {lease_expires_at} = {lease_end}
    """,
    "insert_lease": """
        INSERT INTO {table} ({id}, {version}, {created_at}, {fence},
            {lease_token}, {lease_owner}, {lease_trace}, {lease_acquired_at}, {lease_expires_at})
        SELECT %(id)s{text}, 0, {now}, {first_fence},
            %(token)s{text}, %(owner)s{text}, %(trace)s{text}, {lease_start}, {lease_end}
    """,
    "root_of_parent": "COALESCE({root_of_ancestor} %(ancestor)s{text}, %(id)s{text})",
}

# MariaDB would keep the row of the parent until the transaction ends, and wait for whoever has it: there, what is asked
# for is a root already.
ROOT_OF_ANCESTOR = {
    "mariadb": "",
    **dict.fromkeys(("postgresql", "sqlite"), "(SELECT p.{root} FROM {table} p WHERE p.{id} = %(ancestor)s),"),
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
        {without_waiting} {insert_lease} {of_asked} ON DUPLICATE KEY UPDATE
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
        {insert_lease} {of_asked} WHERE TRUE ON CONFLICT ({id}) DO UPDATE SET {new_lease} WHERE {open}
        RETURNING {grant}
    """,
}
# PostgreSQL alone: a row that is there is left alone, whoever holds it; an insert by somebody else is waited for.
INSERT_LEASE = """
    WITH bound AS MATERIALIZED (SELECT {bound_wait})
    {insert_lease} FROM {bound} WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {id} = %(id)s OFFSET 0)
    {in_order} ON CONFLICT DO NOTHING
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
RESUME = "SELECT {resumption} FROM {table} WHERE {id} = %(id)s AND {mine}"
EXTEND = f"{RENEW} RETURNING {{resumption}}"
RELEASE = "UPDATE {table} SET {no_lease} WHERE {id} = %(id)s AND {lease_token} = %(token)s"
GRANTED = "SELECT {grant} FROM {table} WHERE {id} = %(id)s AND {lease_token} = %(token)s"
STANDING = """
    SELECT CASE WHEN {lease_expires_at} > {now} THEN {lease_token} END, {version} FROM {table} WHERE {id} = %(id)s
"""
READ = "SELECT {stored} FROM {table} WHERE {id} = %(id)s"

# Parent and root are those of the first write; an absent label stays as it is. The version comes last, see ACQUIRE.
WRITE = "UPDATE {table} SET {changes} WHERE {id} = %(id)s AND {guard} {returning_version}"
CHANGES = """
    {ancestry} {lease_change} {timer} {attempts} = 0,
    {data} = {json}, {written_at} = {now}, {status} = COALESCE(%(status)s, {status}),
    {source} = COALESCE(%(source)s, {source}), {initiator} = COALESCE(%(initiator)s, {initiator}),
    {version} = {next_version}
"""
ANCESTRY = """
    {parent} = CASE WHEN {seen} = 0 THEN %(parent)s{text} ELSE {parent} END,
    {root} = CASE WHEN {seen} = 0 THEN {root_of_parent} ELSE {root} END,
"""
WRITE_FIRST = """
    INSERT INTO {table} ({id}, {data}, {version}, {status}, {source}, {initiator}, {parent}, {root}, {fence},
        {created_at}, {written_at}, {wake_at})
    SELECT %(id)s{text}, {json}, 1, %(status)s{text}, %(source)s{text}, %(initiator)s{text}, %(parent)s{text},
        {root_of_parent}, {first_fence}, {now}, {now}, {wakes}
    {unless_present}
"""

# PostgreSQL alone; elsewhere no statement can both tell when a machine was due and change that. Due is told by nothing
# that an index of leases or of the status would serve: there may be many of those.
CLAIM = """
    WITH due AS MATERIALIZED (
        SELECT {id} AS due_id, {due_at} AS due_at, {asleep} AS asleep FROM {table} WHERE {due}
        ORDER BY {order} LIMIT %(limit)s FOR UPDATE SKIP LOCKED),
    numbered AS (SELECT due_id, due_at, asleep, ROW_NUMBER() OVER () - 1 AS number FROM due)
    UPDATE {table} SET {new_lease}, {rearmed} FROM numbered WHERE {id} = due_id
    RETURNING {grant}, {id}, due_at, {now}, {attempts}, asleep
"""
# Elsewhere: what is due, then the same kept until the transaction ends, and then the leases. MariaDB goes through what
# is left of others in the index, too: that takes ten times as long where it keeps what it comes to as where it reads.
# So it keeps rows by their keys, and goes through the index only where others are at work on some of those.
WAITING = "SELECT {id} FROM {table} WHERE {due} ORDER BY {order} LIMIT %(limit)s"
DUE_COLUMNS = "{id}, {stored}, {version}, {fence}, {evicted}, {due_at}, {now}, {attempts}, {asleep}, {fence_clock}"
KEEP_DUE = {
    "mariadb": "SELECT {kept} FROM {table} WHERE {due} ORDER BY {order} LIMIT %(limit)s FOR UPDATE SKIP LOCKED",
    "sqlite": "SELECT {kept} FROM {table} WHERE {due} ORDER BY {order} LIMIT %(limit)s",
}
# Of a small table MariaDB would go through all rows, those included that somebody else works on.
KEEP_DUE_BY_KEY = {
    "mariadb": """
        SELECT {kept} FROM {table} FORCE INDEX (PRIMARY) WHERE {id} IN (due_ids) AND {due}
        ORDER BY {order} FOR UPDATE SKIP LOCKED
    """,
}
TAKE_DUE = {
    "mariadb": """
        {without_waiting} UPDATE {table} FORCE INDEX (PRIMARY) SET {new_lease}, {rearmed} WHERE {id} IN (due_ids)
    """,
    "sqlite": """
        UPDATE {table} SET {new_lease}, {rearmed}
        FROM (SELECT key AS number, value AS due_id FROM JSON_EACH(%(ids)s)) AS due WHERE {id} = due_id
    """,
}
# In the order of MySQL's assignments, see ACQUIRE. What has expired may sleep: its timer is none of the claim's.
REARMED = """
    {wake_at} = CASE WHEN {asleep} THEN {wake_at} WHEN {attempts} + 1 < %(max_attempts)s THEN {doubled} END,
    {attempts} = {attempts} + 1
"""
OF_STATUS = "AND COALESCE({status}, '') = %(status)s"
NUMBERED = {
    "postgresql": "%(secret)s::text || LPAD(number::text, 5, '0')",
    "mariadb": "CONCAT(%(secret)s, LPAD(FIELD({id}, due_ids) - 1, 5, '0'))",
    "sqlite": "%(secret)s || PRINTF('%%05d', number)",
}

# Many machines in one statement: what is asked for comes as JSON, and each of its columns stands in the place of the
# parameter of that name in the statement for one. It comes in the order of the keys, and rows are kept in that order,
# so that two who ask for the same do not deadlock. Each row is found by its key: PostgreSQL, which cannot know how many
# are asked for, would go through thousands for a few; so it is given an array, and what it cannot join otherwise.
ASKED = ("id", "token", "version", "data", "status", "source", "initiator", "parent", "ancestor")
ASKED_TYPES = {
    "postgresql": {"version": "bigint", "data": "", "": 'text COLLATE "C"'},
    "mariadb": {
        "version": "BIGINT",
        "data": "",
        "": "VARCHAR(512) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
    },
    "sqlite": {"": ""},
}
ASKED_ROWS = {
    "postgresql": "ROWS FROM (JSON_TO_RECORDSET(%(asked)s::json) AS ({columns}){states}) AS asked",
    "mariadb": "JSON_TABLE(%(asked)s, '$[*]' COLUMNS (asked_row FOR ORDINALITY, {columns})) AS asked",
    "sqlite": "(SELECT {columns} FROM JSON_EACH(%(asked)s)) AS asked",
}
ASKED_STATES = ", JSON_ARRAY_ELEMENTS(%(states)s::json)"
"""PostgreSQL's, one for each row: it takes them from JSON as they stand, where a recordset takes them apart."""
ASKED_COLUMN = {
    "postgresql": "asked_{name} {type}",
    "mariadb": "asked_{name} {type} PATH '$.asked_{name}'",
    "sqlite": "JSON_EXTRACT(value, '$.asked_{name}') AS asked_{name}",
}
ACQUIRE_EACH = {
    "postgresql": """
        WITH free AS MATERIALIZED (
            SELECT asked_id, asked_token FROM {asked}, LATERAL
                (SELECT FROM {table} WHERE {id} = asked_id AND {open} FOR UPDATE SKIP LOCKED) AS found)
        UPDATE {table} SET {new_lease} FROM free
        WHERE {id} = ANY(ARRAY(SELECT asked_id FROM free)) AND {id} = asked_id RETURNING {grant}
    """,
    **{kind: ACQUIRE[kind] for kind in ("mariadb", "sqlite")},
}
WRITE_EACH = {
    "postgresql": """
        WITH asked AS MATERIALIZED (SELECT *, value AS asked_data FROM {asked_with_states})
        UPDATE {table} SET {changes} FROM asked
        WHERE {id} = ANY(ARRAY(SELECT asked_id FROM asked)) AND {id} = asked_id AND {guard} RETURNING {id}
    """,
    # It tells only how many it has changed; what a join changes is assigned in no order that one could rely on.
    "mariadb": """
        UPDATE {asked} STRAIGHT_JOIN {table} FORCE INDEX (PRIMARY) ON {id} = asked_id SET {changes} WHERE {guard}
    """,
    "sqlite": "UPDATE {table} SET {changes} FROM {asked} WHERE {id} = asked_id AND {guard} RETURNING {id}",
}
DATA_OF_ROW = "ELT(asked_row, {})"
"""MariaDB's, of parameters: its JSON goes no deeper than 32 levels, and to find states in it took a third of it all."""
GUARD_EACH = "{mine} AND {version} = asked_version"
MINE = """
    SELECT {id} FROM {asked} STRAIGHT_JOIN {table} FORCE INDEX (PRIMARY) ON {id} = asked_id
    WHERE {guard} ORDER BY {id} FOR UPDATE
"""
"""MariaDB alone: those that an update would change, kept until it has."""

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
CLUSTER = "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_cluster_size', 'wsrep_cluster_status')"
# What its user may not see is null.
REPLICAS = "SELECT sync_state FROM pg_stat_replication WHERE COALESCE(state, 'streaming') = 'streaming'"
WAITS_FOR_REPLICAS = "SELECT CURRENT_SETTING('synchronous_commit')"
TIME_ZONE = "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(), NOW()), @@time_zone"
BACKEND_PID = "SELECT PG_BACKEND_PID()"
JOURNAL = "PRAGMA journal_mode"
