/* zlib and bzip2: compress made-up text and decompress it again. */
#include <bzlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { SIZE = 400000 };
static char text[SIZE], back[SIZE], packed[SIZE * 2];

static unsigned state = 1;
static unsigned next(unsigned below) { return ((state = state * 1664525u + 1013904223u) >> 8) % below; }

static void fill(void) {
    static const char *const words[] = {"probe", "loom", "block", "of", "the", "a", "thread", "weave", "cache", "entry"};
    unsigned at = 0;
    while (at < SIZE - 16) {
        unsigned kind = next(20);
        if (kind < 17) at += (unsigned)sprintf(text + at, "%s ", words[next(10)]);
        else if (kind < 19) at += (unsigned)sprintf(text + at, "%u,", next(100000));
        else text[at++] = (char)next(256);
    }
}

void bz_internal_error(int code) {
    fprintf(stderr, "bzip2 %d\n", code);
    abort();
}

int main(int argc, char **argv) {
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 1;
    unsigned long sum = 0;
    for (unsigned i = 0; i < rounds; i++) {
        fill();
        uLongf size = sizeof packed, size_back = SIZE;
        if (compress2((Bytef *)packed, &size, (const Bytef *)text, SIZE, 6) != Z_OK) return 1;
        if (uncompress((Bytef *)back, &size_back, (const Bytef *)packed, size) != Z_OK) return 2;
        if (memcmp(text, back, SIZE) != 0) return 3;
        sum = sum * 31 + size + crc32(0, (const Bytef *)packed, (unsigned)size);
        unsigned bsize = sizeof packed, bsize_back = SIZE;
        if (BZ2_bzBuffToBuffCompress(packed, &bsize, text, SIZE, 9, 0, 30) != BZ_OK) return 4;
        if (BZ2_bzBuffToBuffDecompress(back, &bsize_back, packed, bsize, 0, 0) != BZ_OK) return 5;
        if (memcmp(text, back, SIZE) != 0) return 6;
        sum = sum * 31 + bsize + crc32(0, (const Bytef *)packed, bsize);
    }
    printf("%lu\n", sum);
    return 0;
}
