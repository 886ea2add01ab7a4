-- Writes, which is what a farm needs of a server.
-- ARGV: none. Returns nothing.
call('SET', P .. ':check', int(now), 'PX', 60000)
