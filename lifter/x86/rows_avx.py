"""Rows of AVX, AVX2, FMA, F16C, AVX-512, XOP and FMA4.

These encodings overwrite their destination register to its full width (`w` kills), unless an EVEX mask merges.
A feature given as three words is that of the 128-bit, 256-bit and EVEX encodings.
"""

from __future__ import annotations

from lifter.registers import OPMASKS
from lifter.x86 import rows_sse
from lifter.x86.rows import Draft, row, section
from lifter.x86.rows_integer import ARITHMETIC
from lifter.x86.rows_sse import FLOATING, independent

_FLOAT = "avx avx avx512f"
_WIDE = "avx avx2 avx512f"
_BYTE_WORD = "avx avx2 avx512bw"
_VARIABLE = "avx2 avx2 avx512f"


def _avx(names: str, *shapes: str, feature: str = _FLOAT, **effects: str) -> None:
    for shape in shapes:
        row(names, shape, feature=feature, **effects)  # type: ignore[arg-type]


def _prefixed(names: str) -> str:
    return " ".join(f"v{name}" for name in names.split())


def upper_halves(draft: Draft) -> None:
    """vzeroupper keeps the low 128 bits of the registers that it changes."""
    draft.reads |= draft.writes


def clears_mask(draft: Draft) -> None:
    """Gathers and scatters clear the bits of their mask register as elements are done."""
    if draft.form.layout.mask:
        draft.writes |= draft.reads & OPMASKS


section("AVX: moves")

_avx("vmovaps vmovapd vmovups vmovupd", "w:v,r:vm/1", "w:m/1,r:v")
_avx("vmovdqa vmovdqu", "w:v,r:vm/1", "w:m/1,r:v", feature="avx")
_avx("vmovdqa32 vmovdqa64 vmovdqu32 vmovdqu64", "w:v,r:vm/1", "w:m/1,r:v", feature="avx512f")
_avx("vmovdqu8 vmovdqu16", "w:v,r:vm/1", "w:m/1,r:v", feature="avx512bw")
_avx("vlddqu", "w:v,r:m/1", feature="avx")
_avx("vmovss", "w:x,r:x,r:x", "w:x,r:m32", "w:m32,r:x")
_avx("vmovsd", "w:x,r:x,r:x", "w:x,r:m64", "w:m64,r:x")
_avx("vmovd vmovq", "w:x,r:rm", "w:rm,r:x")
_avx("vmovq", "w:x,r:xm64")
_avx("vmovhps vmovlps vmovhpd vmovlpd", "w:x,r:x,r:m64", "w:m64,r:x")
_avx("vmovhlps vmovlhps", "w:x,r:x,r:x")
_avx("vmovddup", "w:x,r:xm64", "w:y,r:ym256", "w:z,r:zm512")
_avx("vmovshdup vmovsldup", "w:v,r:vm/1")
_avx("vmovntps vmovntpd vmovntdq", "w:m/1,r:v")
_avx("vmovntdqa", "w:v,r:m/1", feature=_WIDE)
_avx("vmovmskps vmovmskpd", "w:r,r:v", feature="avx")
_avx("vpmovmskb", "w:r,r:v", feature=_WIDE)
_avx("vmaskmovdqu", "r:x,r:x", reads="rdi", memory="w:16[rdi]", feature="avx")
_avx("vmaskmovps vmaskmovpd", "w:v,r:v,r:m/1", "m:m/1,r:v,r:v", feature="avx")
_avx("vpmaskmovd vpmaskmovq", "w:v,r:v,r:m/1", "m:m/1,r:v,r:v", feature="avx2")

section("AVX and FMA: floating point")

