"""The own licences of photos at Flickr, for records whose data set makes one statement about all of its works.

    commonart fetch megalith-10m --flickr-key-file KEY --list | commonart license-filter --policy strict

Flickr is asked once for each photo (flickr.photos.getInfo), at the rate that its terms allow a key. Every answer is kept in
a database in the cache, so that a run that was interrupted, and tasks that share it, ask for nothing twice.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson

from commonart.core.data.download.client import DownloadClient
from commonart.core.data.download.limits import DownloadError, Limits
from commonart.core.data.download.request import Request
from commonart.core.data.drops import PassedOver
from commonart.core.data.files import cache_folder
from commonart.core.data.record import Record
from commonart.core.data.sources.attribution import set_license
from commonart.core.errors import CommonArtError, UsageError, reason

API = "https://api.flickr.com/services/rest/"
SECONDS_PER_QUERY = 1.0  # Flickr's terms: at most 3,600 queries an hour and key
BATCH = 60  # records that are asked for, and kept, together
ROUNDS = 5  # how often a photo is asked for while the service fails; the pause doubles from PAUSE seconds
PAUSE = 2.0
GONE = {1: "photo not found", 2: "no permission to see the photo"}  # codes of a failure that will stay
INVALID_KEY = 100
_PHOTO = re.compile(
    r"https?://(?:[\w-]+\.)*(?:static)?flickr\.com/(?:photos/[^/]+/|photo\.gne\?id=|(?:\d+/)+)(\d{5,})(?![0-9])",
    re.IGNORECASE,
)


class _Failed(Exception):
    """The service did not answer; it may do so later."""


def own_licenses(records: Iterable[Record], key_file: str, limits: Limits = Limits()) -> Iterator[Record]:  # noqa: B008
    """Return the records in their order, those of Flickr with the photo's own licence instead of their set's statement.

    A photo that Flickr no longer shows comes as `PassedOver`: nobody states its licence any more. `key_file` holds the key to
    Flickr's API and nothing else; requests are at least SECONDS_PER_QUERY apart.

    Raises:
        UsageError: the file holds no key, or Flickr does not accept it.
        CommonArtError: the service does not answer, or the cache cannot be used; answers so far are kept.
    """
    return _in_batches(iter(records), _read_key(key_file), key_file, limits)


def _in_batches(records: Iterator[Record], key: str, key_file: str, limits: Limits) -> Iterator[Record]:
    delay = max(limits.delay, SECONDS_PER_QUERY)
    # Its robots.txt speaks to crawlers of pages; whoever has a key is bound by the terms of the API.
    polite = replace(limits, delay=delay, per_host=4, max_bytes=1 << 20, opt_outs=False)
    with DownloadClient(polite) as client, _database() as database:
        service = _Service(client, key, key_file)
        while batch := list(islice(records, BATCH)):
            photos = {index: photo for index, record in enumerate(batch) if (photo := _photo_id(record))}
            answers = _answers(database, service, set(photos.values()))
            for index, record in enumerate(batch):
                yield _with_answer(record, *answers[photos[index]]) if index in photos else record


def _read_key(file: str) -> str:
    try:
        key = Path(file).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        what = f"--flickr-key-file {file} cannot be read: {reason(error)}."
        raise UsageError(what, "Name a file that holds the key.") from error
    if not re.fullmatch(r"[0-9a-f]{32}", key):
        raise UsageError(
            f"--flickr-key-file {file} does not hold a key of Flickr's API.",
            "A key has 32 hexadecimal digits: see https://www.flickr.com/services/api/misc.api_keys.html.",
        )
    return key


def _photo_id(record: Record) -> str:
    """The id of the photo that a record with a set's statement stands for; "" of any other record."""
    if isinstance(record, PassedOver) or record.get("license_basis") != "set":
        return ""
    matches = (_PHOTO.match(str(record.get(field, ""))) for field in ("source_url", "image_url", "fallback_url"))
    return next((match[1] for match in matches if match), "")


def _with_answer(record: Record, answer: Mapping[str, str], observed_at: str) -> Record:
    if "error" in answer:
        return PassedOver(record, "gone_from_flickr", answer["error"])
    record = {**record, **{k: answer[k] for k in ("title", "author", "author_url") if not record.get(k) and answer[k]}}
    set_license(record, answer["name"], answer["url"], observed_at, {"license": answer["license"]})
    return record


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    path = cache_folder() / "flickr.sqlite3"
    try:
        with suppress(OSError):  # connecting fails then, and says so
            path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as database:
            columns = "id INTEGER PRIMARY KEY, answer TEXT, observed_at TEXT"
            database.execute(f"CREATE TABLE IF NOT EXISTS photos ({columns})")
            yield database
    except sqlite3.Error as error:
        raise CommonArtError(
            f"{path}, which keeps Flickr's answers, cannot be used: {error}.",
            "Free space there or remove that file, or set XDG_CACHE_HOME to a folder that can be written.",
        ) from error


