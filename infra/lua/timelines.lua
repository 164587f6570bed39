#!lua name=fanfold

-- Everything that is written to a Redis node goes through these Functions.
--
-- key            type    holds                                                   bound           time to live
-- n              hash    of this node: name, run_id, incarnation, epoch, open,   6 fields        none
--                        built
-- c:<partition>  hash    control record of a deliveries partition:               6 fields        none
--                        generation, call, applied, delivered, newest, before
-- h:<8 bytes>    list    home timeline: head, then entries, newest at the tail   length + 65     30 days, 60 s under a token
-- u:<8 bytes>    list    user timeline, the same form                            length + 65     the same
-- f:<8 bytes>    set     followed celebrities, always with one sentinel          follows         the same
-- x:<tweet id>   string  nothing: the tweet was retracted from its author's      empty           20 minutes
--                        user timeline shortly after it was posted
-- b:<8 bytes>    string  tweet body, or empty: its tombstone                     about 1.5 kB    30 days
--
-- <8 bytes> is the user's id, big-endian, so every timeline's key has 10 bytes.
-- A head is the floor ("0" or a tweet id), or "-<token>" while a rebuild runs; "-0" is a token that nobody holds.
-- Tweet ids are 19 digits and over 2^53: they are compared as strings, never as numbers.
--
-- No entry of a home timeline is newer than both of two marks: `newest` of its partition, which inserting raises, and `built`
-- of the node, which all else raises that writes entries. An id above both is appended without a look at the list. A mark
-- may be too high, never too low. `before` is what `newest` was when the run began whose calls are under way.

local KEY_BYTES = 10
local TRIM_SLACK = 64        -- entries above the length before a trim: one trim for 64 appends
local TOKEN_TTL_S = 60       -- a rebuild that died leaves its half-built list for no longer
local TOKEN_ENTRIES_MAX = 2  -- times the length; a list under a token that grows beyond is dropped: absent is safe
local REFILL_BELOW = 0.5     -- of the length; with fewer entries above a floor the timeline is short
local LOOK_FIRST = 16         -- entries of the first look for the place of an old id; the second one has up to twice what it needs
local STORED_FORMS_MAX = 16384  -- some 3 MB
local EIGHT_BYTES = 0xF4      -- the first byte of an entry that is a number of so many, in a list's memory
local PUSH_MAX = 4000        -- arguments of one command; Lua's stack holds about 8,000
local MINUS, HOME = 45, 104  -- letters
local TOKEN_OF_NOBODY = '-0'
local SENTINEL = '0'
local TAIL = '-1'  -- a number would be printed anew for each call
local SNOWFLAKE_EPOCH_MS = 883612800000  -- 1998-01-01
local ID_MS = 4194304            -- ids of one millisecond
local OWN_LATE_MS = 60000        -- a write-through that comes later than this after the post is refused
local CLOCKS_DIFFER_MS = 540000   -- at most; more would need clocks that nobody looks after
local MARK_YOUNGER_MS = OWN_LATE_MS + CLOCKS_DIFFER_MS
local MARK_TTL_S = 1200
local RETRACTED = 'x:'

local function is_token(head)
  return string.byte(head) == MINUS
end

-- The parts of a page, all of one length: keys, or ids of users.
local function parts_of(page, bytes)
  local position = 1 - bytes
  return function()
    position = position + bytes
    if position <= #page then return string.sub(page, position, position + bytes - 1) end
  end
end

local function keys_of(page)
  return parts_of(page, KEY_BYTES)
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

-- Marks -----------------------------------------------------------------------------------------------------------

-- An id of so many milliseconds from now, by this server's clock.
local function id_from_now(ms)
  local now = redis.call('TIME')
  return string.format('%.0f', (now[1] * 1000 + math.floor(now[2] / 1000) + ms - SNOWFLAKE_EPOCH_MS) * ID_MS)
end

