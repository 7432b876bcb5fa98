"""The container: what is written comes back bit for bit, a kill leaves old or new, and nothing else is read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pickle
import resource
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch

from nearly.core import artifact
from nearly.core.artifact import DTYPES, read_artifact, write_artifact
from nearly.core.errors import ArtifactError, BadInput, NearlyError

MANIFEST = {
    "method": "pod",
    "rank": 3,
    "tolerance": 1e-6,
    "box": [[0.0, 1.0], [2.0, 3.0]],
    "note": "µ ≤ 1\ud800",
    "x": None,
}


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Random bits of a dtype (NaN with payload included), random booleans."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    wide = torch.empty(0, dtype=dtype).element_size()
    flat = torch.randint(0, 256, (int(np.prod(shape)) * wide,), dtype=torch.uint8, generator=generator)
    return flat.view(dtype).reshape(shape)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and bits(left[name]) == bits(right[name])
        for name in left
    )


def small(path: Path) -> dict[str, torch.Tensor]:
    tensors = {"basis": random_tensor(torch.float64, (5, 3), 1), "mask": random_tensor(torch.bool, (7,), 2)}
    write_artifact(path, MANIFEST, tensors)
    return tensors


# ---------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 4, 5), (2, 0, 3), (1,) * 16], ids=str)
def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path, shape):
    tensors = {
        f"t.{name}-{seed}_": random_tensor(dtype, shape, seed) for seed, (name, dtype) in enumerate(DTYPES.items())
    }
    write_artifact(tmp_path / "a.nearly", MANIFEST, tensors)
    manifest, back = read_artifact(tmp_path / "a.nearly")
    assert manifest == MANIFEST
    assert same(tensors, back)
    for tensor in back.values():  # own memory, writable, aligned
        assert tensor.untyped_storage().nbytes() == tensor.nbytes
        assert tensor.nbytes == 0 or tensor.data_ptr() % 16 == 0
        tensor.zero_()
    assert same(tensors, read_artifact(tmp_path / "a.nearly")[1])


def test_all_safetensors_dtypes_of_torch_are_known_by_the_library_and_open_there(tmp_path):
    tensors = {name: random_tensor(dtype, (3, 4), 7) for name, dtype in DTYPES.items()}
    write_artifact(tmp_path / "a.safetensors", {"b": 1, "a": [True]}, tensors)
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert same(tensors, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        metadata = file.metadata()
    assert metadata.keys() == {"format", "version", "manifest", "sha256"}
    assert (metadata["format"], metadata["version"], metadata["manifest"]) == ("nearly", "1", '{"a":[true],"b":1}')


def test_digest_is_that_of_the_file_with_zeros_in_its_place(tmp_path):
    small(tmp_path / "a.nearly")
    raw = (tmp_path / "a.nearly").read_bytes()
    with safetensors.safe_open(tmp_path / "a.nearly", framework="pt") as file:
        digits = file.metadata()["sha256"].encode()
    assert raw.count(digits) == 1
    assert hashlib.sha256(raw.replace(digits, b"0" * 64)).hexdigest().encode() == digits


def test_same_content_gives_the_same_bytes_and_other_content_others(tmp_path):
    a, b, c = (random_tensor(dtype, (4,), 1) for dtype in (torch.float32, torch.float64, torch.int64))
    write_artifact(tmp_path / "1", {"p": {"x": 1, "y": 2}, "q": 3}, {"a": a, "b": b, "c": c})
    write_artifact(tmp_path / "2", {"q": 3, "p": {"y": 2, "x": 1}}, {"c": c, "b": b, "a": a})
    write_artifact(tmp_path / "3", {"q": 4, "p": {"y": 2, "x": 1}}, {"c": c, "b": b, "a": a})
    one, two, three = ((tmp_path / name).read_bytes() for name in "123")
    assert one == two != three
    assert one.count(b'"data_offsets":[0,32]') == 1  # the wider tensor first: every start is a multiple of its element
    assert int.from_bytes(one[:8], "little") % 8 == 0


def test_any_view_is_stored_as_its_values(tmp_path):
    base = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    complex_ = torch.complex(base, base + 1).to(torch.complex64)
    views = {
        "transposed": base.T,
        "strided": base[::2, 1::2],
        "expanded": base[:1].expand(3, 6),
        "conjugate": complex_.conj(),
        "negated": complex_.conj().imag,
        "one_strided": base[:1, ::6],
        "one_of_a_column": base[:, 2][1:2],
        "one_negated": complex_[:1, :1].conj().imag,
        "parameter": torch.nn.Parameter(base.clone()),
        "shared": base,
    }
    kept = {name: view.detach().clone() for name, view in views.items()}
    write_artifact(tmp_path / "a", {}, views)
    back = read_artifact(tmp_path / "a")[1]
    assert views.keys() == back.keys()
    for name in views:
        assert torch.equal(back[name], kept[name]), name
        assert torch.equal(views[name], kept[name]), name
        assert not back[name].is_conj()
        assert not back[name].is_neg()


def test_nothing_at_all_and_a_bare_name_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_artifact("a", {}, {})
    assert read_artifact("a") == ({}, {})
    assert os.listdir(tmp_path) == ["a"]


def test_megabytes_a_second(tmp_path):
    # A guard against loops over elements, which take minutes; the bars are far below what any disk of today does.
    tensors = {f"t{i}": torch.full((2**20,), float(i), dtype=torch.float64) for i in range(4)}
    start = time.perf_counter()
    write_artifact(tmp_path / "a", {}, tensors)
    wrote = time.perf_counter()
    back = read_artifact(tmp_path / "a")[1]
    read = time.perf_counter()
    print(f"wrote {32 / (wrote - start):.0f} MB/s, read {32 / (read - wrote):.0f} MB/s")
    assert same(tensors, back)
    assert read - wrote < 1.0
    assert wrote - start < 10.0


# -------------------------------------------------------------------------------------------------------- killing

# Imports once, then forks: 200 children that save over and over, each killed at a random instant.
KILLS = r"""
import json, os, random, signal, sys, time
import torch
from nearly.core.artifact import read_artifact, write_artifact

