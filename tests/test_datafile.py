"""Files of data: what is read, and what is refused by name."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from nearly.core.datafile import read_array, read_data
from nearly.core.errors import BadInput

X = np.arange(12.0).reshape(6, 2)
Y = X[:, :1] ** 2


def _write(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[f"group/{name}"] = array
    else:
        netcdf = pytest.importorskip("netCDF4")
        with netcdf.Dataset(path, "w") as file:
            for name, array in arrays.items():
                axes = [f"{name}_{place}" for place in range(array.ndim)]
                for axis, length in zip(axes, array.shape, strict=True):
                    file.createDimension(axis, length)
                file.createVariable(name, array.dtype, axes)[...] = array
    return path


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".nc"])
def test_named_arrays_come_back_as_they_were(tmp_path, suffix):
    path = _write(tmp_path / f"d{suffix}", {"a": X, "b": Y})
    prefix = "group/" if suffix == ".h5" else ""
    data = read_data(path, inputs=f"{prefix}a", outputs=f"{prefix}b")
    np.testing.assert_array_equal(data.inputs, X)
    np.testing.assert_array_equal(data.outputs, Y)
    assert data.test is None
    np.testing.assert_array_equal(read_array(path, f"{prefix}b"), Y)
    with pytest.raises(BadInput, match=f"'c'.*The file has {prefix}a, {prefix}b"):
        read_data(path, inputs="c", outputs=f"{prefix}b")


@pytest.mark.parametrize(
    ("names", "test"),
    [
        (("x", "y"), False),
        (("X", "Y"), False),
        (("inputs", "outputs"), False),
        (("train_x", "train_y"), True),
        (("x_train", "y_train"), False),
    ],
)
def test_usual_names_are_found(tmp_path, names, test):
    arrays = dict(zip(names, (X, Y), strict=True)) | {"viscosity": np.array(0.1)}
    if test:
        arrays |= {"test_x": X[:3] + 1, "test_y": Y[:3] + 1}
    data = read_data(_write(tmp_path / "d.npz", arrays))
    np.testing.assert_array_equal(data.inputs, X)
    np.testing.assert_array_equal(data.outputs, Y)
    assert (data.test is not None) == test
    if data.test is not None:
        np.testing.assert_array_equal(data.test[1], Y[:3] + 1)
        assert data.names == ("train_x", "train_y", "test_x", "test_y")


def test_booleans_and_integers_become_float64_and_float32_stays(tmp_path):
    mixed = read_data(_write(tmp_path / "m.npz", {"x": X > 3, "y": Y.astype(np.float32)}))
    assert mixed.inputs.dtype == mixed.outputs.dtype == np.float64
    np.testing.assert_array_equal(mixed.inputs, X > 3)
    narrow = read_data(_write(tmp_path / "n.npz", {"x": X.astype(np.float32), "y": Y.astype(np.float32)}))
    assert narrow.inputs.dtype == narrow.outputs.dtype == np.float32


def test_transposed_arrays_are_told_from_missing_rows(tmp_path):
    with pytest.raises(BadInput, match="last axis of y has 6: it is transposed"):
        read_data(_write(tmp_path / "t.npz", {"x": X, "y": np.ones((4, 6))}))
    with pytest.raises(BadInput, match=r"as many rows as x \(shape \(6, 2\)\); got the shape \(5, 1\)\.$"):
        read_data(_write(tmp_path / "s.npz", {"x": X, "y": Y[:5]}))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.where(Y == 16, np.nan, Y), r"y of .*finite; got 1 NaN or infinite entries, the first at \(2, 0\)"),
        (np.where(Y > 5, np.inf, Y), "y of .*finite; got 4 NaN"),
        (Y * 1j, "y of .*real numbers; got the dtype complex128"),
        (np.array(list("abcdef")), "y of .*real numbers; got the dtype <U1"),
        (np.zeros((6, 0)), r"y of .*the shape \(6, 0\)"),
        (np.array(1.0), r"y of .*the shape \(\)"),
    ],
)
def test_arrays_that_are_no_numbers_are_refused_by_name(tmp_path, array, message):
    with pytest.raises(BadInput, match=message):
        read_data(_write(tmp_path / "d.npz", {"x": X, "y": array}))


class _Danger:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_pickles_are_never_loaded(tmp_path):
    inside, bare = tmp_path / "inside.npz", tmp_path / "bare.npz"
    np.savez(inside, x=X, y=np.array([_Danger()] * 6, dtype=object))
    bare.write_bytes(pickle.dumps(_Danger()))
    with pytest.raises(BadInput, match=r"y of .*pickled objects"):
        read_data(inside)
    with pytest.raises(BadInput, match="pickle or a truncated copy"):
        read_data(bare)


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".nc"])
def test_damaged_files_are_refused(tmp_path, suffix):
    whole = _write(tmp_path / f"w{suffix}", {"x": np.tile(X, (500, 1)), "y": np.tile(Y, (500, 1))})
    content = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadInput, match=r"cut\."):
        read_data(cut)
    cut.write_bytes(b"")
    with pytest.raises(BadInput, match=r"cut\."):
        read_data(cut)


def test_changed_bytes_of_an_npz_are_noticed(tmp_path):
    path = _write(tmp_path / "d.npz", {"x": X, "y": Y})
    content = bytearray(path.read_bytes())
    at = content.find(X.tobytes())
    assert at > 0
    content[at + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"x of .*damage"):
        read_data(path)


def test_csv_with_and_without_a_header(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("x1;x2;date;y\n1;2;monday;3\n4;5;tuesday;6\n\n7;8;friday;9\n")
    data = read_data(table)
    assert data.inputs.tolist() == [[1, 2], [4, 5], [7, 8]]
    assert data.outputs.tolist() == [[3], [6], [9]]
    assert read_data(table, inputs="x2", outputs="x1, y").outputs.tolist() == [[1, 3], [4, 6], [7, 9]]
    with pytest.raises(BadInput, match=r"column 'date' of .*got 'monday' in line 2"):
        read_data(table, outputs="y")
    table.write_text("1,2\n3,4\n")
    assert read_data(table, inputs="0", outputs="1").outputs.tolist() == [[2], [4]]
    assert read_array(table).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(BadInput, match=r"columns of .*named"):
        read_data(table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n3,\n", "column 'y' of .*a missing value in line 3"),
        ("x,y\n1,2\n3\n", "line 3 of .*of 2 cells; got 1"),
        ("x,x\n1,2\n", "distinct"),
        ("x,y\n1,nan\n", "y of .*finite"),
        ("x,y\n", "x of .*one row per input"),
        ("", "got an empty file"),
    ],
)
def test_bad_tables_are_refused_with_their_line(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        read_data(path)


def test_unknown_kinds_missing_files_and_half_named_pairs(tmp_path):
    with pytest.raises(BadInput, match=r"one of the kinds \.npz"):
        read_data(tmp_path / "d.mat")
    with pytest.raises(BadInput, match="an existing file"):
        read_data(tmp_path / "d.npz")
    path = _write(tmp_path / "d.npz", {"x": X, "u": Y})
    with pytest.raises(BadInput, match=r"no usual names.*The file has x, u"):
        read_data(path)
    with pytest.raises(BadInput, match="named both or neither"):
        read_data(path, inputs="x")
    with pytest.raises(BadInput, match="named both or neither"):
        read_data(path, inputs="x", outputs="u", test_inputs="x")
