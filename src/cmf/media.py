"""What a script logs that is no number: text, images, tables and figures as bytes that any program reads.

Knows the libraries by what their values can do, and imports none that the program has not imported itself.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from cmf.model import encoding

ROLE = "logged"
"""The role of an output that was logged at a step."""

PNG = "image/png"
_IMAGES = (
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"RIFF", "image/webp"),
)
_CHANNELS = {1: 0, 3: 2, 4: 6}
"""Channels of an image: the colour type that PNG has for them."""


class Media(NamedTuple):
    """A value as bytes: ``type`` says what it is, ``format`` is its media type."""

    type: str
    format: str
    data: bytes


def is_media(value: Any) -> bool:
    """Tell whether a value is one that `encoded` takes, or none at all; a path is one too."""
    if value.__class__ in (float, int, bool):
        return False
    if value is None or isinstance(value, str | bytes | bytearray | os.PathLike):
        return True
    return _is_image(value) or _is_array(value) or _is_table(value) or _is_figure(value)


def encoded(value: Any) -> Media:
    """Return a value as bytes; raises whatever its library raises, and `ValueError` for what is no image."""
    if isinstance(value, str):
        return Media("text", "text/plain; charset=utf-8", value.encode(errors="replace"))
    if isinstance(value, bytes | bytearray):
        found = next((name for magic, name in _IMAGES if value.startswith(magic)), "")
        return Media("image" if found else "file", found or "application/octet-stream", bytes(value))
    if _is_figure(value):
        if _of("plotly", value):
            return Media("figure", "application/vnd.plotly.v1+json", value.to_json().encode())
        buffer = io.BytesIO()
        value.savefig(buffer, format="png")
        return Media("figure", PNG, buffer.getvalue())
    if _is_image(value):
        buffer = io.BytesIO()
        value.save(buffer, format="PNG")
        return Media("image", PNG, buffer.getvalue())
    if _is_table(value):
        return Media("table", "application/json", encoding.to_json(_rows(value)))
    return Media("image", PNG, _png(value))


def step_of(attributes: Mapping[str, Any]) -> int:
    """Return the step that something was logged at, 0 if its attributes do not say."""
    step = attributes.get("step")
    return step if isinstance(step, int) else 0


def _of(library: str, value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == library


def _is_figure(value: Any) -> bool:
    return hasattr(value, "savefig") or (_of("plotly", value) and hasattr(value, "to_json"))


def _is_image(value: Any) -> bool:
    return _of("PIL", value) and hasattr(value, "save")


def _is_array(value: Any) -> bool:
    return len(getattr(value, "shape", ())) in (2, 3) and hasattr(value, "dtype")


def _is_table(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(isinstance(row, Mapping) for row in value)
    return any(hasattr(value, method) for method in ("to_dicts", "to_pylist")) or (
        _of("pandas", value) and len(value.shape) == 2
    )


def _rows(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if hasattr(value, "to_dicts"):  # polars
        return list(value.to_dicts())
    if hasattr(value, "to_pylist"):  # pyarrow
        return list(value.to_pylist())
    present = value.astype(object).where(value.notna(), None)  # pandas knows no NaN that is not a missing value
    return list(present.to_dict("records"))


def _png(value: Any) -> bytes:
    """Return an array as PNG: rows × columns (× 1, 3 or 4 channels) of bytes, or of floats from 0 to 1."""
    if hasattr(value, "detach"):  # a tensor, perhaps on a device
        value = value.detach().cpu().numpy()
    numpy = sys.modules["numpy"]
    pixels = numpy.asarray(value)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    height, width, channels = pixels.shape
    if channels not in _CHANNELS or not height or not width:
        raise ValueError(f"an array of shape {value.shape} is no image: it takes rows × columns × 1, 3 or 4 channels.")
    if pixels.dtype.kind == "f":
        pixels = (numpy.nan_to_num(pixels).clip(0, 1) * 255).round()
    elif pixels.dtype.kind == "b":
        pixels = pixels * 255
    rows = pixels.clip(0, 255).astype("u1").reshape(height, width * channels)
    lines = numpy.concatenate([numpy.zeros((height, 1), "u1"), rows], axis=1)  # each line begins with its filter: none
    head = struct.pack(">IIBBBBB", width, height, 8, _CHANNELS[channels], 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return _IMAGES[0][0] + b"".join(
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in parts
    )
