"""Tensors in files: safetensors read and written, torch's `.bin` read without code."""

import contextlib
import json
import os
import pathlib
import tempfile

import numpy as np

# What the library gives as NumPy arrays: the others are quantized or complex.
_TYPES = "BF16 BOOL F16 F32 F64 I16 I32 I64 I8 U16 U32 U64 U8".split()


class TensorFiles:
    """The tensors of a Hugging Face folder, read one by one.

    Looks for `model.safetensors`, then `model.safetensors.index.json` with its shards,
    then `pytorch_model.bin` and `pytorch_model.bin.index.json`. The latter are pickles:
    torch opens them with `weights_only=True`, which refuses everything but tensors.

    Args:
        folder: folder that holds the files.

    Attributes:
        shapes: dict from the names of all tensors to their shapes.
        path: file or index that was opened, for messages.

    Raises:
        ValueError: if no such file is there, or a file is damaged, lies about what it
            holds, names a file outside the folder, or contains code.
        ImportError: if safetensors is not installed, or torch where a `.bin` is all
            that is there.

    Example:
        >>> tensors = [("w", np.ones(2, "float32"))]
        >>> save_safetensors("model.safetensors", {"w": (2,)}, tensors)
        >>> files = TensorFiles(".")
        >>> files.shapes, files.read("w")
        ({'w': (2,)}, array([1., 1.], dtype=float32))
    """

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.shapes = {}
        self._paths = {}  # name -> safetensors file
        self._tensors = {}  # name -> torch tensor
        for stem, open_file in (
            ("model.safetensors", self._open_safetensors),
            ("pytorch_model.bin", self._open_pickle),
        ):
            for path in (folder / stem, folder / f"{stem}.index.json"):
                if path.is_file():
                    self.path = path
                    if path.name.endswith(".json"):
                        self._open_shards(path, open_file)
                    else:
                        open_file(path)
                    return
        raise ValueError(
            f"No weights in {str(folder)!r}. Expected 'model.safetensors' or "
            "'pytorch_model.bin', or the index of their shards ('....index.json'). "
            "Download the whole folder, or pass the folder that holds them."
        )

    def read(self, name, rows=None):
        """Returns a tensor as a NumPy array; bfloat16 becomes float32.

        Args:
            name: name of the tensor.
            rows: slice of its first axis, within its length; all of it where it is
                None.

        Raises:
            ValueError: if the file was damaged after it was opened.
        """
        if name in self._tensors:
            tensor = self._tensors[name]
            tensor = tensor if rows is None else tensor[rows]
            if str(tensor.dtype) == "torch.bfloat16":
                tensor = tensor.float()
            return tensor.detach().numpy()
        # Opened and checked for each tensor: no file stays mapped, so one that becomes
        # shorter is an error, and on Windows it can be replaced.
        with _opened(self._paths[name]) as file:
            if rows is None:
                array = file.get_tensor(name)
            else:
                array = file.get_slice(name)[rows]
        return array.astype("f4") if array.dtype.name == "bfloat16" else array

    def _open_shards(self, index, open_file):
        try:
            weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
            files = sorted(set(weight_map.values()))
            names_are_plain = all(_is_plain_name(file) for file in files)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{str(index)!r} is no index of shards. Expected JSON with a "
                "'weight_map' from names of tensors to names of files. Download it "
                "again."
            ) from error
        if not names_are_plain:
            wrong = [file for file in files if not _is_plain_name(file)]
            raise ValueError(
                f"{str(index)!r} names files outside its folder: {wrong}. Expected "
                "plain names of files beside it. Do not use this folder."
            )
        for file in files:
            if not (index.parent / file).is_file():
                raise ValueError(
                    f"The shard {file!r}, which {str(index)!r} names, is missing. "
                    f"Expected {len(files)} shards. Download the whole folder."
                )
            open_file(index.parent / file)
        missing = sorted(set(weight_map) - set(self.shapes))
        if missing:
            raise ValueError(
                f"The shards of {str(index)!r} lack tensors that it names: "
                f"{missing[:5]}. Index and shards do not belong together; download "
                "the whole folder."
            )

    def _open_safetensors(self, path):
        with _opened(path) as file:
            for name in file.keys():
                tensor = file.get_slice(name)
                if tensor.get_dtype() not in _TYPES:
                    raise ValueError(
                        f"{str(path)!r} holds {name!r} as {tensor.get_dtype()}. "
                        f"Expected one of {_TYPES}. Save the checkpoint in one of "
                        "these."
                    )
                self._paths[name] = path
                self.shapes[name] = tuple(tensor.get_shape())

    def _open_pickle(self, path):
        try:
            import torch
        except ImportError as error:
            raise ImportError(
                f"{str(path)!r} is a pickle, which only torch can read: "
                '`pip install "keras_tformer[reference]"`, or take a folder that has '
                "'model.safetensors'."
            ) from error
        if tuple(int(x) for x in torch.__version__.split(".")[:2]) < (2, 6):
            raise ImportError(
                f"torch {torch.__version__} can be made to run code by a pickle "
                "(CVE-2025-32434). Expected 2.6 or newer: `pip install -U torch`."
            )
        try:
            tensors = _load_pickle(torch, path)
        except Exception as error:
            raise ValueError(
                f"{str(path)!r} was refused: it is damaged, or holds more than tensors "
                "(a pickle can run any code). Expected a dict of tensors. Take a "
                "folder that has 'model.safetensors'. torch says: "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error
        if not isinstance(tensors, dict) or not all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor)
            for name, tensor in tensors.items()
        ):
            raise ValueError(
                f"{str(path)!r} holds something else than a dict of tensors. Expected "
                "what `torch.save(model.state_dict(), file)` writes."
            )
        self._tensors.update(tensors)
        self.shapes.update({name: tuple(x.shape) for name, x in tensors.items()})


