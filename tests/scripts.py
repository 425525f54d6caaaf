"""Long scripts for interpreters, generated: a thousand lines that use much of each language and print what came out.

Every snippet is a template in which @A, @B, @C become numbers and @N the snippet's index; the same seed gives the same
script. What a script prints is deterministic.
"""
# ruff: noqa: E501 - snippets of other languages keep their own shape

from __future__ import annotations

import random

AWK = [
    """function f@N(n,   i, s) {
  s = 0
  for (i = 1; i <= n; i++) s = (s * 31 + i * @A) % 1000003
  return n < 2 ? s : s + f@N(n - 1) % @B
}
BEGIN { print "f@N", f@N(@C % 40 + 5) }""",
    """BEGIN {
  n = split("the quick brown fox @A jumps over the lazy dog @B", words@N, / +/)
  for (i = n; i > 0; i--) text@N = text@N toupper(substr(words@N[i], 1, 1)) substr(words@N[i], 2) (i % 3 ? "-" : "+")
  print text@N, length(text@N), index(text@N, "fox"), match(text@N, /[0-9]+/), RSTART, RLENGTH
}""",
    """BEGIN {
  delete count
  for (i = 0; i < @C % 300 + 50; i++) count[(i * @A) % 17]++
  for (i = 0; i < 17; i++) if (i in count) { sum@N += count[i] * i; line@N = line@N "," count[i] }
  printf "%s %d %5.2f|%-8s|%08x|%e\\n", line@N, sum@N, sum@N / 7, "left", @A, @B / 3
}""",
    """BEGIN {
  s = "a@Ab@Bc@C"
  n = gsub(/[0-9]/, "<&>", s)
  t = s; sub(/<.>/, "[first]", t)
  print n, s, t, sprintf("%c%c", 65 + @A % 26, "z"), substr(s, @B % 9 + 1, 12), tolower("MiXeD@A")
}""",
    """BEGIN {
  x = @A / (@B + 1)
  printf "%.6f %.6f %.6f %.6f %d\\n", sin(x), cos(x) * exp(-x), log(x + 1), sqrt(@C), int(-x * 100) % 7
  while (k@N < @C % 50) { k@N += 3; if (k@N % 5 == 0) continue; if (k@N > 40) break; acc@N = acc@N k@N }
  print acc@N, @A ^ 2 % 1000, (@A > @B ? "more" : "less"), ("@A" < "@B"), !(@A ~ /1/)
}""",
    """BEGIN {
  for (i = 0; i < 40; i++) v@N[i] = (i * @A + @B) % 1009
  for (i = 1; i < 40; i++) { t = v@N[i]; for (j = i - 1; j >= 0 && v@N[j] > t; j--) v@N[j + 1] = v@N[j]; v@N[j + 1] = t }
  for (i = 0; i < 40; i += 5) printf "%d ", v@N[i]
  do { v@N[0]--; q@N++ } while (v@N[0] > 0 && q@N < 30)
  print q@N
}""",
    """BEGIN {
  for (a = 0; a < 9; a++) for (b = 0; b < 9; b++) grid[a, b] = (a * @A + b * @B) % 11
  for (k in grid) { split(k, ij, SUBSEP); total@N += grid[k] * (ij[1] + 1) * (ij[2] + 2) }
  delete grid
  print "grid", total@N, length(grid), substr("abcdefghij", @C % 5 + 1), "x" @A + 1 "y"
}""",
]

