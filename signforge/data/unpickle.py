"""A pickle reader that can only build a dict of plain numpy arrays.

The opcodes are scanned before anything is built (``EXT`` opcodes would bypass ``find_class``),
exact (module, name) pairs are allowed, and even these are stand-ins that record their arguments:
no code named in the file runs, numpy's own constructors included.
"""

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from signforge.errors import SignforgeError

MAX_PICKLE_BYTES = 8 * 2**30
"""Largest pickle file that is read."""

# Beyond what numpy's arrays need in protocols 0 to 5, nothing: no INST, OBJ, NEWOBJ, EXT, PERSID.
_OPCODE_NAMES = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 "
    "BINFLOAT SHORT_BINUNICODE BINUNICODE BINUNICODE8 UNICODE SHORT_BINBYTES BINBYTES BINBYTES8 "
    "BYTEARRAY8 SHORT_BINSTRING BINSTRING STRING EMPTY_DICT DICT SETITEM SETITEMS EMPTY_LIST LIST "
    "APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 GET BINGET LONG_BINGET PUT BINPUT "
    "LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE BUILD"
)
_OPCODES = frozenset(_OPCODE_NAMES.split())
# The unpickler allocates its memo up to the largest index it meets.
_MAX_MEMO = 10_000_000
_PLAIN_DTYPE = re.compile(r"(?:[uif][1248]|b1)")

Encode = Callable[[str], bytes]


class _Refused(pickle.UnpicklingError):
    pass


class _Dtype:
    def __init__(self, code: object, *_: object) -> None:
        self.code = code
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Array:
    """Stand-in of an ndarray: state is (version, shape, dtype, is_fortran, data)."""

    def __init__(self, state: object = None) -> None:
        self.state = state

    def __setstate__(self, state: object) -> None:
        self.state = state


