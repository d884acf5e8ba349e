"""Two pictures of 2 x 2 pixels for the tests of onnx/forge/src/pictures.rs: python make.py, in this folder.

Written with zlib alone, so that they are the same bytes wherever the script runs.
"""

import struct
import zlib


def png(path: str, rows: list[list[int]]) -> None:
    """Writes rows of red, green and blue bytes as a PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(rows[0]) // 3, len(rows), 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


png("grey.png", [[128] * 6] * 2)
png("lighter.png", [[128] * 6, [128] * 3 + [140] * 3])
