"""Images inside parquet files and tars, here or on the hub, read by their addresses and by ranges.

An image inside a data set of the hub has the address `hf://datasets/OWNER/NAME@COMMIT/FILE#...`: of a parquet file
`COLUMN/ROW`, of a tar `OFFSET+SIZE`. One inside a parquet file here is `FILE.parquet#COLUMN/ROW`. Nothing is kept on disk.
HF_ENDPOINT, HF_TOKEN and the retries of the hub's client apply.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import IO, TYPE_CHECKING, Any

from commonart.core.data.record import Record
from commonart.core.data.sources.parquet import file_errors
from commonart.core.errors import CommonArtError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

SCHEME = "hf://"
BATCH = 32  # embedded images in memory at a time
READ_AHEAD = 4 << 20  # bytes of images that one request asks for
_LOCAL = ".parquet#"
_HTTP = ("httpx", "httpx2", "httpcore", "httpcore2")


def embedded_address(record: Record) -> str:
    """Return the address of a record's image inside a parquet file or a tar of the hub; "" where it is elsewhere."""
    if _LOCAL in str(record.get("image", "")):
        return str(record["image"])
    url = "" if record.get("image") else str(record.get("image_url", ""))
    return url if url.startswith(SCHEME) else ""


def set_embedded(record: Record, address: str) -> None:
    """Write where a data set of the hub holds an image; where the work itself is stays known, as its page if none is stated."""
    if record.get("image_url"):
        record.setdefault("source_url", record["image_url"])
    record["image_url"] = address


class EmbeddedImages:
    """Reads embedded images by their addresses; quick when they are asked for in the order of the rows."""

    def __init__(self) -> None:
        self._path = ""
        self._raw: IO[bytes] | None = None
        self._file: pq.ParquetFile | None = None
        self._lock = Lock()
        self._rows: dict[int, bytes] = {}  # of the last two batches
        self._batches: Iterator[tuple[int, list[bytes]]] | None = None
        self._next = 0  # the first row that `_batches` has not given
        self._end = 0  # the first row beyond its row group

    def read(self, address: str) -> bytes:
        """Return the bytes behind `FILE#COLUMN/ROW` or `FILE#OFFSET+SIZE`.

        Raises CommonArtError where the file cannot be read, ValueError for another address or an empty row.
        """
        remote = address.startswith(SCHEME)
        path, _, part = address.partition("#") if remote else address.rpartition("#")
        name = path.removeprefix(f"{SCHEME}datasets/").partition("@")[0] if remote else path
        fix = "Check the path, or download that file again."
        with self._lock, hub_errors(name) if remote else file_errors(path, "", fix):
            raw = self._turn_to(path)
            if "/" not in part:
                offset, _, size = part.partition("+")
                raw.seek(int(offset))
                return bytes(raw.read(int(size)))
            column, _, row = part.rpartition("/")
            return self._row(raw, column, int(row))

    def _turn_to(self, path: str) -> IO[bytes]:
        if path == self._path and self._raw is not None:
            return self._raw
        # Nothing of the file before may pass for the new one's where that cannot be opened.
        self._path, self._file, self._rows, self._batches = "", None, {}, None
        if self._raw is not None:
            self._raw.close()
        remote = path.startswith(SCHEME)
        self._raw = open_remote(path, READ_AHEAD) if remote else open(path, "rb")  # noqa: SIM115 - closed at the next one
        self._path = path
        return self._raw

    def _row(self, raw: IO[bytes], column: str, row: int) -> bytes:
        import pyarrow.parquet as pq

        if self._file is None:
            self._file = pq.ParquetFile(raw, pre_buffer=False, buffer_size=READ_AHEAD)
        while row not in self._rows:
            if self._batches is None or not self._next <= row < self._end:
                self._batches = self._batches_from(self._file, column, row)
            start, values = next(self._batches)
            recent = {n: data for n, data in self._rows.items() if n >= start - BATCH}
            self._rows = recent | dict(enumerate(values, start))
            self._next = start + len(values)
        data = self._rows[row]
        if not data:
            raise ValueError(f"row {row} holds no image")
        return data

    def _batches_from(self, file: pq.ParquetFile, column: str, row: int) -> Iterator[tuple[int, list[bytes]]]:
        """Batches of the row group that holds `row`."""
        metadata, start = file.metadata, 0
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            if row < start + count:
                break
            start += count
        else:
            raise ValueError(f"there is no row {row}")
        self._next, self._end = start, start + count
        return _read_group(file, column, group, start)


def _read_group(file: pq.ParquetFile, column: str, group: int, start: int) -> Iterator[tuple[int, list[bytes]]]:
    for batch in file.iter_batches(BATCH, row_groups=[group], columns=[column]):
        values = batch.column(0)
        for name in column.split(".")[1:]:
            values = values.field(name)
        yield start, values.to_pylist()
        start += len(batch)


def open_remote(address: str, block: int = 0) -> Any:
    """Open a file of the hub, read by ranges; `block` bytes ahead of what is asked for."""
    from huggingface_hub import HfFileSystem

    cache = "readahead" if block else "none"
    return HfFileSystem().open(address.removeprefix(SCHEME), "rb", block_size=block or 1 << 20, cache_type=cache)


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """Turn the errors of the client and the readers into sentences, in a block that reads the data set `repo`."""
    try:
        yield
    except CommonArtError:
        raise
    except Exception as error:
        import pyarrow as pa
        from huggingface_hub import constants, errors

        library = type(error).__module__.partition(".")[0]  # the hub's client uses one of several
        if isinstance(error, errors.GatedRepoError):
            what, fix = "is gated", f"Accept its terms at https://huggingface.co/datasets/{repo} and set HF_TOKEN."
        elif isinstance(error, errors.RevisionNotFoundError):
            what, fix = "has no such revision", "Check the part after the @."
        elif isinstance(error, errors.RepositoryNotFoundError | FileNotFoundError):
            what, fix = "is not a data set of the hub, or it is private", "Check the name, or set HF_TOKEN."
        elif isinstance(error, pa.ArrowException):
            what, fix = f"holds a damaged parquet file: {error}", "Tell its owner."
        elif isinstance(error, (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError)) or library in _HTTP:
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} did not answer"
            what, fix = f"cannot be read: {why} ({error})", "Run the same command again: it goes on where it stopped."
        else:
            raise
        raise CommonArtError(f"{repo} {what}.", fix) from None
