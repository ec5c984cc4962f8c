"""C2PA: a signed statement in an image that a trained model made it, and who says so.

The certificate is the user's own, a PEM chain, the signing certificate first, and its PEM private key, or that of
`core.output.own_key`. No time-stamp server is asked, and nothing that an image names is fetched, so nothing leaves the
machine. Source: C2PA technical specification 2.1, sections 13 and 14.
"""

from __future__ import annotations

import io
import json
import os
import re
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.log import warn
from commonart.core.output.metadata import TRAINED_ALGORITHMIC_MEDIA
from commonart.core.output.own_key import own_key, own_key_path

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}

FILES = "Name the certificate chain, then its key, as PEM files: --sign CHAIN,KEY."
CERTIFICATE = "C2PA wants a certificate that a CA has issued for document signing or e-mail protection, with its key."

_OFFLINE = {"remote_manifest_fetch": False, "ocsp_fetch": False}
_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----.+?-----END \1-----\n?", re.DOTALL)


def check(chain: str, key: str) -> None:
    """Sign a trial image. Raises UsageError for files that cannot be read, CommonArtError for what cannot sign."""
    from PIL import Image

    trial = io.BytesIO()
    Image.new("RGB", (8, 8)).save(trial, "PNG")
    sign(trial.getvalue(), "PNG", chain, key, verify=True)


def sign(data: bytes, kind: str, chain: str, key: str, verify: bool = False) -> bytes:
    """Return the image `data` of Pillow's format `kind` with a signed C2PA manifest in it. Raises as `check` does.

    `verify`: read the result again, which finds a certificate that has expired or that its key does not belong to.
    """
    signer = _signer(chain, key)
    import c2pa

    agent = {"name": "commonart"}
    created = {"action": "c2pa.created", "digitalSourceType": TRAINED_ALGORITHMIC_MEDIA, "softwareAgent": agent}
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [created]}}
    manifest = {"claim_generator_info": [agent], "assertions": [actions]}
    # A thumbnail takes fifty times as long as the signature, and ten times its bytes.
    settings = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": verify, **_OFFLINE}}
    out = io.BytesIO()
    try:
        with (
            signer,
            c2pa.Context.from_dict(settings) as context,
            c2pa.Builder(json.dumps(manifest), context) as builder,
        ):
            builder.sign(signer, MIME[kind], io.BytesIO(data), out)
    except c2pa.C2paError as error:
        raise _cannot(chain, f"cannot sign ({error})") from error
    return out.getvalue()


def sign_own(data: bytes, kind: str) -> bytes:
    """Return an image signed with this installation's own key; as it is, with a warning, where it cannot be signed.

    For images that are made beside other work, which a signature that fails must not end.
    """
    try:
        path = str(own_key())
        return sign(data, kind, path, path)
    except OSError as error:
        warn(f"an image is not signed: {own_key_path()} cannot be written ({error.strerror}).")
    except CommonArtError as error:
        warn(f"an image is not signed: {error.what}")
    return data


UNTRUSTED = "signingCredential.untrusted"  # of every signer nobody here vouches for: no sign that a file was changed


def read(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what an image's C2PA manifest says: {"state", "signer", "actions", "digital_source_types"}; None without one,
    or without the package.

    `state` is the library's own: Valid (whole, by a signer nobody here vouches for), Trusted (by this installation's own
    key), or Invalid; Unreadable where its bytes are no manifest. "problems" says why, for the last two.
    """
    if find_spec("c2pa") is None:
        return None
    import c2pa

    try:
        with c2pa.Context.from_dict(_reading()) as context, c2pa.Reader(str(path), context=context) as reader:
            store = json.loads(reader.json())
    except (c2pa.C2paError.ManifestNotFound, c2pa.C2paError.NotSupported):
        return None
    except (c2pa.C2paError, ValueError, OSError) as error:
        return {"state": "Unreadable", "signer": None, "actions": [], "problems": [str(error)]}
    active = store.get("manifests", {}).get(store.get("active_manifest"), {})
    signature = active.get("signature_info", {})
    actions = [
        action
        for assertion in active.get("assertions", ())
        if str(assertion.get("label", "")).startswith("c2pa.actions") and isinstance(assertion.get("data"), dict)
        for action in assertion["data"].get("actions", ())
        if isinstance(action, dict)
    ]
    found = {"state": store.get("validation_state"), "signer": signature.get("common_name") or signature.get("issuer")}
    found["actions"] = [action.get("action") for action in actions]
    if sources := sorted({str(action["digitalSourceType"]) for action in actions if "digitalSourceType" in action}):
        found["digital_source_types"] = sources
    if found["state"] == "Invalid":
        found["problems"] = sorted(
            {str(status.get("code")) for status in store.get("validation_status", ())} - {UNTRUSTED}
        )
    return found


def _reading() -> dict[str, Any]:
    """Return the settings of a reader: whom it trusts is this installation's own certificate, where it has one."""
    settings: dict[str, Any] = {"verify": _OFFLINE}
    try:
        certificates = _blocks(own_key_path().read_bytes(), b"CERTIFICATE")
    except OSError:
        return settings
    return {**settings, "trust": {"user_anchors": certificates[-1].decode()}} if certificates else settings


