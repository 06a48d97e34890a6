-- The registry of a fleet: one heartbeat of one member, as one atomic step on the server itself.
--
-- KEYS  members   hash: id -> "seq granted live base extra"
--                 (its form and bounds are also in record.rs)
--       expiries  sorted set: id by the time (ms, server clock) at which it is given up
--       sums      hash: `state` of the registry (see read_state), the sums over all members and
--                 `news`, when slots last became scarce, among it; and the histograms b<n> and x<n>
--                 of base and extra
-- ARGV  'beat', id, seq, live, dialing, base, peak, hungry (0 or 1), max, reserve,
--         slots that the server keeps from us (its `maxclients-reserved`, which no script can ask for)
--       'leave', id
-- Gives { limit, interval ms, ttl ms, members, reserve, pressure in thousandths, repaired, glance ms,
--       news }: so often the member looks whether `news` in `state` is another (0: never), and beats at
--       once if it is; or { -1 } where there is nothing to go by: the ceiling is hidden, or this beat
--       was overtaken.
--
-- Every grant is made against the server's own count of this instant. A slot is taken if it is in
-- `used`, and promised if it was granted and its owner has not reported it yet; a grant comes out of
-- what is neither. Members void what they have not used when they send a beat and when they lose a
-- connection, so `live` may lag behind what they hold but not the other way round, and the sum of
-- grants cannot pass what was free.
--
-- The sums are kept, not summed, so a beat costs the same in a fleet of ten and of ten thousand:
-- 350,000 instructions (7.0.15), a fifth of them INFO of two sections, so nothing is cached, and no
-- formula mixes quantities of different instants. What waking up costs a server that has nothing else
-- to do comes on top, so the fewer beats the better: see `busy_ms`.
-- Fields that were overwritten are noticed when read, or by the audit, and rebuilt from the members.

local members, expiries, sums = KEYS[1], KEYS[2], KEYS[3]

local FLOOR = 2            -- nobody is shrunk below; served from the reserve
local QUIET = 0.5          -- of what the fleet may use: below, whoever is hungry gets all it may have
local TIGHT = 0.75         -- above, members that are not hungry give back what they do not need
local KEPT = 0.25          -- of the slots stay the fleet's, whatever unguarded clients take
local YIELD = 0.1 / 60000  -- of the ceiling a ms: how fast unguarded clients may take the rest
local CALM = 0.8           -- of what the fleet may use: below, whoever is hungry finds what it needs
local BUSY_MS = 3000       -- between a member's beats, or this much a member where that is longer
local BUSY_MS_EACH = 5
local CALM_MS = 30000      -- the same when it has been calm for long, or less in a small fleet
local CALM_MS_EACH = 125
local SPARE_MS = 4000      -- for a beat that is lost, and the next try 2 s later
local COUNT_MAX = 1000000  -- connections; no record has more
local SEQ_MAX = 1e15       -- beats; numbers up to there are exact

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A member's argument: whatever it says, within bounds.
local function bounded(text, low, high)
  local number = tonumber(text)
  if not number or number ~= number then return low end
  return math.floor(math.max(low, math.min(high, number)))
end

local function blank_state()
  return { granted = 0, outstanding = 0, base = 0, extra = 0, born = now, audited = now, foreign = 0,
    seen = 0, busy = now, news = now, repaired = 0 }
end

-- One field, for each command of a script costs more than the fields do.
local function read_state()
  local text = redis.call('HGET', sums, 'state')
  if not text then return blank_state() end
  local granted, outstanding, base, extra, born, audited, foreign, seen, busy, news, repaired = string.match(
    text, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+%.%d+) (%d+) (%d+) (%d+) (%d+)$')
  if not granted then error('damaged') end
  local state = {
    granted = tonumber(granted), outstanding = tonumber(outstanding), base = tonumber(base),
    extra = tonumber(extra), born = tonumber(born), audited = tonumber(audited),
    foreign = tonumber(foreign), seen = tonumber(seen), busy = tonumber(busy),
    news = tonumber(news), repaired = tonumber(repaired),
  }
  for _, number in pairs(state) do if number > SEQ_MAX then error('damaged') end end
  return state
end

local function write_state(state)
  redis.call('HSET', sums, 'state', string.format('%d %d %d %d %d %d %.3f %d %d %d %d', state.granted,
    state.outstanding, state.base, state.extra, state.born, state.audited, state.foreign,
    state.seen, state.busy, state.news, state.repaired))
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
local function tally(state, record, by)
  state.granted = state.granted + by * record.granted
  state.outstanding = state.outstanding + by * math.max(0, record.granted - record.live)
  state.base = state.base + by * record.base
  state.extra = state.extra + by * record.extra
  if math.min(state.granted, state.outstanding, state.base, state.extra) < 0 then error('damaged') end
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

local function forget(state, id)
  local record = record_of(id)
  tally(state, record, -1)
  move('b', record.base, 0)
  move('x', record.extra, 0)
  redis.call('HDEL', members, id)
  redis.call('ZREM', expiries, id)
end

-- Between a member's beats while slots are wanted, and at most: of n members, in ms.
local function busy_ms(n) return math.max(BUSY_MS, BUSY_MS_EACH * n) end
local function calm_ms(n) return math.max(busy_ms(n), math.min(CALM_MS, CALM_MS_EACH * n)) end

-- When a member that beats at that interval, 30 % more at most, is given up: it may miss one.
local function ttl_of(interval) return 1.5 * interval + SPARE_MS end

