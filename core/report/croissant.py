"""croissant.json: shards as a data set that other tools can load, by the vocabularies Croissant 1.1 and RAI 1.0.

    render(gather(None, Path("shards")))["distribution"][0]["sha256"]

Every tar is a file with its hash; images and records are the members of these tars. mlcroissant reads the images; it cannot yet
read JSON that lies in an archive, so that it loads the description of `records` and not their values. What only a publisher knows
(address, creator, date) is left out.

Sources: docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html and croissant-rai-spec.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from commonart.core.data.files import write_json
from commonart.core.data.shards.manifest import finished
from commonart.core.data.shards.reader import IMAGE_EXTENSIONS
from commonart.core.licenses.table import known_licenses
from commonart.core.report.facts import Facts
from commonart.core.report.limits import FIELDS as STATED
from commonart.core.report.limits import held_out, missing
from commonart.core.report.makers import in_words, written
from commonart.core.report.markdown import language_tag, many
from commonart.core.report.works import tars

FILE = "croissant.json"
CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
MIMES = {"jpg": "image/jpeg", "jpeg": "image/jpeg", "tif": "image/tiff"}  # others: image/EXTENSION
# The context of the specification's appendix; those of its terms that mlcroissant asks for are there, used or not.
CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/", "prov": "http://www.w3.org/ns/prov#", "conformsTo": "dct:conformsTo",
    **{name: f"cr:{name}" for name in (
        "annotation", "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "excludes", "extract", "field",
        "fileObject", "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
        "parentField", "path", "readLines", "recordSet", "references", "regex", "repeated", "replace", "samplingRate",
        "sdVersion", "separator", "source", "subField", "transform", "unArchive", "value",
    )},
    "data": {"@id": "cr:data", "@type": "@json"}, "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
}  # fmt: skip
# Fields of a record (core/data/record.py): name, type, what it is.
FIELDS = (
    ("key", "sc:Text", "Names the record, and its files in the tar."),
    ("image", "sc:Text", "Where its image lies: TAR#MEMBER."),
    ("sha256", "sc:Text", "SHA-256 of the original file."),
    ("shard_sha256", "sc:Text", "SHA-256 of the image in the tar."),
    ("title", "sc:Text", "Title of the work."),
    ("author", "sc:Text", "Author of the work."),
    ("author_url", "sc:URL", "Page of the author."),
    ("license", "sc:Text", "Licence of the work: an SPDX identifier or a LicenseRef."),
    ("license_url", "sc:URL", "Address of the licence, as the source stated it."),
    ("license_raw", "sc:Text", "The licence in the words of the source."),
    ("license_basis", "sc:Text", "What the statement is: licence, dedication, mark, statement, statute or set."),
    ("license_observed_at", "sc:DateTime", "When the source stated it."),
    ("source", "sc:Text", "Where the work was found."),
    ("source_id", "sc:Text", "What it is called there."),
    ("source_url", "sc:URL", "Page of the work."),
    ("image_url", "sc:URL", "Address from which it was downloaded."),
    ("width", "sc:Integer", "Pixels."),
    ("height", "sc:Integer", "Pixels."),
    ("mime", "sc:Text", "Media type of the image."),
    (
        "split",
        "sc:Text",
        "train or heldout, by a hash of the image. It decides, whatever split a loader calls the file: what is held out is "
        "not for training.",
    ),
    ("phash", "sc:Text", "Perceptual hash of the image."),
)
CAPTION_FIELDS = (
    ("text", "sc:Text", "The caption."),
    ("lang", "sc:Text", "Its language."),
    ("model", "sc:Text", "The model, or the people, that wrote it, as far as it is known."),
    ("revision", "sc:Text", "The version of that model."),
    ("license", "sc:Text", "Licence of that model."),
    ("synthetic", "sc:Boolean", "Whether a model wrote it."),
    ("translated_from", "sc:Text", "The model whose caption it translates."),
)
OTHER_STAGES = ("fetch", "caption", "translate", "train")  # which collect, annotate and use the data


def write(facts: Facts, folder: Path) -> None:
    """Write croissant.json into a folder."""
    write_json(folder / FILE, render(facts))


def render(facts: Facts) -> dict[str, Any]:
    """Return the description of a report's shards, as JSON-LD."""
    files, extensions = _files(facts)
    synthetic = ["synthetic captions"] if written(facts.makers, True) else []
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": facts.name if facts.run is None else f"{facts.name}-data",
        "description": description(facts),
        "version": f"1.0.0+{facts.fingerprint[:12]}",  # the same number for the same bytes
        "license": [_license(name, count) for name, count in facts.licenses.items() if name],
        "inLanguage": [*filter(None, map(language_tag, facts.languages))],
        "keywords": ["text-to-image", "image captioning", "openly licensed images", *synthetic],
        "isLiveDataset": False,
        "distribution": [
            *files,
            _members("image-files", files, [f"*.{each}" for each in extensions], [_mime(each) for each in extensions]),
            _members("record-files", files, ["*.json"], ["application/json"]),
        ],
        "recordSet": [_images(), _records()],
        "prov:wasDerivedFrom": [
            {"@type": "prov:Entity", "prov:label": f"{name or 'source not stated'}: {many(count, 'work')}"}
            for name, count in facts.sources.items()
        ],
        "prov:wasGeneratedBy": [
            {"@type": "prov:Activity", "prov:label": f"commonart {row['stage']}", "sc:description": step(row)}
            for row in facts.history
            if row["stage"] != "train"
        ],
        **{f"rai:{name}": value for name, value in _responsible(facts).items() if value},
    }  # fmt: skip


