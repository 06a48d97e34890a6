-- The registry of a fleet: one heartbeat of one member, as one atomic step on the server itself.
--
-- KEYS  members   hash: id -> "seq granted live base extra"
--                 (its form and bounds are also in record.rs)
--       expiries  sorted set: id by the time (ms, server clock) at which it is given up
--       sums      hash: the sums over all members, the histograms b<n> and x<n> of base and
--                 extra, and the state of the registry itself
-- ARGV  'beat', id, seq, live, dialing, base, peak, hungry (0 or 1), max, reserve,
--         slots that the server keeps from us (its `maxclients-reserved`, which no script can ask for)
--       'leave', id
-- Gives { limit, interval ms, ttl ms, members, reserve, pressure in thousandths, repaired }, or
--       { -1 } where there is nothing to go by: the ceiling is hidden, or this beat was overtaken.
--
-- Every grant is made against the server's own count of this instant. A slot is taken if it is in
-- `used`, and promised if it was granted and its owner has not reported it yet; a grant comes out of
-- what is neither. Members void what they have not used when they send a beat and when they lose a
-- connection, so `live` may lag behind what they hold but not the other way round, and the sum of
-- grants cannot pass what was free.
--
-- The sums are kept, not summed, so a beat costs the same in a fleet of ten and of ten thousand: 37
-- to 55 us (7.0.15). INFO of two sections is 2 of them, so nothing is cached, and no formula mixes
-- quantities of different instants.
-- Fields that were overwritten are noticed when read, or by the audit, and rebuilt from the members.

local members, expiries, sums = KEYS[1], KEYS[2], KEYS[3]

local FLOOR = 2            -- nobody is shrunk below; served from the reserve
local QUIET = 0.5          -- of what the fleet may use: below, whoever is hungry gets all it may have
local TIGHT = 0.75         -- above, members that are not hungry give back what they do not need
local KEPT = 0.25          -- of the slots stay the fleet's, whatever unguarded clients take
local YIELD = 0.1 / 60000  -- of the ceiling a ms: how fast unguarded clients may take the rest
local YOUNG_MS = 3000      -- a registry younger than that does not know everybody's grants yet
local AGAIN_MS = 500       -- after a shrink: the slots are wanted by others
local COUNT_MAX = 1000000  -- connections; no record has more
local SEQ_MAX = 1e15       -- beats; numbers up to there are exact

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- One of our own numbers, as it was stored.
local function stored(text)
  local number = string.match(text or '0', '^%d+%.?%d*$') and tonumber(text or 0)
  if not number or number > SEQ_MAX then error('damaged') end
  return number
end

-- A member's argument: whatever it says, within bounds.
local function bounded(text, low, high)
  local number = tonumber(text)
  if not number or number ~= number then return low end
  return math.floor(math.max(low, math.min(high, number)))
end

local NAMES = { 'granted', 'outstanding', 'base', 'extra', 'born', 'audited', 'foreign', 'seen', 'repaired' }

-- Those of them that are not sums.
local STATE = { born = true, audited = true, foreign = true, seen = true, repaired = true }

local function read_sums()
  local values, sum = redis.call('HMGET', sums, unpack(NAMES)), {}
  for i, name in ipairs(NAMES) do sum[name] = stored(values[i]) end
  if not values[5] then sum.born, sum.audited = now, now end
  return sum
end

