"""A captioner in training: what learns of it, its loss, and its inputs (LLaVA, arXiv 2304.08485, 2310.03744).

What is not trained stays as it came, in the precision of the matrix products; checkpoints hold what is trained.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from commonart.core.errors import CommonArtError
from commonart.core.model import weights
from commonart.core.model.device import autocast
from commonart.core.registry.catalogue import Prompt
from commonart.core.training.criterion import Losses

WEIGHTS = "model.safetensors"
IGNORED = -100  # label of a token that is not predicted


class CaptionModel(nn.Module):
    """What is trained of a LLaVA: the parts named in `trains`, "projector" or "projector+language_model"."""

    FOLDER = "captioner"  # of a checkpoint or a run

    def __init__(self, llava: LlavaForConditionalGeneration, trains: str) -> None:
        super().__init__()
        self.llava: Any = llava
        inner: Any = llava.model
        for module in llava.modules():  # nothing in a step is random, so that a resumed run is the same
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            for name in {"attention_dropout", "dropout"} & vars(module).keys():
                setattr(module, name, 0.0)
        llava.requires_grad_(False)
        inner.multi_modal_projector.requires_grad_(True)
        if "language_model" in trains:
            inner.language_model.requires_grad_(True)
            llava.lm_head.requires_grad_(True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, pixel_values: Tensor) -> Tensor:
        """Return the mean loss of each caption's tokens (B,), float32. Captions count alike, whatever their length."""
        states = self.llava.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False,
            pixel_values=pixel_values.to(self.llava.model.vision_tower.dtype),
        ).last_hidden_state  # fmt: skip
        target_BL = labels[:, 1:]
        taken_BL = target_BL != IGNORED
        # The vocabulary is wide: only where a token is predicted.
        logits_NV = self.llava.lm_head(states[:, :-1][taken_BL]).float()
        loss_N = F.cross_entropy(logits_NV, target_BL[taken_BL], reduction="none")
        loss_BL = torch.zeros_like(target_BL, dtype=loss_N.dtype).masked_scatter(taken_BL, loss_N)
        return loss_BL.sum(1) / taken_BL.sum(1)

    @property
    def transformer_blocks(self) -> Any:
        """The language model's blocks, which `--fsdp` cuts one by one."""
        return self.llava.model.language_model.layers

    @property
    def positions(self) -> int:
        """The longest sequence that the language model reads."""
        return int(getattr(self.llava.config.text_config, "max_position_embeddings", 1 << 30))

    @property
    def gradient_checkpointing(self) -> bool:
        return bool(self.llava.is_gradient_checkpointing)

    @gradient_checkpointing.setter
    def gradient_checkpointing(self, on: bool) -> None:
        if on:
            self.llava.gradient_checkpointing_enable({"use_reentrant": False})

    def counts(self) -> dict[str, int]:
        """Return the number of weights: in all, and trained."""
        parameters = list(self.parameters())
        return {
            "parameters": sum(p.numel() for p in parameters),
            "trained": sum(p.numel() for p in parameters if p.requires_grad),
        }

    def save(self, folder: Path, dtype: torch.dtype | None = None, state: Mapping[str, Tensor] | None = None) -> Path:
        """Write the trained weights, or those in `state`."""
        named = {name: p for name, p in self.named_parameters() if p.requires_grad} if state is None else state
        folder.mkdir(parents=True, exist_ok=True)
        weights.save({name: t.detach().to("cpu", dtype).contiguous() for name, t in named.items()}, folder / WEIGHTS)
        return folder

    @torch.no_grad()
    def load(self, folder: Path, partly: bool = False) -> None:
        """Take over what `save` wrote. `partly`: of a stage that trained less.

        Raises:
            CommonArtError: it is of another model.
        """
        state = load_file(folder / WEIGHTS)
        here = dict(self.named_parameters())
        lacking = [n for n, p in here.items() if p.requires_grad and n not in state and not partly]
        misfits = [n for n, t in state.items() if n not in here or here[n].shape != t.shape]
        if lacking or misfits:
            name = (lacking + misfits)[0].removeprefix("llava.")
            raise CommonArtError(
                f"{folder} does not fit these parts: {name} is missing or of another shape.",
                "Name the vision tower and the language model that it was trained with.",
            )
        for name, tensor in state.items():
            here[name].copy_(tensor)


