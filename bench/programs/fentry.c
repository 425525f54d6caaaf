/* gcc -pg -mfentry: every function's entry calls this; one counter, as a compiler would increment it. */
unsigned long fentry_count;
__asm__(".globl __fentry__\n__fentry__:\n\tincq fentry_count(%rip)\n\tret\n");
