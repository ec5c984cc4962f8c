"""data_summary_card.md: the public summary of training content, in the parts of the Commission's template of 2025-07-24.

Source: Explanatory Notice and Template for the Public Summary of Training Content, C(2025) 5235, annex; Article 53(1)(d) of
Regulation (EU) 2024/1689. What the manifests cannot know stays marked for the operator; nothing is guessed.
"""

from __future__ import annotations

from commonart.core.data.sources.named import HUB_SOURCES
from commonart.core.report.facts import Facts
from commonart.core.report.history import dated
from commonart.core.report.ledger import ModelUsed
from commonart.core.report.makers import in_words, written
from commonart.core.report.markdown import counts, escaped, license_name, license_names, many, table
from commonart.core.report.quantities import amount, power

NAME = "data_summary_card.md"
THRESHOLD = 1e23  # FLOP: the Commission's guidelines of 2025-07-18 on which models are general-purpose, paragraph 17
OPERATOR = "**[for the operator to state]**"
# Models of the registry that take any task in words; the others caption, or are made for one purpose.
GENERAL = (
    "phi3-vision", "phi3.5-vision", "phi3-medium", "phi4-multimodal", "qwen2-vl", "qwen2.5-vl-3b", "qwen3-vl", "qwen3-vl-4b",
    "qwen3-vl-8b", "swallow", "gemma",
)  # fmt: skip
# Of the sources by name that do not lie on the hub.
PAGES = {"coco2017": "https://cocodataset.org", "stair": "https://github.com/STAIR-Lab-CIT/STAIR-captions"}
OWN = ("scenes",)  # sources that this project generates, without a model


def _updated(facts: Facts) -> str:
    at, what = dated(facts.run, facts.observed[1])
    return f"{at[8:10]}/{at[5:7]}/{at[:4]} ({what}); of this text: {OPERATOR}" if at else OPERATOR


def is_owed(facts: Facts) -> str:
    """Return a sentence: whether the computed FLOP reach the threshold of the AI Act's guidelines."""
    if facts.flops is None:
        return "The FLOP of this training are not known, so that nothing is said here of the threshold of 10²³."
    share = facts.flops / THRESHOLD
    cost = f"This training took {power(facts.flops, 3)} FLOP (the trained model alone, forward and backward), "
    cost += f"{_part(share)} of 10²³"
    if any(model.role == "initial weights" for model in facts.models):
        cost += "; that of the weights it began from is not in it, and has to be added"
    if share >= 1:
        return f"{cost}: at or above the threshold from which a general-purpose model is presumed. The summary is owed."
    return f"{cost}: below the threshold from which a general-purpose model is presumed. The summary is voluntary."


def _part(share: float) -> str:
    return amount(share) if share >= 1e-3 else power(share)


def _summary_ja(facts: Facts) -> list[str]:
    """Say in Japanese what this is and the gist of it: the Commission's template is in English, and so are its fields."""
    share = f"（基準の {_part(facts.flops / THRESHOLD)} 倍）" if facts.flops else ""
    flops = f"{power(facts.flops, 3)} FLOP{share}" if facts.flops else "不明"
    return [
        "> EU AI 法 第53条1項(d) の学習内容の概要。欧州委員会の様式（1 一般情報、2 データの出所、3 データの処理）に従い、"
        "項目は英語で記す。要点：",
        f"> 作品 {facts.works:,} 点（{counts(license_names(facts.licenses), 4, '不明')}）、"
        f"出典 {counts(facts.sources, 4, '不明')}、学習の計算量 {flops}。"
        "基準は 10²³ FLOP で、これ以上なら汎用モデルと推定され、公開の義務がある。",
    ]


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
        f"**Last update:** {_updated(facts)}", "",
        f"> {is_owed(facts)}",
        *_summary_ja(facts),
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
    (first, last), undated = facts.observed, facts.untraced.get("observed", 0)
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
                ("Image", f"{image_range(facts.works)} ({facts.works:,})",
                 f"images under {counts(license_names(facts.licenses), 6)}"),
                ("Text", f"{text_range(words)} ({words:,} words)", f"their captions, by {counts(in_words(facts.makers), 6)}"),
            ],
        ),
        f"**Latest date of data acquisition/collection for model training:** {last[5:7]}/{last[:4]} (licences observed "
        f"{first[:10]} to {last[:10]}" + (f"; not stated for {many(undated, 'work')}" if undated else "") + ")" if last else
        f"**Latest date of data acquisition/collection for model training:** {OPERATOR}",
        "**Description of the linguistic characteristics of the overall training data:** captions: "
        f"{counts(facts.languages, 20) or 'none'}",
        f"**Other relevant characteristics of the overall training data:** sizes in pixels: {counts(facts.sizes, 6)}",
        "**Additional comments:** every work is listed in ATTRIBUTION", "",
    ]  # fmt: skip


