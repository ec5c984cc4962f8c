"""The key that signs for this installation where `--sign` names none, and its certificate: made once, never sent anywhere.

C2PA wants a certificate that another one has issued. So a certificate authority is made, issues one certificate, and its
key is forgotten. Nobody vouches for either; who signs with a certificate that others trust names it with `--sign`.
Source: C2PA technical specification 2.1, section 14.5.
"""

from __future__ import annotations

import datetime
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from commonart.core.data.files import sync_folder

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

DAYS = 3650  # that the certificate is valid


def own_key_path() -> Path:
    """Return where the key is or will be; XDG_DATA_HOME is honoured."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "commonart" / "c2pa.pem"


def own_key() -> Path:
    """Return the file of this installation's key and certificates, PEM, and make it where there is none.

    Of several processes that make it at once, one wins and all use its key. Raises OSError where it cannot be written.
    """
    path = own_key_path()
    if path.exists():
        return path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(_new_key())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # unlike a rename, it replaces nothing
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)
    return path


def _new_key() -> bytes:
    """Return PEM: a private key, its certificate, and that of the authority which issued it."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = secrets.token_hex(4)
    pem = serialization.Encoding.PEM
    return (
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + _certificate(f"commonart installation {name}", f"commonart authority {name}", key, authority).public_bytes(
            pem
        )
        + _certificate(f"commonart authority {name}", f"commonart authority {name}", authority, authority).public_bytes(
            pem
        )
    )


def _certificate(
    subject: str, issuer: str, key: ec.EllipticCurvePrivateKey, authority: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    """Return the certificate of `key`, signed by `authority`, whose own it is where both are the same."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def name(common: str) -> x509.Name:
        organization = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "commonart, self-signed")
        return x509.Name([organization, x509.NameAttribute(NameOID.COMMON_NAME, common)])

    ca, now = key is authority, datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(
        digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder(name(issuer), name(subject), key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(authority, hashes.SHA256())
