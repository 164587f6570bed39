#!lua name=fanfold_limit

-- The limit that the pipeline is compared with, frozen: what an insertion costs a Redis node when nothing is promised.
-- No fencing, no counting, no order: each answers with the number of keys.
--
-- arguments: length, then two a chunk: id, page of 10-byte keys

local KEY_BYTES = 10
local TRIM_SLACK = 64

-- The look at the tail, the append, and a lazy trim.
local function look_and_append(_, args)
  local size_max, keep = tonumber(args[1]) + 1 + TRIM_SLACK, -(tonumber(args[1]) + 1)
  local done = 0
  for at = 2, #args, 2 do
    local id, page = args[at], args[at + 1]
    for from = 1, #page, KEY_BYTES do
      local key = string.sub(page, from, from + KEY_BYTES - 1)
      local tail = redis.call('LINDEX', key, -1)
      if tail and id > tail then
        if redis.call('RPUSH', key, id) > size_max then redis.call('LTRIM', key, keep, -1) end
        done = done + 1
      end
    end
  end
  return done
end

-- The append and a lazy trim.
local function append_blindly(_, args)
  local size_max, keep = tonumber(args[1]) + 1 + TRIM_SLACK, -(tonumber(args[1]) + 1)
  local done = 0
  for at = 2, #args, 2 do
    local id, page = args[at], args[at + 1]
    for from = 1, #page, KEY_BYTES do
      local key = string.sub(page, from, from + KEY_BYTES - 1)
      if redis.call('RPUSHX', key, id) > size_max then redis.call('LTRIM', key, keep, -1) end
      done = done + 1
    end
  end
  return done
end

redis.register_function('look_and_append', look_and_append)
redis.register_function('append_blindly', append_blindly)
