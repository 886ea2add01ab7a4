-- Writes a key: a farm needs a server that takes writes, and one that does not still answers PING.
-- ARGV: none. Returns nothing.
call('SET', P .. ':check', int(now), 'PX', 60000)
