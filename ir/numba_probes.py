"""Python probes to LLVM IR: numba types and generates code, `ir.probe_text` makes one plain function of it.

What a probe does with `ctx` becomes calls to markers (`L_get_5`, `L_set_5`, `L_load_32`, `L_data`), which
have no body: they are replaced by register slots, memory accesses and the data pointer once everything is
inlined. numba is imported with this module, so only where a probe is compiled.
"""

from __future__ import annotations

import inspect
import operator
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

from llvmlite import ir as llvm
from numba.core import cgutils, compiler, errors, types
from numba.core import ir as numba_ir
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.datamodel import models
from numba.core.dispatcher import Dispatcher
from numba.core.imputils import lower_builtin, lower_constant, lower_getattr_generic, lower_setattr_generic
from numba.core.registry import cpu_target
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    fold_arguments,
    infer_getattr,
    infer_global,
    signature,
)
from numba.extending import register_model, typeof_impl

from ir.probe_text import ProbeTextError, finish
from ir.probes import VIEWS, CompiledProbe, Probe, View, unknown_register, wrap_literals, writable
from lifter.errors import UsageError

I64 = llvm.IntType(64)


class ContextType(types.Opaque):
    """The type of `ctx`; no value exists at run time."""

    def __init__(self, words: int) -> None:
        self.words = words
        super().__init__(f"ProbeContext({words})")


class DataType(types.Opaque):
    """The type of `ctx.data`."""

    def __init__(self, words: int) -> None:
        self.words = words
        super().__init__(f"ProbeData({words})")


register_model(ContextType)(models.OpaqueModel)
register_model(DataType)(models.OpaqueModel)

_ACCESSES = {f"{kind}{width}": (kind, width) for kind in ("load", "store") for width in (8, 16, 32, 64)}
_INTEGERS = (types.Integer, types.Boolean)


_OURS = "[probe] "
"""Marks our own words inside numba's."""


def _refusal(message: str) -> errors.TypingError:
    return errors.TypingError(_OURS + message)


def _method(name: str, receiver: types.Type, generic: Any) -> types.BoundFunction:
    fields = {"key": f"probe.{name}", "generic": generic, "prefer_literal": True}
    return types.BoundFunction(type(name, (AbstractTemplate,), fields), receiver)


def _check_integers(what: str, args: tuple[Any, ...], count: int) -> None:
    if len(args) != count:
        raise _refusal(f"{what} takes {count} argument{'s' * (count != 1)}, not {len(args)}")
    for arg in args:
        if not isinstance(arg, _INTEGERS):
            raise _refusal(f"{what} takes integers, not {arg}")


def _check_index(index: Any) -> None:
    if not isinstance(index, _INTEGERS):
        raise _refusal(f"an index of ctx.data is an integer, not {index}")


@infer_getattr
class _ContextAttributes(AttributeTemplate):
    key = ContextType

    def generic_resolve(self, receiver: ContextType, name: str) -> Any:
        if name in VIEWS:
            return types.int64
        if name == "data":
            return DataType(receiver.words)
        if name in _ACCESSES:
            kind, _ = _ACCESSES[name]

            def access(_template: Any, args: tuple[Any, ...], _keywords: Any) -> Any:
                _check_integers(f"ctx.{name}", args, 1 if kind == "load" else 2)
                result = types.int64 if kind == "load" else types.none
                return signature(result, *(types.int64,) * len(args), recvr=receiver)

            return _method(name, receiver, access)
        if name == "signed":

            def signed(_template: Any, args: tuple[Any, ...], _keywords: Any) -> Any:
                _check_integers("ctx.signed", args, 2)
                width = getattr(args[1], "literal_value", None)
                if width not in (8, 16, 32):
                    raise _refusal("ctx.signed(value, width): width is 8, 16 or 32, written as a number")
                return signature(types.int64, types.int64, args[1], recvr=receiver)

            return _method(name, receiver, signed)
        if name == "below":

            def below(_template: Any, args: tuple[Any, ...], _keywords: Any) -> Any:
                _check_integers("ctx.below", args, 2)
                return signature(types.boolean, types.int64, types.int64, recvr=receiver)

            return _method(name, receiver, below)
        raise _refusal(unknown_register(name))


@infer_getattr
class _DataAttributes(AttributeTemplate):
    key = DataType

    def generic_resolve(self, receiver: DataType, name: str) -> Any:
        if name != "add":
            raise _refusal(f"ctx.data has no '{name}': it has [index] and add(index, value)")

        def add(_template: Any, args: tuple[Any, ...], _keywords: Any) -> Any:
            _check_integers("ctx.data.add", args, 2)
            _check_index(args[0])
            return signature(types.none, types.int64, types.int64, recvr=receiver)

        return _method("add", receiver, add)


