"""spdx.json: the same bill of materials by SPDX 3.0.1, with its profiles for AI and for data sets, as JSON-LD.

    render(gather(Path("runs/512")))["@graph"]

Its date is that of the end of training, of shards alone the last one on which a licence of the works was observed: the clock
would make each document another one. Source: spdx.github.io/spdx-spec/v3.0.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from commonart.core.data.files import write_json
from commonart.core.report import scores
from commonart.core.report.croissant import description, step
from commonart.core.report.cyclonedx import identifier, packages, spdx_ids, version_of
from commonart.core.report.facts import Facts
from commonart.core.report.history import dated, iso_time
from commonart.core.report.ledger import UNDISCLOSED, ModelUsed
from commonart.core.report.makers import in_words

FILE = "spdx.json"
CONTEXT = "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"
CREATION = "_:creation"
UNDATED = "1970-01-01T00:00:00Z"
NO_LICENSE = "https://spdx.org/rdf/3.0.1/terms/ExpandedLicensing/NoAssertion"
LINKS = {"captioner": "generates", "translator": "generates", "initial weights": "descendantOf", "scorer": "usesTool",
         "audit reference": "usesTool"}  # fmt: skip

_OPERATORS = re.compile(r"(\s+(?:AND|OR)\s+|[()])")

Element = dict[str, Any]


def write(facts: Facts, folder: Path) -> None:
    """Write spdx.json into a folder."""
    write_json(folder / FILE, render(facts))


def render(facts: Facts) -> dict[str, Any]:
    """Return the document of a run, or of shards alone."""
    return _Document(facts).render()


class _Document:
    """The elements of one document, which are named by what they are."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.base = f"urn:uuid:{identifier(facts)}#"
        self.elements: dict[str, Element] = {}

    def render(self) -> dict[str, Any]:
        facts = self.facts
        self.add("SoftwareAgent", "commonart", name="commonart", description=f"version {version_of(facts)}")
        data = self.data()
        root = data if facts.run is None else self.model()
        for model in facts.models:
            self.link(model, self.model_used(model), root, data)
        if facts.run is not None:
            self.relate(root, "trainedOn", [data])
            self.relate(root, "dependsOn", [
                self.add("software_Package", f"package-{each['name']}", name=each["name"],
                         software_packageVersion=each["version"], software_packageUrl=each.get("purl"))
                for each in packages(facts)
            ])  # fmt: skip
        has_models = any(each["type"] == "ai_AIPackage" for each in self.elements.values())
        profiles = ["core", "software", "simpleLicensing", "dataset", *(["ai"] if has_models else [])]
        root_of = {"rootElement": [root], "profileConformance": profiles, "element": list(self.elements)}
        self.add("SpdxDocument", "document", name=f"Bill of materials of {facts.name}", **root_of)
        at, what = dated(facts.run, facts.observed[1])
        about = {
            "type": "CreationInfo", "@id": CREATION, "specVersion": "3.0.1", "created": iso_time(at) or UNDATED,
            "createdBy": [f"{self.base}commonart"],
            "comment": f"The time is {what}." if what else "When it was made is not known: 1970 stands for that.",
        }  # fmt: skip
        return {"@context": CONTEXT, "@graph": [about, *self.elements.values()]}

    def add(self, kind: str, fragment: str, **values: Any) -> str:
        """Add an element, unless it is there already, and return its identifier."""
        id = self.base + quote(fragment, safe="%@")
        filled = {key: value for key, value in values.items() if value not in (None, "", [])}
        self.elements.setdefault(id, {"type": kind, "spdxId": id, "creationInfo": CREATION, **filled})
        return id

    def relate(self, source: str, kind: str, targets: Iterable[str]) -> None:
        """Add a relationship, where it has targets."""
        name = f"{kind}-{source.removeprefix(self.base)}"
        if found := list(dict.fromkeys(targets)):
            if (before := self.elements.get(self.base + quote(name, safe="%@"))) is not None:
                before["to"] = list(dict.fromkeys([*before["to"], *found]))
            else:
                self.add("Relationship", name, **{"from": source, "relationshipType": kind, "to": found})

    def licensed(self, source: str, names: Iterable[str]) -> None:
        """Say under which licences something is stated to be; what follows from that, nobody here concluded."""
        stated = sorted(map(_license, filter(None, names)))
        target = NO_LICENSE
        if stated:
            expression = " AND ".join(f"({each})" if " OR " in each and len(stated) > 1 else each for each in stated)
            target = self.add(
                "simplelicensing_LicenseExpression",
                f"license-{expression}",
                simplelicensing_licenseExpression=expression,
            )
        self.relate(source, "hasDeclaredLicense", [target])
        self.relate(source, "hasConcludedLicense", [NO_LICENSE])  # which the profiles for AI and data sets demand

    def data(self) -> str:
        facts = self.facts
        stages = [step(row) for row in facts.history if row["stage"] != "train"]
        counts = {
            "licence": facts.licenses,
            "source": facts.sources,
            "captions": in_words(facts.makers),
            "not stated": facts.untraced,
        }
        id = self.add(
            "dataset_DatasetPackage", "data",
            name=facts.name if facts.run is None else f"{facts.name}-data", description=description(facts),
            comment="\n".join(f"{kind} {name or 'not stated'}: {n:,}" for kind, each in counts.items() for name, n in each.items()),
            software_packageVersion=facts.digest[:16], software_primaryPurpose="data", dataset_datasetType=["image", "text"],
            dataset_datasetSize=facts.works, dataset_dataCollectionProcess=stages[0] if stages else "not recorded",
            dataset_dataPreprocessing=stages[1:], dataset_intendedUse="training of text-to-image models and of captioners",
            dataset_knownBias=["Not measured. Works under open licences are no sample of the world's pictures."],
            dataset_hasSensitivePersonalInformation="no" if set(facts.sources) <= {"scenes"} else "noAssertion",
            verifiedUsing=[{"type": "Hash", "algorithm": "sha256", "hashValue": facts.fingerprint,
                            "comment": "of the names and the SHA-256 of the shards, in their order"}],
        )  # fmt: skip
        self.licensed(id, facts.licenses)
        return id

    def model(self) -> str:
        facts, run = self.facts, self.facts.run or {}
        captioner = "captioner" in run
        shape = run.get("captioner" if captioner else "transformer") or {}
        energy = facts.energy_kwh
        spent = {
            "type": "ai_EnergyConsumptionDescription",
            "ai_energyQuantity": energy,
            "ai_energyUnit": "kilowattHour",
        }
        shown = {
            "stage": run.get("stage"),
            "objective": run.get("objective"),
            "seed": run.get("seed"),
            **run.get("recipe", {}),
        }
        trained = {"steps": facts.compute.get("step"), "images": facts.compute.get("images"), "seconds": facts.seconds,
                   "FLOP": facts.flops, "code": (run.get("code") or {}).get("commit")}  # fmt: skip
        id = self.add(
            "ai_AIPackage", "model",
            name=facts.name, software_packageVersion=f"step-{facts.compute.get('step')}", software_primaryPurpose="model",
            ai_typeOfModel=["captioner" if captioner else "diffusion transformer"],
            ai_domain=["image captioning" if captioner else "text-to-image"],
            ai_informationAboutTraining=", ".join(f"{name} {value}" for name, value in trained.items() if value is not None),
            ai_hyperparameter=_entries({**shown, "parameters": shape.get("parameters")}),
            ai_metric=_entries({f"{row.metric} ({row.prompts}, {row.lang}, n {row.images})": scores.number(row.value)
                                for row in scores.rows(facts)}),
            ai_limitation="Models that took part were trained on other data: see ai_informationAboutTraining of each.",
            ai_useSensitivePersonalInformation="no" if set(facts.sources) <= {"scenes"} else "noAssertion",
            ai_energyConsumption=None if energy is None else {
                "type": "ai_EnergyConsumption", "ai_trainingEnergyConsumption": [spent]},
        )  # fmt: skip
        self.licensed(id, [])  # which is for its publisher to state
        return id

    def model_used(self, model: ModelUsed) -> str:
        id = self.add(
            "ai_AIPackage", f"{model.role}-{model.name}@{model.revision}",
            name=model.name, summary=model.role, software_packageVersion=model.revision, software_primaryPurpose="model",
            software_downloadLocation=model.address if model.address.startswith("https://") else None,
            ai_informationAboutTraining=model.trained_on,
            comment=f"terms of what it writes: {model.terms}; trained on as stated by {model.source or UNDISCLOSED.english}",
        )  # fmt: skip
        self.licensed(id, [model.license])
        return id

    def link(self, model: ModelUsed, id: str, root: str, data: str) -> None:
        kind = LINKS.get(model.role, "dependsOn")
        if kind == "generates":
            self.relate(id, kind, [data])
        elif root != data:
            self.relate(root, kind, [id])


def _license(name: str) -> str:
    """Return a licence, or an expression of several, as SPDX writes it: what its list does not have is a LicenseRef."""
    parts = _OPERATORS.split(name)
    return "".join(part if n % 2 else _operand(part) for n, part in enumerate(parts))


def _operand(name: str) -> str:
    if not name or name in spdx_ids() or name.startswith("LicenseRef-"):
        return name
    return "LicenseRef-" + "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)


def _entries(values: Mapping[str, Any]) -> list[Element]:
    return [{"type": "DictionaryEntry", "key": key, "value": str(value)} for key, value in values.items()
            if value not in (None, "")]  # fmt: skip
