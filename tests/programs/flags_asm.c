/* Covers: inline assembly that lives on flags: adc/sbb chains, setcc of every condition, cmovcc, lahf/sahf, pushf/popf,
 *         rcl/rcr, shld/shrd, bt/bts/btr/btc with register and memory bit offsets, neg/inc/dec keeping CF, cmpxchg, xadd,
 *         mul/imul/div flags as used, cmc/stc/clc, bsf of zero, 8-bit high registers (ah, bh, ch, dh), xlat, cwd family,
 *         loop/jrcxz, lea in all forms, movbe-like bswap, 16-bit operations, flags live over a branch and over a loop.
 * Expected: prints fixed results, exit 0.
 */
#include <stdint.h>
#include <stdio.h>

#define NOINLINE __attribute__((noinline))
static uint64_t state = 0x2545f4914f6cdd1dul;
static NOINLINE uint64_t next(void) { state ^= state << 13; state ^= state >> 7; state ^= state << 17; return state; }

static NOINLINE uint64_t add_chain(uint64_t *r, const uint64_t *a, const uint64_t *b, uint64_t n) {
    uint64_t carry, i = 0, t;
    __asm__ volatile("clc\n1: movq (%[a],%[i],8), %[t]\n adcq (%[b],%[i],8), %[t]\n movq %[t], (%[r],%[i],8)\n leaq 1(%[i]), %[i]\n decq %[n]\n jnz 1b\n sbbq %[c], %[c]\n"
                     : [i] "+r"(i), [t] "=&r"(t), [n] "+r"(n), [c] "=&r"(carry) : [a] "r"(a), [b] "r"(b), [r] "r"(r) : "cc", "memory");
    return carry;
}
static NOINLINE uint64_t sub_chain(uint64_t *r, const uint64_t *a, const uint64_t *b) {
    uint64_t t, c;
    __asm__ volatile("movq (%[a]), %[t]\n subq (%[b]), %[t]\n movq %[t], (%[r])\n movq 8(%[a]), %[t]\n sbbq 8(%[b]), %[t]\n movq %[t], 8(%[r])\n"
                     "movq 16(%[a]), %[t]\n sbbq 16(%[b]), %[t]\n movq %[t], 16(%[r])\n setc %b[c]\n movzbq %b[c], %[c]\n"
                     : [t] "=&r"(t), [c] "=&q"(c) : [a] "r"(a), [b] "r"(b), [r] "r"(r) : "cc", "memory");
    return c;
}
#define SETCC(cc, bit) "set" #cc " %b[t]\n movzbl %b[t], %k[t]\n shll $" #bit ", %k[t]\n leal (%k[r],%k[t]), %k[r]\n"
#define ALL(prefix, a, b) __asm__ volatile(prefix \
    "pushfq\n popq %[f]\n andq $-17, %[f]\n xorl %k[r], %k[r]\n" /* AF is undefined after some of them */ \
    "pushq %[f]\n popfq\n" "seto %b[t]\n movzbl %b[t], %k[t]\n" "orl %k[t], %k[r]\n" \
    "pushq %[f]\n popfq\n setb %b[t]\n movzbl %b[t], %k[t]\n shll $1, %k[t]\n orl %k[t], %k[r]\n" \
    "pushq %[f]\n popfq\n setz %b[t]\n movzbl %b[t], %k[t]\n shll $2, %k[t]\n orl %k[t], %k[r]\n" \
    "pushq %[f]\n popfq\n setbe %b[t]\n movzbl %b[t], %k[t]\n shll $3, %k[t]\n orl %k[t], %k[r]\n" \
    "pushq %[f]\n popfq\n sets %b[t]\n movzbl %b[t], %k[t]\n shll $4, %k[t]\n orl %k[t], %k[r]\n" \
    "pushq %[f]\n popfq\n setp %b[t]\n movzbl %b[t], %k[t]\n shll $5, %k[t]\n orl %k[t], %k[r]\n" \
    "pushq %[f]\n popfq\n setl %b[t]\n movzbl %b[t], %k[t]\n shll $6, %k[t]\n orl %k[t], %k[r]\n" \
    "pushq %[f]\n popfq\n setle %b[t]\n movzbl %b[t], %k[t]\n shll $7, %k[t]\n orl %k[t], %k[r]\n" \
    "pushq %[f]\n popfq\n cmovno %k[one], %k[t]\n cmovae %k[f], %k[t]\n cmovnz %k[one], %k[t]\n cmova %k[r], %k[t]\n cmovns %k[f], %k[t]\n cmovnp %k[one], %k[t]\n cmovge %k[r], %k[t]\n cmovg %k[f], %k[t]\n andl $255, %k[t]\n shll $8, %k[t]\n orl %k[t], %k[r]\n" \
    : [r] "=&q"(r), [t] "=&q"(t), [f] "=&r"(f), [x] "+&q"(a) : [y] "q"(b), [one] "r"(77u) : "cc", "memory")

