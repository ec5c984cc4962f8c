"""What generates behind the page: limits, errors, stops, and which images it shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_pipeline
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from commonart.core.errors import CommonArtError, UsageError
from commonart.core.generation.request import GenerationConfig, ModelSpec
from commonart.core.generation.session import Session
from commonart.core.generation.worker import GALLERY, GenerationWorker
from commonart.core.output import metadata


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tiny_pipeline.pipeline(tmp_path_factory.mktemp("model") / "tiny")
    return Session.open(ModelSpec(str(folder), device="cpu", precision="fp32"))


@pytest.fixture
def worker(session: Session, tmp_path: Path) -> GenerationWorker:
    for name in ("images", "cache"):
        (tmp_path / name).mkdir()
    return GenerationWorker(session, tmp_path / "images", tmp_path / "cache")


def generate(worker: GenerationWorker, prompt: str = "a", seed: int = 7, count: int = 1, report=None, **config) -> int:
    """How many images came."""
    settings = GenerationConfig(**{"steps": 2, **config})
    return len(list(worker.generate(prompt, settings, seed, count, "me", report or (lambda done, step: None))))


def test_images_come_with_their_settings_the_newest_first(worker: GenerationWorker) -> None:
    reported: list[tuple[int, int]] = []
    assert generate(worker, "赤い丸", count=2, report=lambda done, step: reported.append((done, step))) == 2
    assert reported == [(0, 0), (0, 1), (0, 2)]
    generate(worker, "b")
    assert [caption for _, caption in worker.gallery()] == ["b (seed 7)", "赤い丸 (seed 8)", "赤い丸 (seed 7)"]
    assert [settings["seed"] for settings in worker.images.values()] == [7, 8, 7]
    for file, _ in worker.gallery():
        assert metadata.read(file).synthetic and Path(file).parent == worker.cache
    generate(worker, "赤い丸", count=2)  # found in their files: the newest again
    assert len(worker.images) == len(list(worker.folder.iterdir())) == 3
    assert worker.gallery()[0][1] == "赤い丸 (seed 8)"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"prompt": ""}, "The prompt is empty"),
        ({"prompt": "a" * 5001}, "longer than 5,000"),
        ({"negative": "a" * 5001}, "longer than 5,000"),
        ({"seed": -5}, "Seed -5"),
        ({"count": 17}, "must be from 1 to 16"),
        ({"steps": 5000}, "--steps 5000"),
        ({"guidance": float("nan")}, "--guidance nan"),
        ({"size": "33"}, "multiples of 8"),
        ({"size": "128"}, "128x128 is too large for this page"),
        ({"aspect": "wide"}, "--aspect wide"),
    ],
)
def test_requests_that_cannot_be_met_are_sentences(worker: GenerationWorker, request_: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        generate(worker, **request_)
    assert error.value.fix and not list(worker.folder.iterdir()) and not worker.running


def test_a_stop_ends_its_own_browsers_generation_at_the_next_step(worker: GenerationWorker) -> None:
    def stop_others(done: int, step: int) -> None:
        worker.stop("somebody else")

    def stop(done: int, step: int) -> None:
        worker.stop("me")

    assert generate(worker, "a", report=stop_others) == 1
    assert generate(worker, "b", report=stop) == 0
    assert generate(worker, "c") == 1 and len(worker.images) == 2


def test_an_error_leaves_the_worker_ready(worker: GenerationWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args, **options):
        raise CommonArtError("The disk is full.", "Free some space.")

    with monkeypatch.context() as patch:
        patch.setattr(metadata, "save", broken)
        with pytest.raises(CommonArtError, match="disk is full"):
            generate(worker)
    assert generate(worker) == 1


def test_odd_files_in_the_folder_do_not_stop_the_page(worker: GenerationWorker) -> None:
    chunks = PngInfo()
    chunks.add_itxt("commonart", r'{"prompt": "\ud800", "seed": 1}')
    for name in ("a.png", b"\xff.png".decode("utf-8", "surrogateescape"), ".hidden.png", "b.txt"):
        Image.new("RGB", (8, 8)).save(worker.cache / "new.png", pnginfo=chunks)
        (worker.cache / "new.png").rename(worker.folder / name)
    (worker.folder / "damaged.png").write_bytes(b"not an image")
    for number in range(GALLERY + 3):
        Image.new("RGB", (8, 8)).save(worker.folder / f"{number:03d}.png")
    worker.find()
    assert len(worker.gallery()) <= GALLERY and all(name.endswith(".png") for name, _ in worker.gallery())
    worker.add(worker.folder / "a.png")
    assert worker.gallery()[0][1] == "? (seed 1)" and "damaged.png" not in worker.images