for _suffix, _bits in (("ps", "/1"), ("pd", "/1"), ("ss", "32"), ("sd", "64")):
    _names = " ".join(f"v{name}{_suffix}" for name in (*rows_sse.FLOAT_BINARY, "scalef"))
    _avx(_names, f"w:v,r:v,r:vm{_bits}", **FLOATING)
    _avx(f"vcmp{_suffix}", f"w:v,r:v,r:vm{_bits},r:i", f"w:k,r:v,r:vm{_bits},r:i", **FLOATING)
    _scalar = _bits != "/1"
    _unary = f"w:v,r:v,r:vm{_bits}" if _scalar else f"w:v,r:vm{_bits}"
    _avx(f"vsqrt{_suffix} vgetexp{_suffix}", _unary, **FLOATING)
    _avx(f"vround{_suffix}", f"{_unary},r:i", feature="avx", **FLOATING)
    _avx(f"vrndscale{_suffix} vreduce{_suffix} vgetmant{_suffix}", f"{_unary},r:i", feature="avx512f", **FLOATING)
    _avx(f"vrange{_suffix}", f"w:v,r:v,r:vm{_bits},r:i", feature="avx512dq", **FLOATING)
    _avx(f"vfixupimm{_suffix}", f"rw:v,r:v,r:vm{_bits},r:i", feature="avx512f", **FLOATING)
    _avx(f"vfpclass{_suffix}", f"w:k,r:vm{_bits},r:i", feature="avx512dq", reads="mxcsr")
    _avx(f"vrcp14{_suffix} vrsqrt14{_suffix}", _unary, feature="avx512f", reads="mxcsr")
    _powers = "" if _scalar else f" vexp2{_suffix}"
    _avx(f"vrcp28{_suffix} vrsqrt28{_suffix}{_powers}", _unary, feature="avx512er", **FLOATING)
    _fused = [f"v{sign}m{kind}" for sign in ("f", "fn") for kind in ("add", "sub")]
    _fused += [] if _scalar else ["vfmaddsub", "vfmsubadd"]
    _orders = [f"{name}{order}{_suffix}" for name in _fused for order in ("132", "213", "231")]
    _avx(" ".join(_orders), f"rw:v,r:v,r:vm{_bits}", feature="fma fma avx512f", **FLOATING)
    _four = " ".join(f"{name}{_suffix}" for name in _fused)
    _avx(_four, f"w:v,r:v,r:vm{_bits},r:vm{_bits}", feature="fma4", **FLOATING)
    _avx(f"vfrcz{_suffix}", f"w:v,r:vm{_bits}", feature="xop", **FLOATING)
_avx("vrcpps vrsqrtps", "w:v,r:vm/1", feature="avx")
_avx("vrcpss vrsqrtss", "w:x,r:x,r:xm32", feature="avx")
_avx(_prefixed(rows_sse.FLOAT_HORIZONTAL), "w:v,r:v,r:vm/1", feature="avx", **FLOATING)
row(_prefixed(rows_sse.FLOAT_LOGIC), "w:v,r:v,r:vm/1", feature="avx avx avx512dq", adjust=independent)
_avx(_prefixed(rows_sse.FLOAT_UNPACK), "w:v,r:v,r:vm/1")
_avx("vshufps vshufpd", "w:v,r:v,r:vm/1,r:i")
_avx("vcomiss vucomiss", "r:x,r:xm32", sets=ARITHMETIC, **FLOATING)
_avx("vcomisd vucomisd", "r:x,r:xm64", sets=ARITHMETIC, **FLOATING)
_avx("vdpps vdppd", "w:v,r:v,r:vm/1,r:i", feature="avx", **FLOATING)
_avx("vblendps vblendpd", "w:v,r:v,r:vm/1,r:i", feature="avx")
_avx("vblendvps vblendvpd", "w:v,r:v,r:vm/1,r:v", feature="avx")
_avx("vtestps vtestpd", "r:v,r:vm/1", sets=ARITHMETIC, feature="avx")
_avx("vinsertps", "w:x,r:x,r:xm32,r:i")
_avx("vextractps", "w:rm,r:x,r:i")
_avx("vpermilps vpermilpd", "w:v,r:v,r:vm/1", "w:v,r:vm/1,r:i")

section("AVX: conversions")

