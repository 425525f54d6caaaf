-- A bytecode VM at work: integer and float arithmetic, tables, strings, closures, method calls, a coroutine.
local rounds = tonumber(arg[1]) or 1

local function fannkuch(n)
  local p, q, s, sign, most, sum = {}, {}, {}, 1, 0, 0
  for i = 1, n do p[i] = i; q[i] = i; s[i] = i end
  while true do
    local q0 = p[1]
    if q0 ~= 1 then
      for i = 2, n do q[i] = p[i] end
      local flips = 1
      while true do
        local qq = q[q0]
        if qq == 1 then
          sum = sum + sign * flips
          if flips > most then most = flips end
          break
        end
        q[q0] = q0
        if q0 >= 4 then
          local i, j = 2, q0 - 1
          repeat q[i], q[j] = q[j], q[i]; i = i + 1; j = j - 1 until i >= j
        end
        q0 = qq; flips = flips + 1
      end
    end
    if sign == 1 then
      p[1], p[2] = p[2], p[1]; sign = -1
    else
      p[2], p[3] = p[3], p[2]; sign = 1
      for i = 3, n do
        local sx = s[i]
        if sx ~= 1 then s[i] = sx - 1; break end
        if i == n then return sum, most end
        s[i] = i
        local t = p[1]
        for j = 1, i do p[j] = p[j + 1] end
        p[i + 1] = t
      end
    end
  end
end

local Account = {}
Account.__index = Account
function Account.new(balance) return setmetatable({balance = balance}, Account) end
function Account:deposit(amount) self.balance = self.balance + amount; return self end

local function words(n)
  local counts, text = {}, {}
  for i = 1, n do text[#text + 1] = string.format("w%d", (i * 7919) % 211) end
  for word in table.concat(text, " "):gmatch("%a%d+") do counts[word] = (counts[word] or 0) + 1 end
  local keys = {}
  for key in pairs(counts) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return counts[a] > counts[b] or (counts[a] == counts[b] and a < b) end)
  return keys[1], counts[keys[1]]
end

local function squares(n)
  local stream = coroutine.wrap(function() for i = 1, n do coroutine.yield(i * i) end end)
  local sum = 0.5
  for value in stream do sum = sum + value / 3 end
  return sum
end

for round = 1, rounds do
  local account = Account.new(round)
  for i = 1, 20000 do account:deposit(i % 17):deposit(0.25) end
  local sum, most = fannkuch(7)
  print(sum, most, account.balance, squares(5000), words(3000))
end
