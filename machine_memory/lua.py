"""The scripts of the Redis backend, one for each step: the server runs each as a whole, or not at all.

A machine is one hash, ``KEYS[1]``, whose fields bear the names of the model's columns; what is absent has no field.
Times are microseconds since 1970 by the server's clock, an empty argument stands for none. A hash without state expires
an hour after its lease.
"""

from hashlib import sha1
from typing import NamedTuple


class Script(NamedTuple):
    text: str
    digest: str


def _script(text: str) -> Script:
    text = "\n".join(line.strip() for line in f"{_BASICS}{text}".splitlines() if line.strip())
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


# The clock, and who holds the machine: the token of a lease that is live, or ''.
_BASICS = """
    local key = KEYS[1]
    local time = redis.call('TIME')
    local now = time[1] * 1000000 + time[2]
    local row = redis.call('HMGET', key, 'lease_token', 'lease_expires_at', 'version', 'fence')
    local token, expires_at = row[1], tonumber(row[2] or 0)
    local version, fence = tonumber(row[3] or 0), tonumber(row[4] or 0)
    local holder = expires_at > now and token or ''

    local function expire_after(ends_at)
        if version == 0 then redis.call('PEXPIREAT', key, math.ceil(ends_at / 1000) + 3600000) end
    end

    local function end_lease()
        redis.call('HDEL', key,
            'lease_token', 'lease_owner', 'lease_trace', 'lease_acquired_at', 'lease_expires_at')
    end
"""

# Grants a lease and returns the machine with it, and the trace of an expired lease that it took over. Asked again by
# the same token, as after a lost reply, it grants again. A fence is never behind the clock: so it grows also where the
# hash, or the server's latest memory, was lost meanwhile.
ACQUIRE = _script("""
    local asking, owner, ends_at, trace = ARGV[1], ARGV[2], now + ARGV[3], ARGV[4]
    if holder ~= '' and holder ~= asking then return false end
    local evicted = token and token ~= asking and (redis.call('HGET', key, 'lease_trace') or '')
    fence = math.max(fence + 1, now)
    redis.call('HSET', key, 'fence', fence, 'lease_token', asking, 'lease_owner', owner,
        'lease_trace', trace, 'lease_acquired_at', now, 'lease_expires_at', ends_at)
    redis.call('HSETNX', key, 'created_at', now)
    expire_after(ends_at)
    return {redis.call('HGET', key, 'data'), version, fence, evicted}
""")

# Extends a live lease of this token, and returns whether there was one.
RENEW = _script("""
    local asking, ends_at = ARGV[1], now + ARGV[2]
    if holder ~= asking then return 0 end
    redis.call('HSET', key, 'lease_expires_at', ends_at)
    expire_after(ends_at)
    return 1
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

# Returns what else stands: why the writer is refused, by token and version, or what was changed.
WRITE = _script("""
    local writer, expected_version, release, extend, data, status, source, initiator, parent, root = unpack(ARGV)
    if holder ~= writer or (expected_version ~= '' and version ~= tonumber(expected_version)) then
        return {0, holder, version}
    end
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
    return {1, holder, version}
""")

# Deletes the machine for whoever may write it; returns as WRITE.
REMOVE = _script("""
    if holder ~= ARGV[1] then return {0, holder, version} end
    redis.call('DEL', key)
    return {1, holder, version}
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

# Deletes a machine of a status that was written so many microseconds ago, and returns whether it could go.
RETIRE = _script("""
    local status, written_at = unpack(redis.call('HMGET', key, 'status', 'written_at'))
    if holder ~= '' or status ~= ARGV[1] or tonumber(written_at or now) > now - ARGV[2] then return 0 end
    redis.call('DEL', key)
    return 1
""")
