// Covers: an uncaught exception: std::terminate, the default message, abort; the exit status is SIGABRT's.
// Expected: prints a line, dies by SIGABRT.
// exit: -6
#include <cstdio>
#include <stdexcept>
#include <sys/resource.h>
struct Guard { ~Guard() { std::printf("unwound\n"); } };
__attribute__((noinline)) static int fail(int n) { Guard g; if (n > 3) throw std::logic_error("nobody catches this"); return n; }
int main() {
    rlimit none{0, 0};
    setrlimit(RLIMIT_CORE, &none);
    int s = 0;
    for (int i = 0; i < 3; i++) s += fail(i);
    std::printf("sum %d\n", s);
    std::fflush(stdout);
    return fail(4);
}
