"""The headers of tars: what tarfile says of the same bytes, and cuts."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from commonart.core.data.shards.tar import Member, header, headers

NAMES = ("a.json", "a.jpg", "deep/" * 30 + "b.jpg", "猫.json", "犬" * 80 + ".jpg", "c.txt")
KINDS = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]


def archive(kind: int, **said: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind, pax_headers={"comment": "of all"}) as tar:
        for n, name in enumerate(NAMES):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = 300 * n, said
            tar.addfile(info, io.BytesIO(bytes([n]) * 300 * n))
        for type, name in ((tarfile.DIRTYPE, "folder"), (tarfile.SYMTYPE, "link"), (tarfile.CHRTYPE, "device")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = type, "x" * 150
            tar.addfile(info)
        info = tarfile.TarInfo("last.jpg")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"last!"))
    return out.getvalue()


def by_tarfile(data: bytes) -> Iterator[Member]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for info in tar:
            yield Member(info.name, info.offset_data, info.size, info.isreg())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("said", [{}, {"mtime": "1.5", "note": "two\nlines = more"}])
def test_they_are_what_tarfile_says(kind: int, said: dict[str, str]) -> None:
    data = archive(kind, **said)
    found = list(headers(io.BytesIO(data)))
    assert found == list(by_tarfile(data)) and len(found) == len(NAMES) + 4
    assert data[found[-1].offset :][: found[-1].size] == b"last!"


def test_a_size_that_pax_says_holds() -> None:
    """Tars have it of files above 8 GiB; here of 300 bytes, with none in the old header."""
    record = b"12 size=300\n"
    own = tarfile.TarInfo("././@PaxHeader")
    own.type, own.size = tarfile.XHDTYPE, len(record)
    info = tarfile.TarInfo("big.jpg")
    tar = own.tobuf(tarfile.USTAR_FORMAT) + record + bytes(512 - len(record))
    tar += info.tobuf(tarfile.USTAR_FORMAT) + b"y" * 300 + bytes(212) + bytes(1024)
    assert list(headers(io.BytesIO(tar))) == [Member("big.jpg", 1536, 300, True)] == list(by_tarfile(tar))


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_is_an_error_unless_it_is_between_members_and_the_end_may_be_missing(kind: int) -> None:
    data = archive(kind)
    whole = list(headers(io.BytesIO(data)))
    body = data[: whole[-1].offset + 512]
    with pytest.raises(tarfile.TarError):
        list(headers(io.BytesIO(body)))
    assert list(headers(io.BytesIO(body), ended=False)) == whole
    for cut in (1, 300, 600, 1000, 1300):
        with pytest.raises(tarfile.TarError):
            list(headers(io.BytesIO(body[:-cut]), ended=False))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=120), st.integers(0, 8**12))
@example("k" * 100, 8**11 - 1)
@example("k" * 101, 8**11)
def test_a_header_is_what_tarfile_writes(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    assert header(name, size) == info.tobuf(tarfile.GNU_FORMAT)


def odd(size: int, kind: bytes = tarfile.REGTYPE, data: bytes = b"") -> bytes:
    """One header whose size is said in base 256, and its data."""
    info = tarfile.TarInfo("a.jpg")
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size.to_bytes(12, "big", signed=True) if size < 0 else b"%011o\0" % size
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    return bytes(block) + data + bytes(-len(data) % 512) + bytes(1024)


@pytest.mark.parametrize(
    "tar",
    [
        odd(-512), odd(-512, tarfile.XGLTYPE), odd(-1, tarfile.GNUTYPE_LONGNAME), odd(-1, tarfile.XHDTYPE),
        odd(1 << 20, tarfile.GNUTYPE_LONGNAME), odd(5000, tarfile.XHDTYPE, b"9" * 5000),
        odd(12, tarfile.XHDTYPE, b"12 size=x00\n")[:-1024] + odd(0), odd(3, tarfile.XHDTYPE, b"abc"),
    ],
)  # fmt: skip
def test_hostile_headers_are_an_error_and_end(tar: bytes) -> None:
    with pytest.raises(tarfile.TarError):
        list(headers(io.BytesIO(tar)))


def test_a_name_ends_at_its_zero_and_old_sparse_files_are_not_plain() -> None:
    name = b"long.jpg\0evil"
    (member,) = headers(io.BytesIO(odd(len(name), tarfile.GNUTYPE_LONGNAME, name)[:-1024] + odd(0)))
    assert member.name == "long.jpg"
    assert [each.plain for each in headers(io.BytesIO(odd(0, tarfile.GNUTYPE_SPARSE)))] == [False]
