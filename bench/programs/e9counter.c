/* e9patch: called "naked" at every block with the block's file offset in rdi, which e9tool saves. No flag is changed. */
enum { MOST = 1 << 21 };
unsigned long counters[MOST];

__asm__(".globl entry\n"
        ".type entry, @function\n"
        "entry:\n"
        "\tpush %rax\n"
        "\tpush %rcx\n"
        "\tlea counters(%rip), %rax\n"
        "\tmov (%rax,%rdi,8), %rcx\n"
        "\tlea 1(%rcx), %rcx\n"
        "\tmov %rcx, (%rax,%rdi,8)\n"
        "\tpop %rcx\n"
        "\tpop %rax\n"
        "\tret\n");
