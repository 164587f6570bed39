#!lua name=fanfold_limits

-- Token buckets of the HTTP API's rate limits. They need no fence: one that is lost is full, and that is safe.
--
-- key            type    holds                                                   bound           time to live
-- r:<16 bytes>   string  when the bucket is full again: µs of this server's      16 digits       until then
--                        clock; a request moves it on by what one may take
--
-- <16 bytes> is the beginning of a SHA-256, of a client's address or of a token: neither can be read from it.

-- take: what a full bucket lasts in µs, then three arguments a bucket: key, requests a second, and how many are taken,
-- which is at most what a full one holds.
-- Returns three numbers a bucket: 1 if it had so many left, which are taken then, or 0; how many are left; in how many µs
-- it is full again, or has enough again if it had not.
local function take(_, args)
  local time, lasts, answer = redis.call('TIME'), tonumber(args[1]), {}
  local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
  for at = 2, #args, 3 do
    local key, cost = args[at], math.floor(1000000 / tonumber(args[at + 1]))
    local full_at = tonumber(redis.call('GET', key) or now)
    local before = math.min(math.max(full_at, now), now + lasts)  -- never further ahead, whatever the clock did
    full_at = before + cost * tonumber(args[at + 2])
    local wait = full_at - now
    if wait > lasts then
      local left = math.floor((lasts - (before - now)) / cost)
      answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = 0, left, wait - lasts
    else
      redis.call('SET', key, string.format('%.0f', full_at), 'PX', math.ceil(wait / 1000))
      answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = 1, math.floor((lasts - wait) / cost), wait
    end
  end
  return answer
end

redis.register_function('take', take)
