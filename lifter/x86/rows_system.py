"""Rows of the instructions about the processor itself, of saved state, and of what only the kernel may do."""

from __future__ import annotations

from functools import partial
from typing import Final

from lifter.instruction import Handling
from lifter.x86.rows import row, section
from lifter.x86.rows_integer import ARITHMETIC

NATIVE = Handling.NATIVE

VARYING: Final = frozenset((
    "rdtsc", "rdtscp", "rdrand", "rdseed", "rdpid", "cpuid", "rdpmc", "rdpru", "xgetbv", "rdfsbase", "rdgsbase",
    "monitorx", "mwaitx", "umonitor", "umwait", "tpause", "rdpkru", "wrpkru", "xrstor", "xrstor64", "xsaveopt",
    "xsavec", "xsaveopt64", "xsavec64",
))  # fmt: skip
"""Mnemonics whose result depends on more than the registers, flags and memory of the program."""

section("Identification, clocks, random numbers")

row("cpuid", reads="eax ecx", writes="eax ebx ecx edx")
row("rdtsc", writes="eax edx")
row("rdtscp", writes="eax ecx edx", feature="rdtscp")
row("rdpmc", reads="ecx", writes="eax edx")
row("rdpru", reads="ecx", writes="eax edx", feature="rdpru")
row("xgetbv", reads="ecx", writes="eax edx", feature="xsave")
row("rdrand", "w:r", sets=ARITHMETIC, feature="rdrand")
row("rdseed", "w:r", sets=ARITHMETIC, feature="rdseed")
row("rdpid", "w:r", feature="rdpid")
row("rdfsbase rdgsbase", "w:r", feature="fsgsbase")
row("wrfsbase wrgsbase", "r:r", feature="fsgsbase", handling=NATIVE, reason="changes a segment base")
row("rdpkru", reads="ecx", writes="eax edx", feature="ospke")
row("wrpkru", reads="eax ecx edx", feature="ospke")
row("monitorx", reads="rax ecx edx", feature="mwaitx")
row("mwaitx", reads="eax ecx ebx", feature="mwaitx")
row("umonitor", "r:r", feature="waitpkg")
row("umwait tpause", "r:r", reads="eax edx", sets=ARITHMETIC, feature="waitpkg")
row("movdiri", "w:m,r:r", feature="movdiri")
row("movdir64b", "r:r,r:m512", feature="movdir64b", handling=NATIVE, reason="stores through a register operand")
row("ptwrite", "r:rm", feature="intel_pt")
# A whole cache line: the address is rounded down.
row("clzero", reads="rax", memory="w:0[rax]", feature="clzero")

section("Saved state: the extended areas vary in size with the mask in EDX:EAX")

row("fxsave fxsave64", "w:m4096", reads="x87 mxcsr vectors")
row("fxrstor fxrstor64", "r:m4096", writes="x87 mxcsr vectors")
for _name in ("xsave", "xsavec", "xsaveopt"):
    row(f"{_name} {_name}64", "rw:m0", reads="eax edx x87 mxcsr vectors k", feature=_name)
row("xrstor xrstor64", "r:m0", reads="eax edx", writes="x87 mxcsr vectors k", feature="xsave")

section("Shadow stacks: a nop where the processor has none or it is off")

row("rdsspd rdsspq", "m:r")
row("incsspd incsspq", "r:r", handling=NATIVE, reason="shadow stack")
row("saveprevssp setssbsy", handling=NATIVE, reason="shadow stack")
row("rstorssp clrssbsy", "rw:m64", handling=NATIVE, reason="shadow stack")
row("wrssd wrssq wrussd wrussq", "w:m,r:r", handling=NATIVE, reason="shadow stack")

section("Transactions: an abort goes back to xbegin with its registers")

row("xbegin", writes="eax?", handling=NATIVE, reason="transaction")
row("xend", handling=NATIVE, reason="transaction")
row("xabort", "r:i", writes="eax?", handling=NATIVE, reason="transaction")
row("xtest", sets=ARITHMETIC, feature="rtm")

section("Traps")

trap = partial(row, handling=NATIVE, reason="trap")
trap("ud0 ud1", "-,-")
trap("ud0 ud1 ud2 int1 int3 hlt")
row("int", "r:i", reads="gprs", writes="rax? rcx? r11? r8? r9? r10?", handling=NATIVE, reason="system call")
row("sysenter", reads="gprs", writes="gprs", handling=NATIVE, reason="system call")
row("jmp_far call_far", "r:m", reads="gprs", writes="rsp", handling=NATIVE, reason="far branch")
row("retf iret", reads="rsp", writes="rsp", handling=NATIVE, reason="far branch")
row("retf", "r:i", reads="rsp", writes="rsp", handling=NATIVE, reason="far branch")

section("What only the kernel may do")

kernel = partial(row, reads="gprs", writes="gprs", handling=NATIVE, reason="privileged")
kernel("in", "w:r,r")
kernel("out", "r,r")
kernel(
    "cli sti clts invd wbinvd wbnoinvd rdmsr wrmsr swapgs sysret sysexit rsm xsetbv clac stac monitor mwait "
    "vmcall vmlaunch vmresume vmxoff vmmcall stgi clgi getsec encls enclu "
    "xsaves xrstors xstore vmfunc enclv pconfig vmrun vmload vmsave skinit invlpga"
)
kernel("lgdt lidt lldt ltr lmsw invlpg sgdt sidt sldt str smsw verr verw xsaves xsaves64 xrstors xrstors64", "m")
kernel("invlpga invpcid invept invvpid vmread vmwrite lar lsl lds les lfs lgs lss bound", "m,m")
kernel("vmptrld vmptrst vmclear vmxon vmrun vmload vmsave skinit", "m")
kernel("bndldx bndstx bndmov bndcl bndcu bndcn bndmk", "m,m")