def save_safetensors(path, shapes, arrays, dtype="float32"):
    """Writes a safetensors file; whole or not at all.

    Args:
        path: file to write; its folder exists.
        shapes: dict from names to shapes.
        arrays: iterable of `(name, array)` in any order, each name once.
        dtype: `"float32"`, `"float16"` or `"bfloat16"`, the type of all arrays.

    Raises:
        ValueError: if the arrays are not those that `shapes` announces.
        ImportError: if safetensors is not installed.
        OSError: if the file cannot be written.

    Example:
        >>> save_safetensors("a.safetensors", {"w": (1,)}, [("w", np.ones(1, "f4"))])
    """
    library = _library()
    tensors, left = {}, dict(shapes)
    for name, array in arrays:
        array = np.asarray(array, order="C")  # The library writes memory as it lies.
        if left.pop(name, None) != array.shape or array.dtype.name != dtype:
            raise ValueError(
                f"{name!r} is {array.dtype.name} {array.shape}. Expected "
                f"{dtype} {shapes.get(name)}, once."
            )
        tensors[name] = array
    if left:
        raise ValueError(f"No arrays came for {sorted(left)}.")
    with replaced_file(path) as temporary:
        try:
            # `transformers` refuses a file that does not name its format.
            library.numpy.save_file(tensors, temporary, {"format": "pt"})
        except library.SafetensorError as error:
            raise OSError(f"{str(path)!r} could not be written: {error}") from error


@contextlib.contextmanager
def replaced_file(path):
    """Yields a temporary path beside `path`, moved onto it when the body is through."""
    path = os.path.abspath(os.fspath(path))
    handle, temporary = tempfile.mkstemp(prefix=".", dir=os.path.dirname(path))
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, 0o644)  # mkstemp gives 0600.
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)
        raise


def _load_pickle(torch, path):
    more = {"map_location": "cpu", "weights_only": True}
    try:
        return torch.load(path, mmap=True, **more)
    except RuntimeError as error:
        if "mmap" not in str(error):  # Files of torch before 1.6 cannot be mapped.
            raise
        return torch.load(path, **more)


def _is_plain_name(file):
    return file == os.path.basename(file) and not (
        file in ("", ".", "..") or "\\" in file or ":" in file
    )


@contextlib.contextmanager
def _opened(path):
    """Yields a safetensors file whose header the library has checked."""
    library = _library()
    try:
        with library.safe_open(path, framework="numpy") as file:
            yield file
    except (library.SafetensorError, OSError) as error:
        raise ValueError(
            f"{str(path)!r} is no whole safetensors file: {error}. Download it again."
        ) from error


def _library():
    try:
        import ml_dtypes  # noqa: F401 (NumPy has no bfloat16 until it is imported)
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "Files of Hugging Face's format are read and written by safetensors, which "
            'is not installed: `pip install "keras_tformer[hub]"`.'
        ) from error
    return safetensors
