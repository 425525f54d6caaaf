/* Preloaded into a program that a tool attaches to: waits, before main, for a byte on the file descriptor HOLD_FD. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((constructor)) static void hold(void) {
    const char *fd = getenv("HOLD_FD");
    char byte;
    if (!fd) return;
    while (read(atoi(fd), &byte, 1) < 0 && errno == EINTR) continue;
    close(atoi(fd));
    unsetenv("HOLD_FD");
    unsetenv("LD_PRELOAD");
}
