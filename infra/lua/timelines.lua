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
--
-- <8 bytes> is the user's id, big-endian, so every timeline's key has 10 bytes.
-- A head is the floor ("0" or a tweet id), or "-<token>" while a rebuild runs; "-0" is a token that nobody holds.
-- Tweet ids are 19 digits and over 2^53: they are compared as strings, never as numbers.

local KEY_BYTES = 10
local TRIM_SLACK = 64        -- entries above the length before a trim: one trim for 64 appends
local TOKEN_TTL_S = 60       -- a rebuild that died leaves its half-built list for no longer
local TOKEN_ENTRIES_MAX = 2  -- times the length; a list under a token that grows beyond is dropped: absent is safe
local REFILL_BELOW = 0.5     -- of the length; with fewer entries above a floor the timeline is short
local POP_MAX = 8            -- newer entries that are taken off and put back; with more LINSERT is cheaper
local PUSH_MAX = 4000        -- arguments of one command; Lua's stack holds about 8,000
local MINUS = 45
local TOKEN_OF_NOBODY = '-0'
local SENTINEL = '0'

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

local function push(key, values)
  for from = 1, #values, PUSH_MAX do
    redis.call('RPUSH', key, unpack(values, from, math.min(from + PUSH_MAX - 1, #values)))
  end
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

-- Puts an id that is not newer than the tail in its place. Returns 'inserted', 'present' or 'below'.
-- Positions count from the tail, which is 1. The search doubles its steps, then halves them: entries that come out of
-- order belong near the tail as a rule, and a look costs less than reading what lies between.
local function insert_inside(key, id, length)
  local size = redis.call('LLEN', key)
  local newer, older = 1, 2                      -- the element at `newer` is not older than the id
  local pivot, found = redis.call('LINDEX', key, -1), nil
  if pivot == id then return size == 1 and 'below' or 'present' end
  if size == 1 then return 'below' end
  while older < size do
    found = redis.call('LINDEX', key, -older)
    if found <= id then break end
    newer, pivot, older = older, found, older * 2
  end
  if older >= size then older, found = size, redis.call('LINDEX', key, 0) end
  while older - newer > 1 do
    local middle = math.floor((newer + older) / 2)
    local seen = redis.call('LINDEX', key, -middle)
    if seen > id then newer, pivot = middle, seen else older, found = middle, seen end
  end
  if older == size then
    if not is_token(found) and found >= id then return 'below' end
  elseif found == id then
    return 'present'
  end
  if newer <= POP_MAX then
    local taken, back = redis.call('RPOP', key, newer), { id }
    for at = newer, 1, -1 do back[#back + 1] = taken[at] end
    size = redis.call('RPUSH', key, unpack(back))
  else
    size = redis.call('LINSERT', key, 'BEFORE', pivot, id)
  end
  trim(key, size, length)
  return 'inserted'
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

-- One tweet into each list of a page, the usual case first: newer than all that is there.
local function insert_chunk(id, page, length, count)
  for key in keys_of(page) do
    local tail = redis.pcall('LINDEX', key, -1)
    if type(tail) == 'table' then tail = head_of(key) end
    if not tail then
      count.absent = count.absent + 1
    elseif id > tail or is_token(tail) then
      local size = redis.call('RPUSH', key, id)
      if size > length + 1 + TRIM_SLACK then trim(key, size, length) end
      count.inserted = count.inserted + 1
    else
      local outcome = insert_inside(key, id, length)
      count[outcome] = count[outcome] + 1
      if outcome == 'inserted' then count.inside = count.inside + 1 end
    end
  end
end

local function new_count()
  return { inserted = 0, present = 0, below = 0, absent = 0, inside = 0 }
end

-- Writing in the order of the log -----------------------------------------------------------------------------------

-- apply: partition, epoch, generation, call, last offset, length, then five arguments a record:
--   kind, offset, id, page of keys, ids
-- kind D insert the id into each list · R remove the id from each list · M merge ids into one list, complete above id
--      X remove ids from one list · A, B add or remove the celebrity id in one set
-- Idempotent by offset for the counts, and by the lists themselves for the entries.
-- Returns inserted, present, below, absent (entries of D records into home timelines that were not applied before),
-- out of order (all D insertions not at the tail), then the keys of lists that are short.
local function apply(_, args)
  local partition, epoch, generation, call = args[1], args[2], tonumber(args[3]), tonumber(args[4])
  local last, length = tonumber(args[5]), tonumber(args[6])
  local applied, refused = take_call(partition, epoch, generation, call)
  if not applied then return refused end

  local count, short, again = new_count(), {}, new_count()
  for at = 7, #args, 5 do
    local kind, offset, id, page, ids = args[at], tonumber(args[at + 1]), args[at + 2], args[at + 3], args[at + 4]
    if kind == 'D' then
      local is_counted = offset > applied and string.sub(page, 1, 1) == 'h'
      insert_chunk(id, page, length, is_counted and count or again)
    elseif kind == 'R' or kind == 'X' then
      local gone = kind == 'R' and { id } or ids_of(ids)
      for key in keys_of(page) do
        if remove(key, gone, length) then short[#short + 1] = key end
      end
    elseif kind == 'M' then
      merge_author(page, id, ids_of(ids), length)
    else
      change_celebrity(page, id, kind == 'A')
    end
  end

  if last > applied then redis.call('HSET', 'c:' .. partition, 'applied', args[5]) end
  local delivered = count.inserted + count.present + count.below
  if delivered > 0 then redis.call('HINCRBY', 'c:' .. partition, 'delivered', delivered) end
  return { count.inserted, count.present, count.below, count.absent, count.inside + again.inside, short }
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

-- page: key of a list, cursor ("" or an id: only older entries), number of entries; optionally the key of a set.
-- Returns head ("" when absent), time left in seconds, entries descending, and the set's members.
local function page(_, args)
  local key, cursor, wanted = args[1], args[2], tonumber(args[3])
  local celebrities = args[4] and redis.call('SMEMBERS', args[4]) or {}
  local head = redis.pcall('LINDEX', key, 0)
  if type(head) ~= 'string' or not string.find(head, '^%-?%d+$') then return { '', 0, {}, celebrities } end
  local list = redis.call('LRANGE', key, cursor == '' and -wanted or 1, -1)
  if cursor == '' and list[1] == head then table.remove(list, 1) end
  local entries, at = {}, #list
  while at > 0 and #entries < wanted do
    if cursor == '' or list[at] < cursor then entries[#entries + 1] = list[at] end
    at = at - 1
  end
  return { head, redis.call('TTL', key), entries, celebrities }
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
redis.register_function('renew', renew)
redis.register_function{ function_name = 'page', callback = page, flags = { 'no-writes' } }
redis.register_function{ function_name = 'dump', callback = dump, flags = { 'no-writes' } }