torch.set_num_threads(1)
folder, kills = sys.argv[1], int(sys.argv[2])
path = os.path.join(folder, "surrogate.nearly")
contents, images = [], []
for seed in range(2):
    generator = torch.Generator().manual_seed(seed)
    tensors = {f"t{i}": torch.randn(2**20, dtype=torch.float64, generator=generator) for i in range(4)}
    contents.append(({"content": seed}, tensors))
    start = time.perf_counter()
    write_artifact(path, *contents[seed])
    took = time.perf_counter() - start
    images.append(open(path, "rb").read())
    manifest, back = read_artifact(path)
    assert manifest == {"content": seed} and all(torch.equal(back[name], tensors[name]) for name in tensors)
random.seed(20)
current, changed, inside, wrong, sizes = 1, 0, 0, [], set()
for kill in range(kills):
    child = os.fork()
    if child == 0:
        turn = current
        while True:
            turn = 1 - turn
            write_artifact(path, *contents[turn])
    time.sleep(random.uniform(0.0, 2.0 * took))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status):
        wrong.append(f"kill {kill}: the child ended by itself")
    left = [name for name in os.listdir(folder) if name != "surrogate.nearly"]
    if len(left) > 1 or not all(name.endswith(".part") for name in left):
        wrong.append(f"kill {kill}: left {left}")
    for name in left:
        sizes.add(os.path.getsize(os.path.join(folder, name)))
        os.unlink(os.path.join(folder, name))
    inside += len(left)
    raw = open(path, "rb").read()
    if raw not in images:
        wrong.append(f"kill {kill}: {len(raw)} bytes that are neither the old nor the new")
    else:
        found = images.index(raw)
        if read_artifact(path)[0] != {"content": found}:
            wrong.append(f"kill {kill}: read as something else")
        changed += found != current
        current = found
print(json.dumps({"wrong": wrong, "inside": inside, "changed": changed, "sizes": len(sizes), "bytes": len(images[0]),
                  "took": took}))
