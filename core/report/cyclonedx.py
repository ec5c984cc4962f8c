"""cyclonedx.json: a machine-learning bill of materials, CycloneDX 1.6: the model, its data, and each model that took part.

    render(gather(Path("runs/512")))["components"]

It has no time stamp, and its serial number follows from the data, so that the same manifests give the same bytes.
Source: cyclonedx.org/docs/1.6/json.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from commonart.core.data.files import write_json
from commonart.core.licenses.table import known_licenses
from commonart.core.registry.catalogue import MODELS
from commonart.core.report import scores
from commonart.core.report.croissant import description, step
from commonart.core.report.facts import Facts
from commonart.core.report.ledger import ModelUsed
from commonart.core.report.makers import in_words

FILE = "cyclonedx.json"
MODEL, DATA = "model", "data"  # references of the two
OURS = "commonart"


def write(facts: Facts, folder: Path) -> None:
    """Write cyclonedx.json into a folder."""
    write_json(folder / FILE, render(facts))


def render(facts: Facts) -> dict[str, Any]:
    """Return the bill of materials of a run, or of shards alone."""
    models = {_ref(model): _model_used(model) for model in facts.models}
    libraries = list(packages(facts))
    subject, others = (_data(facts), []) if facts.run is None else (_trained(facts), [_data(facts)])
    writers = [_ref(model) for model in facts.models if model.role in ("captioner", "translator")]
    needed = [_ref(model) for model in facts.models if _ref(model) not in writers]
    links = {DATA: list(dict.fromkeys(writers))}
    if facts.run is not None:
        links |= {MODEL: list(dict.fromkeys([DATA, *needed, *(package["bom-ref"] for package in libraries)]))}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{identifier(facts)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": OURS, "version": version_of(facts)}]},
            "component": subject,
        },
        "components": [*others, *models.values(), *libraries],
        "dependencies": [{"ref": ref, "dependsOn": needs} for ref, needs in links.items()],
    }


def identifier(facts: Facts) -> uuid.UUID:
    """Return a number that is the same for the same works, shards and training."""
    trained = "" if facts.run is None else f"{facts.name} {facts.compute.get('step')} {facts.run.get('seed')}"
    return uuid.uuid5(uuid.NAMESPACE_URL, f"commonart {facts.digest} {facts.fingerprint} {trained}")


@cache
def spdx_ids() -> frozenset[str]:
    """Return the identifiers of the SPDX list that this project knows."""
    known = {license.id for license in known_licenses().values()} | {row.license for row in MODELS}
    return frozenset(id for id in known if id and not id.startswith("LicenseRef-"))


def version_of(facts: Facts) -> str:
    """Return the version of commonart that made the data, or trained the model."""
    versions = [str(row["version"]) for row in facts.history if row.get("version")]
    return versions[-1] if versions else "not recorded"


def _licenses(names: Iterable[str]) -> dict[str, Any]:
    """The field `licenses`, which must not be empty."""
    licenses, ids = [], spdx_ids()
    for name in filter(None, names):
        known = known_licenses().get(name.lower())
        address = {"url": known.url} if known is not None and known.url else {}
        licenses.append({"license": {"id" if name in ids else "name": name, **address}})
    return {"licenses": licenses} if licenses else {}


def _properties(values: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {"name": f"commonart:{name}", "value": str(value)} for name, value in values.items() if value not in (None, "")
    ]


def _trained(facts: Facts) -> dict[str, Any]:
    """The model of the run."""
    run = facts.run or {}
    captioner = "captioner" in run
    shape = run.get("captioner" if captioner else "transformer") or {}
    code = run.get("code") or {}
    metrics = [
        {
            "type": row.metric,
            "value": scores.number(row.value),
            "slice": f"{row.prompts}, {row.lang or 'no language'}, {row.images:,} images, judge {row.judge}",
            **({} if row.low is None or row.high is None else {
                "confidenceInterval": {"lowerBound": scores.number(row.low), "upperBound": scores.number(row.high)}
            }),
        }
        for row in scores.rows(facts)
    ]  # fmt: skip
    about = {
        "training-stage": run.get("stage"), "objective": run.get("objective"), "seed": run.get("seed"),
        "precision": run.get("precision"), "parameters": shape.get("parameters"), "code-commit": code.get("commit"),
        "code-modified": code.get("modified"), "steps": facts.compute.get("step"), "images-seen": facts.compute.get("images"),
        "seconds": facts.seconds, "flop": facts.flops, "energy-kwh": facts.energy_kwh, "energy-is": facts.compute.get("energy_is"),
        "audit": (facts.audit or {}).get("verdict"),
    }  # fmt: skip
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": facts.name,
        "version": f"step-{facts.compute.get('step')}",
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "image-to-text" if captioner else "text-to-image",
                "architectureFamily": "captioner" if captioner else "diffusion transformer",
                "modelArchitecture": str(shape.get("_class_name") or shape.get("class") or run.get("stage")),
                "datasets": [{"ref": DATA}],
                "inputs": [{"format": "image" if captioner else "text"}],
                "outputs": [{"format": "text" if captioner else "image"}],
            },
            **({"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}),
            "considerations": {
                "technicalLimitations": [
                    "Models that took part were trained on other data: see what each component says."
                ]
            },
        },
        "properties": _properties(about),
    }


def _data(facts: Facts) -> dict[str, Any]:
    """The data, whose owners are the authors of the works."""
    counts = {
        **{f"license:{name or 'not stated'}": number for name, number in facts.licenses.items()},
        **{f"source:{name or 'not stated'}": number for name, number in facts.sources.items()},
        **{f"captions:{name or 'not stated'}": number for name, number in in_words(facts.makers).items()},
        **{f"not-stated:{name}": number for name, number in facts.untraced.items()},
    }  # fmt: skip
    about = {"works": facts.works, "digest": facts.digest, "fingerprint": facts.fingerprint, **counts}
    return {
        "type": "data",
        "bom-ref": DATA,
        "name": facts.name if facts.run is None else f"{facts.name}-data",
        "version": facts.digest[:16],
        "description": description(facts),
        **_licenses(facts.licenses),
        "data": [
            {
                "type": "dataset",
                "name": "images with captions",
                "description": "; ".join(step(row) for row in facts.history if row["stage"] != "train"),
                "governance": {
                    "owners": [
                        {
                            "organization": {
                                "name": "The authors of the works: those that are known stand in ATTRIBUTION"
                            }
                        }
                    ],
                },
            }
        ],
        "properties": _properties(about),
    }


def _ref(model: ModelUsed) -> str:
    return f"{model.role}:{model.name}@{model.revision}".replace(" ", "-")


def _model_used(model: ModelUsed) -> dict[str, Any]:
    links = {"website": model.address, "documentation": model.source}
    references = [{"type": kind, "url": url} for kind, url in links.items() if url.startswith("https://")]
    return {
        "type": "machine-learning-model",
        "bom-ref": _ref(model),
        "name": model.name,
        **({"version": model.revision} if model.revision else {}),
        **_licenses([model.license]),
        **({"externalReferences": references} if references else {}),
        "modelCard": {
            "modelParameters": {
                "datasets": [
                    {"type": "dataset", "name": f"what {model.name} was trained on", "description": model.trained_on}
                ]
            }
        },
        "properties": _properties({"role": model.role, "terms-of-outputs": model.terms}),
    }


def packages(facts: Facts) -> Iterator[dict[str, Any]]:
    """Yield the Python packages whose versions the run kept."""
    for name, version in sorted(((facts.run or {}).get("versions") or {}).items()):
        package = {"type": "library", "bom-ref": f"library:{name}@{version}", "name": name, "version": str(version)}
        # This project is not on PyPI: an address there would be that of whoever registers its name.
        purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(str(version))}"
        yield package if name == OURS else {**package, "purl": purl}