class CaptionLoss:
    """Cross-entropy of a caption's tokens, its end included, after the image and the prompt."""

    def __init__(self, model: CaptionModel, dtype: torch.dtype, prompt_tokens: int) -> None:
        self.dtype = dtype
        llava = model.llava
        count = {name: sum(p.numel() for p in part.parameters()) for name, part in llava.model.named_children()}
        inner = count["language_model"] - llava.get_input_embeddings().weight.numel()
        head = llava.lm_head.weight.numel()
        image = llava.config.image_seq_length
        # Two operations a weight and token; a backward pass costs two forward ones, one where no weight is trained.
        passes = 3 if llava.lm_head.weight.requires_grad else 2
        self._image = 2.0 * image * (count["vision_tower"] + 3 * count["multi_modal_projector"])
        self._token, self._head, self._prompt = 2.0 * passes * inner, 2.0 * passes * head, image + prompt_tokens

    def __call__(
        self, model: Any, fetched: Mapping[str, Tensor], step: int, samples: slice, device: torch.device,
        progress: float = 0.0,
    ) -> Losses:  # fmt: skip
        inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in fetched.items()}
        with autocast(device, self.dtype):
            loss_B = model(**inputs)
        return Losses(loss_B, None, (inputs["labels"] != IGNORED).sum())

    def flops(self, tokens: float) -> float:
        return self._image + self._token * (self._prompt + tokens) + self._head * tokens


class CaptionInputs:
    """Images and captions as the tensors that `CaptionModel` takes, on the CPU. Threads may share one."""

    def __init__(
        self, processor: LlavaProcessor, prompts: Sequence[Prompt], max_tokens: int, positions: int = 1 << 30
    ) -> None:
        """Ask what `prompts` say. `max_tokens`: of a caption; `positions`: of all tokens together.

        Raises:
            CommonArtError: image and prompt leave no room for a caption.
        """
        self.processor: Any = processor
        blank = Image.new("RGB", (8, 8))
        # As the processor writes them when a captioner is asked: image tokens, and a start token where there is one.
        self.prompts: dict[tuple[str, str], list[int]] = {
            (p.lang, p.length): self.processor(text=p.texts[0], images=blank)["input_ids"][0] for p in prompts
        }
        longest = max(map(len, self.prompts.values()))
        self.max_tokens = min(max_tokens, positions - longest)
        if self.max_tokens < 2:
            raise CommonArtError(
                f"--language-model reads {positions} tokens, and image and prompt take {longest}.",
                "Choose one with a longer context, or a vision tower with fewer patches.",
            )

    def __call__(self, texts: Sequence[tuple[str, str, str]], images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Return the inputs of `texts`, each (language, length, caption), and their images."""
        tokenizer = self.processor.tokenizer
        rows, starts = [], []
        for lang, length, text in texts:
            prompt = self.prompts[lang, length]
            ids = tokenizer.encode(text, add_special_tokens=False)
            # One that is cut off has no end.
            ids = [*ids, tokenizer.eos_token_id] if len(ids) < self.max_tokens else ids[: self.max_tokens]
            rows.append(torch.tensor([*prompt, *ids]))
            starts.append(len(prompt))
        input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
        position_L, ends = torch.arange(input_ids.shape[1]), torch.tensor([len(row) for row in rows])
        mask = position_L < ends[:, None]
        said = mask & (position_L >= torch.tensor(starts)[:, None])
        pixels = self.processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        return {
            "input_ids": input_ids, "attention_mask": mask.long(), "pixel_values": pixels,
            "labels": input_ids.masked_fill(~said, IGNORED),
        }  # fmt: skip


def sentences(text: str) -> int:
    """Return the number of sentences of a caption."""
    return len([part for part in re.split(r"[。．！？!?]|\.(?:\s|$)", text) if part.strip()])
