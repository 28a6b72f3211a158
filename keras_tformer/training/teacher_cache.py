"""A teacher that runs once: what it says about each example, on disk."""

import hashlib
import json
import os
import pathlib

import keras
import numpy as np

from keras_tformer.training.distillation import TEACHER_OUTPUTS

_MANIFEST = "teacher_cache.json"


def cache_teacher(
    distiller,
    dataset,
    folder,
    batch_size,
    shuffle=False,
    seed=0,
    drop_remainder=False,
    dtype="float32",
    shard_batches=64,
):
    """Writes a teacher's outputs for a dataset to disk, and gives batches with them.

    The dataset that comes back holds the same examples, with what the distiller's
    losses need of the teacher in their inputs, under `"teacher_outputs"`; with it,
    `distiller.fit` does not run the teacher. It is read from disk, row by row, and
    shuffled over all rows.

    The cache is written in shards. Each is written under another name and then renamed,
    so that a killed run goes on with the shard that it was in. Each call reads through
    `dataset` and compares checksums: of the teacher's weights, of the examples and of
    the files. A cache that is not of this teacher and these examples is refused.
    Hidden states are large: a text of 128 tokens takes 128 * D * 4 bytes for each
    layer, soft targets 4 bytes for each class.

    Args:
        distiller: `Distiller`.
        dataset: finite `tf.data.Dataset` of batches `(x, y)`, `(x, y, sample_weight)`
            or `x`, where x is a dict. All rows have the same shape, and every pass
            yields the same rows in the same order: not shuffled.
        folder: str or path of the cache's own folder. Made if it is missing.
        batch_size: int. Rows B of the batches that are given back.
        shuffle: bool. Another order in every epoch.
        seed: int. Seed of the order.
        drop_remainder: bool. Leave out the last batch if it is not full.
        dtype: "float32" or "float16", what the teacher's numbers are stored in.
        shard_batches: int. Batches of `dataset` in a file.

    Returns:
        A `tf.data.Dataset` of batches.

    Raises:
        ValueError: if the cache in the folder is stale or damaged, or the dataset is
            not as described.
        ImportError: if TensorFlow is not installed.

    Example:
        >>> import tempfile
        >>> import tensorflow as tf
        >>> inputs = {"a": keras.Input((3,), name="a")}
        >>> models = [
        ...     keras.Model(inputs, keras.layers.Dense(2)(inputs["a"]))
        ...     for _ in range(2)
        ... ]
        >>> distiller = kt.training.Distiller(*models)
        >>> rows = {"a": np.ones((5, 3), "float32")}, np.zeros(5, "int32")
        >>> dataset = tf.data.Dataset.from_tensor_slices(rows).batch(2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cached = cache_teacher(distiller, dataset, folder, batch_size=4)
        ...     x, y = next(iter(cached))
        >>> tuple(x["teacher_outputs"]["outputs"].shape)
        (4, 2)
    """
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "The teacher's outputs are given back as a tf.data.Dataset, which needs "
            "TensorFlow: pip install tensorflow"
        ) from error
    for name, number in (("batch_size", batch_size), ("shard_batches", shard_batches)):
        if number < 1:
            raise ValueError(f"Received {name}={number}. Expected an integer >= 1.")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"Received dtype={dtype!r}. Expected 'float32' or 'float16'.")
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "Received a dataset without end. Expected one that ends: leave out "
            "`repeat`."
        )

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = _manifest(folder, _fingerprint(distiller), dtype)
    structure = keras.tree.map_structure(lambda _: 0, dataset.element_spec)
    teach = distiller.teacher_outputs
    if keras.backend.backend() == "tensorflow":
        teach = tf.function(teach, reduce_retracing=True)
    number_of_shards = 0
    for index, batches in enumerate(_groups(dataset, shard_batches)):
        number_of_shards += 1
        checksum = _checksum(
            array for batch in batches for array in keras.tree.flatten(batch)
        )
        if index < len(manifest["shards"]):
            _check_shard(folder, manifest["shards"][index], checksum)
            continue
        rows = []
        for batch in batches:
            x = _inputs(batch)
            outputs = keras.tree.map_structure(
                lambda value: keras.ops.convert_to_numpy(
                    keras.ops.cast(value, dtype) if _is_float(value) else value
                ),
                teach(x),
            )
            rows.append(_rows(keras.tree.flatten(batch), keras.tree.flatten(outputs)))
        _check_rows(rows, manifest["shards"], folder)
        _write_shard(folder, manifest, np.concatenate(rows), checksum)
    if number_of_shards != len(manifest["shards"]) or not number_of_shards:
        raise ValueError(
            f"Received {number_of_shards} shards of examples; the cache in {folder} "
            f"has {len(manifest['shards'])}. Expected the dataset that it was made of. "
            "Give another folder, or remove this one to run the teacher again."
        )
    teacher_structure = keras.tree.map_structure(
        lambda _: 0, distiller.teacher_model().output
    )
    return _read(
        tf,
        [np.load(folder / s["file"], mmap_mode="r") for s in manifest["shards"]],
        structure,
        teacher_structure,
        (batch_size, drop_remainder),
        seed if shuffle else None,
    )


