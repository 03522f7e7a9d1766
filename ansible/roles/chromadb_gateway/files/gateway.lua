-- What a request may do. HAProxy asks twice: `lua.who` names the token, `lua.may` decides. A request passes when the second one has set
-- txn.pass, and never otherwise: an error in here refuses.
--
-- haproxy.cfg says: the map of tokens, chromad's socket, for how many seconds a request waits for chromad, how many bytes a body may have.
local TOKENS, CHROMAD = os.getenv("GATEWAY_TOKENS"), os.getenv("GATEWAY_CHROMAD")
local PATIENCE, LONGEST_BODY = tonumber(os.getenv("GATEWAY_PATIENCE")), tonumber(os.getenv("GATEWAY_LONGEST_BODY"))
-- Where these are wanted: jwt.lua, and certificates of clients
local jwt = os.getenv("GATEWAY_JWT") and dofile(os.getenv("GATEWAY_JWT"))
local CERTIFICATES = os.getenv("GATEWAY_CERTIFICATES") ~= nil

-- For the owners of collections, of which four fifths are used: as many at first, and 100,000 owners at most, which take 6 MB.
local FEWEST_SLOTS, MOST_SLOTS = 1024, 131072
local MOST_RIGHTS = 1000
local LONGEST_PATH = 2048
local LONGEST_TOKEN = 256
-- Seconds after its start for which a worker looks whether the map's file changes: that may have been told to the one before it.
local YOUNG = 10

-- Whom a route is for. any: whoever has a token. A role has the rights of those before it.
local RANK = { metrics = 0, any = 0, ro = 1, rw = 2, admin = 3 }

-- All that the engine is asked. {id}: a collection's id, whose owner is looked up, since the engine does not. {name}: it is looked for in
-- the tenant of the path alone. whole: wants all databases of the tenant; all: every tenant. grows: a fence refuses it. again: done
-- twice, it is as done once, so it may be sent again when the engine ends before it answers; what reads may. query: the parameters that go on; drops: those
-- that a client sends though the engine does not know them.
-- The last ones are not the engine's: to says whose they are, and they are for the role metrics alone.
-- tests/integration/test_gateway_routes.py holds this against what the engine says it serves.
local DATABASE = "/api/v2/tenants/{tenant}/databases/{database}"
local COLLECTION = DATABASE .. "/collections/{id}"
local ROUTES = {
  -- By which the asynchronous client asks for the heartbeat
  { "GET", "/api/v2", "any" },
  { "GET", "/api/v2/heartbeat", "any" },
  { "GET", "/api/v2/healthcheck", "any" },
  { "GET", "/api/v2/version", "any" },
  { "GET", "/api/v2/pre-flight-checks", "any" },
  { "GET", "/api/v2/auth/identity", "any" },
  { "POST", "/api/v2/reset", "admin", all = true },
  { "POST", "/api/v2/tenants", "admin", all = true },
  { "GET", "/api/v2/tenants/{tenant}", "ro" },
  { "PATCH", "/api/v2/tenants/{tenant}", "admin", whole = true },
  { "GET", "/api/v2/tenants/{tenant}/databases", "ro", whole = true, query = { limit = true, offset = true } },
  { "POST", "/api/v2/tenants/{tenant}/databases", "admin", whole = true },
  { "GET", DATABASE, "ro", drops = { tenant = true } },
  { "DELETE", DATABASE, "admin", whole = true },
  { "GET", DATABASE .. "/collections", "ro", query = { limit = true, offset = true } },
  { "POST", DATABASE .. "/collections", "rw" },
  { "GET", DATABASE .. "/collections_count", "ro" },
  { "GET", DATABASE .. "/collections/by-id/{id}", "ro" },
  { "GET", DATABASE .. "/collections/{name}", "ro" },
  { "DELETE", DATABASE .. "/collections/{name}", "rw" },
  { "PUT", COLLECTION, "rw" },
  { "GET", COLLECTION .. "/count", "ro", query = { read_level = true } },
  { "GET", COLLECTION .. "/fork_count", "ro" },
  { "GET", COLLECTION .. "/indexing_status", "ro" },
  { "POST", COLLECTION .. "/get", "ro" },
  { "POST", COLLECTION .. "/query", "ro", query = { limit = true, offset = true } },
  { "POST", COLLECTION .. "/search", "ro" },
  { "POST", COLLECTION .. "/add", "rw", grows = true, again = true },
  { "POST", COLLECTION .. "/update", "rw", grows = true, again = true },
  { "POST", COLLECTION .. "/upsert", "rw", grows = true, again = true },
  { "POST", COLLECTION .. "/delete", "rw", again = true },
  { "POST", COLLECTION .. "/fork", "rw", grows = true },
  -- Chroma 1.5.9 has no functions, so nobody knows yet what else they reach.
  { "GET", COLLECTION .. "/functions/{function}", "admin" },
  { "POST", COLLECTION .. "/functions/attach", "admin" },
  { "POST", COLLECTION .. "/attached_functions/{function}/detach", "admin" },
  { "GET", "/metrics", "metrics", to = "chromad" },
  { "GET", "/metrics/gateway", "metrics", to = "haproxy" },
  -- The page, and what it asks for
  { "GET", "/", "metrics", to = "chromad" },
  { "GET", "/api/status", "metrics", to = "chromad" },
}