PERL = [
    """sub f@N { my ($n, @rest) = @_; return $n < 2 ? $n + @A : (f@N($n - 1) * 31 + @rest) % 1000003 + f@N($n - 2) % 7; }
print "f@N ", f@N(@C % 12 + 4, 1, 2, 3), "\\n";""",
    """{
    my %count;
    $count{($_ * @A) % 23} += $_ for 1 .. @C % 500 + 50;
    my @keys = sort { $count{$b} <=> $count{$a} || $a <=> $b } keys %count;
    print join(",", map { "$_=$count{$_}" } grep { defined } @keys[0 .. 4]), "\\n";
}""",
    """{
    my $s = "the quick brown fox @A jumps over @B lazy dogs @C";
    my @words = grep { length > 3 } split /\\s+/, $s;
    (my $t = $s) =~ s/(\\d+)/<@{[ $1 * 2 ]}>/g;
    my $n = () = $s =~ /o/g;
    print scalar(reverse $t), " $n ", join("|", map { ucfirst lc } @words), " ", ($s =~ /(\\w+)\\s+(?=jumps)/ ? $1 : "none"), "\\n";
}""",
    """{
    my @stack = map { +{ id => $_, score => ($_ * @A + @B) % 101, tags => [ map { "t$_" } 0 .. $_ % 4 ] } } 1 .. 30;
    my @best = sort { $b->{score} <=> $a->{score} || $a->{id} <=> $b->{id} } @stack;
    printf "%s %d %.3f %05x %-6s|\\n", join(",", map { "$_->{id}:" . scalar @{ $_->{tags} } } @best[0 .. 5]), $best[-1]{score}, @A / (@B + 1), @C, "end";
}""",
    """{
    my $closure = do { my $n = @A; sub { my $k = shift; $n = ($n * 1103515245 + $k) & 0x7fffffff; return $n >> 8; } };
    my $sum = 0;
    $sum ^= $closure->($_) for 1 .. @C % 400 + 10;
    print "closure $sum ", sprintf("%b %o %X", @A, @B, @C), "\\n";
}""",
    """{
    my $text = join "\\n", map { "line $_: value=" . ($_ * @A % 97) . "; name='item$_'" } 1 .. 25;
    my ($total, @names) = (0);
    while ($text =~ /value=(\\d+); name='(\\w+)'/g) { $total += $1; push @names, $2 if $1 % 3 == 0; }
    local $_ = $text; my $lines = tr/\\n//; my $vowels = tr/aeiou//;
    print "$total $lines $vowels @{[ grep { defined } @names[0..2] ]} ", substr($text, @B % 50, 20) =~ s/\\n/ /r, "\\n";
}""",
    """package Shape@N { sub new { my ($class, %a) = @_; return bless {%a}, $class } sub area { $_[0]{w} * $_[0]{h} } sub DESTROY { $main::destroyed++ } }
package Square@N { our @ISA = ("Shape@N"); sub area { my $self = shift; $self->SUPER::area() + @B } }
{ my @s = map { ($_ % 2 ? "Shape@N" : "Square@N")->new(w => $_, h => @A % 9) } 1 .. 8; my $a = 0; $a += $_->area for @s; print "area $a ", ref $s[1], "\\n"; }""",
    """{
    my $r = eval { die { code => @A } if @A % 2; my $z = @B - @B; @C / $z };
    print "caught ", ref $@ ? $@->{code} : $@ =~ /division/ ? "division" : "none", " ", defined $r ? $r : "undef", "\\n";
    my $packed = pack("NnCa5w", @A, @B % 65536, @C % 256, "text", @A); my @u = unpack("NnCa5w", $packed);
    print join(":", @u), " ", unpack("%32C*", $packed), " ", length $packed, "\\n";
}""",
]

PYTHON = [
    '''def f@N(n, memo={}):
    """Recursion with a memo."""
    if n < 2:
        return n + @A
    if n not in memo:
        memo[n] = (f@N(n - 1) * 31 + f@N(n - 2)) % 1000003
    return memo[n]
print("f@N", f@N(@C % 60 + 5), sum(x * x for x in range(@B % 200) if x % 3))''',
    """words = ("the quick brown fox @A jumps over the lazy dog @B " * 3).split()
count = {}
for w in words:
    count[w] = count.get(w, 0) + len(w) * @A % 13
print(sorted(count.items(), key=lambda p: (-p[1], p[0]))[:5], " ".join(reversed(words))[::3].title(), f"{@A / 7:.4f} {@B:>8x} {@C!r:^9}")""",
    """class Point@N:
    __slots__ = ("x", "y")
    def __init__(self, x, y): self.x, self.y = x, y
    def __add__(self, o): return Point@N(self.x + o.x, self.y * o.y % 1009)
    def __repr__(self): return f"P({self.x}, {self.y})"
total = Point@N(@A, @B)
for i in range(1, 40):
    total = total + Point@N(i, i ^ @C)
print(total, isinstance(total, object), hash((@A, @B)) == hash((@A, @B)))""",
    """def gen@N(n):
    a, b = @A, @B
    for _ in range(n):
        got = yield a
        a, b = b, (a + b + (got or 0)) % 10007
g = gen@N(30)
out = [next(g)] + [g.send(i % 5) for i in range(29)]
try:
    g.send(1)
except StopIteration:
    out.append(-1)
print(out[::4], max(out), {v % 7 for v in out} == set(range(7)))""",
    """import re
text = "\\n".join(f"line {i}: value={i * @A % 97}; name='item{i}'" for i in range(25))
found = re.findall(r"value=(\\d+); name='(\\w+)'", text)
print(sum(int(v) for v, _ in found), re.sub(r"(\\d)(\\d)", r"\\2\\1", text)[:40], bool(re.search(r"(?<=name=')item@A'", text)))""",
    """import json, struct, zlib, hashlib
data = {"a": [@A, @B / 3, None, True], "b": {"x" * (@C % 9): list(range(@A % 20))}}
encoded = json.dumps(data, sort_keys=True)
assert json.loads(encoded) == data
raw = struct.pack("<IHBd", @A, @B % 65536, @C % 256, @A / 11)
print(zlib.crc32(encoded.encode()), len(zlib.compress(encoded.encode() * 20)), hashlib.sha256(raw).hexdigest()[:16], struct.unpack("<IHBd", raw)[:3])""",
    """matrix = [[(i * @A + j * @B) % 11 - 5 for j in range(8)] for i in range(8)]
product = [[sum(a * b for a, b in zip(row, column)) for column in zip(*matrix)] for row in matrix]
big = pow(@A + 2, @B % 200 + 50) % (10 ** 40 + 7)
print(product[@C % 8], big, divmod(-@A, 7), @A << 65 >> 60, bin(@C)[2:].count("1"), round(@A / 3, 5), 1e16 + @B)""",
    """def risky@N(k):
    try:
        if k % 4 == 0: return [1, 2][k]
        if k % 4 == 1: return {}["missing"]
        if k % 4 == 2: return int("x" * k)
        return @A // (k - k)
    except (IndexError, KeyError) as e:
        return type(e).__name__
    except Exception as e:
        return str(e)
    finally:
        log.append(k)
log = []
print([risky@N(k + @B) for k in range(4)], log, sorted("abcdef", key=lambda c: (ord(c) * @A) % 17), *map(chr, range(65, 70)))""",
]