def _fingerprint(distiller):
    """A checksum of the teacher's weights and of what is taken from it."""
    teacher = distiller.teacher_model()
    asked = json.dumps(
        keras.tree.map_structure(lambda x: str(x.shape[1:]), teacher.output),
        sort_keys=True,
    )
    weights = (keras.ops.convert_to_numpy(weight) for weight in teacher.weights)
    return _checksum([np.frombuffer(asked.encode(), "uint8"), *weights])


def _checksum(arrays):
    digest = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _manifest(folder, teacher, dtype):
    file = folder / _MANIFEST
    if not file.exists():
        return {"teacher": teacher, "dtype": dtype, "shards": []}
    manifest = json.loads(file.read_text(encoding="utf-8"))
    for key, value, meaning in (
        ("teacher", teacher, "another teacher, or for other distillation losses"),
        ("dtype", dtype, "another dtype"),
    ):
        if manifest.get(key) != value:
            raise ValueError(
                f"The cache in {folder} was made with {meaning}. Give another folder, "
                "or remove this one to run the teacher again."
            )
    return manifest


def _groups(dataset, size):
    group = []
    for batch in dataset.as_numpy_iterator():
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _inputs(batch):
    x = batch[0] if isinstance(batch, tuple) else batch
    if not isinstance(x, dict):
        raise ValueError(
            f"Received batches whose inputs are a {type(x).__name__}. Expected a dict, "
            "to which the teacher's outputs can be added."
        )
    return x


def _is_float(value):
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype))


def _rows(data, teacher):
    """Lays a batch out as an array of records, one for each example."""
    named = {f"data_{i}": array for i, array in enumerate(data)}
    named |= {f"teacher_{i}": array for i, array in enumerate(teacher)}
    layout = [(name, array.dtype, array.shape[1:]) for name, array in named.items()]
    if any(dtype.hasobject for _, dtype, _ in layout):
        raise ValueError(
            "Received a dataset with strings. Expected numbers. Tokenize the texts, "
            "and drop what the models do not take."
        )
    rows = np.empty(len(next(iter(named.values()))), layout)
    for name, array in named.items():
        rows[name] = array
    return rows


def _check_rows(rows, shards, folder):
    layouts = [array.dtype for array in rows]
    if shards:
        layouts.append(np.load(folder / shards[0]["file"], mmap_mode="r").dtype)
    if any(layout != layouts[0] for layout in layouts):
        raise ValueError(
            "Received batches whose rows have other shapes than the first batch's. "
            "Expected one shape. Pad all texts to the same length."
        )


def _write_shard(folder, manifest, rows, checksum):
    name = f"shard-{len(manifest['shards']):05d}.npy"
    unfinished = folder / f"unfinished-{name}"
    with open(unfinished, "wb") as file:
        np.save(file, rows, allow_pickle=False)
    os.replace(unfinished, folder / name)
    manifest["shards"].append(
        {"file": name, "data": checksum, "sha256": _file_checksum(folder / name)}
    )
    unfinished = folder / f"unfinished-{_MANIFEST}"
    unfinished.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / _MANIFEST)


def _check_shard(folder, shard, checksum):
    if shard["data"] != checksum:
        raise ValueError(
            f"The cache in {folder} was made of other examples, or of the same in "
            "another order. Expected the dataset that it was made of, not shuffled "
            "(shuffle here: shuffle=True). Give another folder, or remove this one to "
            "run the teacher again."
        )
    file = folder / shard["file"]
    if not file.exists() or _file_checksum(file) != shard["sha256"]:
        raise ValueError(
            f"{file} is missing or damaged. Expected the file as it was written. "
            "Remove the folder to run the teacher again."
        )


def _file_checksum(file):
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _read(tf, shards, structure, teacher_structure, batching, seed):
    """Makes the dataset that reads the shards' rows."""
    layout = shards[0].dtype
    ends = np.cumsum([len(shard) for shard in shards])

    def rows(indices):
        gathered = np.empty(len(indices), layout)
        which = np.searchsorted(ends, indices, side="right")
        for number in np.unique(which):
            here = which == number
            start = ends[number] - len(shards[number])
            gathered[here] = shards[number][indices[here] - start]
        return [np.ascontiguousarray(gathered[name]) for name in layout.names]

    def batch(indices):
        dtypes = [tf.as_dtype(layout[name].base) for name in layout.names]
        arrays = tf.numpy_function(rows, [indices], dtypes)
        for name, array in zip(layout.names, arrays, strict=True):
            array.set_shape((indices.shape[0], *layout[name].shape))
        count = sum(name.startswith("data_") for name in layout.names)
        data = keras.tree.pack_sequence_as(structure, arrays[:count])
        teacher = keras.tree.pack_sequence_as(teacher_structure, arrays[count:])
        x = _inputs(data) | {TEACHER_OUTPUTS: teacher}
        return (x, *data[1:]) if isinstance(data, tuple) else x

    indices = tf.data.Dataset.range(int(ends[-1]))
    if seed is not None:
        indices = indices.shuffle(int(ends[-1]), seed, reshuffle_each_iteration=True)
    batch_size, drop_remainder = batching
    indices = indices.batch(batch_size, drop_remainder=drop_remainder)
    return indices.map(batch, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