_avx("vcvtdq2ps vcvtps2dq vcvttps2dq", "w:v,r:vm/1", **FLOATING)
_avx("vcvtdq2pd", "w:v,r:vm/2")
_avx("vcvtps2pd", "w:v,r:vm/2", **FLOATING)
_avx("vcvtss2sd", "w:x,r:x,r:xm32", **FLOATING)
_avx("vcvtsd2ss", "w:x,r:x,r:xm64", **FLOATING)
_avx("vcvtsi2ss vcvtsi2sd vcvtusi2ss vcvtusi2sd", "w:x,r:x,r:rm", **FLOATING)
_avx("vcvtss2si vcvttss2si vcvtss2usi vcvttss2usi", "w:r,r:xm32", **FLOATING)
_avx("vcvtsd2si vcvttsd2si vcvtsd2usi vcvttsd2usi", "w:r,r:xm64", **FLOATING)
_avx("vcvtps2udq vcvttps2udq vcvtudq2ps", "w:v,r:vm/1", feature="avx512f", **FLOATING)
_avx("vcvtudq2pd", "w:v,r:vm/2", feature="avx512f")
_avx("vcvtqq2pd vcvtuqq2pd vcvtpd2qq vcvtpd2uqq vcvttpd2qq vcvttpd2uqq", "w:v,r:vm/1", feature="avx512dq", **FLOATING)
_avx("vcvtps2qq vcvtps2uqq vcvttps2qq vcvttps2uqq", "w:v,r:vm/2", feature="avx512dq", **FLOATING)
_avx("vcvtph2ps", "w:v,r:vm/2", feature="f16c f16c avx512f", **FLOATING)
_avx("vcvtps2ph", "w:vm/2,r:v,r:i", feature="f16c f16c avx512f", **FLOATING)
# The source of these is wider than the destination, and its size is not told by a register operand.
_avx("vcvtpd2dq vcvttpd2dq vcvtpd2ps", "w:x,r:v", "w:x,r:m", "w:y,r:zm512", **FLOATING)
_avx("vcvtpd2udq vcvttpd2udq vcvtqq2ps vcvtuqq2ps", "w:x,r:v", "w:x,r:m", "w:y,r:zm512", feature="avx512f", **FLOATING)

section("AVX: integers")

row(_prefixed(rows_sse.INTEGER_BYTE_WORD), "w:v,r:v,r:vm/1", feature=_BYTE_WORD, adjust=independent)
row(_prefixed(rows_sse.INTEGER_WIDE), "w:v,r:v,r:vm/1", feature=_WIDE, adjust=independent)
row("vpcmpeqq vpcmpgtq", "w:v,r:v,r:vm/1", feature=_WIDE, adjust=independent)
_avx(_prefixed(f"{rows_sse.UNPACK_LOW} punpcklqdq punpckhqdq"), "w:v,r:v,r:vm/1", feature=_WIDE)
_avx(_prefixed(f"{rows_sse.SSSE3} {rows_sse.SSE41_BINARY}"), "w:v,r:v,r:vm/1", feature=_BYTE_WORD)
_avx(_prefixed(rows_sse.ABSOLUTE), "w:v,r:vm/1", feature=_BYTE_WORD)
_avx("vpalignr vmpsadbw vpblendw", "w:v,r:v,r:vm/1,r:i", feature=_BYTE_WORD)
_avx(f"{_prefixed(rows_sse.SHIFTS)} vpsraq", "w:v,r:v,r:xm128", "w:v,r:vm/1,r:i", feature=_WIDE)
_avx("vpslldq vpsrldq", "w:v,r:vm/1,r:i", feature=_BYTE_WORD)
_avx("vpshufd vpshufhw vpshuflw", "w:v,r:vm/1,r:i", feature=_BYTE_WORD)
_avx("vphminposuw", "w:x,r:xm128", feature="avx")
for _elements, _size in rows_sse.EXTENSIONS.items():
    _avx(f"vpmovzx{_elements} vpmovsx{_elements}", f"w:v,r:vm/{128 // _size}", feature=_BYTE_WORD)
