-- A time as RFC 3339 in UTC, as Timestamp in the model crate writes it. Days are counted in eras of 400 years from
-- 0000-03-01, so that the leap day comes last.
--
-- Why dates and JSON are written here and not in Rust: an event and a drain are stored as finished JSON, which followers of
-- the release before this one read as it is. Their times are Redis' own clock and the state machine's results, which no
-- client knows before the script runs. Storing raw numbers for readers to format would break those followers; asking for
-- the time first would cost a second round trip, and the step would not be atomic. What a client does know (labels, exits,
-- descriptions, the data of a change, an operator's reason) it encodes itself, and the scripts pass it on unread.
local function rfc3339(ms)
  local days, rest = math.floor(ms / 86400000), ms % 86400000
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day, math.floor(rest / 3600000),
    math.floor(rest / 60000) % 60, math.floor(rest / 1000) % 60, rest % 1000)
end
