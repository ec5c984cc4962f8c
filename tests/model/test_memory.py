"""What fits: the account of live tensors, what is chosen where memory is short, and 8 GB for commonart-beta."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_encoders
import tiny_pipeline
import torch
from live_tensors import account

from commonart.core.generation.components import locate
from commonart.core.generation.pipeline import Pipeline
from commonart.core.generation.request import GenerationConfig, ImageRequest, ModelSpec
from commonart.core.generation.session import Session
from commonart.core.model import memory, sampler
from commonart.core.model.autoencoder import TILE_ABOVE, Autoencoder
from commonart.core.model.config import PixArtConfig
from commonart.core.model.text_encoder import TextEncoder
from commonart.core.model.transformer import PixArt

MB, CPU = 1_000_000, torch.device("cpu")


def sdxl(dtype: torch.dtype) -> Autoencoder:
    """SDXL's autoencoder without its numbers."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        ).to(dtype)  # fmt: skip
    return Autoencoder(model.requires_grad_(False), torch.device("meta"), dtype, 4, 8, 0.13025, 0.0)


def test_the_account_adds_up_what_lives_at_the_same_time():
    def work():
        a = torch.empty(250_000)  # 1 MB
        b = a + 1
        del a
        c = b + 1  # a's room is free again: two live here
        view = c[:1000].view(10, 100)
        return b, c, view

    assert account(work) == 2 * MB
    layer = torch.nn.Linear(500, 500, bias=False)  # 1 MB, used twice
    x = torch.empty(500, 500)
    with torch.no_grad():
        assert account(lambda: layer(layer(x)), layer) == 3 * MB


def test_the_size_of_an_encoder_is_that_of_its_weights_once_loaded(tmp_path):
    tiny_encoders.llama(tmp_path, width=128)
    for quantize in (None, "quanto-int8"):
        loaded = TextEncoder.load(tmp_path, "fp32", quantize, device="cpu").model
        real = sum(p.numel() * p.element_size() for p in loaded.parameters())
        said = memory.encoder_bytes(tmp_path, torch.float32, quantize)
        assert quantize or said == real
    # 8 bits and one scale a row; embeddings and norms stay as they are.
    whole, small = (memory.encoder_bytes(tmp_path, torch.float32, q) for q in (None, "bnb-nf4"))
    assert small < 0.45 * whole


def test_four_bits_are_near_the_whole(tmp_path):
    tiny_encoders.llama(tmp_path, width=128)
    whole = TextEncoder.load(tmp_path, "fp32", device="cpu")
    four = TextEncoder.load(tmp_path, "fp32", "bnb-nf4", device="cpu")
    assert four.precision == "bnb-nf4/float32"
    a, b = whole.encode(["a red circle"])[0], four.encode(["a red circle"])[0]
    # Random weights have no outliers to keep and no structure to lose: 17 % here, less in trained models.
    assert 0.01 < float((a - b).norm() / a.norm()) < 0.3
    packed = four.model.layers[0].self_attn.q_proj.weight
    assert packed.dtype == torch.uint8 and packed.numel() == 128 * 128 // 2


@pytest.mark.parametrize(("room", "chosen"), [(1e12, None), (1.35, "quanto-int8"), (0.5, "bnb-nf4"), (0.0, "bnb-nf4")])
def test_short_memory_chooses_the_precision_and_says_it(tmp_path, monkeypatch, capsys, room, chosen):
    tiny_pipeline.pipeline(tmp_path / "tiny")
    half = memory.encoder_bytes(tmp_path / "tiny", torch.float32, "quanto-int8")
    monkeypatch.setattr(memory, "free", lambda device: memory.ROOM + (room if room > 1e6 else half * room))
    spec = ModelSpec(str(tmp_path / "tiny"), device="cpu", precision="fp32")
    engine = Pipeline.open(locate(spec), spec)
    assert engine.quantize == chosen
    assert ("--quantize none forbids it" in capsys.readouterr().err) == (chosen is not None)
    settings = Session(engine).settings(GenerationConfig())
    assert settings["precision"] == "float32" and settings.get("quantize") == chosen
    forced = Pipeline.open(locate(spec), replace(spec, quantize="none"))
    assert forced.text_encoder().precision == "float32"


