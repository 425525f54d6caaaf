/* Covers: a program that executes itself again (execv, posix_spawn of /proc/self/exe): environment and data file are
 *         opened anew by each image, counts add up over all of them.
 * Expected: prints fixed results, exit 0.
 * main: 4
 * forks: yes
 */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
__attribute__((noinline)) static int work(int n) { unsigned s = 7; for (int i = 0; i < n; i++) s = s * 33 + (unsigned)i; return (int)(s >> 20); }

int main(int argc, char **argv) {
    if (argc > 1 && argv[1][0] == 's') { printf("spawned %d\n", work(500)); fflush(stdout); return 21; }
    if (argc > 1 && argv[1][0] == '2') { printf("third image %d\n", work(300)); return 0; }
    if (argc > 1) { printf("second image %d\n", work(200)); fflush(stdout); char *next[] = {argv[0], "2", NULL}; execv("/proc/self/exe", next); return 3; }
    printf("first image %d\n", work(100));
    fflush(stdout);
    pid_t p;
    char *child[] = {argv[0], "s", NULL};
    if (posix_spawn(&p, "/proc/self/exe", NULL, NULL, child, environ)) return 4;
    int status;
    waitpid(p, &status, 0);
    printf("status %d\n", WEXITSTATUS(status));
    fflush(stdout);
    char *next[] = {argv[0], "1", NULL};
    execv("/proc/self/exe", next);
    return 5;
}
