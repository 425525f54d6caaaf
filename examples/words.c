/* Counts the words of a text: a small program to try probes on. cc -O2 -g -o words words.c */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 1024

struct word {
    struct word *next;
    long count;
    char text[];
};

static struct word *table[BUCKETS];

__attribute__((noinline)) unsigned hash_word(const char *text, size_t length) {
    unsigned hash = 2166136261u;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)text[i]) * 16777619u;
    return hash % BUCKETS;
}

__attribute__((noinline)) long add_word(const char *text, size_t length) {
    struct word **slot = &table[hash_word(text, length)];
    for (struct word *word = *slot; word; word = word->next)
        if (strlen(word->text) == length && !memcmp(word->text, text, length))
            return ++word->count;
    struct word *word = malloc(sizeof *word + length + 1);
    if (!word)
        abort();
    memcpy(word->text, text, length);
    word->text[length] = 0;
    word->count = 1;
    word->next = *slot;
    *slot = word;
    return 1;
}

__attribute__((noinline)) size_t parse_line(const char *line) {
    size_t words = 0;
    while (*line) {
        size_t length = 0;
        while (isalnum((unsigned char)line[length]))
            length++;
        if (length) {
            add_word(line, length);
            words++;
            line += length;
        } else {
            line++;
        }
    }
    return words;
}

int main(void) {
    char line[4096];
    size_t words = 0, distinct = 0;
    while (fgets(line, sizeof line, stdin))
        words += parse_line(line);
    for (int i = 0; i < BUCKETS; i++)
        for (struct word *word = table[i]; word; word = word->next)
            distinct++;
    printf("%zu words, %zu distinct\n", words, distinct);
    return 0;
}