LUA = [
    """local function f@N(n) if n < 2 then return n + @A end return (f@N(n - 1) * 31 + f@N(n - 2)) % 1000003 end
print("f@N", f@N(@C % 14 + 4))""",
    """do
  local count = {}
  for w in ("the quick brown fox @A jumps over the lazy dog @B the end"):gmatch("%w+") do count[w] = (count[w] or 0) + #w * @A % 13 end
  local keys = {}
  for k in pairs(count) do keys[#keys + 1] = k end
  table.sort(keys, function(a, b) if count[a] ~= count[b] then return count[a] > count[b] end return a < b end)
  print(table.concat(keys, ","), count.the, select("#", table.unpack(keys)))
end""",
    """do
  local Point = {}; Point.__index = Point
  Point.__add = function(a, b) return setmetatable({x = a.x + b.x, y = a.y * b.y % 1009}, Point) end
  Point.__tostring = function(p) return "P(" .. p.x .. "," .. p.y .. ")" end
  local p = setmetatable({x = @A, y = @B}, Point)
  for i = 1, 40 do p = p + setmetatable({x = i, y = i ~ @C}, Point) end
  print(tostring(p), rawlen({1, 2, 3}), #"text@A")
end""",
    """do
  local co = coroutine.wrap(function(a) local s = a; for i = 1, 20 do s = (s * 31 + coroutine.yield(s)) % 10007 end; return "done" end)
  local out, v = {}, co(@A)
  for i = 1, 20 do out[#out + 1] = tostring(v); v = co(i * @B % 17) end
  print(table.concat(out, " ", 1, 10), v)
end""",
    """do
  local s = string.rep("a@Ab@B", 5)
  print(s:gsub("%d+", function(d) return "<" .. d * 2 .. ">" end), s:upper():sub(2, 12), s:find("b"), s:byte(3), string.format("%5.2f|%-8s|%08x|%q", @A / 7, "left", @B, "q\\n"))
  print(s:reverse(), ("%d"):rep(3, ","), tostring(@A / 2), math.type(@A // 2), @A % -7, -@B // 3, 2 ^ (@C % 20), @A << 3 | @B & 0xff)
end""",
    """do
  local ok, err = pcall(function() if @A % 2 == 0 then error({code = @A}) end local t = nil; return t.x end)
  print(ok, type(err) == "table" and err.code or (tostring(err):match("index a nil") or "other"))
  local t = {}
  for i = 1, @C % 300 + 20 do t[i] = (i * @A + @B) % 1009 end
  table.sort(t); table.insert(t, 1, -1); table.remove(t, 3)
  goto skip
  t = nil
  ::skip::
  print(#t, t[1], t[#t], math.max(table.unpack(t, 1, 10)), utf8.char(228, 8364), #utf8.char(8364))
end""",
    """do
  local closures = {}
  for i = 1, 10 do local n = i; closures[i] = function(k) n = (n * 1103515245 + k) & 0x7fffffff; return n >> 8 end end
  local s = 0
  for i = 1, @C % 200 + 10 do s = s ~ closures[i % 10 + 1](i) end
  collectgarbage()
  print("closures", s, string.pack("<I4i2", @A, -@B % 3000):byte(1, -1))
end""",
]

SNIPPETS = {"awk": AWK, "perl": PERL, "python": PYTHON, "lua": LUA}
HEADS = {"awk": "", "perl": "use strict; use warnings;\n", "python": "import sys\n", "lua": ""}


