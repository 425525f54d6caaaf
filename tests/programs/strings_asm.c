/* Covers: string instructions: rep movs/stos, repe cmps, repne scas, lods, all widths, with the direction flag set and
 *         clear, zero counts, overlapping moves, cld/std kept across a call.
 * Expected: prints fixed results, exit 0.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))

static NOINLINE void *movsb(void *d, const void *s, size_t n) { void *r = d; __asm__ volatile("rep movsb" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); return (char *)d - (size_t)((char *)d - (char *)r); }
static NOINLINE void movsq(uint64_t *d, const uint64_t *s, size_t n) { __asm__ volatile("rep movsq" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); }
static NOINLINE void movs_back(char *d, const char *s, size_t n) { d += n - 1; s += n - 1; __asm__ volatile("std\n rep movsb\n cld" : "+D"(d), "+S"(s), "+c"(n) : : "memory"); }
static NOINLINE void stosb(void *d, int v, size_t n) { __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(v) : "memory"); }
static NOINLINE void stosd(uint32_t *d, uint32_t v, size_t n) { __asm__ volatile("rep stosl" : "+D"(d), "+c"(n) : "a"(v) : "memory"); }
static NOINLINE void stosw_back(uint16_t *d, uint16_t v, size_t n) { d += n - 1; __asm__ volatile("std\n rep stosw\n cld" : "+D"(d), "+c"(n) : "a"(v) : "memory"); }
static NOINLINE size_t scan(const char *s, char v, size_t n) { size_t c = n; __asm__ volatile("repne scasb\n jne 1f\n incq %%rcx\n1:" : "+D"(s), "+c"(c) : "a"(v) : "cc", "memory"); return n - c; }
static NOINLINE size_t length(const char *s) { size_t c = (size_t)-1; __asm__ volatile("repne scasb" : "+D"(s), "+c"(c) : "a"(0) : "cc", "memory"); return ~c - 1; }
static NOINLINE int compare(const char *a, const char *b, size_t n) { int r; __asm__ volatile("cmpq %%rcx, %%rcx\n repe cmpsb\n seta %b[r]\n sbbb $0, %b[r]\n movsbl %b[r], %[r]" : "+D"(b), "+S"(a), "+c"(n), [r] "=&a"(r) : : "cc", "memory"); return r; }
static NOINLINE size_t differ(const uint32_t *a, const uint32_t *b, size_t n) { size_t c = n; __asm__ volatile("repe cmpsl\n je 1f\n incq %%rcx\n1:" : "+D"(b), "+S"(a), "+c"(c) : : "cc", "memory"); return n - c; }
static NOINLINE size_t scasq(const uint64_t *p, uint64_t v, size_t n) { size_t c = n; __asm__ volatile("testq %%rcx, %%rcx\n repe scasq" : "+D"(p), "+c"(c) : "a"(v) : "cc", "memory"); return n - c; }
static NOINLINE uint64_t lods(const void *p, size_t n) {
    uint64_t s = 0, t = 0;
    __asm__ volatile("1: xorl %%eax, %%eax\n lodsb\n addq %%rax, %[s]\n rolq $5, %[s]\n lodsw\n xorq %%rax, %[s]\n lodsl\n addq %%rax, %[s]\n lodsq\n xorq %%rax, %[s]\n decq %%rcx\n jnz 1b" : [s] "+r"(s), "+S"(p), "+c"(n), "+a"(t) : : "cc", "memory");
    return s;
}
static NOINLINE void upper(char *d, const char *s, size_t n) { __asm__ volatile("jrcxz 2f\n1: lodsb\n cmpb $'a', %%al\n jb 3f\n cmpb $'z', %%al\n ja 3f\n subb $32, %%al\n3: stosb\n loop 1b\n2:" : "+D"(d), "+S"(s), "+c"(n) : : "rax", "cc", "memory"); }
static NOINLINE void single(char *d, const char *s) { __asm__ volatile("movsb\n movsw\n movsl\n movsq\n movb $33, %%al\n stosb\n" : "+D"(d), "+S"(s) : : "rax", "memory"); }

static unsigned hash(const void *p, size_t n) { const unsigned char *b = p; unsigned h = 1; for (size_t i = 0; i < n; i++) h = h * 31 + b[i]; return h; }

int main(void) {
    static char a[600], b[600];
    static uint64_t q[40], r[40];
    static uint32_t d[50], e[50];
    for (int i = 0; i < 600; i++) a[i] = (char)(i * 7 % 251);
    unsigned h = 0;
    for (size_t n = 0; n < 70; n++) {
        h = h * 3 + (movsb(b + n, a, n) == b + n);
        movs_back(b + 200 + n, b + 200, n);
        stosb(b + 300 + n, (int)n, n);
        movsq(r, q, n % 40); q[n % 40] = n * 0x123456789abcul; stosd(d, (uint32_t)n * 77, n % 50); stosw_back((uint16_t *)(void *)(b + 400), (uint16_t)(n * 300), n);
        h = h * 31 + hash(b, sizeof b) + hash(r, sizeof r) + hash(d, sizeof d);
    }
    printf("moves %u\n", h);
    for (int i = 0; i < 20; i++) printf("%zu ", scan(a, (char)(i * 31), 256));
    printf("\nlength %zu %zu\n", length("hello"), length(""));
    printf("compare %d %d %d %d\n", compare("abcd", "abce", 4), compare("abce", "abcd", 4), compare("same", "same", 4), compare("a", "b", 0));
    e[20] = 5; memcpy(d, e, sizeof d); d[33]++;
    printf("differ %zu %zu scasq %zu\n", differ(d, e, 50), differ(d, e, 30), scasq(r + 39, 0, 1));
    printf("lods %016lx\n", (unsigned long)lods(a, 30));
    char text[40], out[40] = "";
    strcpy(text, "Hello, String World 123");
    upper(out, text, strlen(text) + 1);
    printf("%s\n", out);
    single(out, "abcdefghijklmnopqrst");
    printf("%.16s\n", out);
    return 0;
}
