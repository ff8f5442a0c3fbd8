"""A certificate authority for one VM: what it signs is trusted there and nowhere else.

Its keys are in memory alone and go with the VM's connection. Certificates are as RFC 5280 and the
CA/Browser Forum's baseline have them, as far as clients check.
"""

from __future__ import annotations

import datetime as dt
import os
import ssl
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mulligan.network.names import Host

DAYS = 30
MOST_CONTEXTS = 64


class Authority:
    """Makes contexts for the server's side of TLS, one for each host."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Mulligan proxy of a VM")])
        self._certificate = self._build(self._name, self._key.public_key(), ca=True).sign(
            self._key, hashes.SHA256()
        )
        self._contexts: dict[str, ssl.SSLContext] = {}

    def pem(self) -> str:
        """Its certificate, for clients to trust."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    def context(self, host: Host) -> ssl.SSLContext:
        """To speak TLS as a host."""
        name = str(host)
        found = self._contexts.pop(name, None) or self._make(host)
        self._contexts[name] = found
        while len(self._contexts) > MOST_CONTEXTS:
            del self._contexts[next(iter(self._contexts))]
        return found

    def _make(self, host: Host) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        named = x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(ip_address(host))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(host)[:64])])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        certificate = (
            self._build(subject, key.public_key(), ca=False)
            .add_extension(x509.SubjectAlternativeName([named]), critical=False)
            .add_extension(usage, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _load(context, certificate.public_bytes(serialization.Encoding.PEM) + private)
        return context

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        issuer_key = self._key.public_key()
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=ca,
            crl_sign=ca,
            encipher_only=False,
            decipher_only=False,
        )
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=DAYS))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
            )
        )


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Gives a context its certificate and key; OpenSSL reads them from a file alone."""
    memory = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        os.write(memory, pem)
        context.load_cert_chain(f"/proc/self/fd/{memory}")
    finally:
        os.close(memory)


def system_bundle() -> str:
    """The certificates this machine trusts, as PEM; empty where it has none."""
    paths = ssl.get_default_verify_paths()
    for path in (paths.cafile, paths.openssl_cafile, *BUNDLES):
        if path and Path(path).is_file():
            return Path(path).read_text(errors="replace")
    return ""


# Where distributions keep them: Debian, Fedora, Alpine and SUSE.
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
)
