"""Made-up secrets and look-alikes in the places they turn up; deterministic, nothing is live.

Contexts and look-alikes come in two parts: rules were tuned on the first only, the second says how
they do on what they have not seen.
"""

import base64
import hashlib
import json
import random
import string
import uuid
import zlib
from collections.abc import Callable

Make = Callable[[random.Random], str]
LOWER, UPPER, DIGITS = string.ascii_lowercase, string.ascii_uppercase, string.digits
BASE62 = DIGITS + UPPER + LOWER
HEX = DIGITS + "abcdef"
URL = BASE62 + "-_"


def take(alphabet: str, size: int) -> Make:
    """Random characters, no sign at either end."""

    def make(rng: random.Random) -> str:
        while True:
            text = "".join(rng.choice(alphabet) for _ in range(size))
            if text[0].isalnum() and text[-1].isalnum():
                return text

    return make


def joined(*parts: str | Make) -> Make:
    """Parts one after the other."""
    return lambda rng: "".join(p if isinstance(p, str) else p(rng) for p in parts)


def checked(prefix: str) -> Make:
    """Tokens with the checksum of GitHub and npm."""

    def make(rng: random.Random) -> str:
        body = take(BASE62, 30)(rng)
        number, digits = zlib.crc32(body.encode()), ""
        for _ in range(6):
            number, digit = divmod(number, 62)
            digits = BASE62[digit] + digits
        return prefix + body + digits

    return make


def b64(size: int) -> Make:
    """Random bytes in base64."""
    return lambda rng: base64.b64encode(rng.randbytes(size)).decode()


