"""Turns encoded texts back into texts, a bounded amount of them."""

from __future__ import annotations

import base64
import binascii
import bz2
import codecs
import lzma
import re
import urllib.parse
import zlib
from typing import Final

LONGEST: Final = 65536
"""Bytes that are unpacked."""


def text_of(data: bytes) -> str:
    """Bytes as a text that can be turned back."""
    return data[:LONGEST].decode(errors="surrogateescape")


def bytes_of(text: str) -> bytes:
    """The bytes of a text that ``text_of`` made, or of any other."""
    return text.encode(errors="surrogateescape" if text.isprintable() is False else "replace")


def inflated(data: bytes) -> bytes | None:
    """What zlib, gzip, bzip2, xz or raw deflate data unpacks to, its beginning; None if none."""
    for attempt in (_zlib, _deflate, _bzip2, _xz):
        try:
            return attempt(data)
        except (zlib.error, OSError, ValueError, lzma.LZMAError, EOFError):
            continue
    return None


def _zlib(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=47).decompress(data, LONGEST)


def _deflate(data: bytes) -> bytes:
    return zlib.decompressobj(wbits=-15).decompress(data, LONGEST)


def _bzip2(data: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, LONGEST)


def _xz(data: bytes) -> bytes:
    return lzma.LZMADecompressor(memlimit=1 << 26).decompress(data, LONGEST)


def decoded(data: bytes, codec: str) -> bytes | None:
    """Bytes decoded by the name of a codec; None if they are not in it.

    Args:
        codec: base64, base32, base85, ascii85, hex, rot13, url, or zlib for anything packed.
    """
    try:
        return _decoded(data[: LONGEST * 2], codec)
    except (ValueError, binascii.Error, UnicodeError, LookupError):
        return None


def _decoded(data: bytes, codec: str) -> bytes | None:
    if codec == "base64":
        text = re.sub(rb"[^A-Za-z0-9+/]", b"", data.translate(bytes.maketrans(b"-_", b"+/")))
        return base64.b64decode(text + b"=" * (-len(text) % 4))
    if codec == "zlib":
        return inflated(data)
    if codec == "rot13":
        return codecs.encode(data.decode(), "rot13").encode()
    if codec == "url":
        return urllib.parse.unquote_to_bytes(data)
    if codec == "hex":
        return bytes.fromhex(data.decode().replace(":", " "))
    if codec == "base32":
        return base64.b32decode(data)
    if codec == "base85":
        return base64.b85decode(data)
    return base64.a85decode(data)
