"""`commonart models`: the registry, with licences."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    role: Annotated[
        str | None,
        typer.Argument(
            metavar="[ROLE]",
            help="Role: caption, translate, text-encoder, autoencoder, transformer, vision-tower or clip.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object per line, with every field.")] = False,
) -> None:
    """List the models that --model knows, and their terms.

    Licences of the weights and of what they derive from, what the terms say of the outputs, and the languages; of a
    captioner with the lengths of captions that it is asked for, the usual one first.

    \b
    commonart models
    commonart models caption --json
    """
    from dataclasses import asdict

    import orjson

    from commonart.core.errors import UsageError
    from commonart.core.registry.catalogue import MODELS, ROLES

    if role is not None and role not in ROLES:
        raise UsageError(f"{role} is not a role.", f"Choose one of {', '.join(ROLES)}.")
    rows = [model for model in MODELS if role in (None, model.role)]
    if json:
        for model in rows:
            fields = {**asdict(model), "prompts": [prompt._asdict() for prompt in model.prompts]}
            print(orjson.dumps(fields).decode())
        return
    cells = [("NAME", "ROLE", "HUB", "LICENCE", "OUTPUTS", "LANGUAGES", "")]
    for model in rows:
        note = f"refused: {model.refused}" if model.refused else f"cannot run: {model.broken}" if model.broken else ""
        lengths = [[p.length for p in model.prompts if p.lang == lang] for lang in model.langs]
        langs = ", ".join(f"{lang} {'/'.join(each)}".rstrip() for lang, each in zip(model.langs, lengths, strict=True))
        hub = model.hub or "in the package"
        cells.append((model.name, model.role, hub, model.license, model.outputs, langs, note))
    widths = [max(len(row[i]) for row in cells) for i in range(6)]
    for row in cells:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[6]]).rstrip())
