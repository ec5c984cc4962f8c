"""What draws behind the page of `sample --serve`: one thread, a queue of jobs, and the pictures that it hands out.

atelier = GenerationWorker(studio, GenerationConfig(), Path("pictures")); threading.Thread(target=atelier.work).start()
atelier.jobs.put(Job("a red circle", GenerationConfig(), seed=1, n=2)); ...; atelier.close()
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commonart.core.errors import CommonArtError
from commonart.core.generation.prompts import Prompt
from commonart.core.generation.request import GenerationConfig, plan
from commonart.core.generation.session import Session
from commonart.core.log import warn
from commonart.core.output import metadata

WAITING = 32  # jobs in the queue; more are refused
TROUBLES = 5  # of the last errors are kept
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


class Stopped(Exception):
    """Somebody has stopped the drawing."""


@dataclass(frozen=True, slots=True)
class Job:
    prompt: str
    how: GenerationConfig
    seed: int
    n: int


@dataclass(slots=True)
class GenerationWorker:
    """Draws job after job. `pictures` are the names that may be handed out: nothing else of the folder is shown.

    Attributes:
        now: the job that is being drawn, `done` of its pictures and `step` of the steps of the next ones.
        troubles: what went wrong, in sentences, the oldest first.
        stop: ends the drawing that goes on, at its next step.
    """

    studio: Session
    folder: Path
    batch: int = 8
    ending: str = "png"
    jobs: queue.Queue[Job | None] = field(default_factory=lambda: queue.Queue(WAITING))
    now: Job | None = None
    done: int = 0
    step: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    troubles: deque[str] = field(default_factory=lambda: deque(maxlen=TROUBLES))
    pictures: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> settings, the oldest first

    def find(self, most: int) -> None:
        """Take the newest `most` pictures of the folder."""
        old = [p for p in self.folder.iterdir() if p.suffix.lower() in ENDINGS and not p.name.startswith(".")]
        for path in sorted(old, key=lambda p: p.stat().st_mtime_ns)[-most:]:
            self.add(path)

    def add(self, path: Path) -> None:
        """Take a picture, with what its marks say; one that is damaged, or whose name no page can write, is passed over."""
        try:
            path.name.encode()
            said = metadata.read(path).settings or {}
        except (CommonArtError, UnicodeEncodeError):
            return
        plain = {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in said.items()}
        self.pictures.pop(path.name, None)  # drawn again: it is the newest
        self.pictures[path.name] = plain

    def work(self) -> None:
        """Draw job after job, until None comes."""
        while (job := self.jobs.get()) is not None:
            self.stop.clear()
            self.now, self.done, self.step = job, 0, 0
            try:
                for path in self._draw(job):
                    self.add(path)
                    self.done += 1
            except Stopped:
                pass
            except CommonArtError as error:
                self.troubles.append(f"{job.prompt[:60]}: {error.what} {error.fix}")
            except Exception as error:  # a bug must not end the page; its text goes to the terminal, whole
                self.troubles.append(f"{job.prompt[:60]}: {type(error).__name__}: {error}")
                warn(f"drawing failed: {self.troubles[-1]}")
            finally:
                self.now = None

    def close(self) -> None:
        """Give up what goes on and what waits."""
        while not self.jobs.empty():
            self.jobs.get_nowait()
        self.jobs.put(None)
        self.stop.set()

    def _draw(self, job: Job) -> Iterator[Path]:
        shared = self.studio.shared(job.how)
        wanted = plan(
            [Prompt(job.prompt, {})], shared, seed=job.seed, n=job.n, out=f"{self.folder}/", ending=self.ending
        )
        for picture, _ in self.studio.draw(wanted, job.how, batch=self.batch, images=False, step=self._stepped):
            if picture.path is not None:
                yield picture.path

    def _stepped(self, number: int) -> None:
        self.step = number + 1
        if self.stop.is_set():
            raise Stopped