def loading(facts: Facts) -> dict[str, Any]:
    """Return what a Hugging Face dataset card says in its YAML so that `load_dataset` reads the shards of its folder.

    Records are JSON (datasets 4.7): of the types that it would infer from five records, a later one may have others.
    """
    _, extensions = _files(facts)
    several = len(facts.folders) > 1
    paths = [f"{folder.resolve().name}/*.tar" if several else "*.tar" for folder in facts.folders]
    columns = [
        *((name, "image") for name in extensions),
        ("json", "json"),
        ("__key__", "string"),
        ("__url__", "string"),
    ]
    return {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": paths}]}],
        "dataset_info": {"features": [{"name": name, "dtype": dtype} for name, dtype in columns]},
    }


def description(facts: Facts) -> str:
    """Return in a few sentences what the works are."""
    what = f"{many(facts.works, 'image')} with {many(sum(facts.languages.values()), 'caption')}"
    whose = f", those of these shards that the model {facts.name} was trained on" if facts.run is not None else ""
    lacking = [
        f"{many(facts.untraced[key], 'work')} without {STATED[key][0]}"
        for key in ("source", "author", "license") if facts.untraced.get(key)
    ]  # fmt: skip
    if unsigned := facts.captioners.get("", 0):
        lacking.append(f"{many(unsigned, 'caption')} without a writer")
    people, models = (written(facts.makers, generated) for generated in (False, True))
    by = f" Captions by people: {people:,}; by models: {models:,}." if people or models else ""
    return (
        f"{what}{whose}, as WebDataset shards.{by} A record names the source, the author and the licence of its work, and who "
        f"wrote each caption{', as far as these are known: ' + ', '.join(lacking) if lacking else ''}."
    )


def step(row: Mapping[str, Any]) -> str:
    """Return what a stage did, of a row of `Facts.history`: its counts, and its settings."""
    dropped = "".join(f"; {count:,} {reason}" for reason, count in row["dropped"].items())
    lost = f"; {row['lost']:,} lost before it" if row.get("lost") else ""
    settings = ", ".join(f"{name} {_plain(value)}" for name, value in row["settings"].items())
    return f"{row['stage']}: {row['in']:,} records in, {row['out']:,} out{dropped}{lost}" + (
        f" ({settings})" if settings else ""
    )


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "[" + ", ".join(f"{name} {_plain(each)}" for name, each in value.items()) + "]"
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, bool) or value is None or value == "":
        return str(value).lower() if isinstance(value, bool) else "none"
    return Path(value).name if isinstance(value, str) and value.startswith("/") else str(value)  # no paths of a machine


def _counts(counts: Mapping[str, int], what: str) -> str:
    return "; ".join(f"{name or 'not stated'}: {many(number, what)}" for name, number in counts.items())


def _files(facts: Facts) -> tuple[list[dict[str, Any]], list[str]]:
    """The tars, and the extensions that their images may have."""
    files, formats = list[dict[str, Any]](), set[str]()
    for name, path in tars(facts.folders):
        made = finished(path)
        formats.add(str(made.settings.get("format") or "") if made is not None else "")
        files.append({
            "@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name, "encodingFormat": "application/x-tar",
            "contentSize": f"{path.stat().st_size} B", "sha256": facts.hashes[path],
        })  # fmt: skip
    return files, sorted(formats) if all(formats) else list(IMAGE_EXTENSIONS)


def _mime(extension: str) -> str:
    return MIMES.get(extension, f"image/{extension}")


def _members(id: str, files: list[dict[str, Any]], globs: list[str], formats: list[str]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet", "@id": id, "name": id, "containedIn": [{"@id": file["@id"]} for file in files],
        "encodingFormat": list(dict.fromkeys(formats)), "includes": globs,
    }  # fmt: skip


def _license(name: str, count: int) -> dict[str, Any]:
    known = known_licenses().get(name.lower())
    address = {"url": known.url} if known is not None and known.url else {}
    return {"@type": "sc:CreativeWork", "name": name, **address, "description": many(count, "work")}


