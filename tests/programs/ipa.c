/* Covers: calls that break the ABI between local functions: gcc's -fipa-ra keeps values in caller-saved registers over
 *         calls of functions known not to touch them; -fipa-icf, -fipa-cp clones, .constprop and .isra functions, local
 *         functions with changed conventions; hand-written callees that keep all registers, or return two values.
 * Expected: prints fixed results, exit 0.
 */
#include <stdint.h>
#include <stdio.h>

#define NOINLINE __attribute__((noinline))

static int table[64];
static NOINLINE int leaf_small(int a) { return a ^ 5; }
static NOINLINE void leaf_store(int i, int v) { table[i & 63] += v; }
static NOINLINE int leaf_load(int i) { return table[i & 63]; }
static NOINLINE long leaf_many(long a, long b, long c) { return a * 3 + b * 5 - c; }
static NOINLINE int dequote(char *s) { if (s[0] != '"') return 0; int j = 0; for (int i = 1; s[i] && s[i] != '"'; i++) s[j++] = s[i]; s[j] = 0; return 1; }
static NOINLINE long keeps_arguments(long a, long b, long c, long d, long e, long f, char *s) {
    int q = dequote(s);
    int x = leaf_small((int)a);
    leaf_store((int)b, x);
    int y = leaf_load((int)c);
    return a * 3 + b * 5 + c * 7 + d * 11 + e * 13 + f * 17 + q + x + y;
}
static NOINLINE double keeps_vectors(double a, double b, double c, float d, int n) {
    for (int i = 0; i < n; i++) { leaf_store(i, n); a = a * 0.5 + b; b = b * 0.25 + c; d += leaf_small(i) ? 1.5f : 0; }
    return a + b + c + d;
}
static NOINLINE long with_constant(long a, int mode) { if (mode == 3) return a * 2; if (mode == 4) return a - 1; return a / 3; }
struct wide { long a, b, c, d; };
static NOINLINE long only_two(const struct wide *w) { return w->a * 3 + w->c; }
static NOINLINE long unused_args(long a, long unused, long b) { (void)unused; return a * b + leaf_many(a, b, 1); }
static NOINLINE long loop_calls(long n) {
    long a = 1, b = 2, c = 3, d = 4, e = 5, f = 6, g = 7, h = 8;
    for (long i = 0; i < n; i++) {
        a += b ^ leaf_small((int)i); b += c; c ^= d << 1; d += e; e -= leaf_load((int)i); f += g; g ^= h; h += a;
        leaf_store((int)(i + a), (int)f);
    }
    return a + b + c + d + e + f + g + h;
}
/* Keeps every register but rax; called by asm that relies on it. */
long keeper(void);
__asm__(".text\n.type keeper,@function\nkeeper: pushq %rcx\n movl $5, %ecx\n1: addq %rcx, %rax\n loop 1b\n popq %rcx\n ret\n.size keeper, .-keeper\n");
static NOINLINE uint64_t relies_on_keeper(uint64_t a) {
    uint64_t c = 3, d = 4, si = 5, di = 6, r;
    __asm__ volatile("leaq -128(%%rsp), %%rsp\n movq $7, %%r8\n movq $9, %%r9\n movq $10, %%r10\n movq $11, %%r11\n call keeper\n call keeper\n addq %%rcx, %%rax\n imulq %%rdx, %%rax\n addq %%rsi, %%rax\n xorq %%rdi, %%rax\n addq %%r8, %%rax\n"
                     " leaq (%%rax,%%r9,2), %%rax\n leaq (%%rax,%%r10,4), %%rax\n leaq (%%rax,%%r11,8), %%rax\n leaq 128(%%rsp), %%rsp"
                     : "=a"(r), "+c"(c), "+d"(d), "+S"(si), "+D"(di) : "0"(a) : "r9", "r10", "r11", "r8", "cc", "memory");
    return r;
}
/* Returns a flag in CF and a second value in rdx. */
__asm__(".text\n.type pair,@function\npair: movq %rax, %rdx\n shrq $1, %rax\n ret\n.size pair, .-pair\n");
static NOINLINE uint64_t uses_pair(uint64_t v) {
    uint64_t r = v, carry = 0, d = 0;
    __asm__ volatile("leaq -128(%%rsp), %%rsp\n call pair\n setc %b[c]\n jnc 1f\n incq %%rdx\n1: leaq 128(%%rsp), %%rsp" : "+a"(r), [c] "+q"(carry), "+d"(d) : : "cc", "memory");
    return r + carry * 1000 + d * 3;
}
/* Values held in xmm registers that the ABI calls clobbered. */
__asm__(".text\n.type bump,@function\nbump: addq $3, %rax\n ret\n.size bump, .-bump\n");
static NOINLINE double xmm_kept(double a, double b) {
    double r = a;
    __asm__ volatile("leaq -128(%%rsp), %%rsp\n movsd %[b], %%xmm9\n movsd %[a], %%xmm15\n movl $1, %%eax\n call bump\n call bump\n cvtsi2sd %%rax, %%xmm3\n addsd %%xmm9, %%xmm15\n mulsd %%xmm3, %%xmm15\n movsd %%xmm15, %[r]\n leaq 128(%%rsp), %%rsp"
                     : [r] "=x"(r) : [a] "x"(a), [b] "x"(b) : "rax", "xmm3", "xmm9", "xmm15", "cc", "memory");
    return r;
}

int main(void) {
    long s = 0;
    double d = 0;
    for (int i = 0; i < 800; i++) {
        char text[24];
        snprintf(text, sizeof text, i & 1 ? "\"q%d\"" : "q%d", i);
        s = s * 31 + keeps_arguments(i, i + 1, i + 2, i + 3, i + 4, i + 5, text) + text[1];
        s += with_constant(s, 3) + with_constant(i, 3);
        struct wide w = {i, 2, s, 4};
        s = s * 31 + only_two(&w) + unused_args(i, s, 3) + loop_calls(i % 20);
        s = s * 31 + (long)relies_on_keeper((uint64_t)i) + (long)uses_pair((uint64_t)i * 7);
        d = d / 2 + keeps_vectors(i, 1.5, 2.5, 3.5f, i % 9) + xmm_kept(i, 0.5);
    }
    printf("s %ld d %.9g t %d\n", s, d, table[7]);
    return 0;
}