_avx("vptest", "r:v,r:vm/1", sets=ARITHMETIC, feature="avx")
_avx("vpinsrw", "w:x,r:x,r:r,r:i", "w:x,r:x,r:m16,r:i")
_avx("vpinsrb", "w:x,r:x,r:r,r:i", "w:x,r:x,r:m8,r:i")
_avx("vpinsrd vpinsrq", "w:x,r:x,r:rm,r:i")
_avx("vpextrw", "w:r,r:x,r:i", "w:m16,r:x,r:i")
_avx("vpextrb", "w:r,r:x,r:i", "w:m8,r:x,r:i")
_avx("vpextrd vpextrq", "w:rm,r:x,r:i")
_avx("vpblendvb", "w:v,r:v,r:vm/1,r:v", feature="avx avx2")
_avx("vpblendd", "w:v,r:v,r:vm/1,r:i", feature="avx2")
_avx("vpsllvd vpsllvq vpsrlvd vpsrlvq vpsravd vpsravq", "w:v,r:v,r:vm/1", feature=_VARIABLE)
_avx("vpsllvw vpsrlvw vpsravw", "w:v,r:v,r:vm/1", feature="avx512bw")

section("AVX: broadcasts, lanes, permutations")

_avx("vbroadcastss", "w:v,r:xm32")
_avx("vbroadcastsd", "w:v,r:xm64")
_avx("vpbroadcastb", "w:v,r:xm8", "w:v,r:r", feature="avx2 avx2 avx512bw")
_avx("vpbroadcastw", "w:v,r:xm16", "w:v,r:r", feature="avx2 avx2 avx512bw")
_avx("vpbroadcastd", "w:v,r:xm32", "w:v,r:r", feature=_VARIABLE)
_avx("vpbroadcastq", "w:v,r:xm64", "w:v,r:r", feature=_VARIABLE)
_avx("vbroadcastf128", "w:v,r:m128", feature="avx")
_avx("vbroadcasti128", "w:v,r:m128", feature="avx2")
_avx("vbroadcastf32x2 vbroadcasti32x2", "w:v,r:xm64", feature="avx512dq")
_avx("vbroadcastf32x4 vbroadcasti32x4 vbroadcastf64x2 vbroadcasti64x2", "w:v,r:m128", feature="avx512f")
_avx("vbroadcastf32x8 vbroadcasti32x8 vbroadcastf64x4 vbroadcasti64x4", "w:v,r:m256", feature="avx512f")
_avx("vpbroadcastmb2q vpbroadcastmw2d", "w:v,r:k", feature="avx512cd")
_avx("vinsertf128", "w:y,r:y,r:xm128,r:i", feature="avx")
_avx("vinserti128", "w:y,r:y,r:xm128,r:i", feature="avx2")
_avx("vextractf128", "w:xm128,r:y,r:i", feature="avx")
_avx("vextracti128", "w:xm128,r:y,r:i", feature="avx2")
for _type in "fi":
    for _lanes, _bits in (("32x4", "xm128"), ("64x2", "xm128"), ("32x8", "ym256"), ("64x4", "ym256")):
        _avx(f"vinsert{_type}{_lanes}", f"w:v,r:v,r:{_bits},r:i", feature="avx512f")
        _avx(f"vextract{_type}{_lanes}", f"w:{_bits},r:v,r:i", feature="avx512f")
_avx("vperm2f128", "w:y,r:y,r:ym256,r:i", feature="avx")
_avx("vperm2i128", "w:y,r:y,r:ym256,r:i", feature="avx2")
_avx("vpermq vpermpd", "w:v,r:vm/1,r:i", "w:v,r:v,r:vm/1", feature=_VARIABLE)
_avx("vpermd vpermps", "w:v,r:v,r:vm/1", feature=_VARIABLE)
_avx("vpermb vpermw", "w:v,r:v,r:vm/1", feature="avx512bw")
for _element in ("b", "w", "d", "q", "ps", "pd"):
    _avx(f"vpermi2{_element} vpermt2{_element}", "rw:v,r:v,r:vm/1", feature="avx512f")
_avx("vshuff32x4 vshuff64x2 vshufi32x4 vshufi64x2 valignd valignq", "w:v,r:v,r:vm/1,r:i", feature="avx512f")

section("AVX: gathers and scatters, whose mask says which elements are accessed")