-- All that the engine needs of a request's headers. What is not here goes: tokens, X-Forwarded-…, X-HTTP-Method-Override.
local PASSED = {
  ["accept"] = true,
  ["accept-encoding"] = true,
  ["content-length"] = true,
  ["content-type"] = true,
  ["expect"] = true,
  ["host"] = true,
  ["user-agent"] = true,
}

local REASONS = {
  [400] = "Bad Request",
  [401] = "Unauthorized",
  [403] = "Forbidden",
  [404] = "Not Found",
  [405] = "Method Not Allowed",
  [410] = "Gone",
  [411] = "Length Required",
  [413] = "Content Too Large",
  [503] = "Service Unavailable",
  [507] = "Insufficient Storage",
}
-- The names by which the official clients choose their exception
local KINDS = {
  [400] = "InvalidArgumentError",
  [401] = "AuthorizationError",
  [403] = "AuthError",
  [404] = "NotFoundError",
  [405] = "InvalidArgumentError",
  [410] = "InvalidArgumentError",
  [411] = "InvalidArgumentError",
  [413] = "BatchSizeExceededError",
  [503] = "InternalError",
  [507] = "InternalError",
}

local tokens = Map.new(TOKENS, Map._str)

-- What chromad said last: what changes when the owners may be wrong, and the fence that stands.
local generation, fence = nil, nil

local function quoted(text)
  return '"' .. text:gsub('[%c"\\]', function(each)
    return ("\\u%04x"):format(each:byte())
  end) .. '"'
end

