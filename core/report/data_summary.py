"""data_summary_card.md: the public summary of training content, in the parts of the Commission's template of 2025-07-24.

Source: Explanatory Notice and Template for the Public Summary of Training Content, C(2025) 5235, annex; Article 53(1)(d) of
Regulation (EU) 2024/1689. What the manifests cannot know stays marked for the operator; nothing is guessed.
"""

from __future__ import annotations

from commonart.core.data.sources.named import HUB_SOURCES
from commonart.core.report.facts import Facts
from commonart.core.report.ledger import ModelUsed
from commonart.core.report.markdown import counts, escaped, table

NAME = "data_summary_card.md"
THRESHOLD = 1e23  # FLOP: the Commission's guidelines of 2025-07-18 on which models are general-purpose, paragraph 17
OPERATOR = "**[for the operator to state]**"
OWN = ("scenes",)  # sources that this project generates, without a model


def is_owed(facts: Facts) -> str:
    """Return a sentence: whether the computed FLOP reach the threshold of the AI Act's guidelines."""
    if facts.flops is None:
        return "The FLOP of this training are not known, so that nothing is said here of the threshold of 10^23."
    share = facts.flops / THRESHOLD
    own = f"This training took {facts.flops:.3g} FLOP (the trained model alone, forward and backward), {share:.2g} of 10^23"
    if any(model.role == "initial weights" for model in facts.models):
        own += "; that of the weights it began from is not in it, and has to be added"
    if share >= 1:
        return f"{own}: at or above the threshold from which a general-purpose model is presumed. The summary is owed."
    return f"{own}: below the threshold from which a general-purpose model is presumed. The summary is voluntary."


def image_range(works: int) -> str:
    """Return the template's range for a number of images."""
    if works < 1_000_000:
        return "Less than 1 million images"
    return "1 million to 1 billion images" if works <= 1_000_000_000 else "More than 1 billion images"


def text_range(words: int) -> str:
    """Return the template's range for a number of tokens, of which there are a few for each word at most."""
    return "Less than 1 billion tokens" if words < 250_000_000 else "1 billion to 10 trillion tokens"


def render(facts: Facts) -> str:
    """Return data_summary_card.md."""
    lines = [
        "# Template for the Public Summary of Training Content for General-Purpose AI models",
        "### required by Article 53(1)(d) of Regulation (EU) 2024/1689 (AI Act)", "",
        f"**Version of the Summary:** of the data with digest `{facts.digest[:16]}`",
        f"**Last update:** {OPERATOR}", "",
        f"> {is_owed(facts)}",
        f"> Fields with {OPERATOR} are not in any manifest. / {OPERATOR} の欄は記録にないため、公開者が記入する。", "",
        *_general(facts), *_sources(facts), *_processing(facts),
    ]  # fmt: skip
    apart = [
        text for line in lines for text in ((line, "") if line.startswith("**") else (line,))
    ]  # a paragraph a field
    return "\n".join(apart)


def _general(facts: Facts) -> list[str]:
    base = [f"{escaped(m.name)} ({escaped(m.revision)})" for m in facts.models if m.role == "initial weights"]
    words = sum(int(length) * count for length, count in facts.caption_words.items())
    first, last = facts.observed
    return [
        "## 1. General information",
        "### 1.1. Provider identification",
        f"**Provider name and contact details:** {OPERATOR}",
        f"**Authorised representative name and contact details:** {OPERATOR}", "",
        "### 1.2. Model identification",
        f"**Versioned model name(s):** {escaped(facts.name)}"
        + (f", step {facts.compute['step']:,}" if facts.run is not None else ""),
        f"**Model dependencies:** {', '.join(base) or 'none: it began from random weights'}; frozen parts in COMPONENTS.md",
        f"**Date of placement of the model on the Union market:** {OPERATOR}", "",
        "### 1.3. Modalities, overall training data size and other characteristics", "",
        *table(
            ("Modality", "Training data size", "Types of content"),
            [
                ("Image", f"{image_range(facts.works)} ({facts.works:,})", f"images under {counts(facts.licenses, 6)}"),
                ("Text", f"{text_range(words)} ({words:,} words)", f"captions of these images, by {counts(facts.captioners, 6)}"),
            ],
        ),
        f"**Latest date of data acquisition/collection for model training:** {last[5:7]}/{last[:4]} (licences observed "
        f"{first[:10]} to {last[:10]})" if last else
        f"**Latest date of data acquisition/collection for model training:** {OPERATOR}",
        "**Description of the linguistic characteristics of the overall training data:** captions: "
        f"{counts(facts.languages, 20) or 'none'}",
        f"**Other relevant characteristics of the overall training data:** sizes in pixels: {counts(facts.sizes, 6)}",
        "**Additional comments:** every work is listed in ATTRIBUTION", "",
    ]  # fmt: skip