local function write_sums(sum)
  local fields = {}
  for _, name in ipairs(NAMES) do
    fields[#fields + 1] = name
    fields[#fields + 1] = string.format(name == 'foreign' and '%.6f' or '%.0f', sum[name])
  end
  redis.call('HSET', sums, unpack(fields))
end

local NOBODY = { seq = 0, granted = 0, live = 0, base = 0, extra = 0 }

local function parse(text)
  if not text then return NOBODY end
  local seq, granted, live, base, extra = string.match(text, '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
  local record = {
    seq = tonumber(seq), granted = tonumber(granted), live = tonumber(live),
    base = tonumber(base), extra = tonumber(extra),
  }
  if not seq or record.seq > SEQ_MAX
    or math.max(record.granted, record.live, record.base, record.extra) > COUNT_MAX then
    return nil
  end
  return record
end

-- Adds a record to the sums with `by` = 1, takes it out with -1.
local function tally(sum, record, by)
  sum.granted = sum.granted + by * record.granted
  sum.outstanding = sum.outstanding + by * math.max(0, record.granted - record.live)
  sum.base = sum.base + by * record.base
  sum.extra = sum.extra + by * record.extra
  if math.min(sum.granted, sum.outstanding, sum.base, sum.extra) < 0 then error('damaged') end
end

local function count(name, by)
  local left = redis.call('HINCRBY', sums, name, by)
  if left < 0 then error('damaged') end
  if left == 0 then redis.call('HDEL', sums, name) end
end

-- Moves a member from one place of a histogram to another; nothing is kept of zeros.
local function move(prefix, from, to)
  if from == to then return end
  if from > 0 then count(prefix .. from, -1) end
  if to > 0 then count(prefix .. to, 1) end
end

local function record_of(id)
  local record = parse(redis.call('HGET', members, id))
  if not record then error('damaged') end
  return record
end

local function forget(sum, id)
  local record = record_of(id)
  tally(sum, record, -1)
  move('b', record.base, 0)
  move('x', record.extra, 0)
  redis.call('HDEL', members, id)
  redis.call('ZREM', expiries, id)
end

-- Sums up the members anew. What does not fit is dropped, and counted. `pause`: to the next one.
local function audit(ttl, pause)
  local repaired = 0
  for _, pair in ipairs({ { members, 'hash' }, { expiries, 'zset' }, { sums, 'hash' } }) do
    local kind = redis.call('TYPE', pair[1])
    kind = kind.ok or kind
    if kind ~= pair[2] and kind ~= 'none' then
      redis.call('DEL', pair[1])
      repaired = repaired + 1
    end
  end
  local readable, before = pcall(read_sums)
  if not readable then before = { born = now, foreign = 0, seen = now, repaired = 0 } end
  local sum = {
    granted = 0, outstanding = 0, base = 0, extra = 0, audited = now,
    born = math.min(before.born, now), foreign = before.foreign, seen = math.min(before.seen, now),
  }
  local kept = redis.call('HGETALL', sums)
  local counts = {}
  redis.call('ZREMRANGEBYSCORE', expiries, '(' .. string.format('%.0f', now + 2 * ttl), '+inf')
  local all = redis.call('HGETALL', members)
  local complete = redis.call('ZCARD', expiries) == #all / 2
  for i = 1, #all, 2 do
    local record = parse(all[i + 1])
    if record then
      tally(sum, record, 1)
      local b, x = 'b' .. record.base, 'x' .. record.extra
      counts[b], counts[x] = (counts[b] or 0) + 1, (counts[x] or 0) + 1
      if not complete then redis.call('ZADD', expiries, 'NX', now + ttl, all[i]) end
    else
      redis.call('HDEL', members, all[i])
      redis.call('ZREM', expiries, all[i])
      repaired = repaired + 1
    end
  end
  counts.b0, counts.x0 = nil, nil
  sum.repaired = before.repaired + repaired
  for i = 1, #kept, 2 do
    local name = kept[i]
    if not STATE[name] and tonumber(kept[i + 1]) ~= (counts[name] or sum[name] or 0) then
      sum.repaired = sum.repaired + 1
    end
  end
  if not readable then sum.repaired = sum.repaired + 1 end
  redis.call('DEL', sums)
  write_sums(sum)
  for name, n in pairs(counts) do redis.call('HSET', sums, name, n) end
  -- A registry that nobody uses any more goes by itself.
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, string.format('%.0f', 4 * pause)) end
end

-- Whole connections from a fraction: as many of the n members have one more as make up for the
-- fraction, and always the same ones. Fewer by twice the standard deviation of such a draw: were
-- they more, somebody would find nothing left.
local function whole(share, n, id)
  local hash = 7
  for i = 1, #id do hash = (hash + string.byte(id, i)) * 40503 % 65521 end
  return math.floor(share + math.max(0, hash / 65521 - 1 / math.sqrt(n)))
end

-- Max-min fairness: the level at which everybody has what it asks for, or this much, and the
-- capacity is used up (water-filling; Bertsekas and Gallager, Data Networks, 6.5.2).
local function water_level(prefix, total, capacity, id)
  local values, counts, left, sum = {}, {}, 0, 0
  local all = redis.call('HGETALL', sums)
  for i = 1, #all, 2 do
    local value = tonumber(string.match(all[i], '^' .. prefix .. '(%d+)$'))
    if value then
      values[#values + 1], counts[value] = value, stored(all[i + 1])
      left, sum = left + counts[value], sum + value * counts[value]
    end
  end
  if sum ~= total then error('damaged') end
  table.sort(values)
  for _, value in ipairs(values) do
    local level = capacity / left
    if value >= level then return whole(level, left, id) end
    capacity, left = capacity - value * counts[value], left - counts[value]
  end
  return total
end

-- Up to 64 a demand counts as it is, above in steps of a thirty-second to a sixty-fourth, so that
-- the histograms stay small.
local function rounded(demand)
  local step = 1
  while demand > 64 * step do step = step * 2 end
  return math.min(COUNT_MAX, math.ceil(demand / step) * step)
end

local function server()
  local clients, replication = redis.call('INFO', 'clients'), redis.call('INFO', 'replication')
  local function field(info, name) return tonumber(string.match(info, '[\r\n]' .. name .. ':(%d+)')) end
  local used = field(clients, 'connected_clients')
  local ceiling = field(clients, 'maxclients') or field(clients, 'max_clients')
  if not used or not ceiling or ceiling < 1 then return nil end
  -- Those that are in use by whom they are kept for are in `used`.
  local kept = bounded(ARGV[11], 0, ceiling) - (field(clients, 'connected_priority_clients') or 0)
  ceiling = math.max(1, ceiling - math.max(0, kept))
  used = used + (field(clients, 'cluster_connections') or 0) + (field(replication, 'connected_slaves') or 0)
  return used, ceiling
end

local function beat(used, ceiling)
  local id, seq = ARGV[2], bounded(ARGV[3], 0, SEQ_MAX)
  local max = bounded(ARGV[9], 1, math.min(ceiling, COUNT_MAX))
  local live, dialing = bounded(ARGV[4], 0, COUNT_MAX), bounded(ARGV[5], 0, max)
  local base, peak = bounded(ARGV[6], 0, max), bounded(ARGV[7], 0, max)
  local hungry, floor = ARGV[8] == '1', math.min(FLOOR, max)
  local held = math.min(live + dialing, COUNT_MAX)

  local sum = read_sums()
  for _, expired in ipairs(redis.call('ZRANGEBYSCORE', expiries, '-inf', now, 'LIMIT', 0, 16)) do
    forget(sum, expired)
  end
  local mine = record_of(id)
  if mine.seq >= seq then
    write_sums(sum)
    return { -1 }
  end
  tally(sum, mine, -1)
  local record = { seq = seq, granted = held, live = live, base = rounded(base) }
  record.extra = rounded(math.max(0, peak - base))
  base, peak = record.base, record.base + record.extra
  move('b', mine.base, base)
  move('x', mine.extra, record.extra)

  local n = redis.call('HLEN', members) + (mine == NOBODY and 1 or 0)
  local interval = math.max(2000, 2.5 * n)
  local ttl = 3.5 * interval
  -- A deploy that doubles the fleet makes one blind dial a member before it hears of us.
  local reserve = math.max(0.02 * ceiling, 16, bounded(ARGV[10], 0, ceiling), math.min(n, 0.04 * ceiling))
  reserve = math.ceil(math.min(reserve, ceiling / 4))
  local usable = ceiling - reserve

  -- What unguarded clients hold is theirs only as fast as the fleet agrees to yield, or a leak
  -- would take everything; and it does yield, or they would starve.
  local foreign = math.max(0, used - sum.granted - held)
  if sum.seen > 0 then
    foreign = math.min(foreign, sum.foreign + math.max(0, now - sum.seen) * YIELD * ceiling)
  end
  sum.foreign, sum.seen = foreign, now
  local cap = math.max(usable - foreign, KEPT * usable)

  local total_base, total_extra = sum.base + base, sum.extra + record.extra
  local taken = used + sum.outstanding + dialing
  local target = max
  if total_base > cap then
    target = math.min(base, water_level('b', total_base, cap, id))
  elseif total_base + total_extra > cap then
    target = base + math.min(record.extra, water_level('x', total_extra, cap - total_base, id))
  end
  if not hungry and taken > TIGHT * ceiling then target = math.min(target, peak) end
  target = math.min(max, target)

  local limit = held
  if target < held then
    -- By half at most: demand is an estimate. The slots stay granted until they are closed.
    limit = math.min(held, math.max(target, math.ceil(held / 2), floor))
  elseif hungry then
    local mark = QUIET * usable - taken
    local want = mark > 0 and target or math.min(target, math.max(base, live + math.max(1, math.ceil(live / 4))))
    local free = usable - taken
    if now - sum.born < YOUNG_MS then free = math.min(free, mark) end
    limit = math.max(held, math.min(want, held + math.floor(free)))
  end
  -- The floor comes out of the reserve, as far as that goes.
  if limit < floor then limit = math.min(floor, math.max(limit, held + ceiling - taken)) end
  limit = math.min(max, math.max(1, limit))
  record.granted = math.max(limit, held)

  tally(sum, record, 1)
  redis.call('HSET', members, id, string.format(
    '%.0f %.0f %.0f %.0f %.0f', seq, record.granted, live, base, record.extra))
  redis.call('ZADD', expiries, now + ttl, id)
  write_sums(sum)
  -- Costs 3 us a member: a millisecond a minute for 300 of them, 30 ms in ten minutes for 10,000.
  local pause = math.max(60000, 60 * n)
  if sum.born == now or now < sum.audited or now - sum.audited > pause then audit(ttl, pause) end

  local pressure = math.floor(1000 * (taken + record.granted - held) / ceiling)
  -- Soon again also for whoever is far below its share, so that newcomers need not wait for a whole
  -- interval; of thousands, a tenth of one is soon enough.
  local again = interval
  if limit < held then
    again = AGAIN_MS
  elseif hungry and limit < 0.75 * target then
    again = math.max(AGAIN_MS, interval / 10)
  end
  return { limit, math.floor(again), math.floor(ttl), n, reserve, pressure, sum.repaired }
end

local function leave()
  local sum = read_sums()
  forget(sum, ARGV[2])
  write_sums(sum)
  return { redis.call('HLEN', members) }
end

local operation, used, ceiling = leave, nil, nil
if ARGV[1] == 'beat' then
  used, ceiling = server()
  if not used then return { -1 } end
  operation = beat
end
local done, reply = pcall(operation, used, ceiling)
if done then return reply end
local reason = type(reply) == 'table' and reply.err or tostring(reply)
if not (string.find(reason, 'damaged') or string.find(reason, 'WRONGTYPE')
    or string.find(reason, 'not an integer')) then
  return redis.error_reply(reason)
end
audit(7000, 60000)
return operation(used, ceiling)