-- Sums up the members anew. What does not fit is dropped, and counted. `pause`: to the next one.
local function audit(pause)
  local repaired = 0
  for _, pair in ipairs({ { members, 'hash' }, { expiries, 'zset' }, { sums, 'hash' } }) do
    local kind = redis.call('TYPE', pair[1])
    kind = kind.ok or kind
    if kind ~= pair[2] and kind ~= 'none' then
      redis.call('DEL', pair[1])
      repaired = repaired + 1
    end
  end
  local readable, before = pcall(read_state)
  if not readable then
    before = blank_state()
    before.seen = now
  end
  local state = blank_state()
  state.born, state.seen = math.min(before.born, now), math.min(before.seen, now)
  state.busy, state.news, state.foreign = math.min(before.busy, now), before.news, before.foreign
  local kept = redis.call('HGETALL', sums)
  local counts = {}
  local all = redis.call('HGETALL', members)
  local ttl = ttl_of(calm_ms(#all / 2))
  redis.call('ZREMRANGEBYSCORE', expiries, '(' .. string.format('%.0f', now + 2 * ttl), '+inf')
  local complete = redis.call('ZCARD', expiries) == #all / 2
  for i = 1, #all, 2 do
    local record = parse(all[i + 1])
    if record then
      tally(state, record, 1)
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
  for i = 1, #kept, 2 do
    local right = tonumber(kept[i + 1]) == (counts[kept[i]] or 0)
    if kept[i] == 'state' then
      right = readable and before.granted == state.granted and before.outstanding == state.outstanding
        and before.base == state.base and before.extra == state.extra
    end
    if not right then repaired = repaired + 1 end
  end
  state.repaired = before.repaired + repaired
  redis.call('DEL', sums)
  write_state(state)
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
      local count = tonumber(all[i + 1])
      if not count or count > COUNT_MAX then error('damaged') end
      values[#values + 1], counts[value] = value, count
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
  local function field(info, name)
    local _, last = string.find(info, '\n' .. name .. ':', 1, true)
    return last and tonumber(string.match(info, '^%d+', last + 1))
  end
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

  local state = read_state()
  for _, expired in ipairs(redis.call('ZRANGEBYSCORE', expiries, '-inf', now, 'LIMIT', 0, 16)) do
    forget(state, expired)
  end
  local mine = record_of(id)
  if mine.seq >= seq then
    write_state(state)
    return { -1 }
  end
  tally(state, mine, -1)
  local record = { seq = seq, granted = held, live = live, base = rounded(base) }
  record.extra = rounded(math.max(0, peak - base))
  base, peak = record.base, record.base + record.extra
  move('b', mine.base, base)
  move('x', mine.extra, record.extra)

  local n = redis.call('HLEN', members) + (mine == NOBODY and 1 or 0)
  -- A deploy that doubles the fleet makes one blind dial a member before it hears of us.
  local reserve = math.max(0.02 * ceiling, 16, bounded(ARGV[10], 0, ceiling), math.min(n, 0.04 * ceiling))
  reserve = math.ceil(math.min(reserve, ceiling / 4))
  local usable = ceiling - reserve

  -- What unguarded clients hold is theirs only as fast as the fleet agrees to yield, or a leak
  -- would take everything; and it does yield, or they would starve.
  local foreign = math.max(0, used - state.granted - held)
  if state.seen > 0 then
    foreign = math.min(foreign, state.foreign + math.max(0, now - state.seen) * YIELD * ceiling)
  end
  state.foreign, state.seen = foreign, now
  local cap = math.max(usable - foreign, KEPT * usable)

  local total_base, total_extra = state.base + base, state.extra + record.extra
  local taken = used + state.outstanding + dialing
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
    -- So young a registry does not know everybody's grants yet.
    if now - state.born < 1.5 * busy_ms(n) then free = math.min(free, mark) end
    limit = math.max(held, math.min(want, held + math.floor(free)))
  end
  -- The floor comes out of the reserve, as far as that goes.
  if limit < floor then limit = math.min(floor, math.max(limit, held + ceiling - taken)) end
  limit = math.min(max, math.max(1, limit))
  record.granted = math.max(limit, held)

  taken = taken + record.granted - held
  local in_vain = hungry and limit <= held and held < max
  local interval, glance = busy_ms(n), 0
  if in_vain or taken > CALM * usable then
    -- Within that time everybody still beats as often as when it was busy.
    if now - state.busy > 2 * interval then state.news = now end
    state.busy = now
  end
  -- As long again as the fleet has been calm: where it was busy a moment ago, it may soon be so again.
  local calm = math.min(calm_ms(n), now - state.busy)
  if calm > interval and not hungry then
    -- Who has more than there would be for each in a fleet twice as large may have to give back soon.
    if held > math.max(floor, cap / n / 2) and taken > QUIET * usable then glance = interval end
    interval = calm
  end
  local ttl = ttl_of(interval)

  tally(state, record, 1)
  redis.call('HSET', members, id, string.format(
    '%d %d %d %d %d', seq, record.granted, live, base, record.extra))
  redis.call('ZADD', expiries, now + ttl, id)
  write_state(state)
  -- Costs 3 us a member: a millisecond a minute for 300 of them, 30 ms in ten minutes for 10,000.
  local pause = math.max(60000, 60 * n)
  if state.born == now or now < state.audited or now - state.audited > pause then audit(pause) end

  local pressure = math.floor(1000 * taken / ceiling)
  -- Sooner for whoever has to give back, or is far below its share: newcomers need not wait for a whole
  -- interval. Where nothing was left, the others have to hear of it first.
  local again = interval
  if limit < held then
    again = interval / 8
  elseif hungry and limit < 0.75 * target then
    again = interval / (in_vain and 2 or 8)
  end
  return { limit, math.floor(again), math.floor(ttl), n, reserve, pressure, state.repaired, glance, state.news }
end

local function leave()
  local state = read_state()
  forget(state, ARGV[2])
  write_state(state)
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
audit(60000)
return operation(used, ceiling)