def _answers(database: sqlite3.Connection, service: _Service, photos: set[str]) -> dict[str, tuple[Any, str]]:
    """The answer about each photo, and when it was given; what is not in the database is asked for."""
    known = _known(database, photos)
    if missing := photos - known.keys():
        _begin(database)  # one process asks at a time: the rate is that of the key
        try:
            known |= _known(database, missing)
            for photo, answer in service.ask(sorted(missing - known.keys())):
                now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                row = (int(photo), orjson.dumps(answer).decode(), now)
                database.execute("INSERT INTO photos VALUES (?, ?, ?)", row)
                known[photo] = (answer, now)
        finally:
            database.execute("COMMIT")
    return known


def _known(database: sqlite3.Connection, photos: Iterable[str]) -> dict[str, tuple[Any, str]]:
    rows = (database.execute("SELECT id, answer, observed_at FROM photos WHERE id = ?", (int(p),)) for p in photos)
    return {str(row[0]): (orjson.loads(row[1]), row[2]) for found in rows for row in found}


def _begin(database: sqlite3.Connection) -> None:
    while True:
        try:
            database.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise


class _Service:
    """Flickr's API by one key."""

    def __init__(self, client: DownloadClient, key: str, key_file: str) -> None:
        self._client, self._key, self._key_file = client, key, key_file
        self._licenses: dict[str, tuple[str, str]] = {}

    def ask(self, photos: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield each photo with what Flickr says of it. Raises UsageError and CommonArtError, as `own_licenses`."""
        problem = ""
        for attempt in range(ROUNDS):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            failed: list[str] = []
            try:
                if photos and not self._licenses:
                    self._licenses = self._license_names()
                pending = [(photo, self._submit("flickr.photos.getInfo", photo_id=photo)) for photo in photos]
            except _Failed as error:
                problem = str(error)
                continue
            for photo, download in pending:
                try:
                    yield photo, self._photo(self._result(download))
                except _Failed as error:
                    problem = str(error)
                    failed.append(photo)
            photos = failed
            if not photos:
                return
        raise CommonArtError(
            f"Flickr's API does not answer: {problem}.",
            "Run the same command again later: what it has answered is kept.",
        )

    def _license_names(self) -> dict[str, tuple[str, str]]:
        answer = self._result(self._submit("flickr.photos.licenses.getInfo"))
        try:
            rows = answer["licenses"]["license"]
            return {str(row["id"]): (str(row["name"]), str(row.get("url") or "")) for row in rows}
        except (KeyError, TypeError, AttributeError):
            raise _Failed("its list of licences has another form") from None

    def _photo(self, answer: dict[str, Any]) -> dict[str, str]:
        if "code" in answer:
            return {"error": GONE[answer["code"]]}
        try:
            photo, owner = answer["photo"], answer["photo"].get("owner") or {}
            number = str(photo["license"])
            title = str((photo.get("title") or {}).get("_content") or "")
        except (KeyError, TypeError, AttributeError):
            raise _Failed("what it says of a photo has another form") from None
        name, url = self._licenses.get(number, ("", ""))
        author = str(owner.get("realname") or owner.get("username") or "")
        page = f"https://www.flickr.com/people/{owner['nsid']}/" if owner.get("nsid") else ""
        return {"license": number, "name": name, "url": url, "title": title, "author": author, "author_url": page}

    def _submit(self, method: str, **parameters: str) -> Request:
        query = {"method": method, "api_key": self._key, "format": "json", "nojsoncallback": "1", **parameters}
        return self._client.submit(f"{API}?{urlencode(query)}")

    def _result(self, download: Request) -> dict[str, Any]:
        """The object that Flickr answers; of a photo that is gone {"code": ...}."""
        try:
            answer = orjson.loads(download.result().data)
        except DownloadError as error:
            raise _Failed(f"{error.reason} {error.detail}".strip().replace(self._key, "KEY")) from None
        except orjson.JSONDecodeError:
            raise _Failed("what it sends is not JSON") from None
        if not isinstance(answer, dict):
            raise _Failed("what it sends is not an object")
        if answer.get("stat") == "ok":
            return answer
        if answer.get("code") in GONE:
            return {"code": answer["code"]}
        if answer.get("code") == INVALID_KEY:
            raise UsageError(
                f"Flickr does not accept the key in --flickr-key-file {self._key_file}.",
                "Look it up at https://www.flickr.com/services/apps/by/me.",
            )
        raise _Failed(f"{answer.get('message', 'an error')} (code {answer.get('code')})")
