"""Where a GGUF file keeps its tensors. Independent of the product's reader, for tests that check what it maps."""

import struct
from dataclasses import dataclass

# type number: elements and bytes of a block
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 8: (32, 34), 12: (256, 144), 14: (256, 210), 30: (1, 2)}
SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9


@dataclass
class Tensor:
    name: str
    shape: list  # fastest first
    begin: int  # in the file
    bytes: int

    @property
    def end(self):
        return self.begin + self.bytes


class _Reader:
    def __init__(self, file):
        self.file = file

    def scalar(self, form):
        return struct.unpack(form, self.file.read(struct.calcsize(form)))[0]

    def string(self):
        return self.file.read(self.scalar("<Q")).decode("utf-8", errors="replace")

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            item = self.scalar("<I")
            return [self.value(item) for _ in range(self.scalar("<Q"))]
        return self.scalar(SCALARS[kind])


def read(path):
    """(metadata, {name: Tensor}) of a file."""
    with open(path, "rb") as file:
        reader = _Reader(file)
        magic, version, tensors, values = struct.unpack("<4sIQQ", file.read(24))
        if magic != b"GGUF" or version not in (2, 3):
            raise ValueError(f"{path}: magic {magic}, version {version}")
        metadata = {}
        for _ in range(values):
            key = reader.string()
            metadata[key] = reader.value(reader.scalar("<I"))
        found = []
        for _ in range(tensors):
            name = reader.string()
            shape = [reader.scalar("<Q") for _ in range(reader.scalar("<I"))]
            elements, block_bytes = BLOCKS[reader.scalar("<I")]
            size = block_bytes
            for extent in shape:
                size *= extent
            found.append(Tensor(name, shape, reader.scalar("<Q"), size // elements))
        alignment = metadata.get("general.alignment", 32)
        data = (file.tell() + alignment - 1) // alignment * alignment
        for tensor in found:
            tensor.begin += data
        return metadata, {tensor.name: tensor for tensor in found}