-- The node's mark. One that was not empty when it began, as after a change of the library, does not know what it holds: no
-- more than clocks allow.
local function built_mark()
  local mark = redis.call('HGET', 'n', 'built')
  if not mark then
    mark = id_from_now(CLOCKS_DIFFER_MS)
    redis.call('HSET', 'n', 'built', mark)
  end
  return mark
end

-- To be called when the newest id of a list was written by anything but an insertion.
local function raise_built_mark(key, id)
  if string.byte(key) == HOME and id > built_mark() then redis.call('HSET', 'n', 'built', id) end
end

-- The id above which lists of a partition hold nothing; those that a call `continues` with are none of the run's earlier
-- ones. The mark is raised to `newest`, which is about to be inserted.
local function take_marks(partition, newest, continues)
  local key, built = 'c:' .. partition, built_mark()
  local marks = redis.call('HMGET', key, 'newest', 'before')
  local there = marks[1] or '0'
  local mark = continues and marks[2] or there
  redis.call('HSET', key, 'newest', newest > there and newest or there, 'before', mark)
  return mark > built and mark or built
end

-- Fencing ---------------------------------------------------------------------------------------------------------

-- The error reply that refuses a caller, or nil. A fence is "<epoch>:<incarnation>", as the caller knows them of this
-- node. What builds new things here also `needs_open`: a node that was down is opened only when no writer can still
-- leave it out.
local function refusal(fence, needs_open)
  local node = redis.call('HMGET', 'n', 'incarnation', 'epoch', 'open')
  if not node[1] then return redis.error_reply('FENCED no incarnation: the node restarted and is not registered yet') end
  local own = (node[2] or 'none') .. ':' .. node[1]
  if own ~= fence then
    return redis.error_reply('FENCED epoch and incarnation ' .. fence .. ' but the node has ' .. own)
  end
  if needs_open and not node[3] then return redis.error_reply('FENCED the node is not open yet') end
end

-- Checks and takes one numbered call of a partition. Returns the applied offset, or nil and the refusal. What was seen
-- under another fence counts as well: a worker that was frozen while the epoch was raised may have read the new map.
local function take_call(partition, fence, generation, call)
  local refused = refusal(fence)
  if refused then return nil, refused end
  local key = 'c:' .. partition
  local record = redis.call('HMGET', key, 'generation', 'call', 'applied')
  if record[1] then
    local had_generation, had_call = tonumber(record[1]), tonumber(record[2])
    if generation < had_generation then
      return nil, redis.error_reply('SUPERSEDED generation ' .. generation .. ' of partition ' .. partition ..
        ': the node has seen ' .. had_generation)
    end
    if generation == had_generation and call <= had_call then
      return nil, redis.error_reply('FENCED call ' .. generation .. '/' .. call .. ' of partition ' .. partition ..
        ': the node has seen ' .. had_call)
    end
  end
  redis.call('HSET', key, 'generation', generation, 'call', call)
  return tonumber(record[3] or -1)
end

-- Lists -----------------------------------------------------------------------------------------------------------

local stored_forms, stored_forms_kept = {}, 0  -- of ids: those of a replay come in many calls

-- Cuts to the length. The newest id that is cut stays as the first element: it is the floor.
local function trim(key, size, length)
  if size <= length + 1 + TRIM_SLACK then return end
  if not is_token(redis.call('LINDEX', key, 0)) then
    redis.call('LTRIM', key, -(length + 1), -1)
  elseif size > TOKEN_ENTRIES_MAX * length then
    redis.call('DEL', key)
  end
end

-- Where an id stands, or would stand, in an ascending part, from a place on before which all are older.
local function place_in(part, id, from)
  local low, high = from, #part + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if part[middle] < id then low = middle + 1 else high = middle end
  end
  return low
end

-- The end of a list, with what is not older than an id, and the place of the first of those; also the floor, when the id
-- is at or below it.
local function newer_part(key, id)
  local wanted = LOOK_FIRST / 2
  local oldest
  repeat
    wanted = wanted * 2
    oldest = redis.call('LINDEX', key, -wanted)
  until not oldest or oldest < id
  local part = redis.call('LRANGE', key, -wanted, -1)
  if part[1] < id then return part, place_in(part, id, 2) end
  return part, 2, part[1]
