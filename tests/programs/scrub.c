/* Covers: a loop that clears the unused part of the stack, all of it below RSP, as SBCL's garbage collector does.
 * Expected: prints one number, exit 0.
 */
#include <stdint.h>
#include <stdio.h>

uint64_t scrub(uint64_t bytes, uint64_t seed);
__asm__(".text\n"
        ".globl scrub\n"
        ".type scrub, @function\n"
        "scrub:\n"
        "    lea -8(%rsp), %rax\n"
        "    mov %rsi, %rdx\n"
        "    mov %rdi, %rcx\n"
        "    shr $3, %rcx\n"
        "1:  movq $0, (%rax)\n"
        "    add %rcx, %rdx\n"
        "    test $1, %dl\n"
        "    jz 2f\n"
        "    lea 3(%rdx,%rdx,2), %rdx\n"
        "2:  lea -8(%rax), %rax\n"
        "    clc\n"            /* `dec` keeps it */
        "    dec %rcx\n"
        "    jc 1b\n"          /* never: from here on flags are live, which leaves a counter no easy place */
        "    lea 5(%rdx), %rdx\n"
        "    jnz 1b\n"
        "    mov %rdx, %rax\n"
        "    ret\n"
        ".size scrub, . - scrub\n");

int main(void)
{
    uint64_t sum = 0;
    for (uint64_t i = 1; i < 50; i++) {
        uint64_t a = i * 3, b = i ^ 77, c = i << 5, d = i + sum, e = ~i; /* in registers that scrub preserves */
        sum = sum * 31 + scrub(512 * i, i);
        sum += a * b + c * d + e;
    }
    printf("%lu\n", sum);
    return 0;
}
