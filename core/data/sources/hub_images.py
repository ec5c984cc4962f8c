"""Files of the hub, read by ranges through its own client, and the images that are embedded in them.

An image embedded in a data set has the address `hf://datasets/OWNER/NAME@COMMIT/FILE#...`: of a parquet file
`COLUMN/ROW`, of a tar `OFFSET+SIZE`. Nothing is kept on disk. HF_ENDPOINT, HF_TOKEN and the client's own retries hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from commonart.core.errors import CommonArtError

SCHEME = "hf://"
BATCH = 32  # embedded images in memory at a time
READ_AHEAD = 4 << 20  # bytes of images that one request asks for


class HubPixels:
    """Reads embedded images by their addresses; quick when they are asked for in the order of the rows."""

    def __init__(self) -> None:
        self._place = ""
        self._raw: Any = None
        self._file: Any = None
        self._lock = Lock()
        self._rows: dict[int, bytes] = {}  # of the last two batches
        self._batches: Iterator[tuple[int, list[bytes]]] | None = None
        self._next = 0  # the first row that `_batches` has not given
        self._end = 0  # the first row beyond its row group

    def read(self, url: str) -> bytes:
        """The bytes behind `hf://...#COLUMN/ROW` or `hf://...#OFFSET+SIZE`.

        Raises:
            CommonArtError: the data set cannot be read. ValueError: `url` is no such address, or its row is empty.
        """
        place, _, part = url.partition("#")
        with self._lock, hub_errors(place.removeprefix(f"{SCHEME}datasets/").partition("@")[0]):
            if "/" not in part:
                offset, _, size = part.partition("+")
                self._turn_to(place)
                self._raw.seek(int(offset))
                return bytes(self._raw.read(int(size)))
            column, _, row = part.rpartition("/")
            return self._row(place, column, int(row))

    def _turn_to(self, place: str) -> None:
        if place != self._place:
            # Nothing of the file before may pass for the new one's where that cannot be opened.
            self._place, self._file, self._rows, self._batches = "", None, {}, None
            if self._raw is not None:
                self._raw.close()
            self._raw = open_remote(place, READ_AHEAD)
            self._place = place

    def _row(self, place: str, column: str, row: int) -> bytes:
        import pyarrow.parquet as pq

        self._turn_to(place)
        if self._file is None:
            self._file = pq.ParquetFile(self._raw, pre_buffer=False, buffer_size=READ_AHEAD)
        while row not in self._rows:
            if self._batches is None or not self._next <= row < self._end:
                self._batches = self._from(column, row)
            start, values = next(self._batches)
            kept = {n: data for n, data in self._rows.items() if n >= start - BATCH}
            self._rows = kept | dict(enumerate(values, start))
            self._next = start + len(values)
        data = self._rows[row]
        if not data:
            raise ValueError(f"row {row} holds no image")
        return data

    def _from(self, column: str, row: int) -> Iterator[tuple[int, list[bytes]]]:
        """Batches of the row group that holds `row`."""
        metadata, start = self._file.metadata, 0
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            if row < start + count:
                break
            start += count
        else:
            raise ValueError(f"there is no row {row}")
        self._next, self._end = start, start + count
        return self._read(column, group, start)

    def _read(self, column: str, group: int, start: int) -> Iterator[tuple[int, list[bytes]]]:
        for batch in self._file.iter_batches(BATCH, row_groups=[group], columns=[column]):
            values = batch.column(0)
            for name in column.split(".")[1:]:
                values = values.field(name)
            yield start, values.to_pylist()
            start += len(batch)


def open_remote(place: str, block: int = 0) -> Any:
    """A file of the hub, read by ranges; `block` bytes ahead of what is asked for."""
    from huggingface_hub import HfFileSystem

    options = (
        {"cache_type": "readahead", "block_size": block} if block else {"cache_type": "none", "block_size": 1 << 20}
    )
    return HfFileSystem().open(place.removeprefix(SCHEME), "rb", **options)


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """The client's and the readers' errors as sentences: of a block that reads the data set `repo`."""
    try:
        yield
    except CommonArtError:
        raise
    except Exception as error:
        import pyarrow as pa
        from huggingface_hub import constants, errors

        if isinstance(error, errors.GatedRepoError):
            what, fix = "is gated", f"Accept its terms at https://huggingface.co/datasets/{repo} and set HF_TOKEN."
        elif isinstance(error, errors.RevisionNotFoundError):
            what, fix = "has no such revision", "Check the part after the @."
        elif isinstance(error, errors.RepositoryNotFoundError | FileNotFoundError):
            what, fix = "is not a data set of the hub, or it is private", "Check the name, or set HF_TOKEN."
        elif isinstance(error, pa.ArrowException):
            what, fix = f"holds a damaged parquet file: {error}", "Tell its owner."
        elif isinstance(error, (errors.HfHubHTTPError, errors.OfflineModeIsEnabled, OSError)) or _of_http(error):
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{constants.ENDPOINT} did not answer"
            what, fix = f"cannot be read: {why} ({error})", "Run the same command again: it goes on where it stopped."
        else:
            raise
        raise CommonArtError(f"{repo} {what}.", fix) from None


def _of_http(error: Exception) -> bool:
    """Whether an error comes from whichever HTTP library the hub's client uses."""
    return type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2")
