// Covers: virtual calls, multiple and virtual inheritance (thunks, vcall offsets), covariant returns, pure virtuals,
//         dynamic_cast, typeid, pointers to members, calls from constructors and destructors.
// Expected: prints fixed results, exit 0.
#include <cstdio>
#include <memory>
#include <string>
#include <typeinfo>
#include <vector>

#define NOINLINE __attribute__((noinline))

static long trace;
struct Named { long tag = 3; virtual ~Named() { trace = trace * 7 + 1; } virtual const char *name() const { return "named"; } virtual Named *clone() const { return new Named(*this); } };
struct Counted { long count = 0; virtual ~Counted() { trace = trace * 7 + 2; } virtual long bump(long by) { return count += by; } virtual long weight() const = 0; };
struct A : Named, Counted {
    const char *name() const override { return "A"; }
    A *clone() const override { return new A(*this); }
    long bump(long by) override { return count += by * 2; }
    long weight() const override { return tag + count; }
    ~A() override { trace = trace * 7 + 3; }
};
struct B : A { long extra[3] = {1, 2, 3}; const char *name() const override { return "B"; } B *clone() const override { return new B(*this); } long weight() const override { return extra[2] * 100 + A::weight(); } };
struct Root { long r = 10; Root() { trace = trace * 7 + init(); } virtual ~Root() = default; virtual int init() const { return 4; } virtual long value(int k) { return r + k; } };
struct Left : virtual Root { long l = 20; int init() const override { return 5; } long value(int k) override { return l * k + r; } };
struct Right : virtual Root { long x = 30; virtual long only_right(int k) { return x + k; } };
struct Diamond : Left, Right { long d = 40; Diamond() { trace = trace * 7 + init(); } int init() const override { return 6; } long value(int k) override { return Left::value(k) + d; } long only_right(int k) override { return d - k; } };

NOINLINE static long use(Counted &c, int n) { long s = 0; for (int i = 0; i < n; i++) s += c.bump(i) ^ c.weight(); return s; }
NOINLINE static long use_root(Root &r, int n) { long s = 0; for (int i = 0; i < n; i++) s = s * 3 + r.value(i); return s; }
NOINLINE static long use_right(Right &r, int n) { long s = 0; for (int i = 0; i < n; i++) s = s * 3 + r.only_right(i) + r.value(i); return s; }
struct Plain { int v; int twice(int k) const { return v * 2 + k; } int thrice(int k) const { return v * 3 - k; } virtual int virt(int k) const { return v - k; } virtual ~Plain() = default; };
struct Plainer : Plain { int virt(int k) const override { return v + k * 5; } };
NOINLINE static long members(const Plain &p) {
    int (Plain::*const table[])(int) const = {&Plain::twice, &Plain::thrice, &Plain::virt};
    long s = 0;
    for (int i = 0; i < 300; i++) s = s * 3 + (p.*table[i % 3])(i);
    int Plain::*field = &Plain::v;
    return s + p.*field;
}

int main() {
    std::vector<std::unique_ptr<Named>> all;
    all.emplace_back(new Named);
    all.emplace_back(new A);
    all.emplace_back(new B);
    for (int i = 0; i < 3; i++) all.emplace_back(all[static_cast<size_t>(i)]->clone());
    long s = 0;
    for (auto &n : all) {
        std::printf("%s %d ", n->name(), typeid(*n) == typeid(B));
        if (auto *c = dynamic_cast<Counted *>(n.get())) s = s * 31 + use(*c, 200);
        if (auto *b = dynamic_cast<B *>(n.get())) s += b->extra[1];
    }
    std::printf("\nsum %ld\n", s);
    Diamond d;
    Left l;
    Right r;
    std::printf("roots %ld %ld %ld %ld\n", use_root(d, 50), use_root(l, 50), use_root(r, 50), use_right(d, 60));
    std::printf("right %ld cast %d %d\n", use_right(r, 60), dynamic_cast<Left *>(static_cast<Right *>(&d)) != nullptr, dynamic_cast<Left *>(static_cast<Right *>(&r)) != nullptr);
    Plain p{};
    p.v = 7;
    Plainer q{};
    q.v = 9;
    std::printf("members %ld %ld\n", members(p), members(q));
    try { (void)dynamic_cast<Diamond &>(static_cast<Root &>(l)); } catch (const std::bad_cast &) { std::puts("bad cast"); }
    all.clear();
    std::printf("trace %ld\n", trace);
    return 0;
}
