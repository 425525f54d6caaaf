"""Names of C++ and Rust, against c++filt and known pairs."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from lifter.image.demangle import demangle
from lifter.image.rust_v0 import demangle_v0
from tests.image_builds import output_of

PAIRS = {
    "main": "main",
    "_start": "_start",
    "_Z3fooi": "foo(int)",
    "_ZN3Foo3barEv.cold": "Foo::bar() [clone .cold]",
    "_ZNSt6vectorIiSaIiEE9push_backERKi": "std::vector<int, std::allocator<int> >::push_back(int const&)",
    "_ZNot_mangled": "_ZNot_mangled",
    "_ZN4core3ptr13drop_in_place17h0123456789abcdefE": "core::ptr::drop_in_place",
    "_ZN71_$LT$Test$u20$$u2b$$u20$$u27$static$u20$as$u20$foo..Bar$LT$Test$GT$$GT$3bar17h930b740aa94f1d3aE": (
        "<Test + 'static as foo::Bar<Test>>::bar"
    ),
    "_ZN14_$LT$$RF$T$GT$3eat17h0123456789abcdefE.llvm.1A2B3C": "<&T>::eat",
    "_RNvC6_123foo3bar": "123foo::bar",
    "_RNvCs1234_7mycrate3foo": "mycrate::foo",
    "_RNCNvCsaBc_7mycrate4main0": "mycrate::main::{closure#0}",
    "_RNCNvCsaBc_7mycrate4mains_0": "mycrate::main::{closure#1}",
    "_RINvNtC3std3mem8align_ofdE": "std::mem::align_of::<f64>",
    "_RNvMC7mycrateNtC7mycrate3Foo3bar": "<mycrate::Foo>::bar",
    "_RNvXC7mycrateNtC7mycrate3FooNtC7mycrate5Trait3bar": "<mycrate::Foo as mycrate::Trait>::bar",
    "_RINvC7mycrate3fooKj2a_E": "mycrate::foo::<42>",
    "_RINvC7mycrate3fooKan5_Kb1_Kc61_E": "mycrate::foo::<-5, true, 'a'>",
    "_RINvC7mycrate3fooRhQShPxOyAtj3_TlmETuEE": "mycrate::foo::<&u8, &mut [u8], *const i64, *mut u64, [u16; 3], "
    "(i32, u32), ((),)>",
    "_RINvC7mycrate3fooFUKChEuE": 'mycrate::foo::<unsafe extern "C" fn(u8)>',
    "_RINvC7mycrate3fooDNtC7mycrate5Traitp4ItemhEL_E": ("mycrate::foo::<dyn mycrate::Trait<Item = u8>>"),
    "_RNvC5crateu8gdel_5qa": "crate::gödel",
    "_RNvC1a": "_RNvC1a",
    "_RNvB_1a": "_RNvB_1a",
}


@pytest.mark.parametrize(("name", "expected"), PAIRS.items())
def test_known_names(name: str, expected: str) -> None:
    assert demangle(name) == expected


@pytest.mark.needs("c++filt", "nm")
def test_every_name_of_libstdcxx() -> None:
    path = Path("/usr/lib/x86_64-linux-gnu/libstdc++.so.6")
    if not path.exists():
        pytest.skip("libstdc++ is elsewhere on this system")
    lines = output_of("nm", "-D", "--without-symbol-versions", path).splitlines()
    # The abbreviations of the standard (St, Sa, Ss, ...) may be written out or not: versions differ.
    names = sorted({line.split()[-1] for line in lines if " _Z" in line and not re.search("S[absiod]", line)})
    assert len(names) > 300
    start = time.process_time()
    mine = [demangle(name) for name in names]
    assert (time.process_time() - start) / len(names) < 200e-6
    assert mine == filtered(names)


def filtered(names: list[str]) -> list[str]:
    done = subprocess.run(["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.needs("c++filt", "nm", "rustc")
def test_every_name_of_a_rust_program(tmp_path: Path) -> None:
    source = tmp_path / "program.rs"
    source.write_text(
        """
        use std::collections::HashMap;
        trait Shape { fn area(&self) -> f64; }
        struct Square<const N: usize>(f64);
        impl<const N: usize> Shape for Square<N> { #[inline(never)] fn area(&self) -> f64 { self.0 * N as f64 } }
        #[inline(never)] fn total(shapes: &[Box<dyn Shape + Send>]) -> f64 { shapes.iter().map(|s| s.area()).sum() }
        fn main() {
            let mut map: HashMap<String, fn(&str) -> usize> = HashMap::new();
            map.insert("len".into(), str::len);
            println!("{} {}", map["len"]("abc"), total(&[Box::new(Square::<3>(2.0))]));
        }
        """
    )
    output_of("rustc", "-C", "symbol-mangling-version=v0", source, "-o", tmp_path / "program")
    lines = output_of("nm", tmp_path / "program").splitlines()
    names = sorted({line.split()[-1] for line in lines if " _R" in line and "." not in line})
    assert len(names) > 300
    for name, theirs in zip(names, filtered(names), strict=True):
        # c++filt also shows the hash of each crate and the type of each constant.
        without_hashes = re.sub(r"\[[0-9a-f]+\]", "", theirs)
        assert demangle(name) == re.sub(r": (?:[iu]\d+|[iu]size|bool|char)(?=[>,\]])", "", without_hashes)


def doubling(levels: int) -> str:
    """A name whose type has 2**levels parts: each tuple holds the next one and a back reference to it."""
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    start = len("INvC1a1b")
    references = "".join(f"B{digits[start + level]}_E" for level in reversed(range(levels)))
    return f"_RINvC1a1b{'T' * levels}h{references}E"


def test_hostile_names_are_cheap() -> None:
    assert demangle_v0(doubling(2)) == "a::b::<((u8, u8), (u8, u8))>"
    assert demangle_v0(doubling(5)).count("u8") == 32
    start = time.process_time()
    assert demangle_v0(doubling(26)) == ""
    assert time.process_time() - start < 2
    assert demangle_v0("_R" + "N" * 5000) == ""
    assert demangle_v0("_RNvC999999999999999999999a") == ""
    assert demangle("_Z" + "9" * 100_000) == "_Z" + "9" * 100_000
