"""Tensors in files: equal to the bytes by hand, and nothing damaged gets in."""

import json
import os
import pickle
import sys

import numpy as np
import pytest

from keras_tformer.checkpoints.tensor_files import TensorFiles, save_safetensors

pytest.importorskip("safetensors", reason="the [hub] extra is not installed")

SHAPES = {"a.weight": (3, 5), "scalar": (), "empty": (0, 7), "b": (11,)}


def some_arrays(dtype="float32"):
    draw = np.random.default_rng(1)
    return {name: draw.normal(size=x).astype(dtype) for name, x in SHAPES.items()}


@pytest.fixture
def folder(tmp_path):
    """A folder with one good file."""
    arrays = some_arrays()
    save_safetensors(tmp_path / "model.safetensors", SHAPES, arrays.items())
    return tmp_path


def header_of(file):
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_raw(file, header, numbers):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + numbers)


def test_written_files_read_back(folder):
    files = TensorFiles(folder)
    assert files.shapes == SHAPES
    for name, array in some_arrays().items():
        np.testing.assert_array_equal(files.read(name), array)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_written_by_hand(dtype, tmp_path):
    """The bytes where the header says, as the format's README has it."""
    arrays = some_arrays(dtype)
    arrays["a.weight"] = np.asfortranarray(arrays["a.weight"])
    file = tmp_path / "model.safetensors"
    save_safetensors(file, SHAPES, arrays.items(), dtype)
    header, numbers = header_of(file)
    assert header.pop("__metadata__") == {"format": "pt"}
    assert sorted(header) == sorted(SHAPES)
    for name, entry in header.items():
        assert entry["dtype"] == {"float32": "F32", "float16": "F16"}[dtype]
        start, stop = entry["data_offsets"]
        found = np.frombuffer(numbers[start:stop], dtype).reshape(entry["shape"])
        np.testing.assert_array_equal(found, arrays[name])
    if os.name == "posix":
        assert file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *(("F64", "<f8"), ("F32", "<f4"), ("F16", "<f2"), ("BOOL", "?")),
        *(("I64", "<i8"), ("I32", "<i4"), ("I16", "<i2"), ("I8", "i1")),
        *(("U64", "<u8"), ("U32", "<u4"), ("U16", "<u2"), ("U8", "u1")),
    ],
)
def test_what_is_read_by_hand(kind, dtype, tmp_path):
    array = np.random.default_rng(2).integers(0, 2, (5, 3)).astype(dtype)
    entry = {"dtype": kind, "shape": [5, 3], "data_offsets": [0, array.nbytes]}
    file = tmp_path / "model.safetensors"
    write_raw(file, {"__metadata__": {"by": "me"}, "x": entry}, array.tobytes())
    found = TensorFiles(tmp_path).read("x")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_rows(folder):
    files, array = TensorFiles(folder), some_arrays()["a.weight"]
    for start, stop in ((0, 1), (1, 3), (2, 3), (0, 3)):
        rows = slice(start, stop)
        np.testing.assert_array_equal(files.read("a.weight", rows), array[rows])


def test_bfloat16_is_widened(tmp_path):
    values = np.array([1.0, -2.5, 3.0e38, 0.0], "float32")  # 3e38 is rounded below.
    upper = (values.view("uint32") >> 16).astype("<u2")
    header = {"x": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}
    write_raw(tmp_path / "model.safetensors", header, upper.tobytes())
    expected = (values.view("uint32") >> 16 << 16).view("float32").reshape(2, 2)
    found = TensorFiles(tmp_path).read("x")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    found = TensorFiles(tmp_path).read("x", slice(1, 2))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected[1:])


def test_bfloat16_is_written(tmp_path):
    types = pytest.importorskip("ml_dtypes", reason="NumPy has no bfloat16")
    values = np.array([1.0, -2.5], types.bfloat16)
    save_safetensors(
        tmp_path / "model.safetensors", {"x": (2,)}, [("x", values)], "bfloat16"
    )
    np.testing.assert_array_equal(TensorFiles(tmp_path).read("x"), [1.0, -2.5])