def _sources(facts: Facts) -> list[str]:
    published = {name: count for name, count in facts.sources.items() if link_of(name)}
    drawn = {name: count for name, count in facts.sources.items() if name in OWN}
    # Folders and lists of works: no manifest says whose they are, or who brought them together.
    others = {name: count for name, count in facts.sources.items() if name not in published and name not in drawn}
    addressed = facts.works - facts.untraced.get("address", 0)
    writers = [model for model in facts.models if model.role in ("captioner", "translator")]
    general = [model for model in writers if model.name in GENERAL]
    narrow = [model for model in writers if model not in general]
    unknown = written(facts.makers, None)
    large = [
        f"- {escaped(name)}: {link_of(name)} ({count:,} works)"
        for name, count in published.items()
        if count > 0.03 * facts.works
    ]
    small = [f"{escaped(name)} {count:,}" for name, count in published.items() if count <= 0.03 * facts.works]
    return [
        "## 2. List of data sources", "",
        "### 2.1. Publicly available datasets",
        "**Have you used publicly available datasets to train the model?** "
        + ("Yes" if published else f"By the manifests: {counts(others, 20)}; whether these are publicly available: {OPERATOR}"
           if others else "No"),
        *(["**Modality(ies) of the content covered:** image, text", "**List of large publicly available datasets:**",
           *(large or ["none above 3 %"]),
           f"**General description of other publicly available datasets not listed above:** {', '.join(small) or 'none'}",
           f"**Additional comments:** periods of collection: {OPERATOR}"
           + (f"; whether these are publicly available, too: {counts(others, 20)}: {OPERATOR}" if others else "")]
          if published else []), "",
        "### 2.2. Private non-publicly available datasets obtained from third parties",
        "#### 2.2.1. Datasets commercially licensed by rightsholders or their representatives",
        "**Have you concluded transactional commercial licensing agreement(s) with rightsholder(s) or their "
        f"representatives?** {OPERATOR}", "",
        "#### 2.2.2. Private datasets obtained from other third parties",
        "**Have you obtained private datasets from other third parties (e.g. data intermediaries) not licensed as in 2.2.1?** "
        f"{OPERATOR}", "",
        "### 2.3. Data crawled and scraped from online sources",
        "**Were crawlers used by the provider or on their behalf?** "
        + (f"No crawler is part of `commonart`: it takes what lists, data sets and folders name. {addressed:,} of "
           f"{facts.works:,} works have an address on the web; whether a crawler found them: {OPERATOR}"
           if addressed else "No crawler is in the history of this data, and no work has an address on the web"),
        *([f"**Comprehensive description of the type of content and online sources crawled:** {OPERATOR}",
           "**Summary of the most relevant domain names crawled:** of the addresses of all works, crawled or not:",
           *_domains(facts)] if facts.hosts else []), "",
        "### 2.4. User data",
        "**Was data from user interactions with the AI model (e.g. prompts) used to train the model?** No stage of `commonart` "
        f"takes any; other use: {OPERATOR}",
        "**Was data collected from user interactions with the provider's other services/products used to train the model?** "
        f"{OPERATOR}", "",
        "### 2.5. Synthetic data",
        "**Was synthetic AI-generated data created by or on behalf of the provider to train the model?** "
        + ("Yes, captions" if writers else f"No generated captions are stated; {unknown:,} do not state who wrote them: {OPERATOR}"
           if unknown else "No"),
        *(["**Modality of the synthetic data:** text",
           "**General-purpose AI model(s) used to generate the synthetic data (if on the market):**"
           + ("" if general else f" none is known to be one: {OPERATOR}"), *map(_writer, general),
           "**Information about other AI models used to generate synthetic data:**"
           + (" see COMPONENTS.md" if narrow else " none"), *map(_writer, narrow)]
          if writers else []), "",
        "### 2.6. Other sources of data",
        "**Have data sources other than those described in Sections 2.1 to 2.5 been used to train the model?** "
        + (_yes(drawn) if drawn or not others else f"By the manifests: {counts(others, 20)}; whether these are data of the "
           f"provider's own, or belong in one of the sections above: {OPERATOR}"),
        *([f"**Narrative description of these data sources and the data:** {counts(drawn)}: images that this project's own "
           "generator draws by rule, without a model"
           + (f"; from folders or lists, {counts(others, 20)}: whose these are: {OPERATOR}" if others else "")] if drawn else []),
        "",
    ]  # fmt: skip


