-- What a text is, where it is a JSON object.
local function is_object(text)
  local ok, value = pcall(cjson.decode, text)
  return ok and type(value) == 'table' and value
end
