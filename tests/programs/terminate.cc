// Covers: a throw out of a noexcept function: std::terminate with a handler of our own; destructors must not run after;
//         uncaught_exceptions while unwinding; atexit handlers must not run.
// Expected: prints fixed results, exit 42.
// exit: 42
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <unistd.h>

struct Guard {
    const char *name;
    ~Guard() { std::printf("unwound %s %d\n", name, std::uncaught_exceptions()); std::fflush(stdout); }
};
__attribute__((noinline)) static int inner(int n) {
    Guard g{"inner"};
    if (n > 2) throw std::runtime_error("too big");
    return n;
}
__attribute__((noinline)) static int wall(int n) noexcept { return inner(n) + 1; }
__attribute__((noinline)) static int caught(int n) {
    try { return inner(n); } catch (const std::exception &) { return -1; }
}
[[noreturn]] static void handler() {
    try { throw; } catch (const std::exception &e) { std::printf("terminate %s\n", e.what()); }
    std::fflush(stdout);
    _exit(42);
}
int main() {
    std::atexit([] { std::puts("never"); });
    std::set_terminate(handler);
    std::printf("%d\n", wall(1));
    std::printf("%d\n", caught(5));
    return wall(7);
}