static NOINLINE uint32_t conditions(uint64_t a, uint64_t b, int op) {
    uint64_t r, t, f;
    __asm__ volatile("subq $128, %%rsp" ::: "memory"); /* pushes below must not hit a red zone */
    switch (op) {
    case 0: ALL("cmpq %[y], %[x]\n", a, b); break;
    case 1: ALL("addb %b[y], %b[x]\n", a, b); break;
    case 2: ALL("subw %w[y], %w[x]\n", a, b); break;
    case 3: ALL("testl %k[y], %k[x]\n", a, b); break;
    case 4: ALL("addl %k[y], %k[x]\n", a, b); break;
    case 5: ALL("xorl %k[y], %k[x]\n", a, b); break;
    case 6: ALL("cmpb %b[y], %b[x]\n", a, b); break;
    case 7: ALL("stc\n incq %[x]\n", a, b); break;
    case 8: ALL("clc\n decl %k[x]\n", a, b); break;
    case 9: ALL("negw %w[x]\n", a, b); break;
    case 10: ALL("shrq $1, %[x]\n", a, b); break;
    case 11: ALL("btq %[y], %[x]\n setc %b[x]\n cmpb $1, %b[x]\n", a, b); break;
    default: ALL("stc\n adcl %k[y], %k[x]\n", a, b); break;
    }
    __asm__ volatile("addq $128, %%rsp" ::: "memory");
    return (uint32_t)r + (uint32_t)a;
}
static NOINLINE uint64_t rotate_carry(uint64_t v, int n) {
    uint64_t r = v;
    __asm__ volatile("movl %k[n], %%ecx\n bt $3, %[r]\n rclq %%cl, %[r]\n rcrl $1, %k[r]\n rclw $5, %w[r]\n rcrb %%cl, %b[r]\n adcq $0, %[r]\n rclq $1, %[r]\n" : [r] "+q"(r) : [n] "r"(n) : "rcx", "cc");
    return r;
}
static NOINLINE uint64_t double_shifts(uint64_t a, uint64_t b, int n) {
    uint64_t r = a, s = b;
    __asm__ volatile("movl %k[n], %%ecx\n shldq %%cl, %[s], %[r]\n shrdq %%cl, %[r], %[s]\n shldl $7, %k[s], %k[r]\n shrdl $9, %k[r], %k[s]\n" : [r] "+r"(r), [s] "+r"(s) : [n] "r"(n) : "rcx", "cc");
    return r ^ s;
}
static NOINLINE uint64_t bit_tests(uint64_t *words, int64_t bit) {
    uint64_t r = 0;
    __asm__ volatile("btsq %[b], %[m]\n adcq $0, %[r]\n btrl %k[b2], %[m]\n rclq $1, %[r]\n btcq $17, %[m]\n rclq $1, %[r]\n btw $5, %[m]\n rclq $1, %[r]\n lock btsq $40, %[m]\n rclq $1, %[r]\n"
                     : [r] "+r"(r), [m] "+m"(*(uint64_t(*)[8])words) : [b] "r"(bit), [b2] "r"(bit / 2) : "cc", "memory");
    return r;
}
static NOINLINE uint64_t high_bytes(uint64_t a, uint64_t b) {
    __asm__ volatile("addb %%bl, %%ah\n movb %%ah, %%bh\n xorb %%bh, %%al\n mulb %%bh\n movzbl %%ah, %%ecx\n addb %%cl, %%ch\n subb %%al, %%bh\n xchgb %%ah, %%bl\n sahf\n lahf\n" : "+a"(a), "+b"(b) : : "rcx", "cc");
    return a * 31 + b;
}
static NOINLINE uint64_t exchanges(uint64_t *m, uint64_t a, uint64_t b) {
    uint64_t r = a, z;
    __asm__ volatile("xaddq %[a], (%[m])\n xchgq %[b], 8(%[m])\n cmpxchgq %[b], 16(%[m])\n setz %b[z]\n movzbl %b[z], %k[z]\n lock xaddl %k[a], 24(%[m])\n lock cmpxchgb %b[b], 32(%[m])\n lock decl 40(%[m])\n lock negq 48(%[m])\n"
                     : "+a"(r), [a] "+q"(a), [b] "+q"(b), [z] "=&q"(z) : [m] "r"(m) : "cc", "memory");
    return r + a * 3 + b * 5 + z;
}
static NOINLINE uint64_t wide(uint64_t *m, uint64_t a, uint64_t b) {
    uint64_t lo = a, hi = b;
    uint8_t z;
    __asm__ volatile("lock cmpxchg16b (%[m])\n setz %[z]\n" : "+a"(lo), "+d"(hi), [z] "=q"(z) : [m] "r"(m), "b"(a + 1), "c"(b + 1) : "cc", "memory");
    return lo ^ hi ^ z;
}
static NOINLINE int64_t extends(int64_t v) {
    int64_t a = v, d;
    __asm__ volatile("cbw\n cwde\n cltq\n cwtd\n cltd\n cqto\n" : "+a"(a), "=d"(d));
    return a + d;
}
static NOINLINE uint32_t loops(uint32_t n) {
    uint32_t r = 0;
    uint64_t c = n;
    __asm__ volatile("jrcxz 2f\n1: addl %%ecx, %[r]\n roll $3, %[r]\n loop 1b\n2: movl $9, %%ecx\n3: incl %[r]\n testl $64, %[r]\n loopz 3b\n movl $5, %%ecx\n4: decl %[r]\n cmpl $1, %[r]\n loopne 4b\n leal (%[r],%%ecx,4), %[r]\n jecxz 5f\n incl %[r]\n5:\n" : [r] "+r"(r), "+c"(c) : : "cc");
    return r;
}
static NOINLINE uint8_t translate(const uint8_t *table, uint8_t v) { __asm__ volatile("xlatb" : "+a"(v) : "b"(table)); return v; }
static NOINLINE uint64_t leas(uint64_t a, uint64_t b) {
    uint64_t r;
    __asm__("leaq 5(%[a],%[b],8), %[r]\n leal (%k[r],%k[a]), %k[r]\n leaw 3(%[r],%[b],2), %w[r]\n leaq (,%[r],4), %[r]\n leal -7(%k[r]), %k[r]\n" : [r] "=&r"(r) : [a] "r"(a), [b] "r"(b));
    return r;
}
static NOINLINE uint64_t live_over_branch(uint64_t a, uint64_t b, int k) {
    uint64_t r = 0;
    __asm__ volatile("cmpq %[b], %[a]\n movl %k[k], %%ecx\n jrcxz 1f\n leaq 3(%[r]), %[r]\n 1: adcq $5, %[r]\n jbe 2f\n notq %[r]\n 2: jo 3f\n leaq 1(%[r]), %[r]\n 3: sbbq %[a], %[r]\n" : [r] "+r"(r) : [a] "r"(a), [b] "r"(b), [k] "r"(k) : "rcx", "cc");
    return r;
}
static NOINLINE uint64_t muls(uint64_t a, uint64_t b) {
    uint64_t lo, hi, o;
    __asm__ volatile("mulq %[b]\n seto %b[o]\n movzbl %b[o], %k[o]\n" : "=a"(lo), "=d"(hi), [o] "=&q"(o) : "0"(a), [b] "r"(b) : "cc");
    int32_t s = (int32_t)a;
    __asm__ volatile("imull %k[b], %[s]\n adcl $0, %[s]\n imulw $77, %w[s], %w[s]\n adcl $0, %[s]\n" : [s] "+r"(s) : [b] "r"(b) : "cc");
    uint64_t q, m;
    __asm__ volatile("divq %[d]" : "=a"(q), "=d"(m) : "0"(lo), "1"(hi % (b | 1)), [d] "r"(b | 1) : "cc");
    int32_t sq = (int32_t)a, sm;
    __asm__ volatile("cltd\n idivl %[d]" : "+a"(sq), "=&d"(sm) : [d] "r"((int32_t)(b & 0xffff) + 3) : "cc");
    return lo + hi * 3 + o * 5 + (uint64_t)s * 7 + q + m + (uint64_t)sq + (uint64_t)sm;
}
static NOINLINE uint64_t partial_flags(uint64_t a) {
    uint64_t r = a;
    __asm__ volatile("shlq $3, %[r]\n rcll $1, %k[r]\n sarw $2, %w[r]\n adcw $0, %w[r]\n rolb $3, %b[r]\n adcb $1, %b[r]\n rorq $9, %[r]\n cmc\n adcq $0, %[r]\n shlb %%cl, %b[r]\n" : [r] "+q"(r) : "c"(a & 31) : "cc");
    return r;
}

