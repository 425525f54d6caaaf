/* The guard's compressor: matches found by hash chains, a move-to-front byte coder, bits written and read back. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 16384, HASHES = 1024, WINDOW = 1024, SHORTEST = 4, LONGEST = 19 };
static unsigned char text[SIZE], packed[SIZE * 2], back[SIZE];
static int newest[HASHES], older[SIZE];
static unsigned char order[256];

struct bits {
    unsigned char *at;
    unsigned held, count;
};

static void put(struct bits *out, unsigned value, unsigned width) {
    out->held |= value << out->count;
    for (out->count += width; out->count >= 8; out->count -= 8, out->held >>= 8) *out->at++ = (unsigned char)out->held;
}

static unsigned get(struct bits *in, unsigned width) {
    for (; in->count < width; in->count += 8) in->held |= (unsigned)*in->at++ << in->count;
    unsigned value = in->held & ((1u << width) - 1);
    in->held >>= width;
    in->count -= width;
    return value;
}

static void reset(void) {
    for (int i = 0; i < 256; i++) order[i] = (unsigned char)i;
}

static unsigned to_front(unsigned place) {
    unsigned char byte = order[place];
    memmove(order + 1, order, place);
    order[0] = byte;
    return byte;
}

static unsigned place_of(unsigned char byte) {
    unsigned place = 0;
    while (order[place] != byte) place++;
    return place;
}

static unsigned hash(const unsigned char *p) { return (p[0] * 33u * 33 + p[1] * 33u + p[2] * 7u + p[3]) % HASHES; }

static int longest(int at, int *from) {
    int best = 0, tries = 8;
    for (int old = newest[hash(text + at)]; old >= 0 && at - old < WINDOW && tries-- > 0; old = older[old]) {
        int length = 0;
        while (length < LONGEST && at + length < SIZE && text[old + length] == text[at + length]) length++;
        if (length > best) best = length, *from = old;
    }
    return best >= SHORTEST ? best : 0;
}

static void record(int at) {
    if (at + SHORTEST > SIZE) return;
    unsigned key = hash(text + at);
    older[at] = newest[key];
    newest[key] = at;
}

static long compress(void) {
    struct bits out = {packed, 0, 0};
    memset(newest, -1, sizeof newest);
    reset();
    for (int at = 0, from = 0; at < SIZE;) {
        int length = at + SHORTEST <= SIZE ? longest(at, &from) : 0;
        put(&out, length > 0, 1);
        if (length > 0) {
            put(&out, (unsigned)(at - from), 10);
            put(&out, (unsigned)(length - SHORTEST), 4);
        } else {
            unsigned place = place_of(text[at]);
            put(&out, place < 8, 1);
            put(&out, place, place < 8 ? 3 : 8);
            to_front(place);
        }
        for (int end = at + (length ? length : 1); at < end; at++) record(at);
    }
    put(&out, 0, 7);
    return out.at - packed;
}

static void decompress(void) {
    struct bits in = {packed, 0, 0};
    reset();
    for (int at = 0; at < SIZE;) {
        if (get(&in, 1)) {
            int from = at - (int)get(&in, 10);
            for (int length = (int)get(&in, 4) + SHORTEST; length > 0; length--) back[at++] = back[from++];
        } else {
            back[at++] = (unsigned char)to_front(get(&in, get(&in, 1) ? 3 : 8));
        }
    }
}

int main(int argc, char **argv) {
    static const char *const words[] = {"probe ", "loom ", "weave ", "thread ", "block, ", "of ", "the ", "cache. "};
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 1, state = 1;
    unsigned long sum = 0;
    for (unsigned i = 0; i < rounds; i++) {
        for (int at = 0; at < SIZE; at++) {
            state = state * 1664525u + 1013904223u;
            const char *word = words[state >> 29];
            for (; *word && at < SIZE; word++) text[at++] = (unsigned char)*word;
            if (at < SIZE) text[at] = (unsigned char)('0' + (state >> 8) % 10);
        }
        long size = compress();
        decompress();
        if (memcmp(text, back, SIZE) != 0) return 1;
        sum = sum * 31 + (unsigned long)size;
    }
    printf("%lu\n", sum);
    return 0;
}