"""


def test_two_hundred_kills_leave_the_old_file_or_the_new_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path), "200"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert found["wrong"] == []
    assert found["bytes"] > 32 * 2**20
    # The kills struck: during a save, at many places of it, and before as well as after the renaming.
    assert found["inside"] >= 50
    assert found["sizes"] >= 10
    assert 20 <= found["changed"] <= 180


# --------------------------------------------------------------------------------------------------------- damage


def test_ten_thousand_flipped_bytes_are_all_refused(tmp_path):
    path = tmp_path / "a.nearly"
    tensors = small(path)
    raw = path.read_bytes()
    random = np.random.default_rng(3)
    positions = random.integers(0, len(raw), 10_000)
    changes = random.integers(1, 256, 10_000)
    accepted, others = [], []
    with open(path, "r+b", buffering=0) as file:
        for position, change in zip(positions.tolist(), changes.tolist(), strict=True):
            os.pwrite(file.fileno(), bytes([raw[position] ^ change]), position)
            try:
                read_artifact(path)
                accepted.append((position, change))
            except ArtifactError:
                pass
            except Exception as error:
                others.append((position, change, error))
            os.pwrite(file.fileno(), raw[position : position + 1], position)
    assert accepted == []
    assert others == []
    assert len(set(positions.tolist())) > 0.99 * len(raw)  # every part of the file was hit
    assert same(tensors, read_artifact(path)[1])


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "a.nearly"
    small(path)
    length = path.stat().st_size
    read_artifact(path)
    for left in range(length - 1, -1, -1):
        os.truncate(path, left)
        with pytest.raises(ArtifactError):
            read_artifact(path)


# -------------------------------------------------------------------------------------------------- crafted files

GOOD = '"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
OPEN = '{"__metadata__":{"format":"nearly","version":"1","sha256":"' + "0" * 64 + '","manifest":'


def craft(
    path: Path, entries: str = GOOD, data: bytes = bytes(8), manifest: str = "{}", header: str | None = None
) -> Path:
    """A file with a correct digest, so that what refuses it is the check of its structure."""
    if header is None:
        header = OPEN + json.dumps(manifest) + "}" + ("," if entries else "") + entries + "}"
    encoded = header.encode("utf-8", "surrogatepass")
    raw = len(encoded).to_bytes(8, "little") + encoded + data
    path.write_bytes(raw.replace(b"0" * 64, hashlib.sha256(raw).hexdigest().encode(), 1))
    return path


def entry(dtype: str = '"F32"', shape: str = "[2]", offsets: str = "[0,8]", name: str = "t", more: str = "") -> str:
    return f'"{name}":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}{more}}}'


@pytest.mark.parametrize(
    ("entries", "data"),
    [
        (GOOD, bytes(8)),
        ("", b""),
        (entry(name="a.b-c_D9"), bytes(8)),
        (entry(name="n" * 200), bytes(8)),
        (entry('"BOOL"', "[2,1]", "[0,2]"), b"\0\1"),
        (entry(shape="[0,3]", offsets="[0,0]"), b""),
        (entry() + "," + entry(name="u", offsets="[8,16]"), bytes(16)),
        (entry(shape=str([2] + [1] * 15)), bytes(8)),
    ],
)
def test_crafted_files_that_are_right_are_read(tmp_path, entries, data):
    # The control: the crafting itself is accepted, so the refusals below have the reason they name.
    manifest, tensors = read_artifact(craft(tmp_path / "a", entries, data))
    assert manifest == {}
    assert len(tensors) == entries.count("dtype")


BAD_ENTRIES = {
    "overlap": (entry() + "," + entry(name="u", offsets="[4,12]"), 12, "'u' claims bytes"),
    "gap": (entry() + "," + entry(name="u", offsets="[12,20]"), 20, "'u' claims bytes"),
    "out of order": (entry(offsets="[8,16]") + "," + entry(name="u"), 16, "'t' claims bytes"),
    "start too late": (entry(offsets="[4,8]"), 8, "'t' claims bytes"),
    "gap at the start": (entry(offsets="[4,12]"), 12, "'t' claims bytes"),
    "beyond the end": (entry(shape="[3]", offsets="[0,12]"), 8, "'t' claims bytes"),
    "reversed": (entry(offsets="[8,0]"), 8, "'t' claims bytes"),
    "shape too large": (entry(shape="[3]"), 8, "'t' claims bytes"),
    "shape too small": (entry(shape="[1]"), 8, "'t' claims bytes"),
    "shape of 9e18": (entry(shape="[9000000000000000000]"), 8, "'t' claims bytes"),
    "shape that wraps around": (entry(shape="[4611686018427387904,4]", offsets="[0,0]"), 0, "'t' claims bytes"),
    "shape and offsets of 2e18": (entry('"U8"', f"[{2 * 10**18}]", f"[0,{2 * 10**18}]"), 8, "'t' claims bytes"),
    "empty with strides that overflow": (
        entry(shape="[0,4611686018427387904,4611686018427387904]", offsets="[0,0]"),
        0,
        "no memory",
    ),
    "shape beyond 64 bits": (entry(shape="[36893488147419103232]"), 8, r"shape\[0\]"),
    "trailing bytes": (GOOD, 9, "fill 8 bytes, and 9"),
    "bytes without a tensor": ("", 1, "fill 0 bytes, and 1"),
    "unknown dtype": (entry('"F128"', "[1]", "[0,16]"), 16, "unknown dtype 'F128'"),
    "object dtype": (entry('"O"', "[1]"), 8, "unknown dtype 'O'"),
    "dtype not text": (entry("7"), 8, r"`\$.dtype`"),
    "negative size": (entry(shape="[-2]"), 8, r"shape\[0\]"),
    "two negative sizes": (entry(shape="[-1,-2]"), 8, r"shape\[0\]"),
    "size with a fraction": (entry(shape="[2.0]"), 8, r"shape\[0\]"),
    "size true": (entry(shape="[true,2]"), 8, r"shape\[0\]"),
    "size as text": (entry(shape='["2"]'), 8, r"shape\[0\]"),
    "size null": (entry(shape="[null]"), 8, r"shape\[0\]"),
    "size NaN": (entry(shape="[NaN]"), 8, r"shape\[0\]"),
    "shape not a list": (entry(shape="2"), 8, r"`\$.shape`"),
    "17 dimensions": (entry(shape=str([2] + [1] * 16)), 8, r"`\$.shape`"),
    "negative offset": (entry(offsets="[-8,0]"), 8, r"data_offsets\[0\]"),
    "three offsets": (entry(offsets="[0,8,8]"), 8, "data_offsets"),
    "offset true": (entry('"U8"', "[1]", "[0,true]"), 1, r"data_offsets\[1\]"),
    "another key": (entry(more=',"device":"cuda"'), 8, "device"),
    "a key missing": ('"t":{"dtype":"F32","shape":[2]}', 8, "data_offsets"),
    "entry a list": ('"t":["F32",[2],[0,8]]', 8, "entry of its tensor 't'"),
    "name up": (entry(name="../x"), 8, r"'\.\./x'"),
    "name with folder": (entry(name="a/b"), 8, "'a/b'"),
    "name absolute": (entry(name="/etc/passwd"), 8, "'/etc/passwd'"),
    "name with backslash": (entry(name="a\\\\b"), 8, "a.*b"),
    "name hidden": (entry(name=".x"), 8, r"'\.x'"),
    "name with two dots": (entry(name="a..b"), 8, r"'a\.\.b'"),
    "name empty": (entry(name=""), 8, "names a tensor ''"),
    "name of 201": (entry(name="n" * 201), 8, "names a tensor 'nnn"),
    "name with newline": (entry(name="t\\n"), 8, "names a tensor"),
    "name not ASCII": (entry(name="é"), 8, "names a tensor"),
    "name with null": (entry(name="t\\u0000"), 8, "names a tensor"),
    "tensor twice": (GOOD + "," + GOOD, 8, "repeats a key"),
    "dtype twice": (entry(more=',"dtype":"F32"'), 8, "repeats a key"),
    "metadata twice": (GOOD + "," + OPEN[1:] + '"{}"}', 8, "repeats a key"),
    "deep list": ('"t":' + "[" * 100_000 + "]" * 100_000, 8, "nested too deeply"),
    "deep object": ('"t":' + '{"a":' * 100_000 + "1" + "}" * 100_000, 8, "nested too deeply"),
    "number of 5000 digits": (entry(shape="[" + "9" * 5000 + "]"), 8, "JSON"),
    "not closed": (GOOD + ',"u":', 8, "JSON"),
    "lone surrogate": (entry(name="\ud800"), 8, "JSON"),
}


def refused(path: Path, match: str) -> str:
    """Refused with a message that matches, within a second, and with next to no memory."""
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(ArtifactError, match=match) as caught:
            read_artifact(path)
        seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(caught.value, NearlyError)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert seconds < 1.0
    assert peak < 20 * min(os.stat(path).st_size if path.exists() else 0, artifact.HEADER_LIMIT) + 2**20
    return str(caught.value)


@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_entries_are_refused_by_name(tmp_path, case):
    entries, size, match = BAD_ENTRIES[case]
    refused(craft(tmp_path / "a.nearly", entries, bytes(size)), match)


def test_no_tensor_is_made_before_the_sizes_are_known_to_fit(tmp_path, monkeypatch):
    made = []
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **options: made.append(args) or empty(*args, **options))
    huge = GOOD + "," + entry('"U8"', f"[{2 * 10**18}]", f"[8,{8 + 2 * 10**18}]", "u")
    refused(craft(tmp_path / "a", huge), "'u' claims")
    assert made == []
    read_artifact(craft(tmp_path / "b"))
    assert len(made) == 1  # the spy sees what is made


META = {"format": "nearly", "version": "1", "sha256": "0" * 64, "manifest": "{}"}


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        (META | {"format": "pt"}, "Nearly did not write it"),
        ({"format": "pt"}, "Nearly did not write it"),
        (None, "Nearly did not write it"),
        (["nearly"], "Nearly did not write it"),
        (META | {"version": "2"}, "version is '2'.*upgrade"),
        (META | {"version": "2", "signature": "x"}, "version is '2'.*upgrade"),
        (META | {"version": "0"}, "version is '0'"),
        (META | {"version": 1}, "version is 1,"),
        (META | {"version": "1.0"}, r"version is '1\.0'"),
        (META | {"more": "x"}, "must be the texts"),
        ({key: META[key] for key in ("format", "version", "sha256")}, "must be the texts"),
        (META | {"manifest": {}}, "must be the texts"),
        (META | {"sha256": None}, "must be the texts"),
        ({key: META[key] for key in ("version", "format", "sha256", "manifest")}, "another program wrote it anew"),
        (dict(sorted(META.items())), "another program wrote it anew"),
        (META | {"sha256": "0" * 63}, "another program wrote it anew"),
        (META | {"sha256": "0" * 65}, "another program wrote it anew"),
        (META | {"sha256": "ф" * 64}, "another program wrote it anew"),
    ],
)
def test_bad_metadata_are_refused(tmp_path, metadata, match):
    header = json.dumps({"__metadata__": metadata}, separators=(",", ":"), ensure_ascii=False)
    refused(craft(tmp_path / "a", header=header, data=b""), match)


def test_metadata_that_are_right_are_read(tmp_path):
    header = json.dumps({"__metadata__": META}, separators=(",", ":"))
    assert read_artifact(craft(tmp_path / "a", header=header, data=b"")) == ({}, {})


@pytest.mark.parametrize(
    ("manifest", "match"),
    [
        ("", "manifest is not valid JSON"),
        ("[]", "manifest is not a JSON object"),
        ("null", "manifest is not a JSON object"),
        ('{"a":1}x', "manifest is not valid JSON"),
        ('{"a":1,"a":1}', "repeats a key"),
        ('{"a":{"b":[{"c":1,"c":2}]}}', "repeats a key"),
        ('{"a":NaN}', r"manifest\.a .*nan"),
        ('{"a":[-Infinity]}', r"manifest\.a\[0\] .*-inf"),
        ('{"a":1e999}', r"manifest\.a .*inf"),
        ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"a":' + "[" * 200 + "]" * 200 + "}", "nested at most 100"),
    ],
)
def test_bad_manifests_are_refused(tmp_path, manifest, match):
    refused(craft(tmp_path / "a", manifest=manifest), match)


def test_wrong_digest_and_booleans_other_than_two_are_refused(tmp_path):
    path = craft(tmp_path / "a")
    raw = path.read_bytes()
    start = len(OPEN) - 64 - len('","manifest":') + 8
    path.write_bytes(raw[:start] + raw[start : start + 64].upper() + raw[start + 64 :])
    assert path.read_bytes() != raw
    refused(path, "digest does not match")
    path.write_bytes(raw[:-1] + b"\1")
    refused(path, "digest does not match")
    refused(craft(path, entry('"BOOL"', "[2]", "[0,2]"), b"\1\2"), "booleans other than 0 and 1")


@pytest.mark.parametrize("header", ["", "  ", "[]", "7", "nul", "[" * 100_000, '"' + "x" * 100, "\ufeff{}"])
def test_headers_that_are_no_object_are_refused(tmp_path, header):
    refused(craft(tmp_path / "a", header=header, data=b"12"), "header is not|shortest|has 10 bytes")


def test_a_header_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a").write_bytes((4).to_bytes(8, "little") + b'{"\xff"')
    refused(tmp_path / "a", "header is not valid JSON.*utf-8")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_renamed_pickle_is_refused_and_not_run(tmp_path, protocol):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    (tmp_path / "a.nearly").write_bytes(pickle.dumps(Bomb(), protocol))
    assert "never loads" in refused(tmp_path / "a.nearly", "pickle")
    (tmp_path / "a.nearly").write_bytes(pickle.dumps({"weights": list(range(1000))}, protocol))
    assert "never loads" in refused(tmp_path / "a.nearly", "pickle")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_save_wrote_is_refused(tmp_path, zipped):
    torch.save({"w": torch.ones(3)}, tmp_path / "a.nearly", _use_new_zipfile_serialization=zipped)
    assert "never loads" in refused(tmp_path / "a.nearly", "pickle or a zip")


def test_long_headers_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes((100 * 10**6).to_bytes(8, "little") + b"{}" + bytes(100))
    refused(path, "header of 100000000 bytes, 102 follow")
    path.write_bytes((2**64 - 1).to_bytes(8, "little") + b"{}")
    refused(path, "header of 18446744073709551615 bytes")
    path.write_bytes((3).to_bytes(8, "little") + b"{}")
    refused(path, "header of 3 bytes, 2 follow")
    with open(path, "wb") as file:  # as long as it claims, and sparse
        file.write((100 * 10**6).to_bytes(8, "little") + b"{}")
        file.truncate(200 * 10**6)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match="header of 100000000 bytes"):
            read_artifact(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_header_at_the_limit_is_written_and_read_and_one_beyond_is_neither(tmp_path):
    write_artifact(tmp_path / "a", {"text": "x" * (artifact.HEADER_LIMIT - 200)}, {})
    assert len(read_artifact(tmp_path / "a")[0]["text"]) == artifact.HEADER_LIMIT - 200
    with pytest.raises(BadInput, match="at most 16777216 bytes"):
        write_artifact(tmp_path / "a", {"text": "x" * artifact.HEADER_LIMIT}, {})
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("size", range(10))
def test_files_shorter_than_the_shortest_are_refused(tmp_path, size):
    (tmp_path / "a").write_bytes(bytes(size))
    refused(tmp_path / "a", f"has {size} bytes")


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    refused(tmp_path, "folder")
    refused(tmp_path / "missing", "No such file")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "pipe")
    refused(Path("/dev/zero"), "device")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ArtifactError):
        read_artifact(tmp_path / "loop")


def test_a_pipe_that_takes_the_place_of_the_file_does_not_hang(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(os.path, "isfile", lambda path: True)
    start = time.perf_counter()
    with pytest.raises(ArtifactError):
        read_artifact(tmp_path / "pipe")
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize("path", ["", "a/", "a\0b", b"a", 7, None])
@pytest.mark.parametrize("call", [read_artifact, lambda path: write_artifact(path, {}, {})], ids=["read", "write"])
def test_paths_that_name_no_file_are_refused(call, path):
    with pytest.raises(BadInput, match="path must be"):
        call(path)


# -------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    ("manifest", "match"),
    [
        ({"a": float("nan")}, r"manifest\.a must be .* got nan"),
        ({"a": {"b": [1.0, float("inf")]}}, r"manifest\.a\.b\[1\] must be .* got inf"),
        ({"a": np.float64("-inf")}, r"manifest\.a must be .* got -inf"),
        ({"a": {1: 2}}, r"manifest\.a must be .*text as keys"),
        ({"a": torch.ones(1)}, r"manifest\.a must be .*Tensor"),
        ({"a": b"x"}, r"manifest\.a must be .*bytes"),
        ({"a": {1, 2}}, r"manifest\.a must be .*set"),
        ({"a": 10**5000}, r"manifest\.a must be .*int"),
        ([1], "manifest and tensors must be dictionaries"),
    ],
)
def test_manifests_that_json_cannot_say_are_refused(tmp_path, manifest, match):
    with pytest.raises(BadInput, match=match):
        write_artifact(tmp_path / "a", manifest, {})
    assert os.listdir(tmp_path) == []


def test_manifests_nested_without_end_are_refused_and_a_hundred_deep_come_back(tmp_path):
    endless: dict[str, object] = {}
    endless["a"] = endless
    with pytest.raises(BadInput, match="nested at most 100 deep"):
        write_artifact(tmp_path / "a", endless, {})
    deep: object = "bottom"
    for _ in range(artifact.NESTING_LIMIT - 1):
        deep = [deep]
    write_artifact(tmp_path / "a", {"a": deep}, {})
    assert read_artifact(tmp_path / "a")[0] == {"a": deep}
    with pytest.raises(BadInput, match="nested at most 100 deep"):
        write_artifact(tmp_path / "a", {"a": [[deep]]}, {})


BAD_NAMES = ["", ".", "..", ".x", "../x", "a/b", "a\\b", "a..b", "a b", "é", "t\n", "n" * 201, "__metadata__", 7, None]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_bad_names_are_not_written(tmp_path, name):
    with pytest.raises(BadInput, match="tensors must be named"):
        write_artifact(tmp_path / "a", {}, {name: torch.ones(1)})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (torch.ones(2, dtype=torch.complex128), "dtypes.*complex128.*view_as_real"),
        (torch.ones(1, device="meta"), "dense.*meta"),
        (torch.eye(2).to_sparse(), "dense.*sparse"),
        (torch.ones((1,) * 17), "at most 16 dimensions.*17"),
        (np.ones(2), "dense.*ndarray"),
        ([1.0], "dense.*list"),
        (None, "dense.*NoneType"),
    ],
)
def test_what_is_no_tensor_that_can_be_stored_is_refused(tmp_path, tensor, match):
    with pytest.raises(BadInput, match=rf"tensors\['t'\] must be .*{match}"):
        write_artifact(tmp_path / "a", {}, {"good": torch.ones(3), "t": tensor})
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    before = sorted(os.listdir(tmp_path))
    for place, match in [
        (tmp_path / "missing" / "a", "No such file.*folder must exist"),
        (tmp_path / "file" / "a", "Not a directory.*folder must exist"),
        (tmp_path / "folder", "not a regular file.*another name"),
        (tmp_path / "pipe", "not a regular file.*another name"),
        (tmp_path / "dangling", "not a regular file.*another name"),
        (Path("/proc/nearly-test"), "cannot write"),
        (tmp_path / ("n" * 256), "too long"),
    ]:
        with pytest.raises(ArtifactError, match=match) as caught:
            write_artifact(place, {}, {"t": torch.ones(3)})
        assert str(place) in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before
    assert os.listdir(tmp_path / "folder") == []
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ArtifactError, match="Permission denied"):
            write_artifact(tmp_path / "a", {}, {})
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_failure_on_the_way_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, failure):
    path = tmp_path / "a.nearly"
    old = small(path)
    seen = []

    def fail(*args):
        seen.append(sorted(os.listdir(tmp_path)))
        raise failure

    monkeypatch.setattr(os, step, fail)
    kind = ArtifactError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(kind, match="No space left" if kind is ArtifactError else None):
        write_artifact(path, {"new": True}, {"t": torch.ones(1000)})
    assert len(seen[0]) == 2  # it failed while a .part was there
    assert seen[0][1].startswith("a.nearly.")
    assert seen[0][1].endswith(".part")
    assert os.listdir(tmp_path) == ["a.nearly"]
    manifest, back = read_artifact(path)
    assert manifest == MANIFEST
    assert same(old, back)


@contextlib.contextmanager
def files_of_at_most(size: int):
    """As on a full disk: writing beyond `size` takes a part, then fails (Python ignores the signal)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.nearly"
    old = small(path)
    with files_of_at_most(3 * 2**20 + 12345), pytest.raises(ArtifactError, match=r"File too large.*space"):
        write_artifact(path, {}, {"t": torch.ones(2**20, dtype=torch.float64)})
    assert os.listdir(tmp_path) == ["a.nearly"]
    assert same(old, read_artifact(path)[1])