def _sources(facts: Facts) -> list[str]:
    published = {name: count for name, count in facts.sources.items() if link_of(name)}
    own = {name: count for name, count in facts.sources.items() if name in OWN}
    crawled = {name: count for name, count in facts.sources.items() if name not in published and name not in own}
    writers = [model for model in facts.models if model.role in ("captioner", "translator")]
    large = [
        f"- {escaped(name)}: {link_of(name)} ({count:,} works)"
        for name, count in published.items()
        if count > 0.03 * facts.works
    ]
    small = [f"{escaped(name)} {count:,}" for name, count in published.items() if count <= 0.03 * facts.works]
    fetch = next((row for row in facts.history if row["stage"] == "fetch"), None)
    return [
        "## 2. List of data sources", "",
        "### 2.1. Publicly available datasets",
        f"**Have you used publicly available datasets to train the model?** {_yes(published)}",
        *(["**Modality(ies) of the content covered:** image, text", "**List of large publicly available datasets:**",
           *(large or ["none above 3 %"]),
           f"**General description of other publicly available datasets not listed above:** {', '.join(small) or 'none'}",
           f"**Additional comments:** periods of collection: {OPERATOR}"] if published else []), "",
        "### 2.2. Private non-publicly available datasets obtained from third parties",
        "#### 2.2.1. Datasets commercially licensed by rightsholders or their representatives",
        "**Have you concluded transactional commercial licensing agreement(s) with rightsholder(s) or their "
        f"representatives?** {OPERATOR}", "",
        "#### 2.2.2. Private datasets obtained from other third parties",
        "**Have you obtained private datasets from other third parties (e.g. data intermediaries) not licensed as in 2.2.1?** "
        f"{OPERATOR}", "",
        "### 2.3. Data crawled and scraped from online sources",
        "**Were crawlers used by the provider or on their behalf?** "
        + (f"Files were downloaded by `commonart fetch` from lists of works; whether those lists were crawled: {OPERATOR}"
           if crawled or (published and fetch is not None) else "No crawler is in the history of this data"),
        *([f"**Comprehensive description of the type of content and online sources crawled:** {counts(crawled, 20)}"]
          if crawled else []),
        *(["**Summary of the most relevant domain names crawled:**", *_domains(facts)] if facts.hosts else []), "",
        "### 2.4. User data",
        "**Was data from user interactions with the AI model (e.g. prompts) used to train the model?** No stage of `commonart` "
        f"takes any; other use: {OPERATOR}",
        "**Was data collected from user interactions with the provider's other services/products used to train the model?** "
        f"{OPERATOR}", "",
        "### 2.5. Synthetic data",
        "**Was synthetic AI-generated data created by or on behalf of the provider to train the model?** "
        + (f"{_yes(writers)}" + (", captions" if writers else "")),
        *(["**Modality of the synthetic data:** text",
           "**General-purpose AI model(s) used to generate the synthetic data (if on the market):**",
           *[_writer(model) for model in writers],
           "**Information about other AI models used to generate synthetic data:** all are in the list above, and in COMPONENTS.md"]
          if writers else []), "",
        "### 2.6. Other sources of data",
        f"**Have data sources other than those described in Sections 2.1 to 2.5 been used to train the model?** {_yes(own)}",
        *([f"**Narrative description of these data sources and the data:** {counts(own)}: images that this project's own "
           "generator draws by rule, without a model"] if own else []), "",
    ]  # fmt: skip


def _processing(facts: Facts) -> list[str]:
    fetches = [row for row in facts.history if row["stage"] == "fetch"]
    honoured = bool(fetches) and all(row["settings"].get("opt_outs") for row in fetches)
    policies = [
        f"`{row['stage']}` let pass {escaped(', '.join(row['settings'].get('allowed') or ()))} "
        f"(policy {escaped(str(row['settings'].get('policy')))})"
        for row in facts.history if row["settings"].get("policy")
    ]  # fmt: skip
    dropped = [f"{escaped(reason)} {count:,}" for row in facts.history for reason, count in row["dropped"].items()]
    opt_outs = (
        "robots.txt, X-Robots-Tag, TDM Reservation Protocol and IPTC/PLUS reservations were asked for before each download, and "
        "obeyed" if honoured else f"no note says that opt-out signals were obeyed: {OPERATOR}"
    )  # fmt: skip
    return [
        "## 3. Data processing aspects",
        "### 3.1. Respect of reservation of rights from text and data mining exception or limitation",
        "**Are you a Signatory to the Code of Practice for general-purpose AI models (TDM reservation commitments)?** "
        f"{OPERATOR}",
        f"**Measures implemented to respect reservations of rights from the TDM exception or limitation:** {opt_outs}. Only works "
        f"under named licences were taken: {'; '.join(policies) or 'no policy is in the history'}.",
        f"**Additional comments:** left out on the way: {', '.join(dropped) or 'nothing'}", "",
        "### 3.2. Removal of illegal content",
        f"**General description of measures taken:** no stage of `commonart` looks for illegal content; other measures: {OPERATOR}",
        "",
        "### 3.3. Other information (optional)",
        f"**Other relevant information about data processing aspects:** works without a stated author: {facts.unknown_authors:,}; "
        f"images under different licences: {facts.conflicting:,}; whether a work was in the training set is answered by "
        "`commonart lookup`", "",
    ]  # fmt: skip


def link_of(source: str) -> str:
    """Return the address of a published data set that a record names as its source, or ""."""
    if source.startswith("hf:"):
        return f"https://huggingface.co/datasets/{source[3:].partition('@')[0]}"
    if source in HUB_SOURCES:
        return f"https://huggingface.co/datasets/{HUB_SOURCES[source].repo}"
    return "https://cocodataset.org" if source == "coco2017" else ""


def _domains(facts: Facts) -> list[str]:
    return [f"- {escaped(host)}: {count:,}" for host, count in facts.hosts.items()]


def _writer(model: ModelUsed) -> str:
    where = f": {model.address}" if model.address.startswith("https://") else ""
    return f"- {escaped(model.name)} ({model.role}, {escaped(model.license) or 'licence not stated'}){where}"


def _yes(what: object) -> str:
    return "Yes" if what else "No"