end

-- An id as a list's memory has it, but for the entry's first byte, which all have: eight bytes, the lowest first, and the
-- entry's length. Lua's numbers do not hold it.
local function stored_form(id)
  if stored_forms[id] then return stored_forms[id] end
  local high, low, bytes = tonumber(string.sub(id, 1, -10)) or 0, tonumber(string.sub(id, -9)), {}
  for at = 1, 8 do
    low = high % 256 * 1e9 + low
    bytes[at], high, low = low % 256, math.floor(high / 256), math.floor(low / 256)
  end
  bytes[9] = 9
  if stored_forms_kept == STORED_FORMS_MAX then stored_forms, stored_forms_kept = {}, 0 end
  stored_forms[id], stored_forms_kept = string.char(unpack(bytes)), stored_forms_kept + 1
  return stored_forms[id]
end

-- Whether all of these ascending ids are there, at a seventh of what it costs to read the list: they are looked for in
-- its dump, each behind the one before. Where that has another form or is compressed they are not found, and the list is
-- read.
local function holds_all(key, ids)
  local dump, behind = redis.call('DUMP', key), 1
  for _, id in ipairs(ids) do
    local at, last = string.find(dump, stored_form(id), behind, true)
    if not at or string.byte(dump, at - 1) ~= EIGHT_BYTES then return false end
    behind = last + 1
  end
  return true
end

