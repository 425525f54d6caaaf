// Covers: C++ exceptions through instrumented frames: destructors during unwinding, rethrow, catch by base, by value,
//         by pointer, catch-all, throws in constructors and from callbacks, function-try-blocks, nested exceptions,
//         std::exception_ptr, many throws, cleanup-only frames, noexcept functions that catch inside.
// Expected: prints fixed results, exit 0.
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#define NOINLINE __attribute__((noinline))

static long log_value;
static void note(int v) { log_value = log_value * 31 + v; }

struct Guard {
    int id;
    explicit Guard(int i) : id(i) { note(id); }
    ~Guard() { note(-id); }
};
struct Base { virtual ~Base() = default; virtual int code() const { return 1; } };
struct Derived : Base { int v; explicit Derived(int x) : v(x) {} int code() const override { return v; } };
struct Other { std::string text; };
struct Multi : std::runtime_error, Base { Multi() : std::runtime_error("multi") {} int code() const override { return 77; } };

NOINLINE static void thrower(int kind) {
    Guard g(kind);
    switch (kind % 8) {
    case 0: throw 42;
    case 1: throw Derived(kind);
    case 2: throw std::runtime_error("runtime " + std::to_string(kind));
    case 3: throw "literal";
    case 4: throw Other{std::string(static_cast<size_t>(kind % 40), 'x')};
    case 5: throw Multi();
    case 6: throw 2.5;
    default: return;
    }
}

NOINLINE static int middle(int kind) {
    Guard a(100 + kind);
    std::vector<std::string> v{"a", "b", std::string(50, 'c')};
    std::unique_ptr<Guard> p(new Guard(3));
    thrower(kind);
    return static_cast<int>(v.size()) + p->id;
}

NOINLINE static int outer(int kind) {
    try {
        return middle(kind);
    } catch (int v) {
        return v;
    } catch (const std::exception &e) {
        return static_cast<int>(std::string(e.what()).size()) + 1000;
    } catch (const Base &b) {
        return b.code() + 2000;
    } catch (const char *s) {
        return s[0] + 3000;
    } catch (Other o) {
        return static_cast<int>(o.text.size()) + 4000;
    } catch (...) {
        return 5000;
    }
}

NOINLINE static void rethrow(int depth, int kind) {
    Guard g(depth);
    if (depth == 0) thrower(kind);
    try {
        if (depth) rethrow(depth - 1, kind);
    } catch (...) {
        note(depth * 7);
        throw;
    }
}

struct Member { int v; explicit Member(int x) : v(x) { if (x == 3) throw std::out_of_range("member"); note(v); } ~Member() { note(-v * 5); } };
struct Holder {
    Guard g;
    Member a, b;
    Holder(int x) try : g(9), a(x), b(x + 1) { note(11); if (x == 7) throw 7; } catch (const std::out_of_range &) { note(13); }
    ~Holder() { note(17); }
};

NOINLINE static int construct(int x) {
    try {
        Holder h(x);
        return h.a.v;
    } catch (int v) {
        return -v;
    } catch (const std::exception &) {
        return -100;
    }
}
NOINLINE static int safe(int kind) noexcept {
    try { thrower(kind); } catch (...) { return 1; }
    return 0;
}
NOINLINE static std::string unnest(const std::exception &e) {
    std::string s = e.what();
    try { std::rethrow_if_nested(e); } catch (const std::exception &inner) { s += "/" + unnest(inner); }
    return s;
}
NOINLINE static void nest(int n) {
    try { if (n == 0) throw std::logic_error("core"); nest(n - 1); }
    catch (...) { std::throw_with_nested(std::runtime_error("level" + std::to_string(n))); }
}
static int compare(const void *a, const void *b) {
    int x = *static_cast<const int *>(a), y = *static_cast<const int *>(b);
    if (x == 13 && y == 13) throw std::string("unlucky");
    return x - y;
}
struct Array { Array() { static int n; if (++n % 5 == 0) throw n; note(n); } ~Array() { note(2); } };

int main() {
    long sum = 0;
    for (int i = 0; i < 300; i++) sum = sum * 3 + outer(i);
    std::printf("outer %ld log %ld\n", sum, log_value);
    for (int k = 0; k < 8; k++) {
        try { rethrow(5, k); std::printf("none "); }
        catch (const Base &b) { std::printf("base%d ", b.code()); }
        catch (const std::exception &e) { std::printf("%s ", e.what()); }
        catch (...) { std::printf("any "); }
    }
    std::printf("log %ld\n", log_value);
    for (int x = 0; x < 9; x++) std::printf("%d ", construct(x));
    int safes = 0;
    for (int i = 0; i < 100; i++) safes += safe(i);
    std::printf("safe %d log %ld\n", safes, log_value);
    try { nest(4); } catch (const std::exception &e) { std::printf("%s\n", unnest(e).c_str()); }
    std::exception_ptr kept;
    try { thrower(2); } catch (...) { kept = std::current_exception(); }
    try { std::rethrow_exception(kept); } catch (const std::exception &e) { std::printf("kept %s\n", e.what()); }
    try { std::vector<int>().at(3); } catch (const std::out_of_range &) { std::printf("at\n"); }
    try { std::string s("abc"); s.substr(9); } catch (const std::exception &) { std::printf("substr\n"); }
    for (int i = 0; i < 4; i++) {
        try { std::unique_ptr<Array[]> a(new Array[3]); note(4); } catch (int n) { note(n); }
    }
    try { throw Derived(5); } catch (Base &b) { try { throw; } catch (Derived &d) { std::printf("derived %d\n", d.v + b.code()); } }
    int count = 0;
    for (int i = 0; i < 3000; i++) try { Guard g(1); if (i & 1) throw i; } catch (int v) { count += v & 7; }
    int values[] = {5, 13, 2, 13, 8};
    try { std::qsort(values, 5, sizeof *values, compare); } catch (const std::string &s) { std::printf("%s\n", s.c_str()); }
    std::printf("count %d log %ld\n", count, log_value);
    return 0;
}