_gathers = "vgatherdps vgatherdpd vgatherqps vgatherqpd vpgatherdd vpgatherdq vpgatherqd vpgatherqq"
_avx(_gathers, "rw:v,r:m,rw:v", feature="avx2")
row(_gathers, "rw:v,r:m", feature="avx512f", adjust=clears_mask)
row(_gathers.replace("gather", "scatter"), "m:m,r:v", feature="avx512f", adjust=clears_mask)
row(
    " ".join(f"v{kind}pf{hint}{form}" for kind in ("gather", "scatter") for hint in "01"
             for form in ("dps", "dpd", "qps", "qpd")), "a:m", feature="avx512pf", adjust=clears_mask,
)  # fmt: skip

section("AVX: upper halves")

_all = " ".join(f"xmm{number}" for number in range(16))
row("vzeroupper", writes=_all, feature="avx", adjust=upper_halves)
row("vzeroall", writes=_all, feature="avx")

section("AVX: cryptography")

_avx(_prefixed(rows_sse.AES), "w:v,r:v,r:vm/1", feature="aes vaes vaes")
_avx("vaesimc", "w:x,r:xm128", feature="aes")
_avx("vaeskeygenassist", "w:x,r:xm128,r:i", feature="aes")
_avx("vpclmulqdq", "w:v,r:v,r:vm/1,r:i", feature="pclmulqdq vpclmulqdq vpclmulqdq")
_avx("vgf2p8mulb", "w:v,r:v,r:vm/1", feature="gfni")
_avx("vgf2p8affineqb vgf2p8affineinvqb", "w:v,r:v,r:vm/1,r:i", feature="gfni")

section("AVX-512 only")

for _element in ("b", "w", "d", "q"):
    _feature = "avx512bw" if _element in "bw" else "avx512f"
    _avx(f"vpcmp{_element} vpcmpu{_element}", "w:k,r:v,r:vm/1,r:i", feature=_feature)
    _tests = f"vpcmpeq{_element} vpcmpgt{_element} vptestm{_element} vptestnm{_element}"
    _avx(_tests, "w:k,r:v,r:vm/1", feature=_feature)
    _avx(f"vpblendm{_element}", "w:v,r:v,r:vm/1", feature=_feature)
    _avx(f"vpmovm2{_element}", "w:v,r:k", feature=_feature)
    _avx(f"vpmov{_element}2m", "w:k,r:v", feature=_feature)
    _avx(f"vpcompress{_element}", "w:vm/1,r:v", feature=_feature)
    _avx(f"vpexpand{_element}", "w:v,r:vm/1", feature=_feature)
    _avx(f"vpopcnt{_element}", "w:v,r:vm/1", feature=f"avx512_{'bitalg' if _element in 'bw' else 'vpopcntdq'}")
for _element in ("w", "d", "q"):
    _avx(f"vpshld{_element} vpshrd{_element}", "w:v,r:v,r:vm/1,r:i", feature="avx512_vbmi2")
    _avx(f"vpshldv{_element} vpshrdv{_element}", "rw:v,r:v,r:vm/1", feature="avx512_vbmi2")
for _element in ("d", "q"):
    _avx(f"vpand{_element} vpandn{_element} vpor{_element} vpxor{_element}", "w:v,r:v,r:vm/1", feature="avx512f")
    _avx(f"vpconflict{_element} vplzcnt{_element}", "w:v,r:vm/1", feature="avx512cd")
    _avx(f"vprol{_element} vpror{_element}", "w:v,r:vm/1,r:i", feature="avx512f")
    _avx(f"vprolv{_element} vprorv{_element}", "w:v,r:v,r:vm/1", feature="avx512f")
    _avx(f"vpternlog{_element}", "rw:v,r:v,r:vm/1,r:i", feature="avx512f")
