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


def shorten_names(model):
    """Name inner tensors after the layer and operation that made them.

    The converter names them after the whole path of all that were fused.
    """
    for graph in model.subgraphs:
        named = {*map(int, graph.inputs), *map(int, graph.outputs)}
        for index, tensor in enumerate(graph.tensors):
            if index not in named:
                tensor.name = b"/".join(tensor.name.split(b";")[-1].split(b"/")[-2:])


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
