#!lua name=fanfold_counts

-- Likes, retweets and replies of tweets: numbers that were folded into the database, and likes that are not folded yet.
--
-- key          type  holds                                                        bound           time to live
-- k            hash  of the node: epoch, fold (all folds up to this one were      3 fields        none
--                    here), generation (counts of another one are forgotten)
-- k:<8 bytes>  hash  of a tweet: generation, pending (what the next ones change); 7 fields, and   1 hour from its making;
--                    u<user id>: his likes and unlikes that are not folded yet;   1,000 users     nobody renews it
--                    once it is filled: fold, likes, retweets, replies, offset
--
-- A user's field is "<offset> <0 or 1>" as often as he said something, by offset; 1 is a like. The first pair is the last
-- word that is folded, or before that a look at the database: whether he liked when everything below that offset was
-- folded. He changes the folded likes by his last word less that first one. A word that comes late still takes its place.
--
-- <8 bytes> is the tweet's id, big-endian. The numbers are those of the database after the fold with this number, when
-- everything below `offset` of the tweet's partition of the reactions log was folded: a word below it is in them.
-- A key that has no numbers counts as absent. Offsets, folds and counts are below 2^53; ids are kept as text.

local NODE = 'k'
local FIELDS = 7
local PENDING_MAX = 1000  -- more wait for their fold unseen; a tweet that gets as many between two folds is not read exactly
local WORDS_MAX = 8       -- of a user; he who changes his mind more often between two folds is shown by his last words
local TTL_S = 3600        -- whatever is wrong in a key, and whoever made it so, ends by then

-- Whether a key is of this generation; what is not a hash was not written here and is none.
local function is_of(key, generation)
  local found = redis.pcall('HGET', key, 'generation')
  return type(found) == 'string' and found == generation
end

local function make(key, generation)
  redis.call('DEL', key)
  redis.call('HSET', key, 'generation', generation, 'pending', 0)
  redis.call('EXPIRE', key, TTL_S)
end

