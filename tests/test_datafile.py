"""Files of data: what is read, and what is refused by name."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from nearly.core.datafile import read_array, read_data, read_series
from nearly.core.errors import BadInput, TooFewSamples
from nearly.core.windows import cut_windows

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


def test_mixed_dtypes_are_said(tmp_path):
    said = []
    path = _write(tmp_path / "m.npz", {"x": X > 3, "y": Y.astype(np.float32)})
    read_data(path, notes=said.append)
    assert said == ["note: dtypes differ (x bool, y float32); all are read as float64"]


@pytest.mark.parametrize(
    ("x", "y", "axes", "turned"),
    [
        ((6, 2), (4, 6), (None, None), ["y"]),
        ((2, 6), (6, 4), (None, None), ["x"]),
        ((2, 6), (4, 6), (None, None), ["x", "y"]),
        ((6,), (4, 3, 6), (None, None), ["y"]),
        ((6, 2), (6, 6), (None, "last"), ["y"]),
        ((6, 6), (6, 2), ("first", None), []),
        ((6, 2), (6, 6), (None, "first"), []),
        ((5, 6), (5, 6), ("last", "last"), ["x", "y"]),
        ((6, 2), (6, 2), (None, None), []),
        ((6, 2, 2), (6, 3), (None, None), []),
    ],
)
def test_the_axis_of_rows_is_found_or_told(tmp_path, x, y, axes, turned):
    arrays = {"x": np.arange(np.prod(x)).reshape(x), "y": np.arange(np.prod(y)).reshape(y)}
    said = []
    path = _write(tmp_path / "t.npz", arrays)
    data = read_data(path, inputs_axis=axes[0], outputs_axis=axes[1], notes=said.append)
    for name, got in (("x", data.inputs), ("y", data.outputs)):
        np.testing.assert_array_equal(got, np.moveaxis(arrays[name], -1, 0) if name in turned else arrays[name])
    if axes == (None, None):
        assert [f"last axis of {' and '.join(turned)}" in text for text in said] == [True] * bool(turned)


@pytest.mark.parametrize(("x", "y"), [((6, 2), (6, 6)), ((6, 6), (6, 2)), ((6, 6), (6, 6)), ((5, 7), (7, 5))])
def test_rows_that_match_in_more_ways_than_one_are_refused(tmp_path, x, y):
    with pytest.raises(BadInput, match="--inputs-axis and --outputs-axis"):
        read_data(_write(tmp_path / "t.npz", {"x": np.ones(x), "y": np.ones(y)}))


def test_rows_that_do_not_match_are_refused_and_long_rows_are_remarked(tmp_path):
    with pytest.raises(BadInput, match=r"as many rows as x \(shape \(6, 2\)\); got the shape \(5, 1\)\.$"):
        read_data(_write(tmp_path / "s.npz", {"x": X, "y": Y[:5]}))
    said = []
    data = read_data(_write(tmp_path / "l.npz", {"x": X.T, "y": X.T}), notes=said.append)
    assert len(data.inputs) == 2
    assert "if samples are counted by the last axes, say --inputs-axis last --outputs-axis last" in said[0]


def test_a_test_set_is_turned_as_the_rest(tmp_path):
    arrays = {"train_x": X, "train_y": np.ones((4, 6)), "test_x": X[:5], "test_y": np.arange(20.0).reshape(4, 5)}
    data = read_data(_write(tmp_path / "t.npz", arrays))
    np.testing.assert_array_equal(data.test[1], arrays["test_y"].T)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.where(Y == 16, np.nan, Y), r"y of .*finite; got 1 NaN entries, the first at \(2, 0\)"),
        (np.where(Y > 5, np.inf, Y), "y of .*finite; got 4 infinite"),
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
    said = []
    assert read_data(table, outputs="y", notes=said.append).inputs.tolist() == [[1, 2], [4, 5], [7, 8]]
    assert said == [f"note: date of {table} holds text and is left out"]
    assert read_series(table).inputs.shape == (3, 3)
    with pytest.raises(BadInput, match=r"column 'date' of .*got 'monday' in line 2"):
        read_data(table, inputs="date", outputs="y")
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
        ("x,y\n1,nan\n", "column 'y' of .*a missing value in line 2"),
        ("x,y\n1,inf\n", "column 'y' of .*an infinite value in line 2"),
        ("x,y\n1,NA\n2,3\n4,\n", "missing value in line 2, the first of 2. --drop-missing"),
        ("x,y\n1,2\n3,oops\n", "column 'y' of .*got 'oops' in line 3"),
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


def test_an_empty_line_is_a_missing_value_in_a_single_column_only(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n\n3\n\n\n")
    with pytest.raises(BadInput, match=r"column 'a' of .*a missing value in line 3"):
        read_array(path)
    path.write_text("a,b\n1,2\n\n3,4\n\n")
    assert read_array(path).tolist() == [[1, 2], [3, 4]]


def test_near_names_are_offered(tmp_path):
    path = _write(tmp_path / "d.npz", {"coefficient": X, "pressure": Y})
    with pytest.raises(BadInput, match=r"'preasure'\. Near: pressure\. The file has coefficient, pressure"):
        read_data(path, inputs="coefficient", outputs="preasure")


def test_missing_values_are_left_out_on_request_and_counted(tmp_path):
    table, said = tmp_path / "t.csv", []
    table.write_text("x,y\n1,2\n3,\n5,6\nn/a,8\n")
    data = read_data(table, drop_missing=True, notes=said.append)
    assert (data.inputs.tolist(), data.outputs.tolist()) == ([[1], [5]], [[2], [6]])
    assert said == ["note: 2 of 4 rows of x and y miss values and are left out"]
    path = _write(tmp_path / "d.npz", {"x": X, "y": np.where(Y == 16, np.nan, Y)})
    np.testing.assert_array_equal(read_data(path, drop_missing=True).inputs, np.delete(X, 2, axis=0))
    with pytest.raises(BadInput, match=r"y of .*finite; got 4 infinite"):
        read_data(_write(path, {"x": X, "y": np.where(Y > 5, np.inf, Y)}), drop_missing=True)


def test_whole_numbers_are_kept_where_they_are_asked_for(tmp_path):
    path = _write(tmp_path / "d.npz", {"x": np.arange(4, dtype=np.int32), "y": Y})
    assert read_array(path, "x", integers=True).dtype == np.int64
    assert read_array(path, "x").dtype == read_array(path, "y", integers=True).dtype == np.float64
    table = tmp_path / "t.csv"
    table.write_text("a,b\n1,2\n3,4\n")
    assert read_array(table, integers=True).dtype == np.int64
    table.write_text("a,b\n1,2\n3,4.5\n")
    assert read_array(table, integers=True).dtype == np.float64


# Series


def test_windows_that_certify_are_later_and_share_no_row():
    rows = np.arange(1000.0)[:, None] * np.ones(3)
    made = cut_windows(rows, rows[:, :1], window=7, horizon=4)
    for x, y in (made.fitting, made.certifying):
        np.testing.assert_array_equal(x[:, 1:, 2], x[:, :-1, 2] + 1)
        np.testing.assert_array_equal(y[:, 0, 0], x[:, -1, 0] + 1)  # what comes next
        assert (x.shape[1:], y.shape[1:]) == ((7, 3), (4, 1))
    starts = made.certifying[0][:, 0, 0]
    assert len(starts) == 1000 // 3 // 11
    assert made.certifying[1][-1, -1, 0] == 999
    assert (np.diff(starts) == 11).all()
    assert made.fitting[1][:, -1].max() == starts[0] - 1
    assert len(made.fitting[0]) == starts[0] - 10
    assert len(cut_windows(rows, rows, window=7, horizon=4, certify=5).certifying[0]) == 5


def test_windows_that_touch_missing_values_are_left_out():
    rows = np.arange(300.0)[:, None]
    x, y = rows.copy(), rows.copy()
    x[50], y[250] = np.nan, np.nan  # of 6 + 2: six histories touch the one, two futures the other
    made = cut_windows(x, y, window=6, horizon=2)
    assert not any(np.isnan(array).any() for array in (*made.fitting, *made.certifying))
    assert made.left_out == 6
    assert (np.diff(made.certifying[0][:, 0, 0]) >= 8).all()
    full = cut_windows(rows, rows, window=6, horizon=2)
    assert len(made.certifying[0]) >= len(full.certifying[0]) - 1


def test_long_series_have_at_most_some_thousand_windows_to_fit():
    rows = np.arange(30_000.0)[:, None]
    starts = cut_windows(rows, rows, window=30, horizon=10).fitting[0][:, 0, 0]
    assert len(starts) == 4096
    assert set(np.diff(starts)) == {4, 5}
    assert starts[-1] == 30_000 - 250 * 40 - 40


def test_series_that_do_not_suffice_are_refused(tmp_path):
    rows = np.arange(100.0)[:, None]
    with pytest.raises(TooFewSamples, match="rows of the series must be at least 208"):
        cut_windows(rows, rows, window=90, horizon=10)
    with pytest.raises(TooFewSamples, match="windows that fit must be at least 8"):
        cut_windows(rows, rows, window=5, horizon=5, certify=10)
    with pytest.raises(TooFewSamples, match="windows that certify must be at least 11"):
        cut_windows(rows, rows, window=5, horizon=5, certify=11)
    for bad in ({"window": 0, "horizon": 1}, {"window": 1, "horizon": -1}, {"window": 1, "horizon": 1, "certify": 0}):
        with pytest.raises(BadInput, match="an integer >= 1"):
            cut_windows(rows, rows, **bad)
    path = _write(tmp_path / "d.npz", {"u": np.ones((3, 4, 5)), "v": rows, "w": rows[:50]})
    with pytest.raises(BadInput, match="a series, one row of numbers per time"):
        read_series(path, inputs="u")
    with pytest.raises(BadInput, match=r"as many times as v \(100\); got 50"):
        read_series(path, inputs="v", outputs="w")
    np.testing.assert_array_equal(read_series(path, inputs="v", axis="last").inputs, rows.T)
