// Covers: lambdas (captures by value, reference, move, mutable, generic, recursive), std::function, std::bind, templates
//         with variadic packs and fold expressions, std::variant visits, std::optional, constexpr tables.
// Expected: prints fixed results, exit 0.
// flags: -std=c++17
#include <algorithm>
#include <array>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#define NOINLINE __attribute__((noinline))

NOINLINE static long apply(const std::function<long(long)> &f, long v, int n) { while (n--) v = f(v); return v; }
NOINLINE static std::function<long(long)> compose(std::function<long(long)> a, std::function<long(long)> b) { return [a = std::move(a), b = std::move(b)](long v) { return a(b(v)); }; }
template <typename... T> NOINLINE static long fold(T... v) { return (static_cast<long>(v) + ... + 0); }
template <typename F, typename... T> static void each(F f, T &&...v) { (f(v), ...); }
template <int N> struct Fib { static constexpr long value = Fib<N - 1>::value + Fib<N - 2>::value; };
template <> struct Fib<0> { static constexpr long value = 0; };
template <> struct Fib<1> { static constexpr long value = 1; };
template <size_t... I> static constexpr std::array<unsigned, sizeof...(I)> table(std::index_sequence<I...>) { return {{static_cast<unsigned>(I * I ^ 0x5a)...}}; }
using Value = std::variant<int, double, std::string, std::vector<int>>;
template <class... T> struct overloaded : T... { using T::operator()...; };
template <class... T> overloaded(T...) -> overloaded<T...>;
NOINLINE static long weigh(const Value &v) {
    return std::visit(overloaded{[](int i) { return static_cast<long>(i); }, [](double d) { return static_cast<long>(d * 10); },
                                 [](const std::string &s) { return static_cast<long>(s.size()) * 100; }, [](const std::vector<int> &v) { return std::accumulate(v.begin(), v.end(), 0L) * 1000; }}, v);
}
NOINLINE static std::optional<int> parse(const std::string &s) { int v = 0; for (char c : s) { if (c < '0' || c > '9') return std::nullopt; v = v * 10 + c - '0'; } return v; }
static int free_function(int a, int b) { return a * 10 + b; }
struct Functor { int k; int operator()(int v) const { return v * k; } };

int main() {
    long base = 5;
    auto by_value = [base](long v) { return v * 3 + base; };
    auto by_reference = [&base](long v) { return v + ++base; };
    long applied = apply(by_reference, 1, 20);
    std::printf("apply %ld %ld %ld\n", apply(by_value, 1, 20), applied, base);
    std::printf("compose %ld\n", apply(compose(compose(by_value, by_reference), [](long v) { return v ^ 0x33; }), 2, 9));
    int calls = 0;
    auto counter = [n = 0, &calls]() mutable { calls++; return n += 2; };
    for (int i = 0; i < 10; i++) counter();
    int last = counter();
    std::printf("counter %d %d\n", last, calls);
    std::function<long(int)> fact = [&fact](int n) { return n < 2 ? 1L : n * fact(n - 1); };
    auto fib = [](auto &&self, int n) -> long { return n < 2 ? n : self(self, n - 1) + self(self, n - 2); };
    std::printf("recursive %ld %ld %ld\n", fact(15), fib(fib, 15), Fib<40>::value);
    std::printf("fold %ld %ld\n", fold(1, 2L, short(3), 'a'), fold());
    long acc = 0;
    each([&acc](auto v) { acc = acc * 7 + static_cast<long>(v); }, 1, 2.5, 'c', 4L);
    constexpr auto squares = table(std::make_index_sequence<32>{});
    for (unsigned v : squares) acc = acc * 3 + v;
    std::printf("each %ld\n", acc);
    std::vector<Value> values{1, 2.5, std::string("three"), std::vector<int>{1, 2, 3}, 7, std::string(30, 'q')};
    long w = 0;
    for (int i = 0; i < 100; i++) w = w * 5 + weigh(values[static_cast<size_t>(i) % values.size()]);
    std::printf("visit %ld\n", w);
    std::printf("optional %d %d\n", parse("1234").value_or(-1), parse("12x4").value_or(-1));
    auto bound = std::bind(free_function, std::placeholders::_2, std::placeholders::_1);
    std::vector<std::function<int(int)>> functions{Functor{3}, [](int v) { return -v; }, std::bind(free_function, 4, std::placeholders::_1)};
    int s = bound(1, 2);
    for (int i = 0; i < 60; i++) s = functions[static_cast<size_t>(i) % 3](s) % 1000 + i;
    std::printf("bind %d\n", s);
    std::map<std::string, std::function<double(double, double)>> ops{{"+", std::plus<>()}, {"-", std::minus<>()}, {"*", std::multiplies<>()}, {"/", [](double a, double b) { return a / b; }}};
    double d = 1;
    for (auto &[name, op] : ops) { d = op(d + 3, 1.5); std::printf("%s %.4f ", name.c_str(), d); }
    auto [a, b, c] = std::make_tuple(1, std::string("two"), 3.5);
    auto owned = [p = std::make_unique<int>(41)] { return ++*p; };
    std::printf("\ntuple %d %s %.1f owned %d\n", a, b.c_str(), c, owned());
    try { std::function<int()> empty; empty(); } catch (const std::bad_function_call &) { std::puts("empty"); }
    return 0;
}
