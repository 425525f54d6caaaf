"""Offline mode: writes an executable or library with its instrumentation inside.

    address = reserve(image)                  # where the data segment goes
    layout = datafile.layout(...)             # counter i is at address + datafile.COUNTERS_OFFSET + 8 * i
    code_address = after_data(address, layout.size)
    overlay = Overlay(code_address, code, address, datafile.encode(layout), patches)
    notes = write(image, overlay, Path("prog.inst"))

The start-up code is added by `write`: the overlay's code is the regions and stubs alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from codecache.types import Overlay
from jit.atomicfile import is_descriptor, replacing
from jit.elfwriter import EHDR_SIZE, PAGE, PF_R, PF_W, PF_X, PT_PROBELOOM, Added, Chunk, ElfEditor
from jit.startup import ALIGNMENT, Memory, Startup
from lifter.errors import ProbeloomError, RefusedError, UsageError
from lifter.image.types import Image, Kind

_LARGEST_CHECKED = 1 << 28
"""Larger files are mostly hole, which the second parser would read."""

_REACH = 1 << 31
"""How far a rel32 goes."""

_STARTUP_MOST = 1 << 14
"""Bytes of code that are left free behind the regions, where something follows."""

_MARGIN = 1 << 16
"""For what comes behind code and data: program headers, a moved dynamic table."""


def reserve(image: Image) -> int:
    """The first address that is free for the overlay: page-aligned, after all that the file loads.

    It is also far enough that the added segments can lie in the file as far from the first one as in memory
    (see `jit.elfwriter`). Raises RefusedError for a file that was already rewritten, has nothing to load, or
    has no place within 2 GiB of its code.
    """
    editor = _editor(image)
    _check_reach(editor, editor.free_address)
    return editor.free_address


def after_data(data_address: int, data_size: int) -> int:
    """Where the code goes: the first page after the data segment."""
    return -(-(data_address + data_size) // PAGE) * PAGE


def after_code(code_address: int, code_size: int) -> int:
    """Where frame descriptions go: the first page after the code, with room for the start-up code behind it."""
    return -(-(code_address + code_size + _STARTUP_MOST) // PAGE) * PAGE


def write(image: Image, overlay: Overlay, output: Path, memory: Memory | None = None) -> tuple[str, ...]:
    """Writes the image with the overlay and the start-up code to `output`, in one step: whole or not at all.

    `memory` knows the files that were written and checked before: the very same is not checked again.
    Permissions are kept, ownership where this user may give files away (a set-user-id bit is dropped where
    not). Returns notes for the user. Raises UsageError when `output` cannot be written, is the input or no
    plain file; RefusedError when the image has no place for the overlay; ProbeloomError for an overlay that
    does not fit the image (our fault).
    """
    target = _target(image, output)
    editor = _editor(image)
    editor.patch(overlay.patches)
    chunks, size = _compose(image, overlay, editor, Startup(memory))
    identity = _identity(image, overlay, chunks) if memory is not None else ""
    known = memory is not None and memory.get_plan(identity) is not None
    try:
        with replacing(target) as file:
            for offset, content in chunks:
                _write_at(file, offset, content)
            os.ftruncate(file, size)
            notes = _copy_attributes(image, file)
            if size < _LARGEST_CHECKED and not known:
                _check(editor, overlay, f"/proc/self/fd/{file}")
                if memory is not None:
                    memory.put_plan(identity, b"checked")
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}") from None
    return notes


def _editor(image: Image) -> ElfEditor:
    try:
        editor = ElfEditor(image.content)
    except RefusedError as refused:
        raise RefusedError(f"{image.path}: {refused}") from None
    if any(segment.type == PT_PROBELOOM for segment in editor.segments):
        raise RefusedError(f"{image.path}: already rewritten by probeloom; rewrite the original file")
    return editor


def _target(image: Image, output: Path) -> Path:
    """Where the file will be: through symbolic links, so that those stay."""
    if is_descriptor(output):
        raise UsageError(f"cannot write {output}: not a plain file")
    try:
        target = output.resolve()
        if target.is_dir():
            raise UsageError(f"cannot write {output}: is a directory")
        if target.exists():
            if not target.is_file():
                raise UsageError(f"cannot write {output}: not a plain file")
            if image.path.exists() and target.samefile(image.path):
                raise UsageError(f"cannot write {output}: it is the input itself")
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise UsageError(f"cannot write {output}: {error}") from None
    return target


def _identity(image: Image, overlay: Overlay, chunks: Sequence[Chunk]) -> str:
    """Of a written file, and of what it is checked against."""
    digest = sha256(Path(__file__).read_bytes() + image.content)
    for content in (*(content for _, content in chunks), overlay.code, overlay.data):
        digest.update(len(content).to_bytes(8, "little") + content)
    places = [(patch.address, patch.after) for patch in overlay.patches]
    digest.update(repr((places, [offset for offset, _ in chunks], overlay.code_address, overlay.data_address)).encode())
    return f"checked {digest.hexdigest()}"


def _compose(image: Image, overlay: Overlay, editor: ElfEditor, startup: Startup) -> tuple[list[Chunk], int]:
    start = -(-(overlay.code_address + len(overlay.code)) // ALIGNMENT) * ALIGNMENT
    end = max(start + startup.size, overlay.frames_address + len(overlay.frames))
    _check_reach(editor, max(end, overlay.data_address + len(overlay.data)))
    is_library = image.kind is Kind.LIBRARY
    original = editor.initialiser() if is_library else image.entry
    if original is not None and not any(s.address <= original < s.address + s.memory_size for s in editor.loaded):
        raise RefusedError(f"{image.path}: starts at {original:#x}, where it loads nothing")
    first, entered = startup.build(start, overlay.data_address, original, is_library)
    data = overlay.data
    if is_library:
        spare = -(-len(data) // 16) * 16
        moved = editor.set_initialiser(entered, overlay.data_address + spare)
        if moved:
            data += bytes(spare - len(data)) + moved
    else:
        editor.set_entry(entered)
    code = overlay.code + bytes(start - overlay.code_address - len(overlay.code)) + first
    added = [
        Added(".probeloom.data", overlay.data_address, data, PF_R | PF_W),
        Added(".probeloom.text", overlay.code_address, code, PF_R | PF_X),
    ]
    if overlay.frames:
        editor.set_frame_table(overlay.frames_address, len(overlay.frames))
        editor.set_debugging(".probeloom.text", overlay.debug_frames, overlay.names)
        added.append(Added(".probeloom.frames", overlay.frames_address, overlay.frames, PF_R))
    return editor.finish(added)


def _check_reach(editor: ElfEditor, end: int) -> None:
    if end + _MARGIN - editor.loaded[0].address >= _REACH:
        raise RefusedError("no place for the instrumentation within 2 GiB of the code")


def _write_at(file: int, offset: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        done = os.pwrite(file, rest, offset)
        rest, offset = rest[done:], offset + done


def _copy_attributes(image: Image, file: int) -> tuple[str, ...]:
    """Owner and permissions of the input; what cannot or must not be kept becomes a note."""
    notes: list[str] = []
    try:
        status = image.path.stat()
    except OSError:  # an image that was made in memory
        os.fchmod(file, 0o755)
        return ()
    mode = stat.S_IMODE(status.st_mode)
    try:
        os.fchown(file, status.st_uid, status.st_gid)
    except OSError:
        if mode & (stat.S_ISUID | stat.S_ISGID):
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
            notes.append("set-user-id and set-group-id bits dropped: the owner could not be kept")
    os.fchmod(file, mode)
    with suppress(OSError):
        dropped = [name for name in os.listxattr(image.path) if name == "security.capability"]
        if dropped:
            notes.append("file capabilities dropped: set them again with setcap")
    return tuple(notes)


def _check(editor: ElfEditor, overlay: Overlay, path: str) -> None:
    """Reads the written file with another parser: all that was loaded is as it was but for the patches.

    Raises ProbeloomError for a difference.
    """
    # Half a second of every command, were it imported above.
    import lief

    lief.logging.disable()
    config = lief.ELF.ParserConfig()
    config.parse_relocations = config.parse_dyn_symbols = config.parse_symtab_symbols = False
    config.parse_symbol_versions = config.parse_notes = config.parse_overlay = False
    written = lief.ELF.parse(path, config)
    if written is None:
        raise ProbeloomError("the written file cannot be read")
    places = {(segment.virtual_address, segment.virtual_size): segment for segment in written.segments}
    expected = bytearray(editor.content)
    for patch in overlay.patches:
        offset = editor.offset_of(patch.address, len(patch.after))
        if offset is not None:
            expected[offset : offset + len(patch.after)] = patch.after
    own = [(0, EHDR_SIZE), editor.dynamic_place()]
    for segment in editor.loaded:
        place = places.get((segment.address, segment.memory_size))
        found = bytes(place.content) if place else b""
        start, end = segment.offset, segment.offset + segment.file_size
        for offset, size in own:  # the writer's own changes: ELF header, dynamic table
            if start <= offset and offset + size <= end:
                expected[offset : offset + size] = found[offset - start : offset - start + size]
        if place is None or found != expected[start:end]:
            raise ProbeloomError(f"the written file differs in the segment at {segment.address:#x}")
    added = {segment.virtual_address: segment for segment in written.segments}
    for address, content in (
        (overlay.data_address, overlay.data),
        (overlay.code_address, overlay.code),
        *([(overlay.frames_address, overlay.frames)] if overlay.frames else []),
    ):
        if address not in added or bytes(added[address].content[: len(content)]) != content:
            raise ProbeloomError(f"the written file lacks the segment at {address:#x}")