def test_bytes_are_synced_before_the_renaming_and_the_renaming_after(tmp_path, monkeypatch):
    path = tmp_path / "a.nearly"
    steps = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor):
        what = os.readlink(f"/proc/self/fd/{descriptor}") if os.path.isdir("/proc/self/fd") else ""
        place = Path(what)
        steps.append("sync folder" if place == tmp_path else f"sync {place.suffix}")
        if place.suffix == ".part":  # whole by now
            read_artifact(place)
        fsync(descriptor)

    def spy_replace(source, target):
        steps.append("rename")
        assert Path(source).parent == Path(target).parent
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    small(path)
    assert steps == ["sync .part", "rename", "sync folder"]


def test_a_folder_that_cannot_be_synced(tmp_path, monkeypatch):
    path = tmp_path / "a.nearly"
    fsync = os.fsync

    def fail_with(number):
        def failing(descriptor):
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                raise OSError(number, os.strerror(number))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", failing)

    fail_with(errno.EIO)
    with pytest.raises(ArtifactError, match="wrote, but cannot sync"):
        write_artifact(path, {"new": 1}, {})
    assert read_artifact(path)[0] == {"new": 1}
    fail_with(errno.EINVAL)  # a file system that has no such thing
    write_artifact(path, {"new": 2}, {})
    assert read_artifact(path)[0] == {"new": 2}
    assert os.listdir(tmp_path) == ["a.nearly"]