@infer_global(operator.getitem)
class _DataGet(AbstractTemplate):
    prefer_literal = True

    def generic(self, args: tuple[Any, ...], keywords: Any) -> Any:
        if not (len(args) == 2 and isinstance(args[0], DataType)):
            return None
        _check_index(args[1])
        return signature(types.int64, args[0], types.int64)


@infer_global(operator.setitem)
class _DataSet(AbstractTemplate):
    prefer_literal = True

    def generic(self, args: tuple[Any, ...], keywords: Any) -> Any:
        if not (len(args) == 3 and isinstance(args[0], DataType)):
            return None
        _check_index(args[1])
        if not isinstance(args[2], _INTEGERS):
            raise _refusal(f"ctx.data holds integers, not {args[2]}")
        return signature(types.none, args[0], types.int64, types.int64)


def _marker(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    function_type = llvm.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)


def _get(builder: Any, view: View) -> Any:
    return _marker(builder, f"L_get_{view.slot}", I64)


@lower_getattr_generic(ContextType)
def _lower_get(context: Any, builder: Any, receiver: ContextType, value: Any, name: str) -> Any:
    if name == "data":
        return context.get_dummy_value()
    view = VIEWS[name]
    whole = builder.lshr(_get(builder, view), I64(view.shift)) if view.shift else _get(builder, view)
    return builder.and_(whole, I64((1 << view.width) - 1)) if view.width < 64 else whole


@lower_setattr_generic(ContextType)
def _lower_set(context: Any, builder: Any, sig: Any, args: Any, name: str) -> None:
    view = VIEWS.get(name)
    if view is None or not writable(view):
        raise _refusal(f"ctx.{name} cannot be written")
    value = args[1]
    if view.width < 64:
        field = (1 << view.width) - 1
        value = builder.shl(builder.and_(value, I64(field)), I64(view.shift))
        if view.width < 32:
            kept = builder.and_(_get(builder, view), I64(~(field << view.shift)))
            value = builder.or_(kept, value)
    _marker(builder, f"L_set_{view.slot}", llvm.VoidType(), value)


def _word(builder: Any, words: int, index: Any) -> tuple[Any, Any]:
    """Whether `index` is inside, and the address of its word (of word 0 if it is outside)."""
    inside = builder.icmp_unsigned("<", index, I64(words))
    base = _marker(builder, "L_data", I64.as_pointer())
    return inside, builder.gep(base, [builder.select(inside, index, I64(0))], source_etype=I64)


