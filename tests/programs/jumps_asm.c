/* Covers: hand-written assembly that breaks the usual shape: data between functions and inside them, an instruction entered
 *         in its middle, functions with several entries, fall-through into the next function, a symbol-less local
 *         routine, jump tables in .text (absolute and relative, with notrack), call/pop for the program counter, push/ret
 *         as a jump, return address adjusted past inline data, callee-popped arguments, overlapping symbols,
 *         one-byte functions, blocks that are nothing but a call, jumps between functions, a function after a noreturn call.
 * Expected: prints fixed results, exit 0.
 */
#include <stdio.h>
#include <stdlib.h>

#define NOINLINE __attribute__((noinline))

long inline_data(long), middle(long, long), two_entries(long), second_entry(long), falls_through(long), lands_here(long), local_routine(long);
long table_relative(unsigned long, long), call_pop(void), push_ret(long), skip_data(long), pop_args(long, long), alias_a(long), alias_b(long);
long only_calls(long), cross_a(long, long), cross_b(long), notrack_table(unsigned long, long), loop_entry(long), shared_tail_a(long), shared_tail_b(long);
long jump_memory(unsigned long, long), long_nops(long), call_next(long), short_loop(long), thunked(long), empty_calls(long);
void nothing(void);

__asm__(
    ".text\n"
    ".macro fn name\n.globl \\name\n.type \\name,@function\n\\name:\n.endm\n"
    ".macro endfn name\n.size \\name, .-\\name\n.endm\n"

    /* data inside the function, jumped over and read */
    "fn inline_data\n  jmp 1f\n2: .quad 0x1122334455667788, 0xe8e8e8e8e8e8e8e8\n1: movq 2b(%rip), %rax\n  addq 2b+8(%rip), %rax\n  addq %rdi, %rax\n  ret\nendfn inline_data\n"
    "  .ascii \"raw text between functions \\x0f\\x0b\\xe9\"\n"

    /* the immediate of the mov holds an add that is executed on its own: 48 01 f0 = add %rsi, %rax */
    "fn middle\n  movq %rdi, %rax\n  testq $1, %rsi\n  jnz 3f+1\n3: .byte 0xa9, 0x48, 0x01, 0xf0, 0x90\n  ret\nendfn middle\n"

    "fn two_entries\n  leaq (%rdi,%rdi,2), %rdi\n  .globl second_entry\n  .type second_entry,@function\nsecond_entry:\n  leaq 7(%rdi), %rax\n  ret\nendfn two_entries\n.size second_entry, 5\n"

    "fn falls_through\n  incq %rdi\nendfn falls_through\n"
    "fn lands_here\n  imulq $3, %rdi, %rax\n  ret\nendfn lands_here\n"

    "4: leaq 1(%rdi,%rdi), %rax\n  ret\n"
    "fn local_routine\n  pushq %rbx\n  call 4b\n  movq %rax, %rbx\n  movq %rax, %rdi\n  call 4b\n  addq %rbx, %rax\n  popq %rbx\n  ret\nendfn local_routine\n"

    /* relative jump table in .text, gcc's form */
    "fn table_relative\n  movq %rsi, %rax\n  cmpq $4, %rdi\n  ja 9f\n  leaq 5f(%rip), %rdx\n  movslq (%rdx,%rdi,4), %rcx\n  addq %rdx, %rcx\n  jmp *%rcx\n"
    "  .balign 4\n5: .long 6f-5b, 7f-5b, 8f-5b, 7f-5b, 6f-5b\n"
    "6: addq $100, %rax\n  ret\n7: imulq $5, %rax\n  ret\n8: negq %rax\n9: ret\nendfn table_relative\n"

    "fn notrack_table\n  endbr64\n  movq %rsi, %rax\n  cmpl $3, %edi\n  ja 9f\n  movl %edi, %edi\n  leaq 5f(%rip), %rdx\n  movslq (%rdx,%rdi,4), %rcx\n  addq %rdx, %rcx\n  notrack jmp *%rcx\n"
    "6: addq $1000, %rax\n  jmp 9f\n7: imulq $11, %rax\n  jmp 9f\n8: notq %rax\n9: ret\n"
    "  .section .rodata\n  .balign 4\n5: .long 6b-5b, 7b-5b, 8b-5b, 7b-5b\n  .text\nendfn notrack_table\n"

    "fn jump_memory\n  leaq 5f(%rip), %rax\n  andl $3, %edi\n  jmp *(%rax,%rdi,8)\n6: leaq 3(%rsi), %rax\n  ret\n7: leaq (%rsi,%rsi,4), %rax\n  ret\n8: movq %rsi, %rax\n  bswapq %rax\n  ret\n"
    "  .section .data.rel.ro,\"aw\",@progbits\n  .balign 8\n5: .quad 6b, 7b, 8b, 7b\n  .text\nendfn jump_memory\n"

    "fn call_pop\n  call 1f\n1: popq %rax\n  leaq 2f(%rip), %rdx\n  subq %rax, %rdx\n  movq %rdx, %rax\n2: ret\nendfn call_pop\n"
    /* called twice: once by the call, once by falling into it */
    "fn call_next\n  call 1f\n1: leaq 9(%rdi,%rdi), %rdi\n  movq %rdi, %rax\n  ret\nendfn call_next\n"
    "fn push_ret\n  leaq 1f(%rip), %rax\n  pushq %rax\n  leaq 5(%rdi), %rax\n  ret\n  ud2\n1: addq %rax, %rax\n  ret\nendfn push_ret\n"
    /* the callee returns past eight bytes of data that follow the call */
    "fn skip_data\n  call 1f\n  .quad 0x0102030405060708\n  addq %rdi, %rax\n  ret\n1: popq %rdx\n  movq (%rdx), %rax\n  addq $8, %rdx\n  jmp *%rdx\nendfn skip_data\n"
    "fn pop_args\n  pushq %rdi\n  pushq %rsi\n  call 1f\n  ret\n1: movq 16(%rsp), %rax\n  subq 8(%rsp), %rax\n  ret $16\nendfn pop_args\n"

    ".globl alias_a\n.globl alias_b\n.type alias_a,@function\n.type alias_b,@function\nalias_a:\nalias_b: leaq -3(%rdi), %rax\n  ret\n.size alias_a, .-alias_a\n.size alias_b, 4\n"
    "fn nothing\n  ret\nendfn nothing\n"
    "fn only_calls\n  call nothing\n  call nothing\n  call nothing\n  movq %rdi, %rax\n  ret\nendfn only_calls\n"
    "fn empty_calls\n  call nothing\n  jmp lands_here\nendfn empty_calls\n"

    "fn cross_a\n  testq %rdi, %rdi\n  jle 1f\n  decq %rdi\n  addq $2, %rsi\n  jmp cross_b_inside\n1: movq %rsi, %rax\n  ret\nendfn cross_a\n"
    "fn cross_b\n  xorl %esi, %esi\ncross_b_inside:\n  imulq $3, %rsi\n  addq %rdi, %rsi\n  jmp cross_a\nendfn cross_b\n"

    /* the function's first byte is the head of a loop */
    "fn loop_entry\n  leaq (%rax,%rdi), %rax\n  movq %rdi, %rdx\n  decq %rdi\n  jnz loop_entry\n  movq %rdx, %rax\n  addq %rdi, %rax\n  ret\nendfn loop_entry\n"
    "fn short_loop\n  xorl %eax, %eax\n1: addq %rdi, %rax\n  decq %rdi\n  jne 1b\n  ret\nendfn short_loop\n"
    "fn shared_tail_a\n  leaq 1(%rdi), %rax\n  jmp shared_tail\nendfn shared_tail_a\n"
    "fn shared_tail_b\n  leaq 2(%rdi), %rax\nendfn shared_tail_b\n"
    "shared_tail:\n  leaq (%rax,%rax,4), %rax\n  ret\n"
    "fn long_nops\n  .byte 0x66,0x2e,0x0f,0x1f,0x84,0,0,0,0,0\n  .byte 0x0f,0x1f,0x44,0,0\n  movq %rdi, %rax\n  .byte 0xf3,0x90\n  .byte 0x66,0x90\n  .byte 0xf3,0xc3\nendfn long_nops\n"
    /* retpoline-style thunk */
    "fn thunked\n  leaq lands_here(%rip), %rax\n  jmp 1f\n1: call 3f\n2: pause\n  lfence\n  jmp 2b\n3: movq %rax, (%rsp)\n  ret\nendfn thunked\n");

