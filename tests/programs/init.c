/* Covers: constructors and destructors with priorities, atexit order, IFUNC resolvers that run before main, weak and
 *         aliased symbols, .init_array/.preinit data, static initialisers with pointers, exit from a nested call,
 *         stdout buffering over exit, thread-local initialisers.
 * Expected: prints fixed results, exit 7.
 * exit: 7
 */
#include <stdio.h>
#include <stdlib.h>

#define NOINLINE __attribute__((noinline))

static int stage = 1;
__attribute__((constructor(201))) static void early(void) { stage = stage * 3 + 1; }
__attribute__((constructor(202))) static void later(void) { stage = stage * 5 + 2; }
__attribute__((constructor)) static void latest(void) { stage = stage * 7 + 3; }
__attribute__((destructor)) static void finish(void) { printf("finish %d\n", stage); }
__attribute__((destructor(201))) static void finish_last(void) { printf("finish last %d\n", stage); }

static int resolved;
static int version_plain(int a) { return a + 1; }
static int version_fast(int a) { return a + 2; }
static int (*resolve(void))(int) {
    __builtin_cpu_init();
    resolved += 1; /* data relocations are done, libc is not yet usable */
    return __builtin_cpu_supports("sse2") ? version_fast : version_plain;
}
int chosen(int a) __attribute__((ifunc("resolve")));
static int (*resolve_other(void))(int) { return version_plain; }
__attribute__((visibility("hidden"))) int hidden_chosen(int a) __attribute__((ifunc("resolve_other")));

__attribute__((weak)) int optional(int a);
__attribute__((weak)) int overridable(int a) { return a * 2; }
static int implementation(int a) { return a * 9; }
int alias(int a) __attribute__((alias("implementation_exported")));
int implementation_exported(int a) { return implementation(a) + 1; }

struct command { const char *name; int (*run)(int); const struct command *next; };
static int twice(int v) { return v * 2; }
static int square(int v) { return v * v; }
static const struct command second = {"square", square, NULL}, commands = {"twice", twice, &second};
static int *const pointer = &stage;
static __thread int tls = 77;
static void bye(void) { printf("bye %d\n", *pointer); }
static void bye_first(void) { printf("bye first\n"); stage++; }
static NOINLINE void deep(int n) { if (n == 0) exit(7); deep(n - 1); printf("never"); }

int main(int argc, char **argv) {
    atexit(bye);
    atexit(bye_first);
    printf("stage %d resolved %d\n", stage, resolved > 0);
    int s = 0;
    for (int i = 0; i < 500; i++) s = s * 3 + chosen(i) + hidden_chosen(i) + overridable(i) + alias(i) + (optional ? optional(i) : 5);
    for (const struct command *c = &commands; c; c = c->next) printf("%s %d\n", c->name, c->run(s & 15));
    printf("s %d tls %d args %d %d\n", s, tls, argc, argv[argc] == NULL);
    deep(20);
    return 0;
}