def _processing(facts: Facts) -> list[str]:
    policies = [
        f"`{row['stage']}` let pass {escaped(', '.join(map(license_name, row['settings'].get('allowed') or ())))} "
        f"(policy {escaped(str(row['settings'].get('policy')))})"
        for row in facts.history if row["settings"].get("policy")
    ]  # fmt: skip
    dropped = [f"{escaped(reason)} {count:,}" for row in facts.history for reason, count in row["dropped"].items()]
    taken = f"Licences were judged: {'; '.join(policies)}" if policies else "No policy on licences is in the history"
    persons = in_words([maker for maker in facts.makers if maker.generated is False])
    return [
        "## 3. Data processing aspects",
        "### 3.1. Respect of reservation of rights from text and data mining exception or limitation",
        "**Are you a Signatory to the Code of Practice for general-purpose AI models (TDM reservation commitments)?** "
        f"{OPERATOR}",
        f"**Measures implemented to respect reservations of rights from the TDM exception or limitation:** "
        f"{_opt_outs(facts)}. {taken}.",
        f"**Additional comments:** left out on the way: {', '.join(dropped) or 'nothing'}", "",
        "### 3.2. Removal of illegal content",
        f"**General description of measures taken:** no stage of `commonart` looks for illegal content; other measures: {OPERATOR}",
        "",
        "### 3.3. Other information (optional)",
        f"**Other relevant information about data processing aspects:** works without a stated author: {facts.unknown_authors:,}; "
        f"images under different licences: {facts.conflicting:,}; captions that people wrote: {counts(persons) or 'none'}; "
        "whether a work was in the training set is answered by `commonart lookup`", "",
    ]  # fmt: skip


def _opt_outs(facts: Facts) -> str:
    """What the history says of opt-out signals, and of how many works their sites were asked."""
    fetches = [row for row in facts.history if row["stage"] == "fetch"]
    if not facts.works - facts.untraced.get("address", 0):
        return "no work has an address on the web, so that no site could be asked for its reservations"
    if not fetches or not all(row["settings"].get("opt_outs") for row in fetches):
        return f"no note says that opt-out signals were obeyed: {OPERATOR}"
    refused = sum(
        count for row in fetches for reason, count in row["dropped"].items() if reason.partition(":")[0] == "opt_out"
    )
    return (
        "before `commonart fetch` downloads a file from a work's address, it asks for robots.txt, X-Robots-Tag and the TDM "
        f"Reservation Protocol, and obeys them and IPTC/PLUS reservations in files; works left out for these: {refused:,}. Of the "
        f"{facts.works:,} works here, {facts.downloaded:,} were downloaded so"
        + (
            f"; those that came inside a data set, or lay in a folder, were not asked about: {OPERATOR}"
            if facts.downloaded < facts.works
            else ""
        )
    )


def link_of(source: str) -> str:
    """Return the address of a published data set that a record names as its source, or ""."""
    if source.startswith("hf:"):
        return f"https://huggingface.co/datasets/{source[3:].partition('@')[0]}"
    if source in HUB_SOURCES:
        return f"https://huggingface.co/datasets/{HUB_SOURCES[source].repo}"
    return PAGES.get(source, "")


def _domains(facts: Facts) -> list[str]:
    return [f"- {escaped(host)}: {count:,}" for host, count in facts.hosts.items()]


def _writer(model: ModelUsed) -> str:
    where = f": {model.address}" if model.address.startswith("https://") else ""
    return f"- {escaped(model.name)} ({model.role}, {escaped(model.license) or 'licence not stated'}){where}"


def _yes(what: object) -> str:
    return "Yes" if what else "No"
