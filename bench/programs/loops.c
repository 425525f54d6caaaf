/* Loops without calls: a sieve of Eratosthenes, over and over, and the longest Collatz sequence. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LIMIT = 200000 };
static unsigned char composite[LIMIT];

__attribute__((noinline)) static unsigned sieve(void) {
    unsigned found = 0;
    memset(composite, 0, sizeof composite);
    for (unsigned i = 2; i < LIMIT; i++) {
        if (composite[i]) continue;
        found++;
        for (unsigned long j = (unsigned long)i * i; j < LIMIT; j += i) composite[j] = 1;
    }
    return found;
}

__attribute__((noinline)) static unsigned collatz(unsigned limit, unsigned *longest) {
    unsigned best = 0;
    for (unsigned start = 1; start < limit; start++) {
        unsigned steps = 0;
        for (unsigned long n = start; n != 1; steps++) n = n & 1 ? 3 * n + 1 : n / 2;
        if (steps > best) best = steps, *longest = start;
    }
    return best;
}

int main(int argc, char **argv) {
    unsigned rounds = argc > 1 ? (unsigned)atoi(argv[1]) : 1, longest = 0;
    unsigned long primes = 0;
    for (unsigned i = 0; i < rounds; i++) primes += sieve();
    unsigned steps = collatz(rounds * 2000, &longest);
    printf("%lu primes, %u steps from %u\n", primes, steps, longest);
    return 0;
}
