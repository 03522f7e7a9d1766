-- What the gateway tells chromad of itself, which shows it in status, metrics and page, and has no right to look here: how many requests it has
-- refused, by status; when the certificate ends that clients are shown; how many tokens expire soon. No names.
--
-- What each line may say is described in chromad's gateway/heard.py.
local TOKENS, CHROMAD = os.getenv("GATEWAY_TOKENS"), os.getenv("GATEWAY_CHROMAD")

-- Seconds between two times that it says so, and between two looks at the tokens
local AGAIN, TOKENS_AGAIN = 5, 300
-- As chromactl doctor goes by
local SOON = 14 * 86400
-- Of one line, so that it is short enough for chromad
local MOST_COUNTS = 8
-- Lines of the map that are read before others come to their turn
local AT_ONCE = 500

local since = os.time()
local certificate, expiring
local counts = {}

-- For gateway.lua, whose answers no rule of the configuration sees that could count
function count_refusal(status)
  counts[status] = (counts[status] or 0) + 1
end

-- For what the configuration refuses
core.register_converters("refused", function(status)
  count_refusal(math.tointeger(tonumber(status)))
  return status
end)

-- Seconds since the epoch of a day; months are counted from March, so that a leap day is the last of its year.
local function seconds(year, month, day)
  if month < 3 then
    year, month = year - 1, month + 12
  end
  return (365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 719469) * 86400
end

-- For the gateway's own look at its certificate: YYMMDDhhmmssZ, as the connection has it.
core.register_converters("ends", function(text)
  local year, month, day, hour, minute, second = tostring(text):match("^(%d%d)(%d%d)(%d%d)(%d%d)(%d%d)(%d%d)Z?$")
  if year then
    certificate = seconds(2000 + tonumber(year), tonumber(month), tonumber(day)) + hour * 3600 + minute * 60 + second
  end
  return text
end)

-- Tokens that expire soon, or have: all of a token's texts, of which a rotation may have left a former one for a while.
local function count_expiring()
  local last, found, read = {}, 0, 0
  for line in io.lines(TOKENS) do
    local name, expires = line:match("^[^ ]+ ([%w._-]+)|%l+|[^|]*|(%d+)|")
    if name then
      expires = tonumber(expires)
      last[name] = math.max(last[name] or 0, expires == 0 and math.huge or expires)
    end
    read = read + 1
    if read % AT_ONCE == 0 then
      core.msleep(1)
    end
  end
  for _, expires in pairs(last) do
    if expires <= os.time() + SOON then
      found = found + 1
    end
  end
  return found
end

local function tell(lines)
  local socket = core.tcp()
  socket:settimeout(2)
  if socket:connect("unix@" .. CHROMAD) then
    for _, line in ipairs(lines) do
      if not socket:send(line .. "\n") or not socket:receive("*l") then
        break
      end
    end
  end
  socket:close()
end

local function report()
  local head = "seen since=" .. since
  local lines, part = { head }, {}
  if certificate then
    lines[1] = lines[1] .. " certificate=" .. math.tointeger(certificate)
  end
  if expiring then
    lines[1] = lines[1] .. " expiring=" .. expiring
  end
  for status, count in pairs(counts) do
    part[#part + 1] = status .. "=" .. count
    if #part == MOST_COUNTS then
      lines[#lines + 1], part = head .. " " .. table.concat(part, " "), {}
    end
  end
  if #part > 0 then
    lines[#lines + 1] = head .. " " .. table.concat(part, " ")
  end
  return lines
end

core.register_task(function()
  -- The look at the certificate comes first.
  core.msleep(1000)
  -- A worker that is on its way out says no more: another one has begun to count.
  while tostring(core.get_info()["Stopping"]) ~= "1" do
    -- An error would end it for good.
    pcall(function()
      tell(report())
    end)
    core.msleep(AGAIN * 1000)
  end
end)

core.register_task(function()
  while true do
    local went_well, found = pcall(count_expiring)
    expiring = went_well and found or nil
    core.msleep(TOKENS_AGAIN * 1000)
  end
end)