-- Puts ascending ids in their places in a list whose tail is not older than the first of them. Only the end that they
-- change is written again. Returns how many were out of order, that is: inserted before an entry.
local function insert_inside(key, ids, length, sent_again)
  if sent_again then
    local near = redis.call('LINDEX', key, -LOOK_FIRST)
    if near and near >= ids[1] and holds_all(key, ids) then return 0 end
  end
  local part, first, floor = newer_part(key, ids[1])
  local j, out_of_order, merged = 1, 0, {}
  if floor and not is_token(floor) then
    while ids[j] and ids[j] <= floor do j = j + 1 end
  end
  -- To find what is there costs a tenth of comparing which is older.
  for i = first, #part do
    if part[i] == ids[j] then j, first = j + 1, i + 1 end
  end
  if not ids[j] then return 0 end
  first = place_in(part, ids[j], first)
  local again, i = #part - first + 1, first
  for at = j, #ids do
    local place = place_in(part, ids[at], i)
    for older = i, place - 1 do merged[#merged + 1] = part[older] end
    i = place
    if part[i] == ids[at] then i = i + 1 elseif part[i] then out_of_order = out_of_order + 1 end
    merged[#merged + 1] = ids[at]
  end
  for newer = i, #part do merged[#merged + 1] = part[newer] end
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
  return now[1] * 1000 + now[2] / 1000 - (tonumber(id) / ID_MS + SNOWFLAKE_EPOCH_MS)
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
  raise_built_mark(key, values[#values])
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
  local is_known = redis.pcall('SISMEMBER', key, SENTINEL)
  if type(is_known) == 'table' then  -- no set: as a list that is none, it was not written by us
    redis.call('DEL', key)
  elseif add then
    redis.call('SADD', key, author)
  elseif is_known == 1 then
    redis.call('SREM', key, author)
  else
    redis.call('DEL', key)
  end
end

-- Ascending ids into a list, the usual case first: newer than all that is there. Returns nil when the list is absent,
-- else how many were out of order.
local function insert(key, ids, length, known_tail, sent_again)
  local tail = known_tail or redis.pcall('LINDEX', key, TAIL)
  if type(tail) == 'table' then tail = head_of(key) end
  if not tail then return nil end
  if ids[1] <= tail then return insert_inside(key, ids, length, sent_again) end  -- a token is below every id: "-" sorts first
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

-- A D, N or V record: see apply. After a redelivery some of the ids were counted before. Nearly every list gets ids that are
-- newer than all it has: that case is written out here, without a table or a further call for each list. What is above
-- `mark` is newer without a look; `several` are one list's ids, in a table for all lists.
local function insert_groups(ids, mark, offset, applied, page, extra, length, count, sent_again)
  local call, pcall, byte, sub = redis.call, redis.pcall, string.byte, string.sub
  local lists, size_max = #page / KEY_BYTES, length + 1 + TRIM_SLACK
  local is_home, all_new = byte(page) == HOME, offset > applied
  local places_at, offsets_at, several = 2 * lists + 1, #extra - 4 * #ids, {}
  local function is_new(place)
    local a, b, c, d = byte(extra, offsets_at + 4 * place + 1, offsets_at + 4 * place + 4)
    return offset + ((a * 256 + b) * 256 + c) * 256 + d > applied
  end
  for list = 1, lists do
    local key = sub(page, (list - 1) * KEY_BYTES + 1, list * KEY_BYTES)
    local high, low, place_high, place_low = byte(extra, 2 * list - 1), byte(extra, 2 * list), byte(extra, places_at, places_at + 1)
    local wanted, place, out_of_order = high * 256 + low, place_high * 256 + place_low, nil
    local id = ids[place + 1]
    local size, tail
    if is_home and id > mark and wanted <= PUSH_MAX then
      if wanted == 1 then
        size = pcall('RPUSHX', key, id)
      else
        for i = 1, wanted do
          place_high, place_low = byte(extra, places_at + 2 * i - 2, places_at + 2 * i - 1)
          several[i] = ids[place_high * 256 + place_low + 1]
        end
        size = pcall('RPUSHX', key, unpack(several, 1, wanted))
      end
    end
    if type(size) ~= 'number' then
      tail = wanted == 1 and pcall('LINDEX', key, TAIL)
      size = type(tail) == 'string' and id > tail and call('RPUSH', key, id)
    end
    if size then
      if size > size_max then trim(key, size, length) end
      if size > 0 then out_of_order = 0 end
    elseif tail ~= false or wanted > 1 then
      local values, known_tail = ids_at(ids, extra, places_at, wanted), type(tail) == 'string' and tail
      out_of_order = insert(key, values, length, known_tail, sent_again)
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

-- apply: partition, fence, generation, call, last offset, earlier, length, then five arguments a record:
--   kind, offset, ids, page of keys, extra
-- A run of messages may take several calls, each for other lists: only the final one has a last offset, the others -1,
-- and it brings what the earlier ones answered as delivered, so that a run is counted whole or not at all.
-- kind D insert ids into lists · N the same, where an earlier call of the run has inserted into home timelines on this node,
--      but not into these · V insert such as are there already, most of them · R remove ids from lists. Grouped:
--      `ids` ascending, separated by spaces; for each key of the page `extra` has two bytes with its number of ids, then
--      for each of these two bytes with its place in `ids`, then for each of `ids` four bytes: its offset, counted from
--      `offset`.
-- kind M merge the ids of `extra` into each list, complete above the id in `ids` · X remove the ids of `extra` from each
--      list · A, B add or remove the celebrity `ids` in each set
-- Idempotent by offset for the count, and by the lists themselves for the entries.
-- Returns how many entries of D and V records are in home timelines now that were not applied before, how many of them met
-- an absent list, how many entries were not the newest of their list, then the keys of lists that are short.
local function apply(_, args)
  local partition, fence, generation, call = args[1], args[2], tonumber(args[3]), tonumber(args[4])
  local last, earlier, length = tonumber(args[5]), tonumber(args[6]), tonumber(args[7])
  local applied, refused = take_call(partition, fence, generation, call)
  if not applied then return refused end

  local count, short, marked = { delivered = 0, absent = 0, out_of_order = 0 }, {}, false
  for at = 8, #args, 5 do
    local kind, offset, ids, page, extra = args[at], tonumber(args[at + 1]), args[at + 2], args[at + 3], args[at + 4]
    if kind == 'D' or kind == 'N' or kind == 'V' then
      local values, mark = ids_of(ids), nil
      if string.byte(page) == HOME then
        mark, marked = take_marks(partition, values[#values], kind == 'N' and not marked), true
      end
      insert_groups(values, mark, offset, applied, page, extra, length, count, kind == 'V')
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
    elseif kind == 'A' or kind == 'B' then
      for key in keys_of(page) do change_celebrity(key, ids, kind == 'A') end
    else
      return redis.error_reply('ERR this library has no kind ' .. kind .. ': the registrar is older than the worker')
    end
  end

  if last > applied then
    redis.call('HSET', 'c:' .. partition, 'applied', args[5])
    redis.call('HINCRBY', 'c:' .. partition, 'delivered', count.delivered + earlier)
  end
  return { count.delivered, count.absent, count.out_of_order, short }
end

-- open_removal: partition, fence, generation, call, page of keys. The reading half of an unmerge: replaces tokens, and
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

-- A key's token, by one of put_token's modes. Returns its letter.
local function claim(key, head_of_mine, mode)
  local head = head_of(key)
  if not head then
    redis.call('RPUSH', key, head_of_mine)
  elseif head == TOKEN_OF_NOBODY or (is_token(head) and mode ~= 'claim') or (not is_token(head) and mode == 'renew') then
    redis.call('LSET', key, 0, head_of_mine)
  else
    return is_token(head) and 'B' or 'P'
  end
  redis.call('EXPIRE', key, TOKEN_TTL_S)
  return 'T'
end

-- put_token: fence, token, mode, page of keys. Mode 'claim' takes lists that are absent or whose token nobody holds;
-- 'join' also takes another's token; 'renew' also takes present lists, which keep their entries.
-- Returns one letter a key: T taken, P present, B busy under another's token. A node that is not open yet holds nothing
-- that could be renewed, and deliver must not wait for it: D for each key then.
local function put_token(_, args)
  local refused = refusal(args[1], args[3] ~= 'renew')
  if refused then return refused end
  if not redis.call('HMGET', 'n', 'open')[1] then return string.rep('D', #args[4] / KEY_BYTES) end
  local answer = {}
  for key in keys_of(args[4]) do answer[#answer + 1] = claim(key, '-' .. args[2], args[3]) end
  return table.concat(answer)
end

-- merge_rebuilt: fence, token, length, ttl in seconds, then three arguments a list: key, floor, ids ascending.
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

-- A set under a token holds "-<token>" and what changed meanwhile. Returns false when the set is there.
local function open_set(key, token_of_mine)
  if redis.pcall('SISMEMBER', key, SENTINEL) == 1 then return false end
  redis.call('DEL', key)
  redis.call('SADD', key, token_of_mine)
  redis.call('EXPIRE', key, TOKEN_TTL_S)
  return true
end

-- open_celebrities: fence, token, key. Returns 1, or 0 when the set is there.
local function open_celebrities(_, args)
  local refused = refusal(args[1], true)
  if refused then return refused end
  return open_set(args[3], '-' .. args[2]) and 1 or 0
end

-- fill_celebrities: fence, token, key, ttl in seconds, ids. Returns 1, or 0 when the token was lost.
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

-- The same from another copy. `families` has the first letters of a user's keys, in the order in which they are filled:
-- "fuh", or "u" alone. A page of users has 8 bytes each. What is not written here was made by DUMP on the source.

local USER_BYTES = 8
local TAKEN, PRESENT = 84, 80  -- letters

-- What a node has taken of a partition: generation and call, or false for each when it has no record.
local function progress_of(partition)
  return redis.call('HMGET', 'c:' .. partition, 'generation', 'call')
end

-- Whether a key is a list or set that may be copied: complete, under no token, and not about to be rebuilt.
local function is_whole(key, family, length)
  if family == 'f' then return redis.pcall('SISMEMBER', key, SENTINEL) == 1 end
  local head = redis.pcall('LINDEX', key, 0)
  return type(head) == 'string' and string.find(head, '^%d+$') and not is_short(key, head, length)
end

-- Gives a token back, so that whoever comes next may put his at once. That of a set is in nobody's way.
local function give_back(key, family, head_of_mine)
  if family ~= 'f' and head_of(key) == head_of_mine then redis.call('LSET', key, 0, TOKEN_OF_NOBODY) end
end

-- Puts what another node dumped in a key's place. False when this server does not take it.
local function restore(key, left_ms, payload)
  local done = redis.pcall('RESTORE', key, left_ms, payload, 'REPLACE')
  return not (type(done) == 'table' and done.err)
end

-- A copied list, and what was delivered under the token. False when the token was lost, or it cannot be restored.
local function restore_list(key, head_of_mine, left_ms, payload, length)
  if head_of(key) ~= head_of_mine then return false end
  local delivered = redis.call('LRANGE', key, 1, -1)
  if not restore(key, left_ms, payload) then
    redis.call('LSET', key, 0, TOKEN_OF_NOBODY)
    return false
  end
  raise_built_mark(key, redis.call('LINDEX', key, TAIL))
  if #delivered > 0 then insert(key, delivered, length) end
  return true
end

-- The same for a set: what was added under the token stays. A removal has dropped the set, and with it the token.
local function restore_set(key, token_of_mine, left_ms, payload)
  if redis.call('SREM', key, token_of_mine) == 0 then return false end
  local added = redis.call('SMEMBERS', key)
  if not restore(key, left_ms, payload) then
    redis.call('DEL', key)
    return false
  end
  for _, author in ipairs(added) do redis.call('SADD', key, author) end
  return true
end

-- open_copying: fence, token, partition, families, page of users. Puts a token on what is absent or whose token nobody
-- holds. Returns one letter a key, user by user: T taken, P present, B busy under another's token; then the progress of
-- the partition that all of these users belong to.
local function open_copying(_, args)
  local refused = refusal(args[1], true)
  if refused then return refused end
  local head_of_mine, families, letters = '-' .. args[2], args[4], {}
  for user in parts_of(args[5], USER_BYTES) do
    for family in string.gmatch(families, '.') do
      local key = family .. ':' .. user
      if family == 'f' then
        letters[#letters + 1] = open_set(key, head_of_mine) and 'T' or 'P'
      else
        letters[#letters + 1] = claim(key, head_of_mine, 'claim')
      end
    end
  end
  return { table.concat(letters), progress_of(args[3]) }
end

-- read_for_copying: fence, partition, families, length, page of users, letters. Returns the progress of the partition,
-- then for each key with a T the milliseconds that it has left and its DUMP; 0 and "" for what cannot be copied: absent,
-- under a token, or short, since it is about to be rebuilt.
local function read_for_copying(_, args)
  local refused = refusal(args[1])
  if refused then return refused end
  local answer, at, length = { progress_of(args[2]) }, 0, tonumber(args[4])
  for user in parts_of(args[5], USER_BYTES) do
    for family in string.gmatch(args[3], '.') do
      at = at + 1
      if string.byte(args[6], at) == TAKEN then
        local key, left_ms, payload = family .. ':' .. user, 0, ''
        if is_whole(key, family, length) then left_ms = redis.call('PTTL', key) end
        if left_ms > 0 then payload = redis.call('DUMP', key) end
        answer[#answer + 1] = left_ms
        answer[#answer + 1] = payload
      end
    end
  end
  return answer
end

-- fill_copied: fence, token, families, length, page of users, letters, then for each key with a T two arguments:
-- milliseconds and DUMP, as read_for_copying has them; nothing behind the letters gives all tokens back. Returns one
-- letter a user: W has all of it now, L lacks something.
local function fill_copied(_, args)
  local refused = refusal(args[1])
  if refused then return refused end
  local head_of_mine, length, letter_at, at, answer = '-' .. args[2], tonumber(args[4]), 0, 7, {}
  for user in parts_of(args[5], USER_BYTES) do
    local complete = true
    for family in string.gmatch(args[3], '.') do
      letter_at = letter_at + 1
      local letter, key = string.byte(args[6], letter_at), family .. ':' .. user
      if letter == TAKEN then
        local left_ms, payload = args[at] or '0', args[at + 1] or ''
        at = at + 2
        if payload == '' then
          complete = false
          give_back(key, family, head_of_mine)
        elseif family == 'f' then
          complete = restore_set(key, head_of_mine, left_ms, payload) and complete
        else
          complete = restore_list(key, head_of_mine, left_ms, payload, length) and complete
        end
      elseif letter ~= PRESENT then
        complete = false
      end
    end
    answer[#answer + 1] = complete and 'W' or 'L'
  end
  return table.concat(answer)
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

-- open_node: fence. From now on timelines and bodies may be built here. Returns 1.
local function open_node(_, args)
  local refused = refusal(args[1])
  if refused then return refused end
  redis.call('HSET', 'n', 'open', '1')
  return 1
end

-- put_bodies: fence, ttl in seconds, then two arguments a tweet: key, body. What is there stays, a tombstone too.
-- Returns 1.
local function put_bodies(_, args)
  local refused = refusal(args[1], true)
  if refused then return refused end
  for at = 3, #args, 2 do redis.call('SET', args[at], args[at + 1], 'EX', args[2], 'NX') end
  return 1
end

-- put_own: fence, page of keys of user timelines, a tweet id for each. What a publish call writes through, ahead of the
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

-- renew: fence, ttl in seconds, page of keys. Gives present lists and sets more time; never less, never under a token.
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
    local size = redis.pcall('SCARD', set)
    if type(size) == 'table' then size, set = 0, SENTINEL .. set end  -- no set: it is as absent
    answer[#answer + 1] = size
    if size <= tonumber(args[7]) + 1 then
      answer[#answer + 1] = table.concat(redis.call('SMEMBERS', set), ' ')
    else
      answer[#answer + 1] = redis.call('SISMEMBER', set, SENTINEL) == 1 and SENTINEL or ''
    end
  end
  return answer
end

-- What a list has above an id, as one text; another one when it is absent or under a token by now.
local function text_above(key, bound)
  local list, first = redis.pcall('LRANGE', key, 0, -1), 2
  if list.err or not list[1] or is_token(list[1]) then return '-' end
  while bound ~= '0' and list[first] and list[first] <= bound do first = first + 1 end
  return table.concat(list, ' ', first)
end

-- digest: fence, partition, then two arguments a group of lists: page of keys, and for each the id above which it is
-- looked at, or "" for lists as they are stored, at a seventh of the cost: what is stored alike is alike, and what is alike may
-- be stored in another way. Returns the progress of the partition, then one digest a group.
local function digest(_, args)
  local refused = refusal(args[1])
  if refused then return refused end
  local answer = { progress_of(args[2]) }
  for at = 3, #args, 2 do
    local bounds, as_stored, texts = ids_of(args[at + 1]), args[at + 1] == '', {}
    for key in keys_of(args[at]) do
      local place = #texts + 1
      texts[place] = as_stored and (redis.call('DUMP', key) or '-') or text_above(key, bounds[place])
    end
    answer[#answer + 1] = redis.sha1hex(table.concat(texts, ','))
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
redis.register_function('open_copying', open_copying)
redis.register_function('fill_copied', fill_copied)
redis.register_function('install_epoch', install_epoch)
redis.register_function('open_node', open_node)
redis.register_function('put_bodies', put_bodies)
redis.register_function('put_own', put_own)
redis.register_function('renew', renew)
redis.register_function{ function_name = 'page', callback = page, flags = { 'no-writes' } }
redis.register_function{ function_name = 'read_for_copying', callback = read_for_copying, flags = { 'no-writes' } }
redis.register_function{ function_name = 'digest', callback = digest, flags = { 'no-writes' } }
redis.register_function{ function_name = 'dump', callback = dump, flags = { 'no-writes' } }
