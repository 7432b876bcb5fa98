"""The container of an artifact: one safetensors file that holds a manifest, tensors and a digest over every byte.

Layout: 8 bytes (length of the header, little-endian), the header (JSON), the tensors back to back. The header opens
with `{"__metadata__":{"format":"nearly","version":"1","sha256":"<64 hex>","manifest":"<JSON>"}`. The digest is over the
whole file with its own 64 digits written as zeros. It tells damage, not forgery: reading must be safe without it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import sys
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import msgspec
import torch

from nearly.core.errors import ArtifactError, BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

VERSION = "1"
# A header lists names and shapes, about 100 bytes per tensor, and the manifest: 16 MiB leaves room for 100,000 tensors,
# and is all that a file may make a reader allocate before its sizes are checked (safetensors itself allows 100 MB).
HEADER_LIMIT = 16 * 2**20
DIMENSIONS_LIMIT = 16  # half of what NumPy 1 could hold; it bounds the work of checking a shape.
NESTING_LIMIT = 100  # of a manifest; far below the depth at which a JSON reader runs out of stack.
LARGEST = sys.float_info.max  # JSON has no NaN and no infinity, and most of its readers hold numbers as float64.
CHUNK = 2**20  # bytes written or read, then hashed while they are still in the processor's cache.
OPENING = f'{{"__metadata__":{{"format":"nearly","version":"{VERSION}","sha256":"'.encode("ascii")
NAME = re.compile(r"(?!__metadata__\Z)(?!.*\.\.)[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")

# As the safetensors format names them (it has no complex128); a literal, as libraries differ in what they know of it.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "BOOL": torch.bool}
DTYPES |= {"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8}
DTYPES |= {"C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Refused(Exception):
    """What is wrong with a file; `read_artifact` adds the path and what to do."""


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: Annotated[list[_Size], msgspec.Meta(max_length=DIMENSIONS_LIMIT)]
    data_offsets: tuple[_Size, _Size]


def write_artifact(path: str | os.PathLike[str], manifest: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write manifest and tensors so that, killed at any instant, the old file or the new one is there, whole.

    The bytes go to a new file `<name>.<random>.part` in the same folder, which is synced and then renamed. A killed run
    may leave that `.part` behind; nothing reads it and it may be deleted. A symbolic link at `path` is replaced. The
    same content gives the same bytes, in whatever order it is listed.

    Args:
        path: the file; its folder must exist.
        manifest: what JSON can say: string keys, strings, finite numbers, booleans, None, lists (tuples become lists).
        tensors: by name: letters, digits, `_`, `.` and `-`, at most 200. They are copied to the CPU one at a time.

    Raises:
        BadInput: the manifest or a tensor cannot be stored; nothing was written.
        ArtifactError: the file cannot be written, and what was at `path` is still there; or it is written, but its
            folder cannot be synced, and then the message says so.
    """
    target = _path(path)
    folder, name = os.path.split(target)
    header, ordered = _header(manifest, tensors)
    if os.path.lexists(target) and not os.path.isfile(target):
        raise ArtifactError(f"cannot write {target}: it exists and is not a regular file. Choose another name.")
    # 40 characters of the name: with the suffix they stay below the 255 bytes of a file name even in four-byte letters.
    temporary = os.path.join(folder, f"{name[:40]}.{secrets.token_hex(16)}.part")
    failed = "cannot write"
    try:
        with open(temporary, "xb", buffering=0) as file:
            _write(file, header, ordered)
        os.replace(temporary, target)
        failed = "wrote, but cannot sync the folder of,"
        if os.name == "posix":
            _sync_folder(folder or os.curdir)
    except OSError as error:
        advice = "The folder must exist, allow writing and have space: see to it or choose another."
        raise ArtifactError(f"{failed} {target}: {error.strerror or error}. {advice}") from error
    finally:
        with contextlib.suppress(OSError):  # after the renaming there is none
            os.unlink(temporary)


