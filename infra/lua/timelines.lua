#!lua name=fanfold

-- Everything that is written to a Redis node goes through these Functions.
--
-- key            type    holds                                                   bound           time to live
-- n              hash    incarnation, run_id, epoch of this node                 3 fields        none
-- c:<partition>  hash    control record of a deliveries partition:               5 fields        none
--                        epoch, generation, call, applied, delivered
-- h:<8 bytes>    list    home timeline: head, then entries, newest at the tail   length + 65     30 days, 60 s under a token
-- u:<8 bytes>    list    user timeline, the same form                            length + 65     the same
-- f:<8 bytes>    set     followed celebrities, always with one sentinel          follows         the same
-- x:<tweet id>   string  nothing: the tweet was retracted from its author's      empty           20 minutes
--                        user timeline shortly after it was posted
--
-- <8 bytes> is the user's id, big-endian, so every timeline's key has 10 bytes.
-- A head is the floor ("0" or a tweet id), or "-<token>" while a rebuild runs; "-0" is a token that nobody holds.
-- Tweet ids are 19 digits and over 2^53: they are compared as strings, never as numbers.

local KEY_BYTES = 10
local TRIM_SLACK = 64        -- entries above the length before a trim: one trim for 64 appends
local TOKEN_TTL_S = 60       -- a rebuild that died leaves its half-built list for no longer
local TOKEN_ENTRIES_MAX = 2  -- times the length; a list under a token that grows beyond is dropped: absent is safe
local REFILL_BELOW = 0.5     -- of the length; with fewer entries above a floor the timeline is short
local LOOK_FIRST = 16         -- entries of the first look for the place of an old id; each further look takes four times as many
local PUSH_MAX = 4000        -- arguments of one command; Lua's stack holds about 8,000
local MINUS, HOME = 45, 104  -- letters
local TOKEN_OF_NOBODY = '-0'
local SENTINEL = '0'
local SNOWFLAKE_EPOCH_MS = 883612800000  -- 1998-01-01
local OWN_LATE_MS = 60000        -- a write-through that comes later than this after the post is refused
local MARK_YOUNGER_MS = 600000   -- ten times that: clocks may differ by nine minutes
local MARK_TTL_S = 1200
local RETRACTED = 'x:'

local function is_token(head)
  return string.byte(head) == MINUS
end

local function keys_of(page)
  local position = 1 - KEY_BYTES
  return function()
    position = position + KEY_BYTES
    if position <= #page then return string.sub(page, position, position + KEY_BYTES - 1) end
  end
end

