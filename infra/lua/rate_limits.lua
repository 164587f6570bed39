#!lua name=fanfold_limits

-- Token buckets of the HTTP API's rate limits. They need no fence: one that is lost is full, and that is safe.
--
-- key            type    holds                                                   bound           time to live
-- r:<16 bytes>   string  when the bucket is full again: µs of this server's      16 digits       until then
--                        clock; a request moves it on by what one may take
--
-- <16 bytes> is the beginning of a SHA-256, of a client's address or of a token: neither can be read from it.

-- take: what a full bucket lasts in µs, then two arguments a bucket: key, requests a second.
-- Returns three numbers a bucket: 1 if it had one left, which is taken then, or 0; how many are left; in how many µs it
-- is full again, or has one again if it had none.
local function take(_, args)
  local time, lasts, answer = redis.call('TIME'), tonumber(args[1]), {}
  local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
  for at = 2, #args, 2 do
    local key, cost = args[at], math.floor(1000000 / tonumber(args[at + 1]))
    local full_at = tonumber(redis.call('GET', key) or now)
    full_at = math.min(math.max(full_at, now), now + lasts) + cost  -- never further ahead, whatever the clock did
    local wait = full_at - now
    if wait > lasts then
      answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = 0, 0, wait - lasts
    else
      redis.call('SET', key, string.format('%.0f', full_at), 'PX', math.ceil(wait / 1000))
      answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = 1, math.floor((lasts - wait) / cost), wait
    end
  end
  return answer
end

redis.register_function('take', take)
