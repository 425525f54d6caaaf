/* Covers: fork with exit codes, pipes to children, children that die by a signal or _exit, vfork, fork in a loop with
 *         nested children, waitpid results; counters shared over fork.
 * Expected: prints fixed results, exit 0.
 * forks: yes
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))

static NOINLINE int compute(int n) {
    unsigned h = 17;
    for (int i = 0; i < n * 100; i++) h = h * 31 + (unsigned)i;
    return (int)(h >> 25);
}
static NOINLINE int child(int n, int fd) {
    char line[32];
    int k = snprintf(line, sizeof line, "%d:%d\n", n, compute(n));
    return write(fd, line, (size_t)k) == k ? n * 3 : 99;
}
static NOINLINE int tree(int depth) {
    if (depth == 0) return 1;
    pid_t p = fork();
    if (p == 0) _exit(tree(depth - 1) + 1);
    int status;
    waitpid(p, &status, 0);
    return WEXITSTATUS(status) + tree(depth - 1);
}

int main(void) {
    int total = 0;
    for (int i = 0; i < 8; i++) {
        int fd[2];
        if (pipe(fd)) return 2;
        pid_t p = fork();
        if (p < 0) return 3;
        if (p == 0) { close(fd[0]); exit(child(i, fd[1])); }
        close(fd[1]);
        char buf[64];
        ssize_t n = read(fd[0], buf, sizeof buf - 1);
        buf[n < 0 ? 0 : n] = 0;
        int status;
        waitpid(p, &status, 0);
        total += WEXITSTATUS(status);
        printf("child %s", buf);
        fflush(stdout);
        close(fd[0]);
    }
    printf("total %d\n", total);
    fflush(stdout);
    printf("tree %d\n", tree(4));
    fflush(stdout);
    static const int deaths[] = {SIGKILL, SIGABRT, SIGSEGV, SIGTERM};
    for (int i = 0; i < 4; i++) {
        pid_t p = fork();
        if (p == 0) { compute(i); raise(deaths[i]); _exit(1); }
        int status;
        waitpid(p, &status, 0);
        printf("death %d %d\n", WIFSIGNALED(status), WTERMSIG(status));
        fflush(stdout);
    }
    pid_t p = vfork();
    if (p == 0) _exit(23);
    int status;
    waitpid(p, &status, 0);
    printf("vfork %d\n", WEXITSTATUS(status));
    return 0;
}
