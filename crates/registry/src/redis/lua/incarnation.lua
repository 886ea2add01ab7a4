-- Reads the registry's identity.
-- ARGV: none. Returns it.
return string.sub(incarnation, 1, 36)