def read_artifact(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `write_artifact` wrote, bit for bit; refuse anything else.

    Nothing is executed and nothing is unpickled. Memory is allocated for the header once its length is known to be
    sensible, and for tensors once their sizes are known to add up to the size of the file.

    Args:
        path: the file.

    Returns:
        The manifest, and the tensors by name: on the CPU, each with its own memory.

    Raises:
        BadInput: `path` is not the path of a file.
        ArtifactError: the file cannot be read, is damaged, or Nearly did not write it, or a newer Nearly did.
    """
    target = _path(path)
    try:
        return _read(target)
    except (_Refused, BadInput) as error:
        raise ArtifactError(f"{target} is no artifact that can be read: {error}.") from error
    except OSError as error:
        raise ArtifactError(f"cannot read {target}: {error.strerror or error}. Check the path.") from error


def _path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str) or not os.path.basename(text) or "\0" in text:
        raise BadInput("path", "the path of a file, as text", repr(path))
    return text


def _bytes(tensor: Tensor) -> memoryview:
    # Its own memory when contiguous on the CPU; as one element is, whatever its stride: as_strided makes that 1.
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.as_strided((plain.numel(),), (1,)).view(torch.uint8).numpy().data


def _check_plain(value: object, at: str, depth: int = 0) -> None:
    inside: list[tuple[str, object]] = []
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        inside = [(f"{at}.{key}", item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        inside = [(f"{at}[{index}]", item) for index, item in enumerate(value)]
    elif not (value is None or isinstance(value, str) or (isinstance(value, (int, float)) and abs(value) <= LARGEST)):
        plain = "text, a finite number of float64's range, a boolean, None, a list or a dictionary with text as keys"
        raise BadInput(at, plain, value if isinstance(value, float) else type(value))
    if depth > NESTING_LIMIT:
        raise BadInput(at[:80], f"nested at most {NESTING_LIMIT} deep", "more")
    for where, item in inside:
        _check_plain(item, where, depth + 1)


def _header(manifest: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[bytes, list[Tensor]]:
    # The header with its length before it and zeros for the digest; and the tensors in the order of the file.
    if not isinstance(manifest, dict) or not isinstance(tensors, dict):
        raise BadInput("manifest and tensors", "dictionaries", (type(manifest), type(tensors)))
    _check_plain(manifest, "manifest")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise BadInput("tensors", "named by 1 to 200 letters, digits, _, - and inner dots", f"{name!r:.210}")
        dense = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type != "meta"
        if not dense or tensor.dtype not in DTYPE_NAMES or tensor.ndim > DIMENSIONS_LIMIT:
            needed = f"dense, of at most {DIMENSIONS_LIMIT} dimensions and one of the dtypes {', '.join(DTYPES)}"
            got = f"{type(tensor)} {[getattr(tensor, of, None) for of in ('layout', 'device', 'dtype', 'ndim')]}"
            raise BadInput(f"tensors[{name!r}]", needed, got, "Store complex128 as its torch.view_as_real.")
    # The widest elements first, so that each tensor starts at a multiple of its element's size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    metadata = {"format": "nearly", "version": VERSION, "sha256": "0" * 64, "manifest": text}
    fields: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        fields[name] = _Entry(DTYPE_NAMES[tensor.dtype], list(tensor.shape), (begin, end))
    header = msgspec.json.encode(fields)
    header += b" " * (-len(header) % 8)  # the data start at a multiple of 8, as in safetensors
    if len(header) > HEADER_LIMIT:
        raise BadInput("manifest", f"at most {HEADER_LIMIT} bytes with all names", len(header), "Put lists in tensors.")
    return len(header).to_bytes(8, "little") + header, [tensor for _, tensor in ordered]


def _write(file: BinaryIO, header: bytes, tensors: list[Tensor]) -> None:
    digest = hashlib.sha256()
    _move(file.write, memoryview(header), digest)
    for tensor in tensors:  # a copy, where one is needed, lives no longer than its turn
        _move(file.write, _bytes(tensor), digest)
    file.seek(8 + len(OPENING))
    file.write(digest.hexdigest().encode("ascii"))
    os.fsync(file.fileno())


def _move(step: Callable[[memoryview], int | None], data: memoryview, digest: hashlib._Hash) -> None:
    # Writes or reads all of `data`. A disk that fills up takes a part first, and raises at the next step.
    while len(data):
        count = step(data[:CHUNK])
        if not count:
            raise OSError(errno.EIO, "the file ended while it was read or written")
        digest.update(data[:count])
        data = data[count:]


def _sync_folder(folder: str) -> None:
    # Makes the renaming itself survive a power cut. Windows cannot open a folder, some network disks cannot sync one.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _read(path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if os.path.exists(path) and not os.path.isfile(path):  # opening a device can act on it
        raise _Refused("it is a folder, a pipe or a device, not a regular file")
    # If a pipe took the file's place just now, this does not wait for a writer; then its size is 0, which is refused.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size < 10:
            raise _Refused(f"it has {size} bytes, and the shortest safetensors file has 10")
        length = int.from_bytes(head := file.read(8), "little")
        if length > min(HEADER_LIMIT, size - 8):
            hint = "If this is a pickle or a zip (of torch.save, say): Nearly never loads those, they can run code"
            raise _Refused(f"it claims a header of {length} bytes, {size - 8} follow (limit {HEADER_LIMIT}). {hint}")
        header = bytearray(file.read(length))
        fields = _parse(header, "header")
        metadata = _metadata(fields.pop("__metadata__", None))
        # The digits must stand where the writer puts them: the digest is defined with that one place set to zeros.
        place = slice(len(OPENING), len(OPENING) + 64)
        if not header.startswith(OPENING) or header[place].decode("latin-1") != metadata["sha256"]:
            raise _Refused("its header is not laid out as Nearly does: another program wrote it anew")
        header[place] = b"0" * 64
        digest = hashlib.sha256(head + header)
        tensors = {}
        for name, entry in _plan(fields, size - 8 - length).items():
            try:
                tensors[name] = torch.empty(entry.shape, dtype=DTYPES[entry.dtype], device="cpu")
            except (RuntimeError, MemoryError) as error:
                raise _Refused(f"no memory can be had for its tensor {name!r} of shape {entry.shape}") from error
            _move(file.readinto, _bytes(tensors[name]), digest)
    if digest.hexdigest() != metadata["sha256"]:
        raise _Refused("its SHA-256 digest does not match its bytes: it is damaged, restore it from a copy")
    for name, tensor in tensors.items():
        if tensor.dtype == torch.bool and tensor.numel() and tensor.view(torch.uint8).max() > 1:
            raise _Refused(f"its tensor {name!r} holds booleans other than 0 and 1")
    manifest = _parse(metadata["manifest"].encode("utf-8", "surrogatepass"), "manifest")
    _check_plain(manifest, "manifest")  # json.loads takes NaN and infinity
    return manifest, tensors


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(fields := dict(pairs)) < len(pairs):
        raise ValueError(f"an object repeats a key: {[key for key, _ in pairs]!s:.200}")
    return fields


def _parse(text: bytes | bytearray, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _Refused(f"its {what} is not valid JSON, or nested too deeply: {error!s:.300}") from error
    if not isinstance(value, dict):
        raise _Refused(f"its {what} is not a JSON object")
    return value


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or value.get("format") != "nearly":
        raise _Refused("Nearly did not write it: its metadata do not say format nearly")
    if (version := value.get("version")) != VERSION:
        raise _Refused(f"its format version is {version!r:.80}, this Nearly reads {VERSION}: a newer one may, upgrade")
    texts = {key for key, text in value.items() if isinstance(text, str)}
    if not value.keys() == texts == {"format", "version", "sha256", "manifest"}:
        raise _Refused("its metadata must be the texts format, version, sha256 and manifest alone")
    return value


def _plan(fields: dict[str, Any], size: int) -> dict[str, _Entry]:
    # The entries by name, once they are known to fill the data from the first byte to the last.
    plan, position = {}, 0
    for name, value in fields.items():
        if not NAME.fullmatch(name):
            raise _Refused(f"it names a tensor {name!r:.210}, and Nearly writes no such name")
        try:
            entry = msgspec.convert(value, _Entry)
        except msgspec.ValidationError as error:
            raise _Refused(f"the entry of its tensor {name!r} is wrong: {error}") from error
        if entry.dtype not in DTYPES:
            raise _Refused(f"its tensor {name!r} has the unknown dtype {entry.dtype!r:.80}")
        end = position + math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
        if entry.data_offsets != (position, end) or end > size:
            raise _Refused(f"its tensor {name!r} claims bytes {entry.data_offsets}, not {(position, end)}, of {size}")
        plan[name], position = entry, end
    if position != size:
        raise _Refused(f"its tensors fill {position} bytes, and {size} are there")
    return plan