_avx("vpabsq", "w:v,r:vm/1", feature="avx512f")
_avx("vpmullq", "w:v,r:v,r:vm/1", feature="avx512dq")
_avx("vpminsq vpminuq vpmaxsq vpmaxuq", "w:v,r:v,r:vm/1", feature="avx512f")
_avx("vblendmps vblendmpd", "w:v,r:v,r:vm/1", feature="avx512f")
_avx("vcompressps vcompresspd", "w:vm/1,r:v", feature="avx512f")
_avx("vexpandps vexpandpd", "w:v,r:vm/1", feature="avx512f")
_avx("vdbpsadbw", "w:v,r:v,r:vm/1,r:i", feature="avx512bw")
_avx("vpmultishiftqb", "w:v,r:v,r:vm/1", feature="avx512vbmi")
_avx("vpmadd52luq vpmadd52huq", "rw:v,r:v,r:vm/1", feature="avx_ifma avx_ifma avx512ifma")
_avx("vpdpbusd vpdpbusds vpdpwssd vpdpwssds", "rw:v,r:v,r:vm/1", feature="avx_vnni avx_vnni avx512_vnni")
_avx("vpshufbitqmb", "w:k,r:v,r:vm/1", feature="avx512_bitalg")
_avx("vdpbf16ps", "rw:v,r:v,r:vm/1", feature="avx512_bf16")
_avx("vcvtne2ps2bf16", "w:v,r:v,r:vm/1", feature="avx512_bf16")
_avx("vp2intersectd vp2intersectq", "w:k,r:v,r:vm/1", feature="avx512_vp2intersect")
for _saturation in ("", "s", "us"):
    for _elements, _part in (("wb", 2), ("dw", 2), ("qd", 2), ("db", 4), ("qw", 4), ("qb", 8)):
        _avx(f"vpmov{_saturation}{_elements}", f"w:vm/{_part},r:v", feature="avx512f")

for _letter, _size, _feature in (("b", 8, "dq"), ("w", 16, "f"), ("d", 32, "bw"), ("q", 64, "bw")):
    _feature = f"avx512{_feature}"
    _avx(f"kmov{_letter}", f"w:k,r:km{_size}", f"w:m{_size},r:k", "w:k,r:r", "w:r,r:k", feature=_feature)
    _three = " ".join(f"k{name}{_letter}" for name in ("add", "and", "andn", "or", "xnor", "xor"))
    _avx(_three, "w:k,r:k,r:k", feature=_feature)
    _avx(f"knot{_letter}", "w:k,r:k", feature=_feature)
    _avx(f"kshiftl{_letter} kshiftr{_letter}", "w:k,r:k,r:i", feature=_feature)
    _avx(f"kortest{_letter} ktest{_letter}", "r:k,r:k", sets=ARITHMETIC, feature=_feature)
_avx("kunpckbw kunpckwd kunpckdq", "w:k,r:k,r:k", feature="avx512bw")

section("XOP (AMD only, 2011 to 2015)")

for _kind in ("sww", "ssww", "swd", "sswd", "sdd", "ssdd", "sdql", "ssdql", "sdqh", "ssdqh"):
    _avx(f"vpmac{_kind}", "w:x,r:x,r:xm128,r:x", feature="xop")
_avx("vpmadcswd vpmadcsswd", "w:x,r:x,r:xm128,r:x", feature="xop")
_avx("vpcmov vpperm", "w:v,r:v,r:vm/1,r:vm/1", feature="xop")
_avx("vpermil2ps vpermil2pd", "w:v,r:v,r:vm/1,r:vm/1,r:i", "w:v,r:v,r:vm/1,r:vm/1", feature="xop")
for _element in "bwdq":
    _avx(f"vprot{_element}", "w:x,r:xm128,r:xm128", "w:x,r:xm128,r:i", feature="xop")
    _avx(f"vpsha{_element} vpshl{_element}", "w:x,r:xm128,r:xm128", feature="xop")
    _avx(f"vpcom{_element} vpcomu{_element}", "w:x,r:x,r:xm128,r:i", feature="xop")
for _kind in ("bw", "bd", "bq", "wd", "wq", "dq"):
    _avx(f"vphadd{_kind}", "w:x,r:xm128", feature="xop")
    _avx(f"vphaddu{_kind}", "w:x,r:xm128", feature="xop")
_avx("vphsubbw vphsubwd vphsubdq", "w:x,r:xm128", feature="xop")
