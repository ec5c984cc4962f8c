"""What generates behind the page of `commonart serve`: one request at a time, each stopped by its own browser."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.outputs import PlannedImage, plan
from commonart.core.generation.prompts import Prompt
from commonart.core.generation.request import MAX_SEED, GenerationConfig
from commonart.core.generation.session import Session
from commonart.core.output import metadata

GALLERY = 60  # images on the page, the newest first
MAX_IMAGES = 16  # of one request
MAX_CHARACTERS = 5000  # of a prompt
MAX_AREA = 4  # times the model's own area: a larger image would keep everybody waiting


Report = Callable[[int, int], Any]  # gets (finished images, finished steps)


class Stopped(Exception):
    """Somebody has stopped the generation."""


@dataclass(slots=True)
class GenerationWorker:
    """Generates for one request after another, and holds the images that the page shows."""

    session: Session
    folder: Path  # where images are written
    cache: Path  # where the page finds copies of those that it shows, and nothing else
    batch: int = 8
    ending: str = "png"
    images: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> settings; the oldest first
    running: dict[str, threading.Event] = field(default_factory=dict)  # a browser's session -> what stops it
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return self.session.generator.components.name

    def find(self) -> None:
        """Take the newest images of the folder."""
        files = [path for path in self.folder.glob("[!.]*") if path.suffix.lower() in metadata.FORMATS]
        for path in sorted(files, key=lambda path: path.stat().st_mtime_ns)[-GALLERY:]:
            self.add(path)

    def add(self, path: Path) -> None:
        """Take an image; one that is damaged, or whose name is not Unicode, is skipped."""
        try:
            path.name.encode()
            settings = metadata.read(path).settings or {}
        except (CommonArtError, UnicodeEncodeError):
            return
        shutil.copyfile(path, self.cache / path.name)
        text = json.dumps(settings, ensure_ascii=False).encode("utf-8", "replace")  # surrogates would break the page
        self.images.pop(path.name, None)  # generated again: it is the newest
        self.images[path.name] = json.loads(text)
        if len(self.images) > GALLERY:
            oldest = next(iter(self.images))
            del self.images[oldest]
            (self.cache / oldest).unlink()

    def gallery(self) -> list[tuple[str, str]]:
        """Return (file, caption) of the images, the newest first."""
        images = reversed(self.images.items())
        return [(str(self.cache / n), f"{s.get('prompt', n)} (seed {s.get('seed', '?')})") for n, s in images]

    def generate(
        self, prompt: str, config: GenerationConfig, seed: int, count: int, browser: str, report: Report
    ) -> Iterator[None]:
        """Generate images and add each as soon as it is written. Raises CommonArtError in a sentence for the page."""
        images = self._plan(prompt, config, seed, count)
        stop = self.running[browser] = threading.Event()
        done = 0

        def on_step(number: int) -> None:
            if stop.is_set():
                raise Stopped
            report(done, number + 1)

        try:
            with self.lock:
                report(0, 0)
                for image, _ in self.session.generate(images, config, batch=self.batch, reopen=False, on_step=on_step):
                    if image.path is not None:
                        self.add(image.path)
                    done += 1
                    yield
        except Stopped:
            pass
        finally:
            self.running.pop(browser, None)

    def stop(self, browser: str) -> None:
        """End the generation of one browser at its next step."""
        if browser in self.running:
            self.running[browser].set()

    def stop_all(self) -> None:
        """End every generation at its next step."""
        for event in list(self.running.values()):
            event.set()

    def _plan(self, prompt: str, config: GenerationConfig, seed: int, count: int) -> list[PlannedImage]:
        if not prompt:
            raise UsageError("The prompt is empty.", "Describe the image.")
        if max(len(prompt), len(config.negative)) > MAX_CHARACTERS:
            raise UsageError(f"The prompt is longer than {MAX_CHARACTERS:,} characters.", "Shorten it.")
        if not 0 <= seed <= MAX_SEED - MAX_IMAGES:
            raise UsageError(f"Seed {seed} must be from 0 to 2^62.", "For example 7.")
        if not 1 <= count <= MAX_IMAGES:
            raise UsageError(f"The number of images, {count}, must be from 1 to {MAX_IMAGES}.", "For example 4.")
        config.check()
        shared = self.session.settings(config)
        width, height = shared["width"], shared["height"]
        if width * height > MAX_AREA * self.session.generator.size**2:
            raise UsageError(f"{width}x{height} is too large for this page.", "Choose a smaller size.")
        return plan([Prompt(prompt, {})], shared, seed=seed, n=count, out=f"{self.folder}/", ending=self.ending)