def lies(header):
    """Yields what is wrong and a header that says so."""

    def changed(name, **fields):
        return {**header, name: {**header[name], **fields}}

    yield "overlap", changed("b", data_offsets=[0, 44])
    yield "beyond the end", changed("b", data_offsets=[64, 1 << 40])
    yield "backwards", changed("b", data_offsets=[108, 64])
    yield "negative", changed("b", data_offsets=[-4, 40])
    yield "negative shape", changed("a.weight", shape=[-3, -5])
    yield "too large a shape", changed("a.weight", shape=[3, 6])
    yield "a shape that overflows", changed("a.weight", shape=[1 << 62, 1 << 62])
    yield "fractions", changed("a.weight", shape=[3.0, 5])
    yield "truth values", changed("scalar", shape=[True])
    yield "text", changed("a.weight", shape="35")
    yield "no offsets", {**header, "b": {"dtype": "F32", "shape": [11]}}
    yield "an entry that is a list", {**header, "b": [1, 2]}
    yield "a hole", {key: value for key, value in header.items() if key != "a.weight"}
    yield "a list", [1, 2, 3]


def test_headers_that_lie_are_refused(folder):
    file = folder / "model.safetensors"
    header, numbers = header_of(file)
    cases = list(lies(header))
    assert len(cases) == 14
    for what, wrong in cases:
        write_raw(file, wrong, numbers)
        try:
            TensorFiles(folder)
        except ValueError as error:
            assert f"{str(file)!r} is no whole" in str(error), what
        else:
            pytest.fail(f"accepted: {what}")


def test_damaged_files_are_refused(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for content in (
        b"",
        whole[:5],
        whole[:8],
        whole[:60],
        whole[:-1],
        whole + b"\0",
        (1 << 63).to_bytes(8, "little") + whole[8:],
        whole[:8] + b"\xff" + whole[9:],
        (2).to_bytes(8, "little") + b"[]" + whole[10:],
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is no whole safetensors file"):
            TensorFiles(folder)


def test_a_name_that_occurs_twice(folder):
    """The library takes the last entry, and checks that one: nothing else is read."""
    file = folder / "model.safetensors"
    header, numbers = header_of(file)
    first = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    rest = json.dumps(header)[1:]
    write_raw(file, f'{{"b": {json.dumps(first)}, {rest}'.encode(), numbers)
    files = TensorFiles(folder)
    assert files.shapes == SHAPES
    np.testing.assert_array_equal(files.read("b"), some_arrays()["b"])
    rest = json.dumps(header)[:-1]
    write_raw(file, f'{rest}, "b": {json.dumps(first)}}}'.encode(), numbers)
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        TensorFiles(folder)


@pytest.mark.parametrize(("kind", "size"), [("F8_E4M3", 1), ("C64", 8)])
def test_types_that_numpy_or_we_have_not(kind, size, tmp_path):
    header = {"b": {"dtype": kind, "shape": [2], "data_offsets": [0, 2 * size]}}
    write_raw(tmp_path / "model.safetensors", header, bytes(2 * size))
    with pytest.raises(ValueError, match=f"holds 'b' as {kind}|is no whole"):
        TensorFiles(tmp_path)


def test_a_file_that_shrinks_while_it_is_read(folder):
    files = TensorFiles(folder)
    os.truncate(folder / "model.safetensors", 100)
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        files.read("b")


def write_index(folder, weight_map, kind="model.safetensors"):
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{kind}.index.json").write_text(json.dumps(index), "utf-8")


def test_shards(folder):
    os.rename(folder / "model.safetensors", folder / "one.safetensors")
    save_safetensors(
        folder / "two.safetensors", {"c": (2,)}, [("c", np.ones(2, "float32"))]
    )
    places = {**dict.fromkeys(SHAPES, "one.safetensors"), "c": "two.safetensors"}
    write_index(folder, places)
    files = TensorFiles(folder)
    assert files.shapes == {**SHAPES, "c": (2,)}
    np.testing.assert_array_equal(files.read("a.weight"), some_arrays()["a.weight"])
    np.testing.assert_array_equal(files.read("c"), [1, 1])

    write_index(folder, {**places, "d": "two.safetensors"})
    with pytest.raises(ValueError, match=r"lack tensors that it names: \['d'\]"):
        TensorFiles(folder)
    write_index(folder, places)
    os.remove(folder / "two.safetensors")
    with pytest.raises(ValueError, match="'two.safetensors', .* is missing"):
        TensorFiles(folder)


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    "file",
    ["../secret", "/etc/hostname", "a/b", "..", ".", "", "..\\secret", "C:secret"],
)
def test_an_index_cannot_reach_out_of_its_folder(file, kind, tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    folder = tmp_path / "folder"
    folder.mkdir()
    write_index(folder, {"a": file}, kind)
    with pytest.raises(ValueError, match="names files outside its folder"):
        TensorFiles(folder)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 5}}']
)
def test_an_index_that_is_none(content, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match="is no index of shards"):
        TensorFiles(tmp_path)


