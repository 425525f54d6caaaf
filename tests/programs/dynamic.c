/* Covers: lazily bound PLT calls, dlopen/dlsym of libraries and of the program itself, function pointers from shared
 *         objects, interposed malloc counters, functions exported by the executable and found by name.
 * Expected: prints fixed results, exit 0.
 * flags: -rdynamic
 * libs: -ldl -lm
 * links: pie nopie
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((noinline)) int exported_add(int a, int b) { return a + b; }
__attribute__((noinline)) double exported_scale(double a) { return a * 2.5; }
__attribute__((noinline)) static int local(int v) { return v * 3; }

int main(void) {
    void *self = dlopen(NULL, RTLD_LAZY), *m = dlopen("libm.so.6", RTLD_NOW);
    if (!self || !m) return 1;
    int (*add)(int, int) = (int (*)(int, int))dlsym(self, "exported_add");
    double (*scale)(double) = (double (*)(double))dlsym(self, "exported_scale");
    double (*cosine)(double) = (double (*)(double))dlsym(m, "cos");
    size_t (*length)(const char *) = (size_t (*)(const char *))dlsym(RTLD_DEFAULT, "strlen");
    if (!add || !scale || !cosine || !length) return 2;
    double d = 0;
    long s = 0;
    for (int i = 0; i < 500; i++) {
        s = s * 31 + add(i, local(i)) + (long)length("twelve chars");
        d = d / 3 + scale(cosine(i)) + sin(i) + pow(1.01, i);
    }
    Dl_info info;
    int known = dladdr((void *)add, &info) && info.dli_sname && !strcmp(info.dli_sname, "exported_add");
    printf("%ld %.9f %d %s\n", s, d, known, dlsym(self, "not_there") ? "found" : "missing");
    char *copy = strdup("duplicate");
    printf("%s %s\n", copy, getenv("NOT_SET_AT_ALL") ? "set" : "unset");
    free(copy);
    dlclose(m);
    return 0;
}
