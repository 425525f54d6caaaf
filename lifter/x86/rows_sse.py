"""Rows of MMX and of SSE to SSE4.2, AES, CLMUL, SHA and SSE4a in their old encodings.

An old encoding changes bits 0..127 of its xmm register and leaves the rest: a destination marked `w` is not
read, but its whole register is not overwritten either.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from lifter import registers
from lifter.instruction import Vec
from lifter.x86.rows import Draft, row, section
from lifter.x86.rows_integer import ARITHMETIC

FLOATING: Final = {"reads": "mxcsr", "writes": "mxcsr"}
"""Arithmetic that rounds as MXCSR says and raises its sticky flags."""

FLOAT_BINARY: Final = ("add", "sub", "mul", "div", "min", "max")
FLOAT_HORIZONTAL: Final = "haddps haddpd hsubps hsubpd addsubps addsubpd"
FLOAT_LOGIC: Final = "andps andpd andnps andnpd orps orpd xorps xorpd"
FLOAT_UNPACK: Final = "unpcklps unpcklpd unpckhps unpckhpd"
INTEGER_BYTE_WORD: Final = (
    "paddb paddw paddsb paddsw paddusb paddusw psubb psubw psubsb psubsw psubusb psubusw pmullw pmulhw pmulhuw "
    "pmaddwd psadbw pavgb pavgw pmaxub pmaxsw pminub pminsw pcmpeqb pcmpeqw pcmpgtb pcmpgtw packsswb packssdw "
    "packuswb punpckhbw punpckhwd"
)
"""SSE2 and MMX, sources and destination of equal size; byte and word elements (AVX512BW)."""
INTEGER_WIDE: Final = "paddd paddq psubd psubq pmuludq pand pandn por pxor pcmpeqd pcmpgtd punpckhdq"
"""The same, doubleword and quadword elements (AVX512F)."""
UNPACK_LOW: Final = "punpcklbw punpcklwd punpckldq"
"""With MMX registers they read only four bytes of memory."""
SSSE3: Final = (
    "pshufb phaddw phaddd phaddsw phsubw phsubd phsubsw psignb psignw psignd pmulhrsw pmaddubsw"
)
ABSOLUTE: Final = "pabsb pabsw pabsd"
SSE41_BINARY: Final = "pmulld pmuldq pminsb pminsd pminuw pminud pmaxsb pmaxsd pmaxuw pmaxud packusdw pcmpeqq"
SHIFTS: Final = "psllw pslld psllq psrlw psrld psrlq psraw psrad"
EXTENSIONS: Final = {"bw": 64, "bd": 32, "bq": 16, "wd": 64, "wq": 32, "dq": 64}
"""pmovzx and pmovsx: element sizes -> bits read."""
AES: Final = "aesenc aesenclast aesdec aesdeclast"

_ZEROING: Final = frozenset((
    "xorps", "xorpd", "pxor", "psubb", "psubw", "psubd", "psubq", "psubsb", "psubsw", "psubusb", "psubusw",
    "pandn", "andnps", "andnpd", "pcmpeqb", "pcmpeqw", "pcmpeqd", "pcmpeqq", "pcmpgtb", "pcmpgtw", "pcmpgtd",
    "pcmpgtq",
))  # fmt: skip


def independent(draft: Draft) -> None:
    """`pxor a, a`, `pcmpeqd a, a` and the like do not depend on a."""
    sources = draft.form.operands[-2:]
    name = draft.form.mnemonic
    first = sources[0]
    same = sources[0] == sources[1] and isinstance(first, Vec) and first.kind in ("xmm", "ymm", "zmm")
    if same and not draft.form.layout.mask and (name in _ZEROING or (name[0] == "v" and name[1:] in _ZEROING)):
        draft.reads = 0


def _legacy(names: str, *shapes: str, feature: str = "", **effects: str) -> None:
    for shape in shapes:
        row(names, shape, feature=feature, encodings="legacy", adjust=independent, **effects)  # type: ignore[arg-type]


section("SSE and MMX: moves")

_legacy("movaps movapd movups movupd movdqa movdqu", "w:x,r:xm128", "w:m128,r:x")
_legacy("lddqu", "w:x,r:m128", feature="pni")
_legacy("movss", "rw:x,r:x", "w:x,r:m32", "w:m32,r:x")
_legacy("movsd", "rw:x,r:x", "w:x,r:m64", "w:m64,r:x")
_legacy("movd movq", "w:x,r:rm", "w:rm,r:x", "w:mm,r:rm", "w:rm,r:mm")
_legacy("movq", "w:x,r:xm64", "w:mm,r:mmm64")
_legacy("movq2dq", "w:x,r:mm")
_legacy("movdq2q", "w:mm,r:x")
_legacy("movhps movlps movhpd movlpd", "rw:x,r:m64", "w:m64,r:x")
_legacy("movhlps movlhps", "rw:x,r:x")
_legacy("movddup", "w:x,r:xm64", feature="pni")
_legacy("movshdup movsldup", "w:x,r:xm128", feature="pni")
_legacy("movntps movntpd movntdq", "w:m128,r:x")
_legacy("movntdqa", "w:x,r:m128", feature="sse4_1")
_legacy("movntq", "w:m64,r:mm")
_legacy("movntss", "w:m32,r:x", feature="sse4a")
_legacy("movntsd", "w:m64,r:x", feature="sse4a")
_legacy("movmskps movmskpd", "w:r,r:x")
_legacy("pmovmskb", "w:r,r:x", "w:r,r:mm")
_legacy("maskmovdqu", "r:x,r:x", reads="rdi", memory="w:16[rdi]")
_legacy("maskmovq", "r:mm,r:mm", reads="rdi", memory="w:8[rdi]")

section("SSE: floating point")

for _suffix, _bits in (("ps", 128), ("pd", 128), ("ss", 32), ("sd", 64)):
    _binary = " ".join(f"{name}{_suffix}" for name in FLOAT_BINARY)
    _legacy(_binary, f"rw:x,r:xm{_bits}", **FLOATING)
    _legacy(f"cmp{_suffix}", f"rw:x,r:xm{_bits},r:i", **FLOATING)
    _unary = "w" if _bits == 128 else "rw"
    _legacy(f"sqrt{_suffix}", f"{_unary}:x,r:xm{_bits}", **FLOATING)
    _legacy(f"round{_suffix}", f"{_unary}:x,r:xm{_bits},r:i", feature="sse4_1", **FLOATING)
_legacy("rcpps rsqrtps", "w:x,r:xm128")
_legacy("rcpss rsqrtss", "rw:x,r:xm32")
_legacy(FLOAT_HORIZONTAL, "rw:x,r:xm128", feature="pni", **FLOATING)
_legacy(FLOAT_LOGIC, "rw:x,r:xm128")
_legacy(FLOAT_UNPACK, "rw:x,r:xm128")
_legacy("shufps shufpd", "rw:x,r:xm128,r:i")
_legacy("comiss ucomiss", "r:x,r:xm32", sets=ARITHMETIC, **FLOATING)
_legacy("comisd ucomisd", "r:x,r:xm64", sets=ARITHMETIC, **FLOATING)
_legacy("dpps dppd", "rw:x,r:xm128,r:i", feature="sse4_1", **FLOATING)
_legacy("blendps blendpd pblendw", "rw:x,r:xm128,r:i", feature="sse4_1")
_legacy("blendvps blendvpd pblendvb", "rw:x,r:xm128", reads="xmm0", feature="sse4_1")
_legacy("insertps", "rw:x,r:xm32,r:i", feature="sse4_1")
_legacy("extractps", "w:rm,r:x,r:i", feature="sse4_1")

section("SSE and MMX: conversions")

_legacy("cvtdq2ps cvtps2dq cvttps2dq cvtpd2dq cvttpd2dq cvtpd2ps", "w:x,r:xm128", **FLOATING)
_legacy("cvtdq2pd", "w:x,r:xm64")
_legacy("cvtps2pd", "w:x,r:xm64", **FLOATING)
_legacy("cvtss2sd", "rw:x,r:xm32", **FLOATING)
_legacy("cvtsd2ss", "rw:x,r:xm64", **FLOATING)
_legacy("cvtsi2ss cvtsi2sd", "rw:x,r:rm", **FLOATING)
_legacy("cvtss2si cvttss2si", "w:r,r:xm32", **FLOATING)
_legacy("cvtsd2si cvttsd2si", "w:r,r:xm64", **FLOATING)
_legacy("cvtps2pi cvttps2pi", "w:mm,r:xm64", **FLOATING)
_legacy("cvtpd2pi cvttpd2pi", "w:mm,r:xm128", **FLOATING)
_legacy("cvtpi2ps", "rw:x,r:mmm64", **FLOATING)
_legacy("cvtpi2pd", "w:x,r:mmm64", **FLOATING)

section("SSE and MMX: integers")

_both = ("rw:x,r:xm128", "rw:mm,r:mmm64")
_legacy(f"{INTEGER_BYTE_WORD} {INTEGER_WIDE}", *_both)
_legacy(UNPACK_LOW, "rw:x,r:xm128", "rw:mm,r:mmm32")
_legacy("punpcklqdq punpckhqdq", "rw:x,r:xm128")
_legacy(SSSE3, *_both, feature="ssse3")
_legacy(ABSOLUTE, "w:x,r:xm128", "w:mm,r:mmm64", feature="ssse3")
_legacy("palignr", "rw:x,r:xm128,r:i", "rw:mm,r:mmm64,r:i", feature="ssse3")
_legacy(SHIFTS, *_both, "rw:x,r:i", "rw:mm,r:i")
_legacy("pslldq psrldq", "rw:x,r:i")
_legacy("pshufd pshufhw pshuflw", "w:x,r:xm128,r:i")
_legacy("pshufw", "w:mm,r:mmm64,r:i")
_legacy(SSE41_BINARY, "rw:x,r:xm128", feature="sse4_1")
_legacy("mpsadbw", "rw:x,r:xm128,r:i", feature="sse4_1")
_legacy("phminposuw", "w:x,r:xm128", feature="sse4_1")
for _elements, _bits in EXTENSIONS.items():
    _legacy(f"pmovzx{_elements} pmovsx{_elements}", f"w:x,r:xm{_bits}", feature="sse4_1")
_legacy("ptest", "r:x,r:xm128", sets=ARITHMETIC, feature="sse4_1")
_legacy("pinsrw", "rw:x,r:r,r:i", "rw:x,r:m16,r:i", "rw:mm,r:r,r:i", "rw:mm,r:m16,r:i")
_legacy("pinsrb", "rw:x,r:r,r:i", "rw:x,r:m8,r:i", feature="sse4_1")
_legacy("pinsrd pinsrq", "rw:x,r:rm,r:i", feature="sse4_1")
_legacy("pextrw", "w:r,r:x,r:i", "w:r,r:mm,r:i")
_legacy("pextrw", "w:m16,r:x,r:i", feature="sse4_1")
_legacy("pextrb", "w:r,r:x,r:i", "w:m8,r:x,r:i", feature="sse4_1")
_legacy("pextrd pextrq", "w:rm,r:x,r:i", feature="sse4_1")
_legacy("pcmpgtq", "rw:x,r:xm128", feature="sse4_2")


def text_comparison(draft: Draft) -> None:
    """The lengths are in EAX and EDX, or in RAX and RDX with REX.W; the masks are the same."""
    if draft.form.mnemonic.endswith("m"):
        draft.writes |= registers.vector(0)
        if draft.form.layout.encoding:
            draft.kills |= registers.vector(0)


_string = partial(row, sets=ARITHMETIC, adjust=text_comparison)
for _prefix, _feature in (("", "sse4_2"), ("v", "avx")):
    _string(f"{_prefix}pcmpestri", "r:x,r:xm128,r:i", reads="rax rdx", writes="ecx", feature=_feature)
    _string(f"{_prefix}pcmpistri", "r:x,r:xm128,r:i", writes="ecx", feature=_feature)
    _string(f"{_prefix}pcmpestrm", "r:x,r:xm128,r:i", reads="rax rdx", feature=_feature)
    _string(f"{_prefix}pcmpistrm", "r:x,r:xm128,r:i", feature=_feature)

section("SSE: cryptography")

_legacy(AES, "rw:x,r:xm128", feature="aes")
_legacy("aesimc", "w:x,r:xm128", feature="aes")
_legacy("aeskeygenassist", "w:x,r:xm128,r:i", feature="aes")
_legacy("pclmulqdq", "rw:x,r:xm128,r:i", feature="pclmulqdq")
_legacy("sha1nexte sha1msg1 sha1msg2 sha256msg1 sha256msg2", "rw:x,r:xm128", feature="sha_ni")
_legacy("sha1rnds4", "rw:x,r:xm128,r:i", feature="sha_ni")
_legacy("sha256rnds2", "rw:x,r:xm128", reads="xmm0", feature="sha_ni")
_legacy("gf2p8mulb", "rw:x,r:xm128", feature="gfni")
_legacy("gf2p8affineqb gf2p8affineinvqb", "rw:x,r:xm128,r:i", feature="gfni")

section("SSE4a: bits of the low quadword")

_legacy("extrq", "rw:x,r:i,r:i", "rw:x,r:x", feature="sse4a")
_legacy("insertq", "rw:x,r:x,r:i,r:i", "rw:x,r:x", feature="sse4a")

section("Floating-point state")

row("ldmxcsr", "r:m32", writes="mxcsr")
row("stmxcsr", "w:m32", reads="mxcsr")
row("vldmxcsr", "r:m32", writes="mxcsr", feature="avx")
row("vstmxcsr", "w:m32", reads="mxcsr", feature="avx")
row("emms", reads="x87", writes="x87")
row("femms", reads="x87", writes="x87", feature="3dnow")

section("3DNow! (AMD only, 1998 to 2010)")

_legacy(
    "pavgusb pf2id pfacc pfadd pfcmpeq pfcmpge pfcmpgt pfmax pfmin pfmul pfrcpit1 pfrcpit2 pfrsqit1 pfsub pfsubr "
    "pmulhrw pfnacc pfpnacc", "rw:mm,r:mmm64", feature="3dnow",
)  # fmt: skip
_legacy("pi2fd pi2fw pf2iw pfrcp pfrsqrt pswapd", "w:mm,r:mmm64", feature="3dnow")