local function split(text, separator)
  local parts = {}
  for part in text:gmatch("[^" .. separator .. "]+") do
    parts[#parts + 1] = part
  end
  return parts
end

-- A sample that is a boolean comes as a number from HAProxy before 3.1.
local function is_true(sample)
  return sample == true or sample == 1
end

-- Ends the request with a body as the engine's errors have it. Does not return.
local function refuse(txn, status, message, headers)
  count_refusal(status)
  local reply = txn:reply()
  reply:set_status(status, REASONS[status])
  reply:add_header("content-type", "application/json")
  for name, value in pairs(headers or {}) do
    reply:add_header(name, value)
  end
  reply:set_body(('{"error":"%s","message":%s}'):format(KINDS[status], quoted(message)))
  txn:done(reply)
end

local function answer(txn, body)
  local reply = txn:reply()
  reply:set_status(200, "OK")
  reply:add_header("content-type", "application/json")
  reply:set_body(body)
  txn:done(reply)
end

-- Tokens --------------------------------------------------------------------------------------------------------------------------------

-- No token of ours has a dot.
local function is_jwt(token)
  return jwt and token:find(".", 1, true) ~= nil
end

-- The only token of a request, or nil and why there is none.
local function given_token(headers)
  local bearers, others = headers["authorization"], headers["x-chroma-token"]
  local values = bearers or others
  if not values then
    return nil, "no token. HINT: send the header Authorization: Bearer TOKEN, or X-Chroma-Token: TOKEN"
  end
  if (bearers and others) or values[1] then
    return nil, "more than one token. HINT: send Authorization or X-Chroma-Token, once"
  end
  local token = values[0]
  if bearers then
    token = token:match("^[Bb][Ee][Aa][Rr][Ee][Rr] +([^ ]+)$")
  end
  if not token or #token > (is_jwt(token) and jwt.LONGEST or LONGEST_TOKEN) then
    return nil, "no such token. HINT: send the header Authorization: Bearer TOKEN, or X-Chroma-Token: TOKEN"
  end
  return token
end

-- What the map's file says now.
local function in_file()
  local file= assert(io.open(TOKENS))
  local text = file:read("a")
  file:close()
  return text
end

-- The same, value by key.
local function by_key(text)
  local found = {}
  for line in text:gmatch("[^\n]+") do
    local key, value = line:match("^([%w:._-]+) (.+)$")
    if key then
      found[key] = value
    end
  end
  return found
end

-- Tells this worker of what has changed in the file.
local function take_over(before, now)
  before, now = by_key(before), by_key(now)
  for key in pairs(before) do
    if not now[key] then
      core.del_map(TOKENS, key)
    end
  end
  for key, value in pairs(now) do
    if before[key] ~= value then
      core.set_map(TOKENS, key, value)
    end
  end
end

-- A change that the worker before this one was told, and this one was not, is in the file.
local last_seen = in_file()
core.register_task(function()
  local looks = 0
  while looks < YOUNG do
    core.msleep(1000)
    -- One that fails does not count: an error would end this for good.
    local went_well, now = pcall(in_file)
    looks = looks + (went_well and 1 or 0)
    if went_well and now ~= last_seen then
      take_over(last_seen, now)
      last_seen = now
    end
  end
  last_seen = nil
end)

-- VALUE of the map: name|role|scopes|expires|networks. nil for one that is not understood.
local function parsed(value)
  local name, role, scopes, expires, networks = value:match("^([%w._-]+)|(%l+)|([^| ]*)|(%d+)|([^| ]+)$")
  if not name or not RANK[role] or role == "any" then
    return nil
  end
  local rights = { name = name, role = role, scopes = {}, expires = tonumber(expires), networks = nil }
  for _, pair in ipairs(split(scopes, ",")) do
    local tenant, database = pair:match("^([^/]+)/([^/]+)$")
    if not tenant then
      return nil
    end
    rights.scopes[#rights.scopes + 1] = { tenant = tenant, database = database }
  end
  if networks ~= "*" then
    rights.networks = {}
    for _, network in ipairs(split(networks, ",")) do
      rights.networks[#rights.networks + 1] = core.parse_addr(network)
    end
  end
  return rights
end

-- The same, from what was parsed already. As many as that are used at a time.
local known_rights, how_many = {}, 0
local function rights_in(value)
  local found = known_rights[value]
  if found == nil then
    if how_many >= MOST_RIGHTS then
      known_rights, how_many = {}, 0
    end
    found = parsed(value) or false
    known_rights[value], how_many = found, how_many + 1
  end
  return found
end

local function comes_from(rights, source)
  if not rights.networks then
    return true
  end
  local address = core.parse_addr(source)
  for _, network in ipairs(rights.networks) do
    if core.match_addr(address, network) then
      return true
    end
  end
  return false
end

local function refuse_token(txn, why)
  refuse(txn, 401, why, { ["www-authenticate"] = "Bearer" })
end

-- The rights of a key of the map, nil when there are none. A worker that is replaced is told of no change any more; a connection gets one
-- answer of it.
local function rights_of(txn, key)
  local value
  if is_true(txn.f:stopping()) then
    value = by_key(in_file())[key]
  else
    value = tokens:lookup(key)
  end
  return value and rights_in(value)
end

-- Puts the token's name into txn.token, and its rights where `may` finds them. renewal: how there is a new one.
local function admit(txn, headers, rights, renewal)
  txn:set_var("txn.token", rights.name)
  if rights.expires ~= 0 and rights.expires <= os.time() then
    refuse_token(txn, "the token " .. rights.name .. " has expired. HINT: " .. renewal)
  end
  if not comes_from(rights, txn.f:src()) then
    refuse(txn, 403, "the token " .. rights.name .. " may not be used from " .. txn.f:src() .. ". HINT: its networks say from where")
  end
  txn:set_priv({ rights = rights, headers = headers })
end

-- The same for a certificate, which HAProxy has verified when the connection began.
local function admit_certificate(txn, headers)
  if headers["authorization"] or headers["x-chroma-token"] then
    refuse_token(txn, "a certificate and a token. HINT: connect without a certificate, or send no Authorization and no X-Chroma-Token")
  end
  local subject, ends = txn.f:ssl_c_s_dn("CN"), txn.f:ssl_c_notafter()
  if tonumber(txn.f:ssl_c_verify()) ~= 0 or not subject or (txn.f:ssl_c_s_dn("CN", 2) or "") ~= "" then
    refuse_token(txn, "the certificate has no subject that is understood. HINT: its subject has one CN, the name of a token")
  end
  -- A connection may live longer than it; none from 2100 on is told of.
  if (ends or "") ~= "" and ends <= os.date("!%y%m%d%H%M%SZ") then
    refuse_token(txn, "the certificate has expired. HINT: connect with a new one")
  end
  local rights = rights_of(txn, "certificate:" .. subject)
  if not rights then
    refuse_token(txn, "no token is for this certificate. HINT: sudo chromactl token add CN --certificate, on the host, makes one for its subject")
  end
  admit(txn, headers, rights, "sudo chromactl token revoke and add, on the host, give it more time")
end

-- Those of tokens that were looked at before, by their hash. What such a token says does not change.
local known_jwts, how_many_jwts = {}, 0
local function rights_of_jwt(txn, token)
  local hash = txn.sc:sha2(token, 256)
  if known_jwts[hash] then
    return known_jwts[hash]
  end
  local rights, why, name = jwt.rights(txn, token, RANK)
  if name then
    txn:set_var("txn.token", name)
  end
  if why == jwt.SILENCE then
    refuse(txn, 503, why, { ["retry-after"] = "1" })
  elseif not rights then
    refuse_token(txn, why)
  end
  if how_many_jwts >= MOST_RIGHTS then
    known_jwts, how_many_jwts = {}, 0
  end
  known_jwts[hash], how_many_jwts = rights, how_many_jwts + 1
  return rights
end

local function who(txn)
  local headers = txn.http:req_get_headers()
  if CERTIFICATES and is_true(txn.f:ssl_c_used()) then
    admit_certificate(txn, headers)
    return
  end
  local token, why = given_token(headers)
  if not token then
    refuse_token(txn, why)
  end
  if is_jwt(token) then
    admit(txn, headers, rights_of_jwt(txn, token), "get a new one from the identity provider")
    return
  end
  local rights = rights_of(txn, txn.sc:hex(txn.sc:sha2(token, 256)))
  if not rights then
    refuse_token(txn, "no such token. HINT: sudo chromactl token list, on the host, shows which there are")
  end
  admit(txn, headers, rights, "sudo chromactl token rotate, on the host, makes a new one")
end

-- Whether a token's scopes reach a tenant, or a database of it. whole: all of its databases. all: everything there is.
local function reaches(rights, tenant, database, whole, all)
  for _, scope in ipairs(rights.scopes) do
    local here = scope.tenant == "*" or (not all and scope.tenant == tenant)
    local enough = scope.database == "*" or (not whole and not all and (not database or scope.database == database))
    if here and enough then
      return true
    end
  end
  return false
end

-- What the official clients choose their tenant and database by: the only ones that the token has, else *.
local function identity(rights)
  local tenant, databases, known = nil, {}, {}
  for _, scope in ipairs(rights.scopes) do
    tenant = (tenant == nil or tenant == scope.tenant) and scope.tenant or "*"
    if not known[scope.database] then
      known[scope.database] = true
      databases[#databases + 1] = quoted(scope.database)
    end
  end
  return ('{"user_id":%s,"tenant":%s,"databases":[%s]}'):format(quoted(rights.name), quoted(tenant or ""), table.concat(databases, ","))
end

-- chromad -------------------------------------------------------------------------------------------------------------------------------

-- One question, one line back; nil when nobody answers.
local function ask(question)
  local socket = core.tcp()
  socket:settimeout(2)
  local line
  if socket:connect("unix@" .. CHROMAD) and socket:send(question .. "\n") then
    line = socket:receive("*l")
  end
  socket:close()
  return line
end

-- Owners by id, as numbers in arrays: texts as keys would take three times the memory, and the collector of garbage would go
-- through all of them, again and again. An id is two integers; it stands in the slot that the second one names, or in the next free one.
local owners
local function forget_owners(slots)
  -- Rounds of the collector are short. Where much is remembered they come soon after each other, which saves memory; else seldom, which saves time.
  collectgarbage("setstepmul", 800)
  collectgarbage("setpause", slots > 16384 and 120 or 400)
  owners = { slots = slots, count = 0, firsts = {}, seconds = {}, places = {} }
  for slot = 1, slots do
    owners.firsts[slot], owners.seconds[slot], owners.places[slot] = 0, 0, false
  end
end
forget_owners(FEWEST_SLOTS)

local function halves(id)
  local first = id:sub(1, 8) .. id:sub(10, 13) .. id:sub(15, 18)
  return tonumber(first, 16), tonumber(id:sub(20, 23) .. id:sub(25, 36), 16)
end

-- The slot that an id has, or would have.
local function slot_of(first, second)
  local slot = second % owners.slots + 1
  while owners.places[slot] and (owners.firsts[slot] ~= first or owners.seconds[slot] ~= second) do
    slot = slot % owners.slots + 1
  end
  return slot
end

local function remember_owner(first, second, owner)
  if owners.count >= owners.slots * 4 // 5 then
    local before = owners
    forget_owners(math.min(2 * before.slots, MOST_SLOTS))
    -- The most that are remembered are all forgotten; fewer move.
    for slot = 1, before.slots < MOST_SLOTS and before.slots or 0 do
      if before.places[slot] then
        remember_owner(before.firsts[slot], before.seconds[slot], before.places[slot])
      end
    end
  end
  local slot = slot_of(first, second)
  if not owners.places[slot] then
    owners.firsts[slot], owners.seconds[slot], owners.places[slot] = first, second, owner
    owners.count = owners.count + 1
  end
end

-- TENANT/DATABASE that a collection belongs to, "-" when there is none; nil when chromad does not say so in time: it is away, or has nothing to
-- tell, while the service restarts.
local function owner_of(id)
  local first, second = halves(id)
  local known = owners.places[slot_of(first, second)]
  if known then
    return known
  end
  local deadline, before = os.time() + PATIENCE, generation
  local said = ask("owner " .. id)
  while (not said or said:sub(1, 1) == "!") and os.time() < deadline do
    core.msleep(200)
    said = ask("owner " .. id)
  end
  if said == "-" then
    return said
  elseif not said or not said:match("^[^/ ]+/[^/ ]+$") then
    return nil
  end
  -- An answer to a question from before the data changed may be about the former ones.
  if generation == before then
    remember_owner(first, second, said)
  end
  return said
end

-- Nobody waits for these two: a fence is the engine's as well, and the owner of an id does not change while data are what they are.
local function look()
  local now = ask("generation")
  if now and now:sub(1, 1) ~= "!" and now ~= generation then
    forget_owners(FEWEST_SLOTS)
    generation = now
  end
  local status, reason = (ask("fences") or "-"):match("^(50[37]) (.+)$")
  fence = status and { status = tonumber(status), reason = reason }
end

-- An error, as where there is no memory for a moment, would end it for good.
core.register_task(function()
  while true do
    pcall(look)
    core.msleep(1000)
  end
end)

-- Routes --------------------------------------------------------------------------------------------------------------------------------

-- By the number of their segments
local by_length = {}
for _, each in ipairs(ROUTES) do
  local segments, places = split(each[2], "/"), {}
  for index, segment in ipairs(segments) do
    places[index] = segment:match("^{(%l+)}$") or false
  end
  local route = {
    method = each[1],
    segments = segments,
    places = places,
    right = each[3],
    whole = each.whole,
    all = each.all,
    grows = each.grows,
    again = each.again,
    query = each.query or {},
    drops = each.drops or {},
    to = each.to,
    name = each[1] .. " " .. each[2]:gsub("^/api/v2", ""),
  }
  by_length[#route.segments] = by_length[#route.segments] or {}
  table.insert(by_length[#route.segments], route)
end

-- The segments of a path that nobody can read in two ways; nil for any other.
local function segments_of(path)
  if path == "/" then
    return {}
  end
  if #path > LONGEST_PATH or not path:match("^/[%w._~/-]+$") or path:find("//", 1, true) or path:sub(-1) == "/" then
    return nil
  end
  local segments = {}
  for segment in path:gmatch("[^/]+") do
    if segment == "." or segment == ".." then
      return nil
    end
    segments[#segments + 1] = segment
  end
  return segments
end

-- What stands in the places of a route; nil when the path is another one. The last segments differ most.
local function fits(route, segments)
  local found = {}
  for index = #segments, 1, -1 do
    if not route.places[index] and route.segments[index] ~= segments[index] then
      return nil
    end
  end
  for index, place in ipairs(route.places) do
    if place then
      found[place] = segments[index]
    end
  end
  return found
end

-- The route of a path and what stands in its places; nil and whether there is one for another method.
local function route_of(method, segments)
  local other = false
  for _, route in ipairs(by_length[#segments] or {}) do
    local found = fits(route, segments)
    if found and route.method == method then
      return route, found
    end
    other = other or found ~= nil
  end
  return nil, other
end

-- What goes on of a query; nil when there is something in it that the route does not know, or no plain value.
local function known_query(query, route)
  if query == "" then
    return query
  end
  local kept = {}
  for _, pair in ipairs(split(query, "&")) do
    local name = pair:match("^([%w_]+)=[%w._~-]+$")
    if name and route.query[name] then
      kept[#kept + 1] = pair
    elseif not name or not route.drops[name] then
      return nil
    end
  end
  return table.concat(kept, "&")
end

local function may(txn)
  local rights, headers = txn:get_priv().rights, txn:get_priv().headers
  local url, path, query = txn.sf:url(), txn.sf:path(), txn.sf:query()
  local version2 = tonumber(txn.f:fc_http_major()) == 2
  if not version2 and txn.sf:req_ver() ~= "1.1" then
    refuse(txn, 400, "this version of HTTP is not spoken. HINT: use HTTP/1.1 or HTTP/2", { connection = "close" })
  end
  -- HTTP/2 always names the host; in HTTP/1.1, that form is for proxies.
  local segments = (version2 or url:sub(1, 1) == "/") and segments_of(path)
  if not segments then
    refuse(txn, 400, "such a path is not accepted. HINT: /api/v2/… of letters, digits and . _ ~ -, nothing encoded, nothing doubled")
  end
  if segments[1] == "api" and segments[2] == "v1" then
    refuse(txn, 410, "the API v1 is not served. HINT: use a client of Chroma 1.x, which asks /api/v2")
  end
  local method = txn.sf:method()
  local route, found = route_of(method, segments)
  if not route and found then
    refuse(txn, 405, method .. " is nothing that can be done there")
  elseif not route then
    refuse(txn, 404, "there is no such path")
  end
  txn:set_var("txn.route", route.name)
  query = known_query(query, route)
  if not query then
    refuse(txn, 400, "such parameters are not accepted. HINT: after ? come those alone that the route has, nothing encoded")
  end
  if found.tenant then
    txn:set_var("txn.tenant", found.tenant)
  end
  if found.database then
    txn:set_var("txn.database", found.database)
  end

  if RANK[rights.role] < RANK[route.right] or (route.right == "metrics" and rights.role ~= "metrics") then
    refuse(txn, 403, ("the token %s has the role %s, and this needs %s"):format(rights.name, rights.role, route.right))
  end
  if (found.tenant or route.all) and not reaches(rights, found.tenant, found.database, route.whole, route.all) then
    local what = route.all and "everything" or route.whole and "all databases of this tenant" or "this tenant and database"
    refuse(txn, 403, ("the token %s is not for %s. HINT: its scopes say for which it is"):format(rights.name, what))
  end

  local length = headers["content-length"] and tonumber(headers["content-length"][0])
  if headers["transfer-encoding"] or (not length and tonumber(txn.sf:req_body_len()) > 0) then
    refuse(txn, 411, "the body has no length. HINT: send Content-Length", { connection = "close" })
  end
  if (length or 0) > LONGEST_BODY then
    refuse(txn, 413, ("the request has %d bytes, and %d are allowed. HINT: send fewer records at once"):format(length, LONGEST_BODY))
  end
  if (length or 0) > 0 and (method == "GET" or method == "DELETE") then
    refuse(txn, 400, method .. " has no body. HINT: send none", { connection = "close" })
  end
  if segments[3] == "auth" then
    answer(txn, identity(rights))
  end
  if found.id then
    if not found.id:match("^%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$") or found.id:find("%u") then
      refuse(txn, 400, "Collection ID is not a valid UUIDv4")
    end
    local owner = owner_of(found.id)
    if not owner then
      refuse(txn, 503, "the service does not say whose collection this is. HINT: try again", { ["retry-after"] = "5" })
    end
    if owner ~= found.tenant .. "/" .. found.database then
      refuse(txn, 404, ("Collection [%s] does not exist"):format(found.id))
    end
  end
  if route.grows and fence then
    refuse(txn, fence.status, "writes are refused for now: " .. fence.reason, { ["retry-after"] = "30" })
  end

  for name in pairs(headers) do
    if not PASSED[name] then
      txn.http:req_del_header(name)
    end
  end
  -- The engine gets what was judged, letter by letter, whatever form it came in.
  txn.http:req_set_uri(query == "" and path or path .. "?" .. query)
  if route.to then
    txn:set_var("txn.to", route.to)
  end
  if route.right == "ro" or route.right == "any" or route.again then
    txn:set_var("txn.again", 1)
  end
  txn:set_var("txn.pass", 1)
end

core.register_action("who", { "http-req" }, who)
core.register_action("may", { "http-req" }, may)
