/* Covers: stack switching with makecontext/swapcontext between instrumented functions, generators on own stacks,
 *         a round-robin scheduler, hand-written context switch in assembly (push/pop of callee-saved registers, `ret`).
 * Expected: prints fixed results, exit 0.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#define NOINLINE __attribute__((noinline))

static ucontext_t main_context, contexts[4];
static int turn;
static long log_value;
static NOINLINE void yield_now(int self) {
    turn = (self + 1) % 4;
    swapcontext(&contexts[self], &contexts[turn]);
}
static NOINLINE long walk(int self, int depth) {
    volatile long pad[8] = {depth};
    if (depth == 0) { yield_now(self); return self; }
    long r = walk(self, depth - 1) * 3 + pad[0];
    if (depth % 3 == 0) yield_now(self);
    return r;
}
static void task(int self) {
    for (int i = 0; i < 5; i++) {
        log_value = log_value * 31 + walk(self, 5 + self) + i;
        yield_now(self);
    }
    if (self == 3) setcontext(&main_context);
    for (;;) yield_now(self);
}

/* void switch_stack(void **save, void *to) */
void switch_stack(void **save, void *to);
__asm__(".text\n.globl switch_stack\n.type switch_stack,@function\nswitch_stack:\n"
        "  pushq %rbx\n  pushq %rbp\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
        "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
        "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbp\n  popq %rbx\n  ret\n"
        ".size switch_stack, .-switch_stack\n");

static void *caller_stack, *fiber_stack;
static long produced;
static NOINLINE void produce(long v) { produced = v; switch_stack(&fiber_stack, caller_stack); }
static NOINLINE void tree(int depth, long v) {
    if (depth == 0) { produce(v); return; }
    tree(depth - 1, v * 2);
    tree(depth - 1, v * 2 + 1);
}
static NOINLINE void fiber(void) {
    tree(6, 1);
    for (;;) produce(-1);
}

int main(void) {
    for (int i = 0; i < 4; i++) {
        getcontext(&contexts[i]);
        contexts[i].uc_stack.ss_sp = malloc(65536);
        contexts[i].uc_stack.ss_size = 65536;
        contexts[i].uc_link = NULL;
        makecontext(&contexts[i], (void (*)(void))task, 1, i);
    }
    swapcontext(&main_context, &contexts[0]);
    printf("scheduler %ld\n", log_value);
    char *stack = malloc(65536);
    uint64_t *top = (uint64_t *)((uintptr_t)(stack + 65536) & ~15ul) - 2;
    *top = (uint64_t)(uintptr_t)fiber; /* at fiber's first instruction rsp is 8 mod 16, as after a call */
    for (int i = 0; i < 6; i++) *--top = 0;
    fiber_stack = top;
    long s = 0;
    for (int i = 0; i < 70; i++) { switch_stack(&caller_stack, fiber_stack); s = s * 3 + produced; }
    printf("fiber %ld last %ld\n", s, produced);
    return 0;
}