local function parse(value)
  local words = {}
  for number in string.gmatch(value, '%d+') do words[#words + 1] = number end
  return words
end

local function change_of(words)
  return tonumber(words[#words]) - tonumber(words[2])
end

local function forget_below(words, offset)
  while #words > 2 and tonumber(words[3]) < tonumber(offset) do
    table.remove(words, 1)
    table.remove(words, 1)
  end
end

local function insert(words, offset, likes)
  local at = #words - 1
  while at > 0 and tonumber(words[at]) > tonumber(offset) do at = at - 2 end
  if at < 1 or (at > 1 and words[at] == offset) then return end
  table.insert(words, at + 2, likes)
  table.insert(words, at + 2, offset)
  if #words > 2 * (WORDS_MAX + 1) then
    table.remove(words, 3)
    table.remove(words, 3)
  end
end

local function drop_folded(key, next_offset)
  if redis.call('HLEN', key) <= FIELDS then return end
  local fields, pending = redis.call('HGETALL', key), 0
  for at = 1, #fields, 2 do
    if string.byte(fields[at]) == 117 then  -- u
      local words = parse(fields[at + 1])
      local size = #words
      forget_below(words, next_offset)
      pending = pending + change_of(words)
      if #words == 2 then
        redis.call('HDEL', key, fields[at])
      elseif #words < size then
        redis.call('HSET', key, fields[at], table.concat(words, ' '))
      end
    end
  end
  redis.call('HSET', key, 'pending', pending)
end

-- Numbers as of a fold, unless the key has those of a later one.
local function take(key, fold, likes, retweets, replies, next_offset)
  if tonumber(redis.call('HGET', key, 'fold') or -1) > fold then return end
  redis.call('HSET', key, 'fold', fold, 'likes', likes, 'retweets', retweets, 'replies', replies, 'offset', next_offset)
  drop_folded(key, next_offset)
end

local function append(answer, likes, retweets, replies)
  local at = #answer
  answer[at + 1], answer[at + 2], answer[at + 3] = likes, retweets, replies
end

-- Appends what a reader is shown.
local function show(answer, likes, pending, retweets, replies)
  append(answer, math.max(0, tonumber(likes) + tonumber(pending)), tonumber(retweets), tonumber(replies))
end

-- counts_read: keys. Returns three numbers a key: likes, retweets, replies; -1 each when it is absent.
local function counts_read(_, args)
  local generation, answer = redis.call('HGET', NODE, 'generation'), {}
  for at = 1, #args do
    local found = redis.pcall('HMGET', args[at], 'generation', 'likes', 'pending', 'retweets', 'replies')
    if generation and not found.err and found[1] == generation and found[2] then
      show(answer, found[2], found[3], found[4], found[5])
    else
      append(answer, -1, -1, -1)
    end
  end
  return answer
end

-- counts_fill: the last fold that a reader's look at the database saw, then five arguments a tweet: key, likes, retweets,
-- replies, offset. Returns what counts_read does. A look that is older than the node's last fold is shown and not kept: a
-- fold may have changed it since, and found no key here.
local function counts_fill(_, args)
  local node, fold, answer = redis.call('HMGET', NODE, 'generation', 'fold'), tonumber(args[1]), {}
  local fits = node[1] and fold >= tonumber(node[2])
  for at = 2, #args, 5 do
    local key, likes, retweets, replies, next_offset = unpack(args, at, at + 4)
    if fits then
      if not is_of(key, node[1]) then make(key, node[1]) end
      take(key, fold, likes, retweets, replies, next_offset)
      local now = redis.call('HMGET', key, 'likes', 'pending', 'retweets', 'replies')
      show(answer, now[1], now[2], now[3], now[4])
    else
      show(answer, likes, 0, retweets, replies)
    end
  end
  return answer
end

-- counts_bump: key, user, a word's offset, 1 for a like and 0 for an unlike; what the database has of the user, in the
-- same way, and everything below which offset was folded then. Returns 1 when it is kept, 0 when it is folded already or
-- of one user too many, and -1 when the node knows of a later fold than that look at the database saw: that fold may have
-- changed what it saw. A key that has no numbers takes every look: what it shows too much is gone with the word's fold.
local function counts_bump(_, args)
  local key, user = args[1], 'u' .. args[2]
  local offset, likes, folded_likes, next_offset = unpack(args, 3, 6)
  local generation = redis.call('HGET', NODE, 'generation')
  if not generation or not next_offset then return 0 end  -- what older versions call goes without
  if not is_of(key, generation) then make(key, generation) end
  local folded, had = unpack(redis.call('HMGET', key, 'offset', user))
  local words, change = {next_offset, folded_likes}, 0
  if had then
    words = parse(had)
    change = change_of(words)
  elseif tonumber(offset) < math.max(tonumber(folded or 0), tonumber(next_offset)) then
    return 0
  elseif folded and tonumber(next_offset) < tonumber(folded) then
    return -1
  elseif redis.call('HLEN', key) >= FIELDS + PENDING_MAX then
    return 0
  end
  insert(words, offset, likes)
  if folded then forget_below(words, folded) end
  if #words > 2 then
    redis.call('HSET', key, user, table.concat(words, ' '))
  else
    redis.call('HDEL', key, user)
  end
  redis.call('HINCRBY', key, 'pending', change_of(words) - change)
  return 1
end

-- counts_fold: epoch, the fold before, this fold, then five arguments a tweet as counts_fill has them. The same fold twice
-- stands for "nothing was folded since". A node that was not there for the fold before, or for this placement, forgets all
-- its counts. Returns 1 then, 0 otherwise, and -1 for a late call, which does nothing.
local function counts_fold(_, args)
  local epoch, before, fold = args[1], tonumber(args[2]), tonumber(args[3])
  local node = redis.call('HMGET', NODE, 'epoch', 'fold', 'generation')
  local missed = 1
  if node[1] then
    if tonumber(epoch) < tonumber(node[1]) or fold < tonumber(node[2]) then return -1 end
    if node[1] == epoch and before <= tonumber(node[2]) then missed = 0 end
  end
  local generation = tostring(redis.call('HINCRBY', NODE, 'generation', missed))
  for at = 4, #args, 5 do
    local key, likes, retweets, replies, next_offset = unpack(args, at, at + 4)
    if is_of(key, generation) then take(key, fold, likes, retweets, replies, next_offset) end
  end
  redis.call('HSET', NODE, 'epoch', epoch, 'fold', fold)  -- last: a fold of which something failed was missed
  return missed
end

redis.register_function{function_name = 'counts_read', callback = counts_read, flags = {'no-writes'}}
redis.register_function('counts_fill', counts_fill)
redis.register_function('counts_bump', counts_bump)
redis.register_function('counts_fold', counts_fold)
