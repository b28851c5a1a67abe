"""The scripts that run in the engine, and nothing else changes a key of a fleet.

The keys of a partition ``P``:

- ``{P}``: ``r``, the engine's ``master_replid``; ``e``, the epoch; ``k``, how many generations were
  made in it; ``m`` and ``c``, the ``max_message`` and ``max_channel`` of the fleet.
- ``{P}:c:CHANNEL``: ``g``, the channel's generation, ``EPOCH.NUMBER``; ``n``, its count.

The *fence*: ``master_replid`` changes at every promotion and at a restart from disk, after which
counts may be old ones. ``open`` then begins a new epoch. Every other script is given the epoch that
its hub knows, and does nothing if it is another one. So no count of an epoch is used twice.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final


class Script:
    """A script of the engine.

    :param text: in Lua
    """

    def __init__(self, text: str) -> None:
        self.text: bytes = text.strip().encode()
        #: By which EVALSHA calls it.
        self.digest: bytes = sha1(self.text, usedforsecurity=False).hexdigest().encode()


#: Begin to use a partition. KEYS: the partition's. ARGV: replid, an epoch of nobody else, the keep
#: time in ms, max_message, max_channel. Returns ``ok`` and the epoch, or ``differs`` and the two
#: limits of the fleet.
OPEN: Final = Script("""
local found = redis.call('HMGET', KEYS[1], 'r', 'e', 'm', 'c')
if found[2] and (found[3] ~= ARGV[4] or found[4] ~= ARGV[5]) then
  return {'differs', found[3], found[4]}
end
local epoch = found[2]
if found[1] ~= ARGV[1] or not epoch then
  epoch = ARGV[2]
  redis.call('HSET', KEYS[1], 'r', ARGV[1], 'e', epoch, 'k', 0, 'm', ARGV[4], 'c', ARGV[5])
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'ok', epoch}
""")

#: Where channels stand; those that do not exist are made. KEYS: the partition's, and those of
#: channels. ARGV: the epoch, the keep time of channels in ms, that of the partition. Returns
#: ``stale``, or a position for each channel, or ``!`` and what is wrong.
WHERE: Final = Script("""
if redis.call('HGET', KEYS[1], 'e') ~= ARGV[1] then return 'stale' end
local mine = ARGV[1] .. '.'
local fresh
local answers = {}
for i = 2, #KEYS do
  local found = redis.pcall('HMGET', KEYS[i], 'g', 'n')
  if found.err then
    answers[i - 1] = '!' .. found.err
  else
    local g, n = found[1], found[2]
    if not g or not n or string.sub(g, 1, #mine) ~= mine then
      fresh = fresh or mine .. string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'k', 1))
      g, n = fresh, '0'
      redis.call('HSET', KEYS[i], 'g', g, 'n', n)
    end
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
    answers[i - 1] = g .. ':' .. n
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return answers
""")

#: Count runs, and publish them. KEYS: the partition's, and one for each run. ARGV: the epoch, the
#: hub's name, the command that publishes, and for each run the engine's channel, the number of its
#: records, and these. Returns ``stale``, or for each run the position behind it, nothing if no hub
#: holds its channel, or ``!`` and what is wrong; then the run had no effect.
PUBLISH: Final = Script("""
if redis.call('HGET', KEYS[1], 'e') ~= ARGV[1] then return 'stale' end
local mine = ARGV[1] .. '.'
local fresh
local answers = {}
for i = 2, #KEYS do
  local at = 3 * i - 2
  local channel, number, run = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local g = redis.pcall('HGET', KEYS[i], 'g')
  if type(g) == 'table' then
    answers[i - 1] = '!' .. g.err
  elseif not g then
    redis.pcall(ARGV[3], channel, '')
    answers[i - 1] = ''
  else
    if string.sub(g, 1, #mine) ~= mine then
      fresh = fresh or mine .. string.format('%.0f', redis.call('HINCRBY', KEYS[1], 'k', 1))
      g = fresh
      redis.call('HSET', KEYS[i], 'g', g, 'n', 0)
    end
    local n = redis.pcall('HINCRBY', KEYS[i], 'n', number)
    if type(n) == 'table' then
      answers[i - 1] = '!' .. n.err
    else
      local position = g .. ':' .. string.format('%.0f', n)
      local head = position .. ' ' .. number .. ' ' .. ARGV[2]
      local sent = redis.pcall(ARGV[3], channel, head .. '\\n' .. run)
      if type(sent) == 'table' then
        redis.call('HINCRBY', KEYS[i], 'n', '-' .. number)
        answers[i - 1] = '!' .. sent.err
      else
        answers[i - 1] = position
      end
    end
  end
end
return answers
""")

ALL: Final = (OPEN, WHERE, PUBLISH)
