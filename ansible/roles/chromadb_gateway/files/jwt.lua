-- Tokens of an identity provider: JSON Web Tokens, signed with RS256 or ES256. What is not understood refuses.
--
-- haproxy.cfg says: whose tokens, for whom, which claims have the name, the role and the scopes, and who verifies signatures.
local VERIFIER = os.getenv("GATEWAY_JWT_VERIFIER")
local ISSUER, AUDIENCE = os.getenv("GATEWAY_JWT_ISSUER"), os.getenv("GATEWAY_JWT_AUDIENCE")
local NAME, ROLE, SCOPES = os.getenv("GATEWAY_JWT_NAME"), os.getenv("GATEWAY_JWT_ROLE"), os.getenv("GATEWAY_JWT_SCOPES")

-- A claim that is not there is not as one that is not wanted.
for _, each in ipairs({ "VERIFIER", "ISSUER", "AUDIENCE", "NAME", "ROLE", "SCOPES" }) do
  assert((os.getenv("GATEWAY_JWT_" .. each) or "") ~= "", "GATEWAY_JWT_" .. each .. " is not set")
end

-- Seconds by which the clock of the issuer may be ahead
local AHEAD = 60
-- Of a name; with its prefix as long as those of other tokens may be.
local LONGEST_NAME = 60
local DEEPEST = 8

local ALGORITHMS = { RS256 = true, ES256 = true }
-- Those of other kinds, such as a notice of a logout, are signed with the same key.
local TYPES = { ["jwt"] = true, ["at+jwt"] = true, ["application/jwt"] = true, ["application/at+jwt"] = true }

local jwt = {
  LONGEST = 8192,
  SILENCE = "the token's signature could not be verified. HINT: try again",
}

-- JSON ----------------------------------------------------------------------------------------------------------------------------------

-- Texts, whole numbers and truth are those of Lua; { members = … }, { list = … }; OTHER for null and any other number.
local OTHER = {}