local function ids_of(text)
  local ids = {}
  for id in string.gmatch(text, '%d+') do ids[#ids + 1] = id end
  return ids
end

-- A list's head, or nil when it is absent. What cannot be a timeline (another type, a head that is no number) was not
-- written by us: it is removed, since absent is safe and one key must not stop a partition.
local function head_of(key)
  local head = redis.pcall('LINDEX', key, 0)
  if not head then return nil end
  if type(head) == 'table' or not string.find(head, '^%-?%d+$') then
    redis.call('DEL', key)
    return nil
  end
  return head
end

-- Returns the list's size.
local function push(key, values)
  local size
  for from = 1, #values, PUSH_MAX do
    size = redis.call('RPUSH', key, unpack(values, from, math.min(from + PUSH_MAX - 1, #values)))
  end
  return size
end

-- Fencing ---------------------------------------------------------------------------------------------------------

-- The error reply that refuses a caller of another epoch, or nil.
local function refusal(epoch)
  local node = redis.call('HMGET', 'n', 'incarnation', 'epoch')
  if not node[1] then return redis.error_reply('FENCED no incarnation: the node restarted and is not registered yet') end
  if node[2] ~= epoch then
    return redis.error_reply('FENCED epoch ' .. epoch .. ' but the node has ' .. tostring(node[2] or 'none'))
  end
end

-- Checks and takes one numbered call of a partition. Returns the applied offset, or nil and the refusal.
local function take_call(partition, epoch, generation, call)
  local refused = refusal(epoch)
  if refused then return nil, refused end
  local key = 'c:' .. partition
  local record = redis.call('HMGET', key, 'epoch', 'generation', 'call', 'applied')
  if record[1] == epoch then
    local had_generation, had_call = tonumber(record[2]), tonumber(record[3])
    if generation < had_generation then
      return nil, redis.error_reply('SUPERSEDED generation ' .. generation .. ' of partition ' .. partition ..
        ': the node has seen ' .. had_generation)
    end
    if generation == had_generation and call <= had_call then
      return nil, redis.error_reply('FENCED call ' .. generation .. '/' .. call .. ' of partition ' .. partition ..
        ': the node has seen ' .. had_call)
    end
  end
  redis.call('HSET', key, 'epoch', epoch, 'generation', generation, 'call', call)
  return tonumber(record[4] or -1)
end

-- Lists -----------------------------------------------------------------------------------------------------------

-- Cuts to the length. The newest id that is cut stays as the first element: it is the floor.
local function trim(key, size, length)
  if size <= length + 1 + TRIM_SLACK then return end
  if not is_token(redis.call('LINDEX', key, 0)) then
    redis.call('LTRIM', key, -(length + 1), -1)
  elseif size > TOKEN_ENTRIES_MAX * length then
    redis.call('DEL', key)
  end
end

-- The end of a list: what is not older than an id, ascending; nil and the floor when the id is at or below it.
local function newer_part(key, id)
  local wanted = LOOK_FIRST
  while true do
    local part = redis.call('LRANGE', key, -wanted, -1)
    if part[1] < id then
      local first = #part + 1
      while part[first - 1] >= id do first = first - 1 end
      return part, first
    end
    if #part < wanted then return part, 2, part[1] end
    wanted = wanted * 4
  end
end

-- Puts ascending ids in their places in a list whose tail is not older than the first of them. Only the end that they
-- change is written again. Returns how many were out of order, that is: inserted before an entry.
local function insert_inside(key, ids, length)
  local part, first, floor = newer_part(key, ids[1])
  local i, j, out_of_order, merged = first, 1, 0, {}
  if floor and not is_token(floor) then
    while ids[j] and ids[j] <= floor do j = j + 1 end
  end
  local again = #part - first + 1
  while part[i] or ids[j] do
    if not ids[j] or (part[i] and part[i] < ids[j]) then
      merged[#merged + 1], i = part[i], i + 1
    else
      if part[i] == ids[j] then i = i + 1 elseif part[i] then out_of_order = out_of_order + 1 end
      merged[#merged + 1], j = ids[j], j + 1
    end
  end
  if #merged == again then return 0 end
  if again > 0 then redis.call('LTRIM', key, 0, -(again + 1)) end
  trim(key, push(key, merged), length)
  return out_of_order
end

-- True when removals left too little above a floor.
local function is_short(key, head, length)
  return head ~= '0' and redis.call('LLEN', key) - 1 < length * REFILL_BELOW
end

-- Removes ids from a list. Under a token the token is replaced: the rebuild's snapshot may still hold them.
-- Returns whether the list is short now, also when nothing was removed: the answer to an earlier call may be lost.
local function remove(key, ids, length)
  local head = head_of(key)
  if not head then return false end
  if is_token(head) then redis.call('LSET', key, 0, TOKEN_OF_NOBODY) end
  for _, id in ipairs(ids) do
    if id ~= head then redis.call('LREM', key, -1, id) end
  end
  return not is_token(head) and is_short(key, head, length)
end

-- By this server's clock and the time inside the id, to a millisecond.
local function age_ms(id)
  local now = redis.call('TIME')
  return now[1] * 1000 + now[2] / 1000 - (tonumber(id) / 4194304 + SNOWFLAKE_EPOCH_MS)
end

-- A younger tweet's publish call may still be on its way.
local function mark_retracted(ids)
  for _, id in ipairs(ids) do
    if age_ms(id) < MARK_YOUNGER_MS then redis.call('SET', RETRACTED .. id, '', 'EX', MARK_TTL_S) end
  end
end

-- Replaces a list by head and entries (ascending), cut to the length.
local function rewrite(key, floor, entries, length, ttl_s)
  local first = 1
  if #entries > length then
    first = #entries - length + 1
    floor = entries[first - 1]
  end
  redis.call('DEL', key)
  local values = { floor }
  for at = first, #entries do values[#values + 1] = entries[at] end
  push(key, values)
  redis.call('EXPIRE', key, ttl_s)
end

-- Two ascending lists as one, each id once, without those at or below the floor.
local function union_above(floor, left, right)
  local merged, i, j = {}, 1, 1
  while left[i] or right[j] do
    local id
    if not right[j] or (left[i] and left[i] < right[j]) then
      id, i = left[i], i + 1
    elseif not left[i] or right[j] < left[i] then
      id, j = right[j], j + 1
    else
      id, i, j = left[i], i + 1, j + 1
    end
    if floor == '0' or id > floor then merged[#merged + 1] = id end
  end
  return merged
end

local function higher(left, right)
  if left == '0' then return right end
  if right == '0' then return left end
  return left > right and left or right
end

-- An author's tweets into one timeline: ids ascending, complete above the bound. Under a token the token is replaced:
-- the follow is committed, so the next snapshot holds them.
local function merge_author(key, bound, ids, length)
  local head = head_of(key)
  if not head then return end
  local list = redis.call('LRANGE', key, 1, -1)
  if is_token(head) then
    redis.call('LSET', key, 0, TOKEN_OF_NOBODY)
    return
  end
  local ttl_s = redis.call('TTL', key)
  local floor = higher(head, bound)
  rewrite(key, floor, union_above(floor, list, ids), length, ttl_s)
end

-- Followed celebrities: the set's token is a member "-<token>"; a removal under it drops the set.
local function change_celebrity(key, author, add)
  if redis.call('EXISTS', key) == 0 then return end
  if add then
    redis.call('SADD', key, author)
  elseif redis.call('SISMEMBER', key, SENTINEL) == 1 then
    redis.call('SREM', key, author)
  else
    redis.call('DEL', key)
  end
end

-- Ascending ids into a list, the usual case first: newer than all that is there. Returns nil when the list is absent,
-- else how many were out of order.
local function insert(key, ids, length)
  local tail = redis.pcall('LINDEX', key, -1)
  if type(tail) == 'table' then tail = head_of(key) end
  if not tail then return nil end
  if ids[1] <= tail then return insert_inside(key, ids, length) end  -- a token is below every id: "-" sorts first
  trim(key, push(key, ids), length)
  return 0
end

-- Two bytes each, big-endian.
local function numbers_of(text, from, count)
  local numbers = {}
  for at = from, from + 2 * count - 1, 2 do
    local high, low = string.byte(text, at, at + 1)
    numbers[#numbers + 1] = high * 256 + low
  end
  return numbers
end

local function ids_at(ids, extra, at, count)
  local values = {}
  for i, place in ipairs(numbers_of(extra, at, count)) do values[i] = ids[place + 1] end
  return values
end

-- The lists of a grouped record: iterates over key, its ids ascending, and their places in `ids`.
local function groups_of(ids, page, extra)
  local counts = numbers_of(extra, 1, #page / KEY_BYTES)
  local at, group = 2 * #counts + 1, 0
  return function()
    group = group + 1
    local count = counts[group]
    if not count then return nil end
    local places = numbers_of(extra, at, count)
    at = at + 2 * count
    local values = {}
    for i = 1, count do values[i] = ids[places[i] + 1] end
    return string.sub(page, (group - 1) * KEY_BYTES + 1, group * KEY_BYTES), values, places
  end
end

-- Writing in the order of the log -----------------------------------------------------------------------------------

-- A D record: see apply. After a redelivery some of the ids were counted before. Nearly every list gets one id that is
-- newer than all it has: that case is written out here, without a table or a further call for each list.
local function insert_groups(ids, offset, applied, page, extra, length, count)
  local call, pcall, byte, sub = redis.call, redis.pcall, string.byte, string.sub
  local lists, size_max = #page / KEY_BYTES, length + 1 + TRIM_SLACK
  local is_home, all_new = byte(page) == HOME, offset > applied
  local places_at, offsets_at = 2 * lists + 1, #extra - 4 * #ids
  local function is_new(place)
    local a, b, c, d = byte(extra, offsets_at + 4 * place + 1, offsets_at + 4 * place + 4)
    return offset + ((a * 256 + b) * 256 + c) * 256 + d > applied
  end
  for list = 1, lists do
    local key = sub(page, (list - 1) * KEY_BYTES + 1, list * KEY_BYTES)
    local high, low, place_high, place_low = byte(extra, 2 * list - 1), byte(extra, 2 * list), byte(extra, places_at, places_at + 1)
    local wanted, place, out_of_order = high * 256 + low, place_high * 256 + place_low, nil
    local tail, id = wanted == 1 and pcall('LINDEX', key, -1), ids[place + 1]
    if tail and type(tail) == 'string' and id > tail then
      local size = call('RPUSH', key, id)
      if size > size_max then trim(key, size, length) end
      out_of_order = 0
    elseif tail ~= false or wanted > 1 then
      out_of_order = insert(key, ids_at(ids, extra, places_at, wanted), length)
    end
    if is_home then
      local new = wanted
      if not all_new then
        new = 0
        for _, one in ipairs(numbers_of(extra, places_at, wanted)) do if is_new(one) then new = new + 1 end end
      end
      if out_of_order then count.delivered = count.delivered + new else count.absent = count.absent + new end
    end
    count.out_of_order = count.out_of_order + (out_of_order or 0)
    places_at = places_at + 2 * wanted
  end
end

-- apply: partition, epoch, generation, call, last offset, earlier, length, then five arguments a record:
--   kind, offset, ids, page of keys, extra
-- A run of messages may take several calls, each for other lists: only the final one has a last offset, the others -1,
-- and it brings what the earlier ones answered as delivered, so that a run is counted whole or not at all.
-- kind D insert ids into lists · R remove ids from lists. Grouped: `ids` ascending, separated by spaces; for each key of
--      the page `extra` has two bytes with its number of ids, then for each of these two bytes with its place in `ids`,
--      then for each of `ids` four bytes: its offset, counted from `offset`.
-- kind M merge the ids of `extra` into each list, complete above the id in `ids` · X remove the ids of `extra` from each
--      list · A, B add or remove the celebrity `ids` in each set
-- Idempotent by offset for the count, and by the lists themselves for the entries.
-- Returns how many entries of D records are in home timelines now that were not applied before, how many of them met
-- an absent list, how many entries were not the newest of their list, then the keys of lists that are short.
local function apply(_, args)
  local partition, epoch, generation, call = args[1], args[2], tonumber(args[3]), tonumber(args[4])
  local last, earlier, length = tonumber(args[5]), tonumber(args[6]), tonumber(args[7])
  local applied, refused = take_call(partition, epoch, generation, call)
  if not applied then return refused end

  local count, short = { delivered = 0, absent = 0, out_of_order = 0 }, {}
  for at = 8, #args, 5 do
    local kind, offset, ids, page, extra = args[at], tonumber(args[at + 1]), args[at + 2], args[at + 3], args[at + 4]
    if kind == 'D' then
      insert_groups(ids_of(ids), offset, applied, page, extra, length, count)
    elseif kind == 'R' then
      for key, gone in groups_of(ids_of(ids), page, extra) do
        if string.sub(key, 1, 1) == 'u' then mark_retracted(gone) end
        if remove(key, gone, length) then short[#short + 1] = key end
      end
    elseif kind == 'X' then
      local gone = ids_of(extra)
      for key in keys_of(page) do
        if remove(key, gone, length) then short[#short + 1] = key end
      end
    elseif kind == 'M' then
      local merged = ids_of(extra)
      for key in keys_of(page) do merge_author(key, ids, merged, length) end
    else
      for key in keys_of(page) do change_celebrity(key, ids, kind == 'A') end
    end
  end

  if last > applied then
    redis.call('HSET', 'c:' .. partition, 'applied', args[5])
    redis.call('HINCRBY', 'c:' .. partition, 'delivered', count.delivered + earlier)
  end
  return { count.delivered, count.absent, count.out_of_order, short }
end

-- open_removal: partition, epoch, generation, call, page of keys. The reading half of an unmerge: replaces tokens, and
-- returns the entries of each list that is present and not under a token (an empty list for the others).
local function open_removal(_, args)
  local applied, refused = take_call(args[1], args[2], tonumber(args[3]), tonumber(args[4]))
  if not applied then return refused end
  local answer = {}
  for key in keys_of(args[5]) do
    local head = head_of(key)
    if head and is_token(head) then redis.call('LSET', key, 0, TOKEN_OF_NOBODY) end
    answer[#answer + 1] = head and redis.call('LRANGE', key, 1, -1) or {}
  end
  return answer
end

-- The primitive: token, fresh read, merge if the token is mine --------------------------------------------------------

-- put_token: epoch, token, mode, page of keys. Mode 'claim' takes lists that are absent or whose token nobody holds;
-- 'join' also takes another's token; 'renew' also takes present lists, which keep their entries.
-- Returns one letter a key: T taken, P present, B busy under another's token.
local function put_token(_, args)
  local refused = refusal(args[1])
  if refused then return refused end
  local head_of_mine, mode, answer = '-' .. args[2], args[3], {}
  for key in keys_of(args[4]) do
    local head = head_of(key)
    local letter = 'T'
    if not head then
      redis.call('RPUSH', key, head_of_mine)
    elseif head == TOKEN_OF_NOBODY or (is_token(head) and mode ~= 'claim') or (not is_token(head) and mode == 'renew') then
      redis.call('LSET', key, 0, head_of_mine)
    else
      letter = is_token(head) and 'B' or 'P'
    end
    if letter == 'T' then redis.call('EXPIRE', key, TOKEN_TTL_S) end
    answer[#answer + 1] = letter
  end
  return table.concat(answer)
end

-- merge_rebuilt: epoch, token, length, ttl in seconds, then three arguments a list: key, floor, ids ascending.
-- Returns one letter a key: M merged, L the token was lost.
local function merge_rebuilt(_, args)
  local refused = refusal(args[1])
  if refused then return refused end
  local head_of_mine, length, ttl_s, answer = '-' .. args[2], tonumber(args[3]), tonumber(args[4]), {}
  for at = 5, #args, 3 do
    local key, floor = args[at], args[at + 1]
    if head_of(key) == head_of_mine then
      local list = redis.call('LRANGE', key, 1, -1)
      rewrite(key, floor, union_above(floor, list, ids_of(args[at + 2])), length, ttl_s)
      answer[#answer + 1] = 'M'
    else
      answer[#answer + 1] = 'L'
    end
  end
  return table.concat(answer)
end

-- open_celebrities: epoch, token, key. A set under a token holds "-<token>" and what changed meanwhile.
local function open_celebrities(_, args)
  local refused = refusal(args[1])
  if refused then return refused end
  if redis.call('SISMEMBER', args[3], SENTINEL) == 1 then return 0 end
  redis.call('DEL', args[3])
  redis.call('SADD', args[3], '-' .. args[2])
  redis.call('EXPIRE', args[3], TOKEN_TTL_S)
  return 1
end

-- fill_celebrities: epoch, token, key, ttl in seconds, ids. Returns 1, or 0 when the token was lost.
local function fill_celebrities(_, args)
  local refused = refusal(args[1])
  if refused then return refused end
  if redis.call('SREM', args[3], '-' .. args[2]) == 0 then return 0 end
  redis.call('SADD', args[3], SENTINEL)
  local ids = ids_of(args[5])
  for from = 1, #ids, PUSH_MAX do
    redis.call('SADD', args[3], unpack(ids, from, math.min(from + PUSH_MAX - 1, #ids)))
  end
  redis.call('EXPIRE', args[3], args[4])
  return 1
end

-- install_epoch: epoch. Only ever raised. Returns the epoch in force.
local function install_epoch(_, args)
  local node = redis.call('HMGET', 'n', 'incarnation', 'epoch')
  if not node[1] then return redis.error_reply('FENCED no incarnation: the node restarted and is not registered yet') end
  if tonumber(args[1]) > tonumber(node[2] or 0) then
    redis.call('HSET', 'n', 'epoch', args[1])
    return tonumber(args[1])
  end
  return tonumber(node[2])
end

-- put_own: epoch, page of keys of user timelines, a tweet id for each. What a publish call writes through, ahead of the
-- log. A call that runs late must not bring back what was retracted: it is refused by its age, and by the mark before.
local function put_own(_, args)
  local refused = refusal(args[1])
  if refused then return refused end
  local ids, at, length = ids_of(args[3]), 0, tonumber(args[4])
  for key in keys_of(args[2]) do
    at = at + 1
    if age_ms(ids[at]) < OWN_LATE_MS and redis.call('EXISTS', RETRACTED .. ids[at]) == 0 then
      insert(key, { ids[at] }, length)
    end
  end
  return at
end

-- renew: epoch, ttl in seconds, page of keys. Gives present lists and sets more time; never less, never under a token.
local function renew(_, args)
  local refused = refusal(args[1])
  if refused then return refused end
  for key in keys_of(args[3]) do
    if redis.call('TTL', key) > TOKEN_TTL_S then redis.call('EXPIRE', key, args[2], 'GT') end
  end
  return 1
end

-- Reading -------------------------------------------------------------------------------------------------------------

-- The place of the first entry that is not older than an id; the list's size when there is none.
local function place_of(key, id, size)
  local low, high = 1, size
  while low < high do
    local middle = math.floor((low + high) / 2)
    if redis.call('LINDEX', key, middle) < id then low = middle + 1 else high = middle end
  end
  return low
end

-- What a page needs of a list, as text: the head, then the entries beside the cursor and not beyond `bound`, ascending.
-- The head alone under a token; "" when the list is absent.
local function part_of(key, cursor, wanted, upwards, bound)
  local head = redis.pcall('LINDEX', key, 0)
  if type(head) ~= 'string' or not string.find(head, '^%-?%d+$') then return '' end
  if is_token(head) then return head end
  local list, first = {}, 1
  if cursor == '' then
    list = redis.call('LRANGE', key, -wanted, -1)
    if list[1] == head then first = 2 end
  else
    local place = place_of(key, cursor, redis.call('LLEN', key))
    local from, to = math.max(place - wanted, 1), place - 1
    if upwards then from, to = place, place + wanted - 1 end
    if from <= to then list = redis.call('LRANGE', key, from, to) end
  end
  local last = #list
  if bound ~= '' and upwards then
    while last > 0 and list[last] > bound do last = last - 1 end
  elseif bound ~= '' then
    while first <= last and list[first] < bound do first = first + 1 end
  end
  return head .. ' ' .. table.concat(list, ' ', first, last)
end

-- page: cursor ("" or 19 digits), number of entries, "down" (below the cursor, or the newest) or "up" (from the cursor
-- on), the id beyond which entries are not needed ("" or 19 digits), page of keys of lists; optionally the key of a set
-- and the number of members that are read at most.
-- Returns for each list the seconds it has left and its part; then the set's size and its members, separated by spaces
-- (only the sentinel when there are more).
local function page(_, args)
  local cursor, wanted, upwards, answer = args[1], tonumber(args[2]), args[3] == 'up', {}
  for key in keys_of(args[5]) do
    local part = part_of(key, cursor, wanted, upwards, args[4])
    answer[#answer + 1] = part == '' and 0 or redis.call('TTL', key)
    answer[#answer + 1] = part
  end
  local set = args[6]
  if set then
    local size = redis.call('SCARD', set)
    answer[#answer + 1] = size
    if size <= tonumber(args[7]) + 1 then
      answer[#answer + 1] = table.concat(redis.call('SMEMBERS', set), ' ')
    else
      answer[#answer + 1] = redis.call('SISMEMBER', set, SENTINEL) == 1 and SENTINEL or ''
    end
  end
  return answer
end

-- dump: page of keys. Returns each whole list with its head, ascending.
local function dump(_, args)
  local answer = {}
  for key in keys_of(args[1]) do
    local list = redis.pcall('LRANGE', key, 0, -1)
    answer[#answer + 1] = list.err and {} or list
  end
  return answer
end

redis.register_function('apply', apply)
redis.register_function('open_removal', open_removal)
redis.register_function('put_token', put_token)
redis.register_function('merge_rebuilt', merge_rebuilt)
redis.register_function('open_celebrities', open_celebrities)
redis.register_function('fill_celebrities', fill_celebrities)
redis.register_function('install_epoch', install_epoch)
redis.register_function('put_own', put_own)
redis.register_function('renew', renew)
redis.register_function{ function_name = 'page', callback = page, flags = { 'no-writes' } }
redis.register_function{ function_name = 'dump', callback = dump, flags = { 'no-writes' } }
