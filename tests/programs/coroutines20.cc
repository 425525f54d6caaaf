// Covers: C++20 coroutines: resume and destroy through function pointers in heap frames, generators, tasks with symmetric
//         transfer, exceptions through co_await, destructors of suspended frames.
// Expected: prints fixed results, exit 0.
// flags: -std=c++20
// compilers: gcc
#include <coroutine>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>

static long trace;
struct Guard { int v; ~Guard() { trace = trace * 31 + v; } };

template <typename T> struct Generator {
    struct promise_type {
        T value{};
        std::exception_ptr error;
        Generator get_return_object() { return Generator{std::coroutine_handle<promise_type>::from_promise(*this)}; }
        std::suspend_always initial_suspend() noexcept { return {}; }
        std::suspend_always final_suspend() noexcept { return {}; }
        std::suspend_always yield_value(T v) noexcept { value = std::move(v); return {}; }
        void return_void() {}
        void unhandled_exception() { error = std::current_exception(); }
    };
    std::coroutine_handle<promise_type> handle;
    explicit Generator(std::coroutine_handle<promise_type> h) : handle(h) {}
    Generator(Generator &&o) noexcept : handle(std::exchange(o.handle, {})) {}
    ~Generator() { if (handle) handle.destroy(); }
    bool next() { handle.resume(); if (handle.promise().error) std::rethrow_exception(handle.promise().error); return !handle.done(); }
    const T &value() const { return handle.promise().value; }
};
struct Task {
    struct promise_type {
        int result = 0;
        std::exception_ptr error;
        std::coroutine_handle<> parent;
        Task get_return_object() { return Task{std::coroutine_handle<promise_type>::from_promise(*this)}; }
        std::suspend_always initial_suspend() noexcept { return {}; }
        struct Final {
            bool await_ready() noexcept { return false; }
            std::coroutine_handle<> await_suspend(std::coroutine_handle<promise_type> h) noexcept { return h.promise().parent ? h.promise().parent : std::noop_coroutine(); }
            void await_resume() noexcept {}
        };
        Final final_suspend() noexcept { return {}; }
        void return_value(int v) { result = v; }
        void unhandled_exception() { error = std::current_exception(); }
    };
    std::coroutine_handle<promise_type> handle;
    explicit Task(std::coroutine_handle<promise_type> h) : handle(h) {}
    Task(Task &&o) noexcept : handle(std::exchange(o.handle, {})) {}
    ~Task() { if (handle) handle.destroy(); }
    bool await_ready() { return false; }
    std::coroutine_handle<> await_suspend(std::coroutine_handle<> p) { handle.promise().parent = p; return handle; }
    int await_resume() { if (handle.promise().error) std::rethrow_exception(handle.promise().error); return handle.promise().result; }
    int run() { handle.resume(); return await_resume(); }
};
static Generator<long> fibonacci(int n) { Guard g{n}; long a = 0, b = 1; for (int i = 0; i < n; i++) { co_yield a; a = std::exchange(b, a + b); } if (n == 13) throw std::runtime_error("thirteen"); }
static Generator<std::string> words(std::string s) { std::string w; for (char c : s) { if (c == ' ') { co_yield w; w.clear(); } else w += c; } co_yield w; }
static Task leaf(int n) { Guard g{n}; if (n == 37) throw std::logic_error("leaf"); co_return n * 2; }
static Task tree(int depth, int n) { if (depth == 0) co_return co_await leaf(n); int l = co_await tree(depth - 1, n * 2), r = 0; try { r = co_await tree(depth - 1, n * 2 + 1); } catch (const std::logic_error &) { r = -5; } co_return l * 3 + r; }

int main() {
    long s = 0;
    for (int n = 0; n < 30; n++) {
        auto g = fibonacci(n);
        try { int k = 0; while (g.next()) { s = s * 7 + g.value(); if (++k > 20) break; } } catch (const std::exception &e) { std::printf("%s\n", e.what()); }
    }
    std::printf("fibonacci %ld trace %ld\n", s, trace);
    auto w = words("coroutines suspend and resume");
    while (w.next()) std::printf("[%s]", w.value().c_str());
    int result = tree(6, 1).run();
    std::printf("\ntree %d trace %ld\n", result, trace);
    return 0;
}
