"""The scripts of the Redis backend, one for each step: the server runs each as a whole, or not at all.

A machine is one hash, ``KEYS[1]``, whose fields bear the names of the model's columns; what is absent has no field.
Times are microseconds since 1970 by the server's clock, an empty argument stands for none. A hash without state expires
an hour after its lease, or after it is due. Beside the hashes there are sorted sets, whose members are hints: see
``hints``.
"""

from hashlib import sha1
from typing import NamedTuple

from machine_memory.core.records import MOST_DOUBLINGS

MOST_AGE = 30_000_000
"""Microseconds for which a hint may be on its way to the script that it is for."""


class Script(NamedTuple):
    text: str
    digest: str


def _script(text: str, *before: str) -> Script:
    text = "\n".join(line.strip() for line in "".join([*(before or [_BASICS]), text]).splitlines() if line.strip())
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


_KEY = "local key = KEYS[1]\n"
_AGE = f"local most_age = {MOST_AGE}\n"
_CLOCK = f"""{_KEY}
    local time = redis.call('TIME')
    local now = time[1] * 1000000 + time[2]
"""
# The clock, and who holds the machine: the token of a lease that is live, or ''.
_BASICS = f"""{_CLOCK}
    local row = redis.call('HMGET', key, 'lease_token', 'lease_expires_at', 'version', 'fence')
    local token, expires_at = row[1], tonumber(row[2] or 0)
    local version, fence = tonumber(row[3] or 0), tonumber(row[4] or 0)
    local holder = expires_at > now and token or ''

    local function expire_after(ends_at)
        if version > 0 then return end
        local wake_at = tonumber(redis.call('HGET', key, 'wake_at') or 0)
        redis.call('PEXPIREAT', key, math.ceil(math.max(ends_at, wake_at) / 1000) + 3600000)
    end

    local function end_lease()
        redis.call('HDEL', key,
            'lease_token', 'lease_owner', 'lease_trace', 'lease_acquired_at', 'lease_expires_at')
    end
"""
# Grants a lease to whoever asks, and returns what comes with it.
_GRANT = """
    local function grant(asking, owner, ends_at, trace)
        local evicted = token and token ~= asking and (redis.call('HGET', key, 'lease_trace') or '')
        fence = math.max(fence + 1, now)
        redis.call('HSET', key, 'fence', fence, 'lease_token', asking, 'lease_owner', owner,
            'lease_trace', trace, 'lease_acquired_at', now, 'lease_expires_at', ends_at)
        if version == 0 then redis.call('HSETNX', key, 'created_at', now) end
        expire_after(ends_at)
        return {redis.call('HGET', key, 'data'), version, fence, evicted}
    end
"""

# Grants a lease and returns the machine with it, and the trace of an expired lease that it took over. Asked again by
# the same token, as after a lost reply, it grants again. A fence is never behind the clock: so it grows also where the
# hash, or the server's latest memory, was lost meanwhile.
ACQUIRE = _script(
    """
    local asking, owner, ends_at, trace = ARGV[1], ARGV[2], now + ARGV[3], ARGV[4]
    if holder ~= '' and holder ~= asking then return false end
    return grant(asking, owner, ends_at, trace)
""",
    _BASICS,
    _GRANT,
)

# Grants a lease of what is due, or (expired) whose lease has expired, and has it due again, unless its timer is still
# to go off. Returns whether that was done, when it is due from now on, the number of the hint that is known, the time,
# and then why, whether it is due again by this, and as ACQUIRE.
CLAIM = _script(
    f"""
    local asking, owner, ttl, trace, expired, wanted, most, hint = unpack(ARGV)
    local wake_at, attempts, status, known =
        unpack(redis.call('HMGET', key, 'wake_at', 'attempts', 'status', 'wake_hint'))
    local due_at = wake_at and tonumber(wake_at) or math.huge
    attempts = tonumber(attempts or 0) + 1
    if expired ~= '' then
        due_at = attempts <= tonumber(most) and now - hint <= most_age and token and expires_at or math.huge
    end
    if holder ~= '' or due_at > now or (wanted ~= '' and wanted ~= status) then
        return {{0, wake_at, known, now}}
    end
    local rearmed = not wake_at or tonumber(wake_at) <= now
    redis.call('HSET', key, 'attempts', attempts)
    if rearmed then
        wake_at = attempts < tonumber(most) and math.floor(now + ttl * 2 ^ math.min(attempts - 1, {MOST_DOUBLINGS}))
        if wake_at then redis.call('HSET', key, 'wake_at', wake_at) else redis.call('HDEL', key, 'wake_at') end
        if hint ~= '' then redis.call('HSET', key, 'wake_hint', hint) end
    end
    return {{1, wake_at, known, now, due_at, attempts, rearmed, unpack(grant(asking, owner, now + ttl, trace))}}
""",
    _BASICS,
    _AGE,
    _GRANT,
)