local ESCAPED = { ['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }
local WORDS = { ["true"] = true, ["false"] = false, ["null"] = OTHER }

local function broken()
  error("no JSON", 0)
end

local function past_space(text, at)
  return text:find("[^ \t\r\n]", at) or #text + 1
end

-- The character of \uXXXX, and where it ends. at: of the u.
local function escaped_character(text, at)
  local code = tonumber(text:match("^u(%x%x%x%x)", at) or broken(), 16)
  if code < 0xD800 or code > 0xDFFF then
    return utf8.char(code), at + 5
  end
  local second = tonumber(text:match("^\\u(%x%x%x%x)", at + 5) or broken(), 16)
  if code > 0xDBFF or second < 0xDC00 or second > 0xDFFF then
    broken()
  end
  return utf8.char(0x10000 + (code - 0xD800) * 0x400 + second - 0xDC00), at + 11
end

-- The text whose quotation mark is at a place; each of these gives what it has read, and where that ends.
local function read_text(text, at)
  local parts = {}
  at = at + 1
  while true do
    local stop = text:find('[\0-\31"\\]', at) or broken()
    parts[#parts + 1] = text:sub(at, stop - 1)
    local found = text:sub(stop, stop)
    if found == '"' then
      return table.concat(parts), stop + 1
    elseif found ~= "\\" then
      broken()
    end
    local escaped = ESCAPED[text:sub(stop + 1, stop + 1)]
    if escaped then
      parts[#parts + 1], at = escaped, stop + 2
    else
      parts[#parts + 1], at = escaped_character(text, stop + 1)
    end
  end
end

local function read_number(text, at)
  local whole = text:match("^-?[1-9]%d*", at) or text:match("^-?0", at) or broken()
  at = at + #whole
  local more = text:match("^%.%d+", at) or ""
  more = more .. (text:match("^[eE][+-]?%d+", at + #more) or "")
  return more == "" and #whole <= 12 and math.tointeger(tonumber(whole)) or OTHER, at + #more
end

local read_value

local function read_list(text, at, depth)
  local list = {}
  at = past_space(text, at + 1)
  if text:sub(at, at) == "]" then
    return { list = list }, at + 1
  end
  while true do
    list[#list + 1], at = read_value(text, at, depth)
    at = past_space(text, at)
    local found = text:sub(at, at)
    if found == "]" then
      return { list = list }, at + 1
    elseif found ~= "," then
      broken()
    end
    at = at + 1
  end
end

-- Two of the same name are what two readers understand differently.
local function read_members(text, at, depth)
  local members, name = {}, nil
  at = past_space(text, at + 1)
  if text:sub(at, at) == "}" then
    return { members = members }, at + 1
  end
  while true do
    at = past_space(text, at)
    if text:sub(at, at) ~= '"' then
      broken()
    end
    name, at = read_text(text, at)
    at = past_space(text, at)
    if text:sub(at, at) ~= ":" or members[name] ~= nil then
      broken()
    end
    members[name], at = read_value(text, at + 1, depth)
    at = past_space(text, at)
    local found = text:sub(at, at)
    if found == "}" then
      return { members = members }, at + 1
    elseif found ~= "," then
      broken()
    end
    at = at + 1
  end
end

function read_value(text, at, depth)
  at = past_space(text, at)
  local first = text:sub(at, at)
  if depth > DEEPEST then
    broken()
  elseif first == "{" then
    return read_members(text, at, depth + 1)
  elseif first == "[" then
    return read_list(text, at, depth + 1)
  elseif first == '"' then
    return read_text(text, at)
  end
  local word = text:match("^%l+", at)
  if not word then
    return read_number(text, at)
  elseif WORDS[word] == nil then
    broken()
  end
  return WORDS[word], at + #word
end

local function read_document(text)
  if not utf8.len(text) then
    broken()
  end
  local value, at = read_value(text, 1, 1)
  if past_space(text, at) <= #text then
    broken()
  end
  return value.members or broken()
end

-- The members of a part of a token, nil when it is no object of JSON in base64url, in the one form that this has.
local function members_of(txn, part)
  local text = txn.sc:ub64dec(part)
  if not text or txn.sc:ub64enc(text) ~= part then
    return nil
  end
  local fine, members = pcall(read_document, text)
  return fine and members or nil
end

-- Tokens --------------------------------------------------------------------------------------------------------------------------------

local function parts_of(token)
  return token:match("^([A-Za-z0-9_-]+)%.([A-Za-z0-9_-]+)%.([A-Za-z0-9_-]+)$")
end

-- The algorithm by which a token says it is signed; nil and why it cannot be.
local function algorithm_of(txn, token)
  local header, _, signature = parts_of(token)
  local members = header and members_of(txn, header)
  if not members then
    return nil, "the token is no JWT. HINT: send it as the identity provider gave it"
  end
  local algorithm = members.alg
  if not ALGORITHMS[algorithm] then
    return nil, "the token is not signed with RS256 or ES256. HINT: choose one of these at the identity provider"
  end
  local kind = members.typ
  if kind ~= nil and not (type(kind) == "string" and TYPES[kind:lower()]) then
    return nil, "the token is of another type than JWT and at+jwt. HINT: send an access token"
  end
  if members.crit ~= nil then
    return nil, "the token wants what is not understood here: crit. HINT: have the identity provider leave that out"
  end
  -- What HAProxy is given has the form of a signature.
  if txn.sc:ub64enc(txn.sc:ub64dec(signature) or "") ~= signature or (algorithm == "ES256" and #signature ~= 86) then
    return nil, "the token's signature has not the form of one. HINT: send it as the identity provider gave it"
  end
  return algorithm
end

local function is_for(audience)
  if type(audience) ~= "table" then
    return audience == AUDIENCE
  end
  local found = false
  for _, each in ipairs(audience.list or {}) do
    if type(each) ~= "string" then
      return false
    end
    found = found or each == AUDIENCE
  end
  return found
end

local function is_place(text)
  return text == "*" or (#text <= 128 and text:match("^[A-Za-z0-9._~-]+$") ~= nil)
end

-- The scopes of a claim: texts, or one with spaces between. nil when there is one that is not understood, or none.
local function scopes_of(claim)
  local texts = type(claim) == "table" and claim.list or {}
  if type(claim) == "string" then
    for text in (claim .. " "):gmatch("([^ ]*) ") do
      texts[#texts + 1] = text
    end
  end
  local scopes = {}
  for _, text in ipairs(texts) do
    local tenant, database = tostring(text):match("^([^/]+)/([^/]+)$")
    if type(text) ~= "string" or not tenant or not is_place(tenant) or not is_place(database) then
      return nil
    end
    scopes[#scopes + 1] = { tenant = tenant, database = database }
  end
  return #scopes > 0 and scopes or nil
end

-- A claim that says a time has one.
local function is_time(claim)
  return math.type(claim) == "integer" and claim >= 0
end

-- Whether one of the keys of an algorithm has made the signature; nil when nobody says so. The frontend `verify` does that on a thread
-- without TLS: a signature that is wrong leaves errors behind in OpenSSL, for which HAProxy 2.6 would break off the connection, anybody's,
-- that it reads from next.
local function is_signed(token, algorithm)
  local socket = core.tcp()
  socket:settimeout(5)
  local line
  if socket:connect("unix@" .. VERIFIER) and socket:send(("GET /%s HTTP/1.1\r\nhost: verify\r\ntoken: %s\r\n\r\n"):format(algorithm, token)) then
    line = socket:receive("*l")
  end
  socket:close()
  local status = line and line:match("^HTTP/1%.1 (%d+) ")
  if status == "204" then
    return true
  end
  -- Neither yes nor no is none of them.
  if status == "401" then
    return false
  end
  return nil
end

-- What a token may do, as for those of tokens.map; nil, why it may nothing, and its name when it was verified and
-- has one. ranks: the roles that there are.
function jwt.rights(txn, token, ranks)
  local algorithm, trouble = algorithm_of(txn, token)
  if not algorithm then
    return nil, trouble
  end
  local signed = is_signed(token, algorithm)
  if signed == nil then
    return nil, jwt.SILENCE
  elseif not signed then
    return nil, "the token's signature is of no key that is known here. HINT: chromadb_gateway_jwt_keys has those of the identity provider"
  end
  local _, payload = parts_of(token)
  local claims, now = members_of(txn, payload), os.time()
  if not claims then
    return nil, "the token's claims are no JSON in base64url, or one is there twice. HINT: look at it at the identity provider"
  end
  if claims.iss ~= ISSUER then
    return nil, "the token is of another issuer. HINT: iss has to be " .. ISSUER
  end
  if not is_for(claims.aud) then
    return nil, "the token is for somebody else. HINT: aud has to be, or to have, " .. AUDIENCE
  end
  local name = claims[NAME]
  if type(name) ~= "string" or #name > LONGEST_NAME or not name:match("^[A-Za-z0-9._@|:/+=~-]+$") then
    return nil, ("the token has no name in %s. HINT: 1 to %d letters, digits and . _ @ | : / + = ~ -"):format(NAME, LONGEST_NAME)
  end
  -- No token of chromactl's is called so.
  name = "jwt:" .. name
  if not is_time(claims.exp) then
    return nil, "the token " .. name .. " has no end. HINT: exp has to be a whole number of seconds", name
  end
  -- 0 means no end to those who ask later.
  if claims.exp <= now then
    return nil, "the token " .. name .. " has expired. HINT: get a new one from the identity provider", name
  end
  for _, begins in ipairs({ "nbf", "iat" }) do
    local time = claims[begins]
    if time ~= nil and not (is_time(time) and time <= now + AHEAD) then
      return nil, ("the token %s holds only from later on: %s. HINT: compare the clocks of both hosts"):format(name, begins), name
    end
  end
  if claims.cnf ~= nil then
    return nil, "the token " .. name .. " is for the holder of a key: cnf. HINT: have the identity provider give a plain bearer token", name
  end
  local role = claims[ROLE]
  if type(role) ~= "string" or not ranks[role] or role == "any" then
    return nil, ("the token %s has no role in %s. HINT: it has to be ro, rw, admin or metrics"):format(name, ROLE), name
  end
  local scopes
  if role == "metrics" then
    scopes = { { tenant = "-", database = "-" } }
  elseif claims[SCOPES] == nil then
    scopes = { { tenant = "default_tenant", database = "default_database" } }
  else
    scopes = scopes_of(claims[SCOPES])
  end
  if not scopes then
    return nil, ("the token %s has scopes in %s that are none. HINT: TENANT/DATABASE, each a name or *"):format(name, SCOPES), name
  end
  return { name = name, role = role, scopes = scopes, expires = claims.exp }
end

return jwt