def test_short_memory_decodes_in_tiles(monkeypatch):
    decoder = sdxl(torch.float32)
    for room, side in ((1e12, TILE_ABOVE), (2e9, 512), (1e6, 256)):
        monkeypatch.setattr(memory, "free", lambda device, room=room: room)
        assert memory.largest_side(decoder, (1024, 1024)) == side
    monkeypatch.setattr(memory, "free", lambda device: 2e9)
    assert memory.largest_side(decoder, (512, 512)) == TILE_ABOVE, "it fits as it is"


def test_the_decoders_rule_covers_what_the_account_finds():
    for side in (256, 512):
        decoder = sdxl(torch.float32)
        found = account(lambda d=decoder, s=side: d.decode(torch.empty(1, 4, s // 8, s // 8, device="meta")))
        rule = memory.DECODER * 256 * 4 * side * side
        assert found < rule < 1.5 * found


def test_the_text_encoder_is_gone_before_the_transformer_comes(tmp_path, monkeypatch):
    tiny_pipeline.pipeline(tmp_path / "tiny")
    spec = ModelSpec(str(tmp_path / "tiny"), device="cpu", precision="fp32")
    engine = Pipeline.open(locate(spec), spec, keep=False)
    seen = []
    load = PixArt.load

    def watched(*args, **options):
        seen.append(set(engine._loaded))
        return load(*args, **options)

    monkeypatch.setattr(PixArt, "load", watched)
    requests = [ImageRequest("a", 1), ImageRequest("b", 2), ImageRequest("c", 3)]
    list(engine.generate(requests, GenerationConfig(steps=2), batch=1))
    assert seen == [set()], "loaded once, into empty memory"
    assert not engine._loaded


GIB = 2**30
UNLIMITED = 9223372036854771712  # of a v1 group without a limit
V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "29 23 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs ro,mode=755\n"
    "33 29 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "35 29 0:31 {root} /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
)


def fake_root(root: Path, groups: str = "", mounts: str = "", meminfo: int = 64 * GIB, **files: dict[str, int | str]):
    """A / whose machine has `meminfo` bytes available; `files`: group folder (slashes as __) -> file -> value."""
    (root / "proc/self").mkdir(parents=True)
    if meminfo:
        (root / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {meminfo // 1024} kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text("22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n" + mounts)
    for group, values in files.items():
        folder = root / "sys/fs/cgroup" / group.replace("__", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in values.items():
            (folder / name).write_text(f"{value}\n")
    return root


def v2(limit: int | str, current: int, inactive: int = 0, high: int | str = "max") -> dict[str, int | str]:
    return {
        "memory.max": limit,
        "memory.high": high,
        "memory.current": current,
        "memory.stat": f"anon 5\ninactive_file {inactive}",
    }


def v1(limit: int, usage: int, inactive: int = 0) -> dict[str, int | str]:
    stat = f"inactive_file 1\ntotal_inactive_file {inactive}"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": usage, "memory.stat": stat}


JOB = "system.slice/slurmstepd.scope/job_7/step_0/user/task_1"
CASES = {
    "no cgroup": ({}, 64 * GIB),
    "v2, unlimited": ({"groups": "0::/a\n", "mounts": V2.format(root="/"), "a": v2("max", GIB)}, 64 * GIB),
    "v2, its page cache can be had back": (
        {"groups": "0::/a\n", "mounts": V2.format(root="/"), "a": v2(8 * GIB, 7 * GIB, inactive=2 * GIB)}, 3 * GIB,
    ),
    "v2, above memory.high it is slowed down": (
        {"groups": "0::/a\n", "mounts": V2.format(root="/"), "a": v2(8 * GIB, GIB, high=4 * GIB)}, 3 * GIB,
    ),
    "v2, the limit of a Slurm job above the task's own group": (
        {"groups": f"0::/{JOB}\n", "mounts": V2.format(root="/"),
         "system.slice__slurmstepd.scope__job_7": v2(16 * GIB, 6 * GIB), JOB.replace("/", "__"): v2("max", 5 * GIB)},
        10 * GIB,
    ),
    "v2, a container with a namespace of its own": (
        {"groups": "0::/\n", "mounts": V2.format(root="/"), "": v2(2 * GIB, GIB)}, GIB,
    ),
    "v2, a container that is told the machine's path": (
        {"groups": "0::/docker/abc\n", "mounts": V2.format(root="/docker/abc"), "": v2(2 * GIB, GIB)}, GIB,
    ),
    "v2, a group outside of what is mounted": (
        {"groups": "0::/../../b\n", "mounts": V2.format(root="/"), "": v2(2 * GIB, GIB)}, GIB,
    ),
    "v1, Slurm": (
        {"groups": "4:cpu:/x\n3:memory:/slurm/uid_0/job_7/step_0\n", "mounts": V1.format(root="/"),
         "memory__slurm__uid_0__job_7": v1(12 * GIB, 3 * GIB, inactive=GIB),
         "memory__slurm__uid_0__job_7__step_0": v1(UNLIMITED, 2 * GIB)},
        10 * GIB,
    ),
    "v1, a container": (
        {"groups": "3:memory:/docker/abc\n", "mounts": V1.format(root="/docker/abc"), "memory": v1(4 * GIB, GIB)}, 3 * GIB,
    ),
    "a group that has taken more than its limit": (
        {"groups": "0::/a\n", "mounts": V2.format(root="/"), "a": v2(GIB, 2 * GIB)}, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_free_memory_is_the_least_that_any_group_leaves(tmp_path, case):
    files, expected = CASES[case]
    assert memory.free(CPU, fake_root(tmp_path, **files)) == expected


def test_processes_that_train_together_share_what_is_free(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    files = {"groups": "0::/a\n", "mounts": V2.format(root="/"), "a": v2(8 * GIB, 0)}
    assert memory.free(CPU, fake_root(tmp_path, **files)) == 2 * GIB


def test_free_memory_without_proc_and_without_free_pages(tmp_path, monkeypatch):
    known = {"SC_PAGE_SIZE": 4096, "SC_AVPHYS_PAGES": 1000, "SC_PHYS_PAGES": 6000}

    def sysconf(name):
        if name not in known:
            raise ValueError("unrecognized configuration name")
        return known[name]

    monkeypatch.setattr(memory.os, "sysconf", sysconf)
    assert memory.free(CPU, tmp_path) == 4096 * 1000
    del known["SC_AVPHYS_PAGES"]  # macOS
    assert memory.free(CPU, tmp_path) == 4096 * 3000
    known.clear()
    assert memory.free(CPU, tmp_path) == float("inf")


def test_what_is_free_and_what_was_used():
    assert 0 < memory.free(CPU) < 1e15
    before = memory.peak(CPU)
    held = torch.ones(30_000_000)  # 120 MB
    assert memory.peak(CPU) >= before and memory.peak(CPU) > 120 * MB
    del held


@pytest.mark.slow
def test_8_gb_are_enough_for_commonart_beta_at_512_by_account(tmp_path):
    """Computed from shapes: no GPU of 8 GB has drawn this. Fused attention makes the real peak smaller."""
    from transformers import LlamaConfig, LlamaModel

    with torch.device("meta"):
        calm2 = LlamaModel(
            LlamaConfig(vocab_size=65024, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32)
        )
        net = PixArt(PixArtConfig(sample_size=64), initialize=False).bfloat16().requires_grad_(False)
    header = {name: {"dtype": "BF16", "shape": list(p.shape)} for name, p in calm2.named_parameters()}
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    encoder = memory.encoder_bytes(Path(tmp_path), torch.bfloat16, "bnb-nf4")
    assert 4.0e9 < encoder < 4.4e9 and memory.encoder_bytes(Path(tmp_path), torch.bfloat16) > 13e9
    text_BLT = torch.empty(300, 4096, device="meta", dtype=torch.bfloat16)
    noise = torch.empty(8, 4, 64, 64, device="meta")
    drawing = account(lambda: sampler.sample(net, noise, [text_BLT] * 8, text_BLT[:1], 1, 4.5), net)
    decoder = sdxl(torch.bfloat16)
    decoding = account(lambda: decoder.decode(torch.empty(1, 4, 64, 64, device="meta")), decoder.model)
    together = sum(p.numel() * p.element_size() for p in net.parameters()) + decoding
    print(f"encoder {encoder / 1e9:.2f}, drawing 8 {drawing / 1e9:.2f}, decoding {together / 1e9:.2f} GB")
    assert max(encoder + memory.ROOM, drawing + decoding, together) < 7e9
