"""A parsed `.tflite` file as bytes again, with equal parts stored once."""

import hashlib

ALIGNMENT = 16  # of constants, as the format asks for


def pack(model):
    """The bytes of a parsed file (`ModelT`), equal vectors and texts stored once.

    The converter writes the zero points of a kernel's channels (8 bytes each, all of
    them 0) at every call, and may write one table twice.
    """
    sizes = [len(b.data) for b in model.buffers if b.data is not None]
    builder = _sharing_builder(sum(sizes) + (1 << 16))
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def take_out_unread(model):
    """Take out constants that nothing reads and what is kept for none; in place.

    The converter gives every activation a buffer and quantization parameters, of its
    own and empty. The format's first buffer is the empty one for all of them.
    """
    buffers, places = model.buffers[:1], {}

    def place_of(index):
        if model.buffers[index].data is None:
            return 0
        if index not in places:
            places[index] = len(buffers)
            buffers.append(model.buffers[index])
        return places[index]

    for graph in model.subgraphs:
        used = {*map(int, graph.inputs), *map(int, graph.outputs)}
        for operator in graph.operators:
            used.update(map(int, [*operator.inputs, *operator.outputs]))
        for index, tensor in enumerate(graph.tensors):
            tensor.buffer = place_of(tensor.buffer) if index in used else 0
            ranges = tensor.quantization
            if index not in used or (ranges is not None and _is_empty(ranges)):
                tensor.quantization = None
    for part in model.metadata or ():
        part.buffer = place_of(part.buffer)
    model.buffers = buffers


def _is_empty(ranges):
    parts = (ranges.scale, ranges.zeroPoint, ranges.min, ranges.max, ranges.details)
    return all(part is None for part in parts)


def shorten_names(model):
    """Name inner tensors after the layer that made them.

    The converter names them after the whole path of all that were fused, down to the
    operation, which the operator itself tells, and numbers the constants that it makes.
    """
    for graph in model.subgraphs:
        named = {*map(int, graph.inputs), *map(int, graph.outputs)}
        for index, tensor in enumerate(graph.tensors):
            if index not in named:
                path = tensor.name.split(b";")[-1].split(b"/")
                tensor.name = path[-2] if len(path) > 1 else b""


def _sharing_builder(initial_size):
    """A builder that writes a vector or text once, and refers to it afterwards."""
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        def CreateNumpyVector(self, x):
            content = x.tobytes()
            key = x.dtype.str, hashlib.sha256(content).digest()
            if key not in written:
                if x.dtype.itemsize == 1:  # a constant: LiteRT wants it aligned
                    self.Prep(ALIGNMENT, len(content))
                written[key] = super().CreateNumpyVector(x)
            return written[key]

        def CreateString(self, s, encoding="utf-8", errors="strict"):
            if s not in written:
                written[s] = super().CreateString(s, encoding, errors)
            return written[s]

    written = {}
    return SharingBuilder(initial_size)