def load_array_dict(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays (bool, integer or float) of a pickle that holds one dict of them, by key.

    Raises SignforgeError, and runs nothing, for a truncated file, a file that is no pickle,
    anything but a dict of arrays, object arrays, and any other global or opcode.
    """
    data = _read(path)
    _scan(data, path)
    encode = _limited_encode(len(data))
    try:
        content = _ArrayUnpickler(data, encode).load()
    except _Refused as error:
        raise SignforgeError(_refusal(path, str(error))) from None
    except Exception as error:  # crafted opcodes make the unpickler raise nearly anything
        raise SignforgeError(f"{path} is not a valid pickle: {_one_line(error)}.") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise SignforgeError(f"{path} does not hold one dict of arrays by name.")
    try:
        return {key: _to_array(value, f"{path}: {key}", encode) for key, value in content.items()}
    except _Refused as error:
        raise SignforgeError(_refusal(path, str(error))) from None


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes, encode: Encode) -> None:
        super().__init__(io.BytesIO(data), fix_imports=False, encoding="latin1")
        self._encode = encode

    def find_class(self, module: str, name: str, /) -> Any:
        # Made anew each time: a crafted BUILD may set attributes on what is returned here.
        make = _globals(self._encode).get((module, name))
        if make is None:
            raise _Refused(f"{module}.{name}")
        return make


def _limited_encode(most: int) -> Encode:
    """Latin-1 up to ``most`` bytes, all calls together.

    No honest file has more of them than it is long, but a crafted one may name one long string
    again and again, for a few bytes each time.
    """
    given = 0

    def encode(text: str) -> bytes:
        nonlocal given
        given += len(text)
        if given > most:
            raise _Refused("more bytes than it holds")
        return text.encode("latin1")

    return encode


def _globals(limited_encode: Encode) -> dict[tuple[str, str], Callable[..., object]]:
    def reconstruct(*_: object) -> _Array:
        return _Array()

    def frombuffer(data: object, dtype: object, shape: object, order: object) -> _Array:
        return _Array((1, shape, dtype, order == "F", data))

    def dtype(*arguments: object) -> _Dtype:
        return _Dtype(*arguments)

    def ndarray(*_: object) -> None:
        raise _Refused("numpy.ndarray as a function")

    def encode(text: object, encoding: object = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _Refused(f"_codecs.encode to {encoding!r}")
        return limited_encode(text)

    allowed: dict[tuple[str, str], Callable[..., object]] = {
        ("numpy", "ndarray"): ndarray,
        ("numpy", "dtype"): dtype,
        ("_codecs", "encode"): encode,
    }
    for core in ("numpy.core", "numpy._core"):
        allowed[f"{core}.multiarray", "_reconstruct"] = reconstruct
        allowed[f"{core}.numeric", "_frombuffer"] = frombuffer
    return allowed


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PICKLE_BYTES + 1)
    except OSError as error:
        raise SignforgeError(f"{path} cannot be read: {error.strerror}.") from None
    if len(data) > MAX_PICKLE_BYTES:
        raise SignforgeError(f"{path} is larger than {MAX_PICKLE_BYTES // 2**30} GiB.")
    return data


def _scan(data: bytes, path: Path) -> None:
    allowed = _globals(_limited_encode(0)).keys()
    position = 0
    try:
        for opcode, argument, at in pickletools.genops(data):
            position = len(data) if at is None else at
            if opcode.name not in _OPCODES and position == 0:
                raise SignforgeError(f"{path} is not a pickle: it starts with {data[:8]!r}.")
            if opcode.name not in _OPCODES:
                raise SignforgeError(_refusal(path, f"the opcode {opcode.name}"))
            if opcode.name == "GLOBAL" and tuple(str(argument).split(" ", 1)) not in allowed:
                raise SignforgeError(_refusal(path, str(argument).replace(" ", ".")))
            if opcode.name.endswith("PUT") and int(argument or 0) > _MAX_MEMO:
                raise SignforgeError(_refusal(path, f"memo entry {argument}"))
    except SignforgeError:
        raise
    except Exception as error:  # genops raises what the argument readers raise
        reason = _one_line(error)
        if not data:
            raise SignforgeError(f"{path} is empty; get the file again.") from None
        if position and any(sign in reason for sign in ("exhausted", "remain", "not enough data")):
            raise SignforgeError(
                f"{path} is truncated after {len(data):,} bytes; get the file again."
            ) from None
        raise SignforgeError(f"{path} is not a pickle: {reason}.") from None


def _to_array(value: object, where: str, encode: Encode) -> npt.NDArray[Any]:
    if not isinstance(value, _Array):
        raise SignforgeError(f"{where} is not an array but {type(value).__name__}.")
    damaged = SignforgeError(f"{where} is a damaged array.")
    if not isinstance(value.state, tuple) or len(value.state) != 5:
        raise damaged
    _, shape, dtype, is_fortran, data = value.state
    plain = _to_dtype(dtype, where)
    if isinstance(data, str):  # a Python 2 string
        try:
            data = encode(data)
        except UnicodeEncodeError:
            raise damaged from None
    if not isinstance(shape, tuple) or not isinstance(data, bytes | bytearray):
        raise damaged
    if not all(type(length) is int and 0 <= length < 2**63 for length in shape) or len(shape) > 4:
        raise damaged
    if math.prod(shape) * plain.itemsize != len(data):
        raise SignforgeError(
            f"{where} has {len(data):,} bytes, which does not fit its shape {shape}."
        )
    return np.frombuffer(data, plain).reshape(shape, order="F" if is_fortran is True else "C")


def _to_dtype(dtype: object, where: str) -> np.dtype[Any]:
    """The recorded dtype if it is a plain number type; its state is (version, byte order, ...)."""
    if not isinstance(dtype, _Dtype) or not isinstance(dtype.code, str):
        raise SignforgeError(f"{where} is a damaged array.")
    if _PLAIN_DTYPE.fullmatch(dtype.code) is None:
        raise SignforgeError(
            f"{where} is an array of dtype {dtype.code!r}; only numbers are read, no objects."
        )
    order = "="
    if isinstance(dtype.state, tuple) and len(dtype.state) > 1:
        order = dtype.state[1]
    if order not in ("|", "<", ">", "=") or dtype.code == "f1":
        raise SignforgeError(f"{where} is a damaged array.")
    return np.dtype(f"{order}{dtype.code}")


def _refusal(path: Path, what: str) -> str:
    return (
        f"{path} asks for {what}, which a file of arrays never needs; it was refused and nothing "
        "was run."
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