def script(language: str, lines: int = 1000, seed: int = 1) -> str:
    """A script of at least `lines` lines in `awk`, `perl`, `python` or `lua`."""
    source = random.Random(f"{language}/{seed}")
    parts: list[str] = [HEADS[language]]
    total = index = 0
    while total < lines:
        snippet = SNIPPETS[language][index % len(SNIPPETS[language])].replace("@N", str(index))
        for mark in ("@A", "@B", "@C"):
            snippet = snippet.replace(mark, str(source.randrange(1, 1000)))
        parts.append(snippet)
        total += snippet.count("\n") + 1
        index += 1
    return "\n".join(parts) + "\n"


def statements(count: int, seed: int = 1) -> str:
    """SQL for the sqlite3 shell: tables, indexes, joins, aggregates, windows, triggers, transactions, text functions."""
    source = random.Random(f"sql/{seed}")
    out = [
        "PRAGMA journal_mode=MEMORY;",
        "CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, kind INT, price REAL, note BLOB);",
        "CREATE TABLE sale(id INTEGER PRIMARY KEY, item INT REFERENCES item(id), amount INT, day TEXT);",
        "CREATE INDEX by_kind ON item(kind, price); CREATE INDEX by_item ON sale(item);",
        "CREATE TABLE audit(what TEXT, n INT);",
        "CREATE TRIGGER log AFTER UPDATE ON item BEGIN INSERT INTO audit VALUES(new.name, new.kind - old.kind); END;",
        "CREATE VIEW total AS SELECT item.kind AS kind, sum(amount * price) AS worth FROM sale JOIN item ON item.id = sale.item GROUP BY item.kind;",
        "CREATE VIRTUAL TABLE notes USING fts5(body);",
        "BEGIN;",
    ]
    for number in range(count):
        a, b = source.randrange(1000), source.randrange(1, 500)
        out.append(
            source.choice(
                [
                    f"INSERT INTO item(name, kind, price, note) VALUES('item {a}', {b % 17}, {a / 7:.3f}, x'{a:04x}');",
                    f"INSERT INTO sale(item, amount, day) VALUES({b}, {a % 50}, date('2024-01-01', '+{a} days'));",
                    f"INSERT INTO sale(item, amount, day) SELECT id, id % {b}, date('2023-05-05', '+' || id || ' days') FROM item WHERE kind = {a % 17} LIMIT 5;",
                    f"UPDATE item SET kind = (kind + {a}) % 17, price = price * 1.01 WHERE id = {b};",
                    f"DELETE FROM sale WHERE id = {a};",
                    f"INSERT INTO notes VALUES('note number {a} about things like {b} and {a * b}');",
                ]
            )
        )
        if number % 40 == 39:
            out.append(
                source.choice(
                    [
                        "SELECT kind, count(*), round(sum(price), 2), group_concat(substr(name, -3), '|') FROM (SELECT * FROM item ORDER BY id LIMIT 60) GROUP BY kind ORDER BY kind;",
                        "SELECT day, sum(amount) OVER (ORDER BY day ROWS 3 PRECEDING) FROM (SELECT day, sum(amount) AS amount FROM sale GROUP BY day ORDER BY day LIMIT 12);",
                        "SELECT kind, round(worth, 3) FROM total ORDER BY worth DESC LIMIT 5;",
                        f"WITH RECURSIVE f(a, b, n) AS (SELECT 0, 1, 0 UNION ALL SELECT b, (a + b) % 1000003, n + 1 FROM f WHERE n < {b}) SELECT max(a), sum(b) FROM f;",
                        "SELECT upper(name), hex(note), length(name), printf('%.2f|%5d', price, kind), coalesce(nullif(kind, 3), -1) FROM item ORDER BY price DESC LIMIT 6;",
                        "SELECT i.name, (SELECT max(amount) FROM sale WHERE item = i.id) FROM item i WHERE i.id IN (SELECT item FROM sale GROUP BY item HAVING count(*) > 1) ORDER BY 2 DESC, 1 LIMIT 7;",
                        f"SELECT count(*) FROM notes WHERE notes MATCH 'number AND {a}'; SELECT name FROM item WHERE name LIKE '%{a % 10}' ORDER BY name DESC LIMIT 3;",
                        f"SELECT json_extract('{{\"a\":[{a},{b}]}}', '$.a[1]'), json_array({a}, 'x'), quote(x'{b:04x}'), strftime('%j', '2024-02-{b % 28 + 1:02}'), {a} % {b}, {a} / {b}.0, abs(-{a});",
                    ]
                )
            )
        if number % 200 == 199:
            out.append("COMMIT; ANALYZE; BEGIN;")
    out.append(
        "COMMIT; PRAGMA integrity_check; SELECT count(*), sum(n) FROM audit; VACUUM; EXPLAIN QUERY PLAN SELECT * FROM total;"
    )
    return "\n".join(out) + "\n"
