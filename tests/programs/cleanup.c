/* Covers: forced unwinding: pthread_cancel and pthread_exit through instrumented frames with cleanup handlers
 *         (-fexceptions, __attribute__((cleanup))), _Unwind_Backtrace through instrumented frames, thread detach.
 * Expected: prints fixed results, exit 0.
 * flags: -pthread -fexceptions
 * threads: yes
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <unwind.h>

#define NOINLINE __attribute__((noinline))

static long cleaned;
static void clean(int *v) { cleaned = cleaned * 31 + *v; }
static void handler(void *p) { cleaned = cleaned * 7 + *(int *)p; }
static NOINLINE void blocked(int depth) {
    __attribute__((cleanup(clean))) int guard = depth;
    if (depth == 0) for (;;) pause();
    blocked(depth - 1);
    cleaned++;
}
static NOINLINE void leaves(int depth) {
    __attribute__((cleanup(clean))) int guard = depth * 3;
    if (depth == 0) pthread_exit((void *)99);
    leaves(depth - 1);
    cleaned++;
}
static void *cancelled(void *p) { int v = 5; pthread_cleanup_push(handler, &v); blocked(6); pthread_cleanup_pop(0); return p; }
static void *exits(void *p) { int v = 8; pthread_cleanup_push(handler, &v); leaves(4); pthread_cleanup_pop(0); return p; }

static int frames;
static _Unwind_Reason_Code frame(struct _Unwind_Context *context, void *state) {
    (void)state;
    if (_Unwind_GetIP(context)) frames++;
    return _URC_NO_REASON;
}
static NOINLINE int trace(int depth) {
    __attribute__((cleanup(clean))) int guard = depth;
    if (depth == 0) { frames = 0; _Unwind_Backtrace(frame, NULL); return frames; }
    return trace(depth - 1) + 0 * guard;
}

int main(void) {
    pthread_t t;
    void *r;
    for (int i = 0; i < 20; i++) {
        pthread_create(&t, NULL, cancelled, NULL);
        pthread_cancel(t);
        pthread_join(t, &r);
        if (r != PTHREAD_CANCELED) return 1;
        pthread_create(&t, NULL, exits, NULL);
        pthread_join(t, &r);
        if (r != (void *)99) return 2;
        cleaned &= 0xffffff;
    }
    printf("cleaned %s\n", cleaned ? "yes" : "no");
    int shallow = trace(1), deep = trace(11);
    printf("frames %d\n", deep - shallow);
    return 0;
}
