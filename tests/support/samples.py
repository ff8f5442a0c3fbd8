"""Made-up secrets from templates, so that none is written down: ``ghp_{b62:30}{crc}``."""

import base64
import hashlib
import json
import random
import re
import string
import uuid
import zlib

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
ALPHABETS = {
    "b62": BASE62,
    "alpha": string.ascii_letters,
    "hex": "0123456789abcdef",
    "lower": string.digits + string.ascii_lowercase,
    "upper": string.digits + string.ascii_uppercase,
    "digits": string.digits,
    "url": BASE62 + "-_",
    "b64": BASE62 + "+/",
    "b32": string.ascii_uppercase + "234567",
    "b58": BASE58,
    "bech": BECH32.upper(),
    "bechl": BECH32,
}
_FIELD = re.compile(r"\{\{|\}\}|\{(\w+)(?::(\d+))?\}")


def expand(template: str, rng: random.Random) -> str:
    """A template with its fields filled in; ``{{`` is a brace."""
    out: list[str] = []
    at = 0
    for match in _FIELD.finditer(template):
        out.append(template[at : match.start()])
        at = match.end()
        if match[0] in ("{{", "}}"):
            out.append(match[0][0])
        else:
            out.append(_field(match[1], int(match[2] or 0), "".join(out), rng))
    return "".join(out) + template[at:]


def characters(kind: str, size: int, rng: random.Random) -> str:
    """Random characters of an alphabet, of ``url`` with no sign at either end."""
    while True:  # nobody takes a sign at an end for a part of the token
        text = "".join(rng.choice(ALPHABETS[kind]) for _ in range(size))
        if kind != "url" or (text[0] + text[-1]).isalnum():
            return text


def password(rng: random.Random) -> str:
    """As a person or a password manager makes them."""
    words = ["Winter", "dragon", "Monkey", "purple", "Falcon", "tiger", "Rocket", "coffee"]
    style = rng.randrange(3)
    if style == 0:
        return rng.choice(words) + str(rng.randrange(10, 9999)) + rng.choice("!?#%*")
    if style == 1:
        return characters("b62", rng.randrange(10, 20), rng) + "7x"
    return (
        rng.choice(words) + rng.choice("_.!") + rng.choice(words).lower() + str(rng.randrange(99))
    )


def jwt(rng: random.Random) -> str:
    """A token of the form of RFC 7515, signed by nobody."""
    head = {"alg": rng.choice(["HS256", "RS256", "ES256"]), "typ": "JWT"}
    body = {"sub": str(rng.randrange(10**9)), "iat": 1700000000 + rng.randrange(10**7)}
    parts = [_url(json.dumps(part).encode()) for part in (head, body)]
    return ".".join([*parts, _url(rng.randbytes(32))])


def _url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _crc(before: str) -> str:
    number = zlib.crc32(re.split(r"[^0-9A-Za-z]", before)[-1].encode())
    digits = ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    return digits


def _wif(rng: random.Random) -> str:
    raw = b"\x80" + rng.randbytes(32) + b"\x01"
    raw += hashlib.sha256(hashlib.sha256(raw).digest()).digest()[:4]
    number, text = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = BASE58[digit] + text
    return text


def _field(kind: str, size: int, before: str, rng: random.Random) -> str:
    if kind in ALPHABETS:
        return characters(kind, size, rng)
    made = {
        "digits9": lambda: str(rng.randrange(1, 10)) + characters("digits", size - 1, rng),
        "uuid": lambda: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "crc": lambda: _crc(before),
        "jwt": lambda: jwt(rng),
        "pw": lambda: password(rng),
        "dashes": lambda: "-" * 5,
        "basic": lambda: base64.b64encode(f"bob:{password(rng)}".encode()).decode(),
        "wif": lambda: _wif(rng),
        "b64pem": lambda: base64.b64encode(
            f"{'-' * 5}BEGIN RSA PRIVATE KEY{'-' * 5}\n{characters('b64', 200, rng)}".encode()
        ).decode(),
    }
    return made[kind]()