def b64url(data: bytes) -> str:
    """Base64 as JWTs have it."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def jwt(rng: random.Random) -> str:
    """A signed token of nobody."""
    head = json.dumps({"alg": rng.choice(["HS256", "RS256"]), "typ": "JWT"}).encode()
    body = json.dumps({"sub": rng.randrange(10**8), "exp": 1800000000}).encode()
    return ".".join([b64url(head), b64url(body), b64url(rng.randbytes(32))])


def password(rng: random.Random) -> str:
    """As people and managers make them."""
    word = rng.choice(
        ["winter", "Summer", "dragon", "Falcon", "monkey", "Rocket", "purple", "Garden", "silver"]
    )
    return rng.choice([
        lambda: word.capitalize() + str(rng.randrange(10, 9999)) + rng.choice("!#$?*"),
        lambda: take(BASE62, rng.randrange(10, 22))(rng),
        lambda: take(BASE62 + "!#%^*+_", rng.randrange(12, 20))(rng),
        lambda: word.replace("e", "3").replace("o", "0") + rng.choice("@_-!") + str(rng.randrange(999)),
        lambda: "-".join(take(LOWER + DIGITS, 6)(rng) for _ in range(3)),
    ])()  # fmt: skip


TOKENS: dict[str, Make] = {
    "aws id": joined("AKIA", take(UPPER + "234567", 16)), "aws sts id": joined("ASIA", take(UPPER + "234567", 16)),
    "aws secret": take(BASE62 + "+/", 40),
    "github": checked("ghp_"), "github oauth": checked("gho_"), "github app": checked("ghs_"),
    "github fine": joined("github_pat_", take(BASE62, 22), "_", take(BASE62, 59)),
    "gitlab": joined("glpat-", take(URL, 20)), "gitlab runner": joined("glrt-", take(URL, 20)),
    "slack bot": joined("xoxb-", take(DIGITS, 12), "-", take(DIGITS, 13), "-", take(BASE62, 24)),
    "slack user": joined("xoxp-", take(DIGITS, 12), "-", take(DIGITS, 12), "-", take(DIGITS, 12), "-", take(HEX, 32)),
    "slack hook": joined("https://hooks.slack.com/services/T", take(UPPER + DIGITS, 8), "/B", take(UPPER + DIGITS, 10), "/", take(BASE62, 24)),
    "stripe": joined("sk_live_", take(BASE62, 24)), "stripe restricted": joined("rk_live_", take(BASE62, 99)),
    "stripe test": joined("sk_test_", take(BASE62, 24)), "stripe hook": joined("whsec_", take(BASE62, 32)),
    "openai": joined("sk-proj-", take(URL, 74), "T3BlbkFJ", take(URL, 74)), "openai old": joined("sk-", take(BASE62, 20), "T3BlbkFJ", take(BASE62, 20)),
    "anthropic": joined("sk-ant-api03-", take(URL, 93), "AA"), "google": joined("AIza", take(URL, 35)),
    "google oauth": joined("GOCSPX-", take(URL, 28)), "google access": joined("ya29.", take(URL, 150)),
    "azure storage": b64(64), "npm": checked("npm_"), "pypi": joined("pypi-AgEIcHlwaS5vcmc", take(URL, 150)),
    "docker": joined("dckr_pat_", take(URL, 27)), "hugging face": joined("hf_", take(BASE62, 34)),
    "sendgrid": joined("SG.", take(URL, 22), ".", take(URL, 43)), "twilio": joined("SK", take(HEX, 32)),
    "mailgun": joined("key-", take(HEX, 32)), "mailchimp": joined(take(HEX, 32), "-us", take("123456789", 1)),
    "telegram": joined(take("123456789", 10), ":AA", take(URL, 33)), "discord": joined("MT", take(BASE62, 24), ".G", take(BASE62, 5), ".", take(URL, 38)),
    "discord hook": joined("https://discord.com/api/webhooks/", take("123456789", 18), "/", take(URL, 68)),
    "shopify": joined("shpat_", take(HEX, 32)), "square": joined("EAAA", take(URL, 60)),
    "digitalocean": joined("dop_v1_", take(HEX, 64)), "databricks": joined("dapi", take(HEX, 32)),
    "linear": joined("lin_api_", take(BASE62, 40)), "notion": joined("ntn_", take(DIGITS, 11), take(BASE62, 35)), "notion old": joined("secret_", take(BASE62, 43)),
    "heroku": joined("HRKU-", lambda r: str(uuid.UUID(int=r.getrandbits(128), version=4))), "vault": joined("hvs.", take(URL, 95)),
    "terraform": joined(take(BASE62, 14), ".atlasv1.", take(URL, 67)), "doppler": joined("dp.pt.", take(BASE62, 43)),
    "supabase": joined("sbp_", take(HEX, 40)), "atlassian": joined("ATATT3xFfGF0", take(URL, 180)), "new relic": joined("NRAK-", take(UPPER + DIGITS, 27)),
    "age": joined("AGE-SECRET-KEY-1", take("QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58)), "jwt": jwt,
    "groq": joined("gsk_", take(BASE62, 52)), "perplexity": joined("pplx-", take(BASE62, 48)), "replicate": joined("r8_", take(BASE62, 37)),
    "grafana": joined("glsa_", take(BASE62, 32), "_", take(HEX, 8)), "pulumi": joined("pul-", take(HEX, 40)), "postman": joined("PMAK-", take(HEX, 24), "-", take(HEX, 34)),
    "okta": joined("00", take(URL, 40)), "datadog": take(HEX, 32), "cloudflare": take(URL, 40), "generic key": take(BASE62, 32), "generic hex": take(HEX, 40),
    "generic long": take(BASE62, 48), "generic lower": take(LOWER + DIGITS, 36), "uuid key": lambda r: str(uuid.UUID(int=r.getrandbits(128), version=4)),
}  # fmt: skip
NAMES = ("api_key", "API_KEY", "SECRET_KEY", "access_token", "authToken", "client_secret", "STRIPE_SECRET_KEY", "github_token", "AWS_SECRET_ACCESS_KEY", "DD_API_KEY", "apiKey", "private_token")  # fmt: skip
PASSWORD_NAMES = ("password", "DB_PASSWORD", "passwd", "POSTGRES_PASSWORD", "smtp_password", "PGPASSWORD", "adminPassword", "pwd", "passphrase")  # fmt: skip

# {n} is a name, {v} the value; {N} a name in capitals.
TUNED = ("{N}={v}", 'export {N}="{v}"', '{{"{n}": "{v}", "port": 5432}}', "{n}: {v}", "{n} = '{v}'",
         "    {n}={v!r},", "2024-05-01 12:00:01 INFO using {n}={v} for host db1", "the {n} is set: {n}={v}",
         "curl -H 'Authorization: Bearer {v}' https://api.example.org/v1", "https://api.example.org/v1?{n}={v}&page=2")  # fmt: skip
HELD = ('{n} = "{v}"  # production', "<{n}>{v}</{n}>", "app.{n}={v}", '    {n}: "{v}",', "ENV {N} {v}" , "ENV {N}={v}",
        "- name: {N}\n  value: {v}", "+{N}={v}", '"{n}" => "{v}",', "mytool --{f} {v} --verbose", "mytool --{f}={v}",
        "\x1b[32m{n}\x1b[0m: \x1b[1m{v}\x1b[0m", "{N}='{v}' ./run.sh", '{{\\"{n}\\": \\"{v}\\"}}', "| {n} | {v} |",
        "environ({{'HOME': '/root', '{N}': '{v}', 'LANG': 'C'}})", "set {N}={v}", "KeyError: config[{n!r}] was {n}={v}",
        "const {n} = '{v}';", "{n}: {v} (rotated yesterday)", "X-Api-Key: {v}", "  {n}   =   {v}")  # fmt: skip
PASSWORD_TUNED = ("postgres://app:{v}@db.internal:5432/app", "machine git.example.org login bob password {v}", "curl -u admin:{v} https://api.example.org/", "mysql -uroot -p{v} app", "Server=db;User Id=sa;Password={v};Encrypt=true")  # fmt: skip
PASSWORD_HELD = ("redis://:{v}@cache.internal:6379/0", "db.internal:5432:app:app:{v}", "ALTER USER app WITH PASSWORD '{v}';", "sshpass -p '{v}' ssh root@host", "amqp://svc:{v}@mq:5672/%2f", "jdbc:postgresql://db/app?user=app&password={v}", "Your temporary password is {v}", "mongodb+srv://root:{v}@cluster0.example.net/test", "<add key=\"DbPassword\" value=\"{v}\" />")  # fmt: skip
BARE_TUNED = ("{v}", "token issued\n{v}\ndone", "> {v}")
BARE_HELD = ("got {v} back", "['{v}']", "0: {v}\n", "{v},ok,200", "response body: {v}")


def fill(context: str, name: str, value: str) -> str:
    """A context with its name and value."""
    flag = name.lower().replace("_", "-")
    return context.format(n=name, N=name.upper(), v=value, f=flag)


def secrets(rng: random.Random, count: int, *, held: bool) -> list[tuple[str, str, str]]:
    """(kind, value, text) of secrets in contexts."""
    rows = []
    for i in range(count):
        if i % 3 == 0:
            value, kind = password(rng), "password"
            contexts = (PASSWORD_HELD + HELD) if held else (PASSWORD_TUNED + TUNED)
            text = fill(rng.choice(contexts), rng.choice(PASSWORD_NAMES), value)
        else:
            kind = rng.choice(list(TOKENS))
            value = TOKENS[kind](rng)
            text = fill(rng.choice(HELD if held else TUNED), rng.choice(NAMES), value)
        rows.append((kind, value, text))
    return rows


def bare(rng: random.Random, count: int, *, held: bool) -> list[tuple[str, str, str]]:
    """(kind, value, text) of tokens without a name beside them."""
    kinds = list(TOKENS)
    rows = []
    for i in range(count):
        kind = kinds[i % len(kinds)]
        value = TOKENS[kind](rng)
        rows.append((kind, value, rng.choice(BARE_HELD if held else BARE_TUNED).format(v=value)))
    return rows


def key_block(rng: random.Random, kind: str) -> str:
    """A key or certificate block with a random body."""
    body = b64(700)(rng)
    lines = [body[i : i + 64] for i in range(0, len(body), 64)]
    return "\n".join([f"{'-' * 5}BEGIN {kind}{'-' * 5}", *lines, f"{'-' * 5}END {kind}{'-' * 5}"])


def _hash(rng: random.Random, algorithm: str) -> str:
    return hashlib.new(algorithm, rng.randbytes(20)).hexdigest()


def _uuid(rng: random.Random) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


ALIKE_TUNED: dict[str, Make] = {
    "md5": lambda r: f"{_hash(r, 'md5')}  file{r.randrange(99)}.tar.gz", "sha256": lambda r: f"sha256: {_hash(r, 'sha256')}",
    "git": lambda r: f"commit {_hash(r, 'sha1')}\nAuthor: A <a@example.org>", "uuid": lambda r: f"request {_uuid(r)} took 12 ms",
    "sri": lambda r: f'"integrity": "sha512-{base64.b64encode(r.randbytes(64)).decode()}"', "png": lambda r: "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + r.randbytes(300)).decode(),
    "aws example": lambda _: "aws_access_key_id = AKIAIOSFODNN7EXAMPLE", "aws example secret": lambda _: "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "placeholder": lambda r: r.choice(["password=changeme", "api_key: your_api_key", "API_KEY=<token>", "SECRET=${SECRET}", "token: xxxxxxxxxxxx", 'password = os.environ["DB_PASSWORD"]', "password: ********", "api_key = getenv('API_KEY')"]),
    "mail": lambda r: f"contact: {r.choice(['jo', 'max.m', 'a_b'])}{r.randrange(99)}@example.org", "public key": lambda r: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + take(BASE62, 43)(r) + " me@host",
    "certificate": lambda r: key_block(r, "CERTIFICATE"), "docker digest": lambda r: f"nginx@sha256:{_hash(r, 'sha256')}", "phone": lambda r: f"+49 30 {r.randrange(10**7)}",
    "code": lambda r: r.choice(["token = self.lexer.next_token()", "def login(user: str, password: str) -> Token:", "if not check_password(user, password):", "max_tokens: 4096", "key=lambda item: item.name", "tokens = tokenizer(text, return_tensors='pt')", "password = getpass.getpass()", "self.secret = secret"]),
}  # fmt: skip
ALIKE_HELD: dict[str, Make] = {
    "sha1 list": lambda r: f"{_hash(r, 'sha1')} refs/heads/main", "sha512": lambda r: f"{_hash(r, 'sha512')} *disk.img", "etag": lambda r: f'ETag: "{_hash(r, "md5")}"',
    "yarn": lambda r: f"  integrity sha512-{base64.b64encode(r.randbytes(64)).decode()}", "go.sum": lambda r: f"golang.org/x/net v0.{r.randrange(40)}.0 h1:{base64.b64encode(r.randbytes(32)).decode()}",
    "pip hash": lambda r: f"    --hash=sha256:{_hash(r, 'sha256')} \\", "record": lambda r: f"pkg/__init__.py,sha256={b64url(r.randbytes(32))},{r.randrange(9999)}", "jpeg": lambda r: '<img src="data:image/jpeg;base64,' + base64.b64encode(b"\xff\xd8\xff\xe0" + r.randbytes(400)).decode() + '">',
    "gzip": lambda r: base64.b64encode(b"\x1f\x8b\x08" + r.randbytes(120)).decode(), "minified": lambda r: f'!function(e,t){{"object"==typeof exports?t(exports):t(e.{take(LOWER, 3)(r)}={{}})}}(this,function(e){{var t="ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"}});',
    "wallet": lambda r: "0x" + take(HEX, 40)(r), "bech32": lambda r: "bc1q" + take("qpzry9x8gf2tvdw0s3jn54khce6mua7l", 38)(r), "serial": lambda r: "S/N: " + "-".join(take(UPPER + DIGITS, 5)(r) for _ in range(4)),
    "log id": lambda r: f"request_id={take(BASE62, 22)(r)} status=200", "trace": lambda r: f"traceparent: 00-{take(HEX, 32)(r)}-{take(HEX, 16)(r)}-01", "amz": lambda r: f"x-amz-id-2: {base64.b64encode(r.randbytes(56)).decode()}", "ulid": lambda r: "01H" + take(DIGITS + "ABCDEFGHJKMNPQRSTVWXYZ", 23)(r), "ksuid": lambda r: f"event {take(BASE62, 27)(r)} stored", "pod": lambda r: f"web-{take(HEX, 10)(r)}-{take(LOWER + DIGITS, 5)(r)}   1/1   Running",
    "sessions": lambda r: f"session_id: {_uuid(r)}", "placeholder 2": lambda r: r.choice(["TOKEN=REPLACE_ME_WITH_TOKEN", "password: <your password here>", "apiKey: process.env.API_KEY,", "secret: {{ vault_secret }}", "Authorization: Bearer $TOKEN", "api_key=YOUR-API-KEY", "password: null", "https://user:password@example.org/", "DB_PASS=%DB_PASS%", "client_secret: example-client-secret", "token=sk_test_xxxxxxxxxxxxxxxxxxxxxxxx", '"password": "string"']),
    "messages": lambda r: r.choice(["Password: must be at least 8 characters", "error: invalid token: expected ')'", "secret: not found", "SyntaxError: unexpected token: punc (})", "Password incorrect for user root", "api key: missing", "token expired: please log in again", "password changed: 3 days ago"]),
    "code 2": lambda r: r.choice(["const token = await fetchToken(user);", "password=None, token=None", "key = hashlib.sha256(data).hexdigest()", "token_type: bearer", 'secretKeyRef: {name: db, key: password}', "next_page_token: CAUQAA", "cache_key = f'{user}:{page}'", "access_key = aws.accessKeyId", "csrf_token = request.META['CSRF_COOKIE']", "primary_key: user_id", "total_tokens=18231, prompt_tokens=200", "public_key_id=3380204578043523366"]),
    "public pem": lambda r: key_block(r, "PUBLIC KEY"), "fingerprint": lambda r: f"256 SHA256:{base64.b64encode(r.randbytes(32)).decode().rstrip('=')} root@h (ED25519)", "stripe public": lambda r: "pk_live_" + take(BASE62, 24)(r), "mac": lambda r: ":".join(take(HEX, 2)(r) for _ in range(6)), "isbn": lambda r: f"ISBN 978-3-{r.randrange(10**4, 10**5)}-{r.randrange(100, 999)}-4", "cargo": lambda r: f'checksum = "{_hash(r, "sha256")}"', "version": lambda r: f"torch==2.{r.randrange(9)}.1+cu121 numpy==1.26.{r.randrange(9)}", "youtube": lambda r: f"https://youtu.be/{take(URL, 11)(r)}", "file id": lambda r: f"https://docs.google.com/document/d/1{take(URL, 43)(r)}/edit",
}  # fmt: skip


def look_alikes(rng: random.Random, count: int, *, held: bool) -> list[tuple[str, str]]:
    """(kind, text) of what must stay."""
    made = ALIKE_HELD if held else ALIKE_TUNED
    kinds = list(made)
    return [(kinds[i % len(kinds)], made[kinds[i % len(kinds)]](rng)) for i in range(count)]
