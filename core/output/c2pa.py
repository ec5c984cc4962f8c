"""C2PA: a signed statement in an image that a trained model made it, and who says so.

The certificate is the user's own: a PEM chain, the signing certificate first, and its PEM private key. No time-stamp
server is asked, so nothing leaves the machine. Source: C2PA technical specification 2.1, sections 13 and 14.
"""

from __future__ import annotations

import io
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.output.metadata import TRAINED_ALGORITHMIC_MEDIA

MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def check(chain: str, key: str) -> None:
    """Sign a trial image. Raises UsageError for files that cannot be read, CommonArtError for what cannot sign."""
    from PIL import Image

    trial = io.BytesIO()
    Image.new("RGB", (8, 8)).save(trial, "PNG")
    sign(trial.getvalue(), "PNG", chain, key)


def sign(data: bytes, kind: str, chain: str, key: str) -> bytes:
    """Return the image `data` of Pillow's format `kind` with a signed C2PA manifest in it. Raises as `check` does."""
    signer = _signer(chain, key)
    import c2pa

    agent = {"name": "commonart"}
    created = {"action": "c2pa.created", "digitalSourceType": TRAINED_ALGORITHMIC_MEDIA, "softwareAgent": agent}
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [created]}}
    manifest = {"claim_generator_info": [agent], "assertions": [actions]}
    out = io.BytesIO()
    try:
        with signer, c2pa.Builder(json.dumps(manifest)) as builder:
            builder.sign(signer, MIME[kind], io.BytesIO(data), out)
    except c2pa.C2paError as error:
        raise _cannot(chain, error) from error
    return out.getvalue()


def read(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what an image's C2PA manifest says: {"state", "signer", "actions"}; None without one, or without the package.

    `state` is the library's own: Valid (whole, by a signer nobody here vouches for), Trusted, or Invalid.
    """
    if find_spec("c2pa") is None:
        return None
    import c2pa

    try:
        with c2pa.Reader(str(path)) as reader:
            store = json.loads(reader.json())
    except (c2pa.C2paError, ValueError, OSError):
        return None
    active = store.get("manifests", {}).get(store.get("active_manifest"), {})
    signature = active.get("signature_info", {})
    actions = [
        action.get("action")
        for assertion in active.get("assertions", ())
        if str(assertion.get("label", "")).startswith("c2pa.actions")
        for action in assertion.get("data", {}).get("actions", ())
    ]
    signer = signature.get("common_name") or signature.get("issuer")
    return {"state": store.get("validation_state"), "signer": signer, "actions": actions}


def _signer(chain: str, key: str) -> Any:
    files = []
    for path in (chain, key):
        try:
            files.append(Path(path).read_bytes())
        except OSError as error:
            what = f"--sign: {path} cannot be read ({error.strerror})."
            raise UsageError(what, "Name two PEM files: --sign CHAIN,KEY.") from None
    if find_spec("c2pa") is None:
        raise CommonArtError(
            "--sign needs the package c2pa-python, which is not installed.", "Install it: uv sync --extra c2pa."
        )
    import c2pa

    try:
        info = c2pa.C2paSignerInfo(alg=_algorithm(files[1], key), sign_cert=files[0], private_key=files[1], ta_url=None)
        return c2pa.Signer.from_info(info)
    except c2pa.C2paError as error:
        raise _cannot(chain, error) from error


def _algorithm(pem: bytes, name: str) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise CommonArtError(f"--sign: {name} is not a PEM private key without a password.", str(error)) from error
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {384: b"es384", 521: b"es512"}.get(key.key_size, b"es256")
    if isinstance(key, rsa.RSAPrivateKey):
        return b"ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return b"ed25519"
    raise CommonArtError(f"--sign: {name} is a kind of key that C2PA does not support.", "Use ECDSA, RSA or Ed25519.")


def _cannot(chain: str, error: Exception) -> CommonArtError:
    return CommonArtError(
        f"--sign: {chain} cannot sign ({error}).",
        "C2PA wants a certificate that a CA has issued for document signing or e-mail protection, with its key.",
    )