static NOINLINE void fatal(int v) { printf("fatal %d\n", v); exit(v); }
static NOINLINE long after_noreturn(long v) { if (v > 1000000) fatal(9); return v * 2; }

int main(void) {
    long s = 0;
    for (long i = 0; i < 400; i++) {
        s = s * 31 + inline_data(i);
        s = s * 31 + middle(i, i & 3);
        s = s * 31 + two_entries(i) + second_entry(i) + falls_through(i) + lands_here(i) + local_routine(i);
        s = s * 31 + table_relative((unsigned long)i % 6, s) + notrack_table((unsigned long)i % 5, s) + jump_memory((unsigned long)i, s);
        s = s * 31 + call_pop() + push_ret(i) + skip_data(i) + pop_args(i, 3) + alias_a(i) + alias_b(i) + call_next(i);
        s = s * 31 + only_calls(i) + cross_a(i % 20, i) + cross_b(i % 20) + loop_entry(i + 1) + short_loop(i + 1) + empty_calls(i);
        s = s * 31 + shared_tail_a(i) + shared_tail_b(i) + long_nops(i) + thunked(i) + after_noreturn(i) ;
        if (i % 50 == 0) printf("%ld %ld\n", i, s);
    }
    printf("end %ld\n", s);
    return 0;
}