def _blocks(pem: bytes, kind: bytes) -> list[bytes]:
    """Return the blocks of a PEM file whose names end in `kind`."""
    return [found[0] for found in _PEM.finditer(pem) if found[1].endswith(kind)]


def _signer(chain: str, key: str) -> Any:
    files = []
    for path in (chain, key):
        try:
            files.append(Path(path).read_bytes())
        except OSError as error:
            what = f"--sign: {path} cannot be read ({error.strerror})."
            raise UsageError(what, FILES) from None
    if find_spec("c2pa") is None:
        what = "C2PA needs the package c2pa-python, which is not installed."
        raise CommonArtError(what, "Install it: uv sync; or pass --no-c2pa.")
    import c2pa

    private = _private_key(files[1], key)
    certificates = _certificates(files[0], chain, private, key)
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    # The library takes neither a file that holds both, nor a key as `openssl ecparam` and `openssl rsa` write it.
    pkcs8 = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        info = c2pa.C2paSignerInfo(alg=_algorithm(private, key), sign_cert=certificates, private_key=pkcs8, ta_url=None)
        return c2pa.Signer.from_info(info)
    except c2pa.C2paError as error:
        raise _cannot(chain, f"cannot sign ({error})") from error


def _private_key(pem: bytes, name: str) -> PrivateKeyTypes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(b"".join(_blocks(pem, b"PRIVATE KEY")[:1]), None)
    except TypeError as error:
        fix = f"Write it without one: openssl pkey -in {name} -out plain.pem."
        raise _cannot(name, "has a password", fix) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _cannot(name, "is not a PEM private key", FILES) from error


def _certificates(pem: bytes, name: str, private: PrivateKeyTypes, key: str) -> bytes:
    """Return the certificates of a PEM file. Raises CommonArtError where the first is not of this key, or not of this time."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    certificates = b"".join(_blocks(pem, b"CERTIFICATE"))
    try:
        first, *_ = x509.load_pem_x509_certificates(certificates)
        public_keys = {
            each.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for each in (first.public_key(), private.public_key())
        }
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _cannot(name, "is not a PEM certificate", FILES) from error
    if len(public_keys) > 1:
        fix = "Name the key that it was issued for; the signing certificate comes first in the chain."
        raise _cannot(name, f"starts with a certificate that {key} is not the key of", fix)
    now = datetime.now(UTC)
    if now > first.not_valid_after_utc:
        raise _cannot(name, f"expired on {first.not_valid_after_utc.date()}", "Sign with a renewed certificate.")
    if now < first.not_valid_before_utc:
        fix = "Check the clock of this machine, or sign with another certificate."
        raise _cannot(name, f"is not valid before {first.not_valid_before_utc.date()}", fix)
    return certificates


def _algorithm(key: PrivateKeyTypes, name: str) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {384: b"es384", 521: b"es512"}.get(key.key_size, b"es256")
    if isinstance(key, rsa.RSAPrivateKey):
        return b"ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    raise _cannot(name, "is a kind of key that C2PA does not support", "Use ECDSA, RSA or Ed25519.")


def _cannot(path: str, why: str, fix: str = CERTIFICATE) -> CommonArtError:
    if Path(path) == own_key_path():
        return CommonArtError(
            f"{path}, the C2PA key of this installation, {why}.",
            "Move it away, and the next call makes a new one; or pass --no-c2pa.",
        )
    return CommonArtError(f"--sign: {path} {why}.", fix)