int main(void) {
    uint64_t h = 1, w[8] = {1, 2, 3, 4, 5, 6, 7, 8}, v[8];
    static uint8_t table[256];
    static uint64_t pair[2] __attribute__((aligned(16)));
    for (int i = 0; i < 256; i++) table[i] = (uint8_t)(i * 7 + 3);
    for (int i = 0; i < 8; i++) v[i] = next();
    for (int i = 0; i < 1500; i++) {
        uint64_t a = next(), b = next();
        if (i % 5 == 0) b = a;
        if (i % 7 == 0) a = 0x8000000000000000ul >> (i & 63);
        h = h * 31 + add_chain(w, w, v, 8) + sub_chain(w, v, w);
        h = h * 31 + conditions(a, b, i % 13);
        h = h * 31 + rotate_carry(a, i) + double_shifts(a, b, i) + bit_tests(w, i % 500);
        h = h * 31 + high_bytes(a, b) + exchanges(v, a, b) + extends((int64_t)a) + loops((uint32_t)i & 31);
        pair[0] = a; pair[1] = i & 1 ? b : 0;
        h = h * 31 + wide(pair, a, b) + pair[0] + translate(table, (uint8_t)a) + leas(a, b);
        h = h * 31 + live_over_branch(a, b, i & 1) + muls(a, b) + partial_flags(a);
        if (i % 250 == 0) printf("%d %016lx\n", i, (unsigned long)h);
    }
    printf("end %016lx\n", (unsigned long)h);
    return 0;
}