# Extends a live lease of this token, and returns whether there was one.
RENEW = _script("""
    local asking, ends_at = ARGV[1], now + ARGV[2]
    if holder ~= asking then return 0 end
    redis.call('HSET', key, 'lease_expires_at', ends_at)
    expire_after(ends_at)
    return 1
""")

# Returns the machine under a live lease of this token, its owner and what is left of it, extended where it is to be.
RESUME = _script("""
    local asking, ttl = ARGV[1], ARGV[2]
    if holder ~= asking then return false end
    if ttl ~= '' then
        expires_at = now + ttl
        redis.call('HSET', key, 'lease_expires_at', expires_at)
        expire_after(expires_at)
    end
    local data, owner = unpack(redis.call('HMGET', key, 'data', 'lease_owner'))
    return {data, version, fence, owner, expires_at - now}
""")

# Ends the lease of this token, and returns whether no lease is live now.
RELEASE = _script("""
    if token ~= ARGV[1] then return holder == '' and 1 or 0 end
    end_lease()
    return 1
""")

# Ends anybody's lease, or the one with this fence, and returns whether there was one.
FORCE_RELEASE = _script("""
    if not token or (ARGV[1] ~= '' and tonumber(ARGV[1]) ~= fence) then return 0 end
    redis.call('HSET', key, 'fence', math.max(fence + 1, now))
    end_lease()
    return 1
""")

# Returns the new version, and where that ends a timer the number of its hint; or 0, and why the writer is refused: the
# token of the lease that is live, and the version; or -1: a hint of its timer, or of its relatives where it is new
# among them, is too old or was not written. The timer is a moment, or '+' and so much later, or 'never', or '' to stay.
# What is empty at the end may be left out.
WRITE = _script(
    """
    for i = #ARGV + 1, 13 do ARGV[i] = '' end
    local writer, expected_version, release, data, status, source, initiator, extend, wakes, hint, related, parent,
        root = unpack(ARGV)
    if holder ~= writer or (expected_version ~= '' and version ~= tonumber(expected_version)) then
        return {0, holder, version}
    end
    if hint ~= '' and now - hint > most_age then return -1 end
    if version == 0 and parent ~= '' and now - (tonumber(related) or 0) > most_age then return -1 end
    if version == 0 then
        redis.call('HSET', key, 'root', root)
        if parent ~= '' then redis.call('HSET', key, 'parent', parent) end
        redis.call('HSETNX', key, 'created_at', now)
        redis.call('HSETNX', key, 'fence', now)
        redis.call('PERSIST', key)
    end
    version = version + 1
    redis.call('HSET', key, 'data', data, 'version', version, 'written_at', now)
    if status ~= '' then redis.call('HSET', key, 'status', status) end
    if source ~= '' then redis.call('HSET', key, 'source', source) end
    if initiator ~= '' then redis.call('HSET', key, 'initiator', initiator) end
    if release ~= '' then end_lease() end
    if extend ~= '' then redis.call('HSET', key, 'lease_expires_at', now + extend) end
    redis.call('HDEL', key, 'attempts')
    local ended, known
    if wakes ~= '' then ended, known = unpack(redis.call('HMGET', key, 'wake_at', 'wake_hint')) end
    if hint ~= '' then
        if string.sub(wakes, 1, 1) == '+' then wakes = now + string.sub(wakes, 2) end
        redis.call('HSET', key, 'wake_at', wakes, 'wake_hint', hint)
    elseif wakes ~= '' then redis.call('HDEL', key, 'wake_at') end
    return ended and known and {version, known} or version
""",
    _BASICS,
    _AGE,
)