@lower_builtin(operator.getitem, DataType, types.Integer)
def _lower_getitem(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    words = sig.args[0].words
    if not words:
        return I64(0)
    inside, address = _word(builder, words, args[1])
    return builder.select(inside, builder.load(address, typ=I64), I64(0))


@lower_builtin(operator.setitem, DataType, types.Integer, types.Integer)
def _lower_setitem(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    words = sig.args[0].words
    if words:
        inside, address = _word(builder, words, args[1])
        with builder.if_then(inside):
            builder.store(args[2], address)
    return context.get_dummy_value()


@lower_builtin("probe.add", DataType, types.Integer, types.Integer)
def _lower_add(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    words = sig.args[0].words
    if words:
        inside, address = _word(builder, words, args[1])
        with builder.if_then(inside):
            builder.atomic_rmw("add", address, args[2], "monotonic")
    return context.get_dummy_value()


def _register_accesses() -> None:
    for name, (kind, width) in _ACCESSES.items():
        word = llvm.IntType(width)

        def load(context: Any, builder: Any, sig: Any, args: Any, word: Any = word) -> Any:
            pointer = builder.inttoptr(args[1], word.as_pointer())
            loaded = _marker(builder, f"L_load_{word.width}", word, pointer)
            return loaded if word.width == 64 else builder.zext(loaded, I64)

        def store(context: Any, builder: Any, sig: Any, args: Any, word: Any = word) -> Any:
            pointer = builder.inttoptr(args[1], word.as_pointer())
            value = args[2] if word.width == 64 else builder.trunc(args[2], word)
            _marker(builder, f"L_store_{word.width}", llvm.VoidType(), pointer, value)
            return context.get_dummy_value()

        arguments = (types.Integer,) * (1 if kind == "load" else 2)
        lower_builtin(f"probe.{name}", ContextType, *arguments)(load if kind == "load" else store)


_register_accesses()


@lower_builtin("probe.signed", ContextType, types.Integer, types.Integer)
def _lower_signed(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    width = sig.args[-1].literal_value
    return builder.sext(builder.trunc(args[1], llvm.IntType(width)), I64)


@lower_builtin("probe.below", ContextType, types.Integer, types.Integer)
def _lower_below(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.icmp_unsigned("<", args[1], args[2])


class _PlainLibrary(JITCodeLibrary):
    """Collects IR as numba wrote it: no passes, no machine code."""

    def _optimize_functions(self, ll_module: Any) -> None:
        pass

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def text(self) -> str:
        """The module's IR."""
        return str(self._final_module)


class _Callee:
    """A Python function that a probe calls, and what it was compiled to, by argument types."""

    def __init__(self, function: FunctionType) -> None:
        self.function = function
        self.compiled: dict[tuple[Any, ...], Any] = {}


class _CalleeType(types.Callable, types.Opaque):
    """The type of one `_Callee`. (numba's dispatchers make machine code, which markers without body forbid.)"""

    def __init__(self, callee: _Callee) -> None:
        self.callee = callee
        super().__init__(f"Callee({callee.function.__name__}, {id(callee)})")

    def get_call_type(self, context: Any, args: Any, keywords: Any) -> Any:
        """Compile for these argument types."""
        python_signature = inspect.signature(self.callee.function)
        try:
            bound = fold_arguments(
                python_signature,
                args,
                keywords,
                lambda index, parameter, value: types.unliteral(value),
                lambda index, parameter, default: types.Omitted(default),
                lambda index, parameter, values: types.StarArgTuple(values),
            )
        except TypeError as error:
            raise _refusal(f"{self.callee.function.__name__}: {error}") from None
        key = tuple(bound)
        if key not in self.callee.compiled:
            compiled, library = _compile_plain(self.callee.function, key)
            cpu_target.target_context.insert_user_function((self.callee, key), compiled.fndesc, [library])
            self.callee.compiled[key] = compiled
        result = self.callee.compiled[key].signature.return_type
        return signature(result, *key).replace(pysig=python_signature)

    def get_call_signatures(self) -> Any:
        """For numba's messages."""
        return [compiled.signature for compiled in self.callee.compiled.values()], True

    def get_impl_key(self, sig: Any) -> Any:
        """What `insert_user_function` was told."""
        return self.callee, tuple(sig.args)


register_model(_CalleeType)(models.OpaqueModel)


@typeof_impl.register(_Callee)
def _type_of_callee(value: _Callee, context: Any) -> _CalleeType:
    return _CalleeType(value)


@lower_constant(_CalleeType)
def _lower_callee(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.get_dummy_value()


class _Preparation:
    """Makes the functions that a probe calls compilable: plain functions, probes and njit functions alike."""

    def __init__(self) -> None:
        self._done: dict[FunctionType, _Callee | None] = {}

    def prepare(self, function: Any) -> FunctionType:
        """A copy of `function` whose callees are `_Callee`s."""
        prepared = wrap_literals(function)
        for name in _names(prepared.__code__):
            value = prepared.__globals__.get(name)
            callee = value.function if isinstance(value, Probe) else getattr(value, "py_func", value)
            if isinstance(callee, FunctionType) and isinstance(value, FunctionType | Probe | Dispatcher):
                prepared.__globals__[name] = self._callee(callee)
        return prepared

    def _callee(self, function: FunctionType) -> _Callee:
        if function not in self._done:
            self._done[function] = None
            self._done[function] = _Callee(self.prepare(function))
        found = self._done[function]
        if found is None:
            raise _refusal(f"{function.__name__} calls itself: what a probe calls is inlined")
        return found


def _names(code: Any) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _names(constant)


def _compile_plain(function: FunctionType, arguments: tuple[Any, ...]) -> tuple[Any, _PlainLibrary]:
    """numba's result and the library that holds its IR, for a prepared function."""
    flags = compiler.Flags()
    flags.error_model = "numpy"
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.nrt = False
    typing, target = cpu_target.typing_context, cpu_target.target_context
    library = _PlainLibrary(target.codegen(), function.__name__)
    compiled = compiler.compile_extra(typing, target, function, arguments, None, flags, {}, library=library)
    _check_source(function, compiled)
    return compiled, library


def compile_probe(probe: Probe) -> CompiledProbe:
    """Compile `probe`. Raises UsageError (FILE:LINE: reason) if it cannot become a probe."""
    with global_compiler_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.NumbaWarning)
        cpu_target.typing_context.refresh()
        cpu_target.target_context.refresh()
        try:
            function = _Preparation().prepare(probe.function)
            compiled, library = _compile_plain(function, (ContextType(probe.words),))
        except UsageError:
            raise
        except Exception as error:  # numba wraps most of what goes wrong in it, not all
            raise UsageError(_condense(probe, error)) from None
        if compiled.signature.return_type != types.none:
            reason = "a probe returns nothing: it writes registers, memory and ctx.data"
            raise UsageError(f"{probe.origin}: {reason}")
        library.finalize()
    try:
        return finish(library.text(), compiled.fndesc.llvm_func_name, probe.name, probe.words)
    except ProbeTextError as error:
        raise UsageError(f"{probe.origin}: probe {probe.name} {error}") from None


def _place(function: Any, line: int | None) -> str:
    code = function.__code__
    return f"{Path(code.co_filename).name}:{line or code.co_firstlineno}"


_FORBIDDEN = {
    types.Float: "floating-point numbers do not exist in a probe (use // for division)",
    types.Complex: "complex numbers do not exist in a probe",
    types.UnicodeType: "text does not exist in a probe",
    types.StringLiteral: "text does not exist in a probe",
    types.Bytes: "bytes objects do not exist in a probe",
    types.Array: "a probe cannot make arrays: use ctx.data",
    types.List: "a probe cannot make lists: use ctx.data",
    types.ListType: "a probe cannot make lists: use ctx.data",
    types.DictType: "a probe cannot make dictionaries: use ctx.data",
    types.Set: "a probe cannot make sets: use ctx.data",
    types.Generator: "a probe cannot be a generator",
}


def _check_source(function: FunctionType, compiled: Any) -> None:
    """Refuse what numba compiles but a probe cannot have, with its line."""
    typemap = compiled.type_annotation.typemap
    blocks = compiled.type_annotation.blocks
    statements = [statement for _, block in sorted(blocks.items()) for statement in block.body]
    for check in (_statement_reason, _value_reason):
        for statement in statements:
            if reason := check(statement, typemap):
                raise UsageError(f"{_place(function, getattr(statement.loc, 'line', None))}: {reason}")


def _statement_reason(statement: Any, typemap: Any) -> str:
    if isinstance(statement, numba_ir.Raise | numba_ir.StaticRaise | numba_ir.DynamicRaise):
        return "a probe cannot raise, assert or try"
    if isinstance(statement, numba_ir.Print):
        return "a probe cannot print: use ctx.data"
    access = statement.value if isinstance(statement, numba_ir.Assign) else statement
    if isinstance(access, numba_ir.Expr) and access.op == "static_getitem":
        owner, index = typemap.get(access.value.name), access.index
    elif isinstance(access, numba_ir.StaticSetItem):
        owner, index = typemap.get(access.target.name), access.index
    elif isinstance(access, numba_ir.Expr) and access.op == "call" and access.args:
        method = typemap.get(access.func.name)
        owner = method.this if isinstance(method, types.BoundFunction) else None
        index = getattr(typemap.get(access.args[0].name), "literal_value", None)
    else:
        return ""
    if isinstance(owner, DataType) and isinstance(index, int) and not 0 <= index < owner.words:
        return f"ctx.data[{index}] is outside its {owner.words} words; @probe(words=N) makes more"
    return ""


def _value_reason(statement: Any, typemap: Any) -> str:
    if not isinstance(statement, numba_ir.Assign):
        return ""
    found = typemap.get(statement.target.name)
    if isinstance(found, types.Integer) and found.bitwidth == 64 and not found.signed:
        return "the integers of a probe are signed, 64 bits wide"
    return next((reason for kind, reason in _FORBIDDEN.items() if isinstance(found, kind)), "")


_NOISE = re.compile(r"^(\w*(Error: )?Failed in .*|During: .*|File .*|Overload.*|.*:|def .*|\^*)$")


def _condense(probe: Probe, error: BaseException) -> str:
    """numba's pages of explanation as one line with the place."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    file = re.escape(Path(probe.function.__code__.co_filename).name)
    places = re.findall(rf'File "[^"]*{file}", line (\d+)', text)
    line = int(places[-1]) if places else getattr(getattr(error, "loc", None), "line", None)
    if ours := re.search(re.escape(_OURS) + r"([^\n]+)", text):
        reason = ours.group(1)
    elif "NRT required" in text:
        reason = "a probe cannot make lists, arrays or text: use ctx.data"
    elif call := re.search(r">>> (.+)", text):
        reason = f"numba cannot compile {call.group(1)}"
    elif name := re.search(r"(?:NameError: name|Untyped global name) '(\w+)'", text):
        reason = f"'{name.group(1)}' cannot be used in a probe (only integers, ctx and functions of these)"
    else:
        lines = [part.strip() for part in text.splitlines()]
        reason = next((part for part in lines if not _NOISE.match(part)), type(error).__name__)
    return f"{_place(probe.function, line)}: {reason.rstrip('.')}"