def test_others_part_files_and_the_target_of_a_link_are_left_alone(tmp_path):
    (tmp_path / "a.nearly.0123.part").write_text("another run's")
    (tmp_path / "target").write_text("target")
    (tmp_path / "a.nearly").symlink_to(tmp_path / "target")
    small(tmp_path / "a.nearly")
    assert (tmp_path / "a.nearly.0123.part").read_text() == "another run's"
    assert (tmp_path / "target").read_text() == "target"
    assert not (tmp_path / "a.nearly").is_symlink()
    assert len(os.listdir(tmp_path)) == 3


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        small(tmp_path / "a")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_writing_copies_one_tensor_at_a_time():
    # Peak resident memory of saving 8 tensors of 16 MB, non-contiguous so that each is copied: one copy, not eight. With
    # each block mapped by itself the peak is what is alive; otherwise the allocator keeps freed blocks, at its whim.
    script = r"""
import os, resource, sys, tempfile
import torch
from nearly.core.artifact import write_artifact
torch.set_num_threads(1)
base = torch.ones(2, 2**20, 8, dtype=torch.float64)
views = {f"t{i}": base[:, :, i] for i in range(8)}
with tempfile.TemporaryDirectory() as folder:
    write_artifact(os.path.join(folder, "a"), {}, {"t0": views["t0"][:, :1000]})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write_artifact(os.path.join(folder, "a"), {}, views)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
    )
    assert float(done.stdout) < 40.0, done.stdout