def test_no_weights_at_all(tmp_path):
    with pytest.raises(ValueError, match="No weights in"):
        TensorFiles(tmp_path)


def test_what_is_written_is_what_was_announced(tmp_path):
    file = tmp_path / "model.safetensors"
    one = np.ones(2, "float32")
    for arrays, dtype in (
        ([("x", one[:1])], "float32"),
        ([("x", one), ("x", one)], "float32"),
        ([("y", one)], "float32"),
        ([("x", one)], "float16"),
        ([], "float32"),
    ):
        with pytest.raises(ValueError):
            save_safetensors(file, {"x": (2,)}, arrays, dtype)
        assert list(tmp_path.iterdir()) == []  # Nothing half-written stays.


def test_a_disk_that_is_full(tmp_path):
    """A limit on the size of files stands for it."""
    resource = pytest.importorskip("resource", reason="needs a Unix")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    array = np.ones(9973, "float32")
    resource.setrlimit(resource.RLIMIT_FSIZE, (1009, limits[1]))
    try:
        with pytest.raises(OSError, match="could not be written"):
            save_safetensors(tmp_path / "x", {"x": (9973,)}, [("x", array)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_without_safetensors(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ImportError, match=r"keras_tformer\[hub\]"):
        TensorFiles(folder)
    with pytest.raises(ImportError, match=r"keras_tformer\[hub\]"):
        save_safetensors(folder / "x", {}, [])


# === Pickles ===


class Malicious:
    """Makes a file when it is unpickled by a loader that runs code."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize("form", ["plain pickle", "torch", "torch before 1.6"])
def test_a_pickle_that_would_run_code_is_refused(form, tmp_path):
    torch = pytest.importorskip("torch", reason="the reader of .bin files")
    target, file = tmp_path / "it-ran", tmp_path / "pytorch_model.bin"
    content = {"a": torch.ones(2), "b": Malicious(target)}
    if form == "plain pickle":
        file.write_bytes(pickle.dumps({"b": Malicious(target)}))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(ValueError, match="was refused"):
        TensorFiles(tmp_path)
    assert not target.exists()
    if form == "plain pickle":  # The same bytes do run where they are let.
        with pickle.loads(file.read_bytes())["b"]:  # noqa: S301
            assert target.exists()


def test_bin_files(tmp_path):
    torch = pytest.importorskip("torch", reason="the reader of .bin files")
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "h": torch.ones(2).half()}
    tensors["b"] = torch.ones(3).bfloat16()
    file = tmp_path / "pytorch_model.bin"
    for is_zip in (True, False):
        torch.save(tensors, file, _use_new_zipfile_serialization=is_zip)
        files = TensorFiles(tmp_path)
        assert files.shapes == {"a": (3, 2), "h": (2,), "b": (3,)}
        np.testing.assert_array_equal(files.read("a"), [[0, 3], [1, 4], [2, 5]])
        np.testing.assert_array_equal(files.read("b"), np.ones(3, "float32"))
        np.testing.assert_array_equal(files.read("a", slice(1, 3)), [[1, 4], [2, 5]])
    for content in ([1, 2], {"a": 1}, {3: torch.ones(1)}):
        torch.save(content, file)
        with pytest.raises(ValueError, match="something else than a dict of tensors"):
            TensorFiles(tmp_path)
    file.write_bytes(b"no pickle at all")
    with pytest.raises(ValueError, match="was refused"):
        TensorFiles(tmp_path)


def test_safetensors_go_before_pickles(folder):
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    assert TensorFiles(folder).path.name == "model.safetensors"


def test_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ImportError, match="only torch can read"):
        TensorFiles(tmp_path)
