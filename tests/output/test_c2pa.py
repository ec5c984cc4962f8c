"""C2PA with a certificate of our own: signed, read back, and broken by one changed byte."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.output import c2pa, metadata

PEM = serialization.Encoding.PEM
PICTURE = Image.linear_gradient("L").resize((64, 64)).convert("RGB")


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(chain, key): a certificate for e-mail protection, issued by a CA made here."""
    return issued(tmp_path_factory.mktemp("pem"))


def issued(folder: Path, key: PrivateKeyTypes | None = None, days: tuple[int, int] = (-1, 30)) -> tuple[str, str]:
    """Write a chain and its key; the certificate is valid between these `days` from now."""
    now = datetime.datetime.now(datetime.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name(
            [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tests"), x509.NameAttribute(NameOID.COMMON_NAME, text)]
        )

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), key or ec.generate_private_key(ec.SECP256R1())
    first, last = (datetime.timedelta(days=each) for each in days)

    def certificate(subject: str, of: PrivateKeyTypes, ca: bool) -> x509.Certificate:
        made = (
            x509.CertificateBuilder()
            .subject_name(name(subject)).issuer_name(name("a CA")).public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + first).not_valid_after(now + last)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(of.public_key()), critical=False)
        )  # fmt: skip
        if not ca:
            made = made.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        return made.sign(ca_key, hashes.SHA256())

    chain = certificate("a painter", key, False).public_bytes(PEM) + certificate("a CA", ca_key, True).public_bytes(PEM)
    (folder / "chain.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(
        key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(folder / "chain.pem"), str(folder / "key.pem")


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_signed_picture_says_who_and_what_beside_its_other_marks(tmp_path: Path, pems, ending):
    def finish(data: bytes, kind: str) -> bytes:
        return c2pa.sign(data, kind, *pems)

    path = metadata.save(PICTURE, tmp_path / f"a.{ending}", settings={"prompt": "草原"}, finish=finish)
    said = c2pa.read(path)
    source = metadata.TRAINED_ALGORITHMIC_MEDIA
    about = {"signer": "a painter", "actions": ["c2pa.created"], "digital_source_types": [source]}
    assert said == {"state": "Valid", **about}
    assert b"trainedAlgorithmicMedia" in path.read_bytes()
    marks = metadata.read(path)
    assert marks.synthetic and marks.settings == {"prompt": "草原"}
    plain = metadata.save(PICTURE, tmp_path / f"plain.{ending}")
    assert c2pa.read(plain) is None


def test_a_changed_picture_is_no_longer_valid(tmp_path: Path, pems):
    path = metadata.save(PICTURE, tmp_path / "a.png", finish=lambda data, kind: c2pa.sign(data, kind, *pems))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"IDAT") + 40
    data[at] ^= 1
    path.write_bytes(data)
    said = c2pa.read(path)
    assert said is not None and said["state"] == "Invalid"


def test_what_cannot_sign_is_said_before_anything_is_drawn(tmp_path: Path, pems):
    c2pa.check(*pems)
    with pytest.raises(UsageError, match=r"none\.pem cannot be read"):
        c2pa.check(str(tmp_path / "none.pem"), pems[1])
    (tmp_path / "junk.pem").write_text("junk")
    with pytest.raises(CommonArtError, match="is not a PEM private key"):
        c2pa.check(pems[0], str(tmp_path / "junk.pem"))
    with pytest.raises(CommonArtError, match=r"junk\.pem is not a PEM certificate") as error:
        c2pa.check(str(tmp_path / "junk.pem"), pems[1])
    assert "--sign CHAIN,KEY" in error.value.fix


def test_why_a_certificate_does_not_fit(tmp_path: Path, pems):
    for days, why in (((-9, -2), "expired on "), ((2, 9), "is not valid before ")):
        (tmp_path / why).mkdir()
        chain, key = issued(tmp_path / why, days=days)
        day = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=-2 if days[1] < 0 else 2)).date()
        with pytest.raises(CommonArtError, match=rf"chain\.pem {why}{day}"):
            c2pa.check(chain, key)
    _, other = issued(tmp_path)
    with pytest.raises(CommonArtError, match=rf"starts with a certificate that {re.escape(other)} is not the key of"):
        c2pa.check(pems[0], other)
    locked = tmp_path / "locked.pem"
    private = serialization.load_pem_private_key(Path(pems[1]).read_bytes(), None)
    locked.write_bytes(
        private.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x"))
    )
    with pytest.raises(CommonArtError, match=r"locked\.pem has a password") as error:
        c2pa.check(pems[0], str(locked))
    assert error.value.fix == f"Write it without one: openssl pkey -in {locked} -out plain.pem."


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_a_key_as_openssl_writes_it_signs(tmp_path: Path, kind: str):
    """`openssl ecparam -genkey` writes its parameters first and SEC 1, `openssl rsa -traditional` PKCS 1."""
    made = ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
    chain, key = issued(tmp_path, made)
    old = serialization.PrivateFormat.TraditionalOpenSSL
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    pem = (parameters if kind == "ec" else b"") + made.private_bytes(PEM, old, serialization.NoEncryption())
    assert f"BEGIN {kind.upper()} PRIVATE KEY".encode() in pem
    Path(key).write_bytes(pem)
    path = metadata.save(PICTURE, tmp_path / "a.png", finish=lambda data, format: c2pa.sign(data, format, chain, key))
    said = c2pa.read(path)
    assert said is not None and (said["state"], said["signer"]) == ("Valid", "a painter")


def test_without_the_package_the_error_names_it(pems, monkeypatch):
    monkeypatch.setattr(c2pa, "find_spec", lambda name: None)
    with pytest.raises(CommonArtError, match="c2pa-python") as error:
        c2pa.check(*pems)
    assert "uv sync" in error.value.fix


def test_an_image_made_beside_other_work_is_signed_or_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    metadata.save(PICTURE, tmp_path / "a.png", finish=c2pa.sign_own)
    said = c2pa.read(tmp_path / "a.png")
    assert said is not None and said["state"] == "Trusted"
    assert said["digital_source_types"] == [metadata.TRAINED_ALGORITHMIC_MEDIA] and not capsys.readouterr().err
    (tmp_path / "data" / "commonart" / "c2pa.pem").write_text("no key")
    (tmp_path / "file").write_text("")
    for folder, why in (("data", "is not a PEM private key"), ("file", "cannot be written")):
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / folder))
        metadata.save(PICTURE, tmp_path / "a.png", overwrite=True, finish=c2pa.sign_own)
        error = capsys.readouterr().err
        assert "warning: an image is not signed: " in error and why in error
        assert c2pa.read(tmp_path / "a.png") is None and metadata.read(tmp_path / "a.png").synthetic