def _images() -> dict[str, Any]:
    def field(name: str, kind: str, extract: str, **more: Any) -> dict[str, Any]:
        source = {"fileSet": {"@id": "image-files"}, "extract": {"fileProperty": extract}, **more}
        return {"@type": "cr:Field", "@id": f"images/{name}", "name": name, "dataType": kind, "source": source}

    return {
        "@type": "cr:RecordSet", "@id": "images", "name": "images", "key": {"@id": "images/key"},
        "description": "The images. The record with the same key says whose work it is, and under which licence.",
        "field": [
            field("key", "sc:Text", "filename", transform={"regex": r"^(.+)\.[^.]+$"}),
            field("image", "sc:ImageObject", "content"),
        ],
    }  # fmt: skip


def _records() -> dict[str, Any]:
    def field(path: str, name: str, kind: str, text: str, id: str) -> dict[str, Any]:
        source = {"fileSet": {"@id": "record-files"}, "extract": {"jsonPath": path}}
        return {"@type": "cr:Field", "@id": id, "name": name, "description": text, "dataType": kind, "source": source}

    captions = {
        "@type": "cr:Field", "@id": "records/captions", "name": "captions", "repeated": True,
        "description": "What shows in the image, as models or people describe it.",
        "subField": [
            field(f"$.captions[*].{name}", name, kind, text, f"records/captions/{name}")
            for name, kind, text in CAPTION_FIELDS
        ],
    }  # fmt: skip
    opt_out = field("$.opt_out[*]", "opt_out", "sc:Text", "Opt-out signals that the source gave.", "records/opt_out")
    plain = [field(f"$.{name}", name, kind, text, f"records/{name}") for name, kind, text in FIELDS]
    return {
        "@type": "cr:RecordSet", "@id": "records", "name": "records", "key": {"@id": "records/key"},
        "description": "What is known of each image. A field that a record does not have is not known of its work.",
        "field": [*plain, {**opt_out, "repeated": True}, captions],
    }  # fmt: skip


def _responsible(facts: Facts) -> dict[str, Any]:
    """The vocabulary of responsible AI, as far as manifests can tell."""
    scenes, captions = set(facts.sources) <= {"scenes"}, sum(facts.languages.values())
    rows = {row["stage"]: row for row in facts.history}
    writers = [model for model in facts.models if model.role in ("captioner", "translator")]
    people, unsigned = written(facts.makers, False), facts.captioners.get("", 0)
    return {
        "dataCollection": " ".join(_collection(facts, scenes)),
        "dataCollectionType": ["Software Collection"] if scenes else ["Secondary Data analysis", "Software Collection"],
        "dataCollectionRawData": _counts(facts.sources, "work"),
        "dataCollectionMissingData": "; ".join(f"{missing(name)}: {many(n, 'work')}" for name, n in facts.untraced.items())
        or "Every work has a source, an author, an address, a licence and a hash.",
        "dataCollectionTimeframe": list(dict.fromkeys(filter(None, facts.observed))),
        "dataPreprocessingProtocol": [step(row) for row in facts.history if row["stage"] not in OTHER_STAGES],
        "dataManipulationProtocol": step(rows["shard"]) if "shard" in rows else "",
        "dataAnnotationProtocol": _counts(in_words(facts.makers), "caption"),
        "machineAnnotationTools": [
            f"{model.name}, {model.role}, revision {model.revision or 'not known'}, licence {model.license or 'not known'}, "
            f"terms of its outputs: {model.terms}; trained on: {model.trained_on}"
            for model in writers
        ],
        "annotationsPerItem": f"{captions / facts.works:.2f} captions on average, of which {people / facts.works:.2f} by people"
        + (f"; {unsigned:,} in all do not say who wrote them" if unsigned else "; each names who wrote it")
        if facts.works and captions
        else "",
        "dataBiases": ["Not measured. Works that were put under an open licence are no sample of the world's pictures."],
        "dataLimitations": list(_limitations(facts)),
        "dataUseCases": ["Training and evaluation of text-to-image models and of captioners."],
        "personalSensitiveInformation": [
            "Scenes that a generator draws: nobody is shown."
            if scenes
            else "Not searched for: photographs may show people. Authors are named, since licences ask for it."
        ],
        "dataReleaseMaintenancePlan": "`commonart lookup --remove` takes a work out, with everything that was computed of it, "
        "and keeps it from coming back; `commonart lookup --recheck` asks sources whether licences have changed.",
    }  # fmt: skip


def _collection(facts: Facts, scenes: bool) -> Iterator[str]:
    yield (
        "A generator drew the images."
        if scenes
        else "Images were gathered from the sources, with the licence that each states."
    )
    for row in facts.history:
        if row["stage"] == "license-filter":
            allowed = ", ".join(row["settings"].get("allowed", ())) or "not recorded"
            yield f"Kept by the policy {row['settings'].get('policy')}, which allows {allowed}: {row['out']:,} of {row['in']:,}."


def _limitations(facts: Facts) -> Iterator[str]:
    yield "Licences are those that the sources stated; whether whoever stated them had the right to do so was not examined."
    if facts.conflicting:
        yield f"Images that are in the data more than once, under different licences: {facts.conflicting:,}."
    if written(facts.makers, True):
        yield "Captions that models wrote may be wrong."
    for pair in held_out(facts):
        yield from pair