# Deletes the machine for whoever may write it. Returns 1, which were its parent and its root, and the number of its
# hint; or as WRITE.
REMOVE = _script("""
    if holder ~= ARGV[1] then return {0, holder, version} end
    local parent, root, known = unpack(redis.call('HMGET', key, 'parent', 'root', 'wake_hint'))
    redis.call('DEL', key)
    return {1, parent, root, known}
""")

# Ends a lease that has been over for so many microseconds, and returns how many: ended, machines deleted with theirs.
PURGE = _script("""
    if expires_at == 0 or expires_at > now - ARGV[1] then return {0, 0} end
    if version == 0 then
        redis.call('DEL', key)
        return {0, 1}
    end
    end_lease()
    return {1, 0}
""")

# Deletes a machine of a status that was written so many microseconds ago, and returns whether it could go, not one that
# sleeps, and which were its parent and its root.
RETIRE = _script("""
    local status, written_at, wake_at, parent, root =
        unpack(redis.call('HMGET', key, 'status', 'written_at', 'wake_at', 'parent', 'root'))
    if holder ~= '' or wake_at or status ~= ARGV[1] or tonumber(written_at or now) > now - ARGV[2] then return {0} end
    redis.call('DEL', key)
    return {1, parent, root}
""")

# Stores a machine as it was elsewhere, where it is of a later write than what is here, or of a later lease of the same,
# and nobody holds this one. Returns whether it did; -1: a hint of it is too old.
ADOPT = _script(
    """
    local its_version, its_fence, hint, related = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
    if holder ~= '' or version > its_version or (version == its_version and fence >= its_fence) then return 0 end
    if hint ~= '' and now - hint > most_age then return -1 end
    if related ~= '' and now - related > most_age then return -1 end
    redis.call('DEL', key)
    redis.call('HSET', key, 'version', its_version, 'fence', math.max(fence, its_fence))
    for i = 5, #ARGV, 2 do
        if ARGV[i + 1] ~= '' then redis.call('HSET', key, ARGV[i], ARGV[i + 1]) end
    end
    if hint ~= '' then redis.call('HSET', key, 'wake_hint', hint) end
    return 1
""",
    _BASICS,
    _AGE,
)

# Adds hints of ids and returns their number, the time. They are to be looked at by a moment or so much later, each with
# the number; or ('') they have the number as their score, each in the place of an earlier one. Before the ids come so
# many hints that go.
HINT = _script(
    """
    local score, gone, number = ARGV[1], tonumber(ARGV[2]), string.format('%.0f', now)
    for i = 3, gone + 2 do redis.call('ZREM', key, ARGV[i]) end
    local beginning = score == '' and '' or number .. ':'
    if string.sub(score, 1, 1) == '+' then score = now + string.sub(score, 2) elseif score == '' then score = number end
    for i = gone + 3, #ARGV do redis.call('ZADD', key, score, beginning .. ARGV[i]) end
    return number
""",
    _CLOCK,
)

# Returns hints that are due, each with its score: so many of those after the first.
DUE = _script(
    """
    return redis.call('ZRANGEBYSCORE', key, '-inf', now, 'WITHSCORES', 'LIMIT', ARGV[1], ARGV[2])
""",
    _CLOCK,
)

# Gives hints other scores, or removes them, where they have still the scores that were seen; returns how many.
MEND = _script(
    """
    local mended = 0
    for i = 1, #ARGV, 3 do
        local hint, seen, score = ARGV[i], ARGV[i + 1], ARGV[i + 2]
        if tonumber(redis.call('ZSCORE', key, hint) or -1) == tonumber(seen) then
            if score == '' then redis.call('ZREM', key, hint) else redis.call('ZADD', key, score, hint) end
            mended = mended + 1
        end
    end
    return mended
""",
    _KEY,
)
