"""The audit's page says what mia.json says, in two languages, without help from outside and whatever the strings hold."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from PIL import Image

from commonart.core.audit import extraction, page, permutation, replication, table, verdict
from commonart.core.audit import page_cells as cells
from commonart.core.audit.extraction import Extracted
from commonart.core.audit.replication import Example
from commonart.core.metrics.image_set import ImageRef

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)> $\\frac{ 赤い丸"


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": max(0.0, value - 0.01), "high": value + 0.01}


def result(leak: float = 0.0, *, blind_differs: bool = False, text: str = "nano") -> dict:
    """What `mia` writes, of made-up scores through the real verdicts."""
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(size=160) for name in ("loss", "clid")}
    scores["loss"][:80] += leak
    labels = permutation.deal(80, 80, 199, seed=0)
    single = {"file_bytes": {"auc": interval(0.513), "p_value": 0.83}}
    blind = {
        "auc": interval(0.871 if blind_differs else 0.517), "p_value": 0.0012 if blind_differs else 0.743,
        "single": single, "groups_differ": blind_differs, "judge": text, "judge_revision": "r9",
    }  # fmt: skip
    measures = {"loss": rng.random((160, 2)), "null": rng.random((160, 2))}
    base = rng.normal(size=(300, 16))
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    copies = replication.compare(base[:9], base, range(9), (base[20:29][::-1], -base[20:29])).report()
    return json.loads(json.dumps({
        "schema": 2, "model": text, "revision": "sha256:4c24", "data": "shards/", "data_is_of_the_run": True,
        "question": "training set", "reference": {"model": text, "revision": "r2"}, "members": 80, "heldout": 80,
        "dropped": {"twin": 51}, **verdict.judge(scores, scores, blind, labels, seed=0),
        **({} if not leak else verdict.judge(scores, None, blind, labels, seed=0)),
        "curve": verdict.curve(measures, [250, 750], 80), "blind": blind,
        "memorised_prompts": {
            "fingerprint": "f", "size": 64, "prompts": 80, "heldout_prompts": 79, "threshold": 1.23457,
            "false_alarm_rate": 0.0125, "flagged": interval(0.334), "auc": interval(0.618),
            "flagged_prompts": [{"key": text, "prompt": text, "magnitude": 4.321}],
        },
        "replication": {"judge": text, "judge_revision": "r9", **copies, "steps": 20, "guidance": 4.5, "seed": 0},
        "extraction": {
            "seeds": 20, "clique": 8, "near": 0.15, "captions": 12, "heldout_captions": 12,
            "with_clique": interval(0.416), "heldout_with_clique": interval(0.083), "extracted": interval(0.417),
            "heldout_extracted": interval(0.002), "p_value": 0.0042, "verdict": "extracted", "steps": 20,
            "guidance": 4.5,
            "images": [{"key": text, "prompt": text, "clique": 19, "distance": 0.031, "extracted": True}],
        },
        "settings": {"seed": 0, "lang": None, "size": 64},
    }))  # fmt: skip


class Seen(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.said, self._skip = "", False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self._skip = tag in ("pre", "style")

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.said += data


def numbers(value: object, path: str = "") -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [found for name, inner in value.items() for found in numbers(inner, f"{path}.{name}")]
    if isinstance(value, list):
        return [found for i, inner in enumerate(value) for found in numbers(inner, f"{path}[{i}]")]
    return [(path, float(value))] if isinstance(value, int | float) and not isinstance(value, bool) else []


@pytest.mark.parametrize(
    ("made", "english", "japanese"),
    [
        (result(), "Verdict: no leak found.", "漏洩は見つかりませんでした。"),
        (result(1.5), "Verdict: leaks.", "学習画像を漏らしています"),
        (result(1.5, blind_differs=True), "Verdict: groups differ.", "モデルについては何も言えません"),
    ],
)
def test_the_verdict_stands_first_in_two_languages(made, english, japanese):
    said = Seen(page.build(made).html()).said
    assert said.index(english) < said.index("What was tested", said.index(english))
    assert japanese in said and made["reason"].partition(";")[0] in said
    for name, row in {**made["attacks"], "combined": made["combined"]}.items():
        shown = f"{row['auc']['value']:.3f} [{row['auc']['low']:.3f}, {row['auc']['high']:.3f}]"
        assert name in said and shown in said


def test_no_number_of_the_file_is_left_out():
    """Besides the curves' points, which are drawn, and what is folded away at the end."""
    made = result(1.5)
    said = Seen(page.build(made).html()).said.replace(",", "")
    left_out = []
    for path, value in numbers(made):
        if ".roc" in path or ".curve[" in path or path in (".schema", ".attacks.loss.carried_over.splits"):
            continue
        forms = {
            f"{value:.3f}",
            f"{value:.4g}",
            f"{value:g}",
            f"{value:.2%}",
            f"{100 * value:.0f}",
            f"{value:.4f}",
            f"{value:.3g}",
        }
        if not any(form in said for form in forms):
            left_out.append(path)
    allowed = (
        "accuracy",
        "by_chance",
        "confidence",
        "target.",
        "reference.",
        "splits",
        ".others",
        ".smallest_fpr",
        ".background.",
    )
    assert not [path for path in left_out if not any(part in path for part in allowed)], left_out
    whole = page.build(made).html()
    assert "&quot;smallest_auc_found&quot;" in whole, "the file itself stands at the end"


def test_what_was_not_run_is_said():
    made = result() | {
        "replication": None,
        "extraction": None,
        "memorised_prompts": None,
        "set_test": None,
        "reference": None,
    }
    said = Seen(page.build(made).html()).said
    assert said.count("Not run in this audit.") >= 3 and "fewer than 70 images" in said
    assert "Near copies: Not run in this audit." in said and "類似画像: この監査では実施していません。" in said


def test_works_in_question_are_no_training_images():
    """With --keys nobody knows yet whether they were trained on: neither the page nor the table calls them so."""
    made = result() | {"question": "keys of works.txt"}
    said, told = Seen(page.build(made).html()).said, table.text(made)
    for text in (said, told):
        assert "training captions" not in text and "training images" not in text.replace("like training images", "")
        assert "works in question" in text
    assert "Were these works in the model's training set?" in said and "学習画像のキャプション" not in said
    assert told.startswith("80 works in question, 80 held-out images")
    assert "80 members, 80 held-out images" in table.text(result())
    differ = table.text(result(1.5, blind_differs=True))
    assert "the set as a whole: no statement, as the groups differ" in differ
    small = table.text(made | {"set_test": None})
    assert "the set as a whole: not tested, which needs 70 images on either side" in small


def test_the_power_and_the_set_are_told_in_short():
    made = result()
    said = Seen(page.build(made).html()).said
    short = said[said.index("Verdict:") : said.index("What was tested", said.index("Verdict:"))]
    assert "four of five audits" in short and "五回に四回" in short and "as far below 0.5" in short
    least = min(row["smallest_auc_found"] for row in [*made["attacks"].values(), made["combined"]])
    assert f"{least:.3f}" in short and "four times in five" in made["reason"]
    assert f"p {made['set_test']['p_value']:.3f}" in short


def test_an_image_that_came_back_is_a_fact_whatever_the_rate():
    made = result(1.5)
    concluded = extraction.concluded((3, 4), (0, 4))
    made["extraction"] |= {"captions": 4, "heldout_captions": 4, "extracted": interval(0.75)} | concluded
    made["extraction"]["heldout_extracted"] = interval(0.0)
    said = Seen(page.build(made).html()).said
    assert "Verdict: extracted, rate uncertain (p 0.071)." in said and "取り出せた（割合は不確か）（p 0.071）" in said
    assert said.count("3 of 4 captions gave back their training image, and 0 of 4 held-out captions theirs") == 2
    made["memorised_prompts"]["flagged"] = interval(1 / 80)
    said = Seen(page.build(made).html()).said
    assert "The threshold would have stopped 1 of the 1 captions whose image was extracted." in said
    made["memorised_prompts"] |= {"flagged": interval(0.0), "flagged_prompts": []}
    assert "would have stopped 0 of the 1" in Seen(page.build(made).html()).said


def test_where_the_groups_differ_nothing_is_read_from_their_control():
    made = result(1.5, blind_differs=True)
    made["blind"]["single"]["caption_length"] = {"auc": interval(0.017), "p_value": 0.001}
    made["replication"]["verdict"] = "groups differ"
    html = page.build(made).html()
    said = Seen(html).said
    assert "What differs: caption length (smaller on the side of the training images, AUC 0.017)" in said
    assert "キャプションの長さ（学習画像のほうが小さい、AUC 0.017）" in said
    assert said.count("the held-out captions are no fair control") == 4, "near copies and prompts, in short and in full"
    assert "below 0.01 the verdict is a leak" not in said and "above the threshold. " not in said
    assert '<table class="soft"><caption>Not interpretable' in html and "<svg" not in html


def test_a_share_is_worth_nothing_where_the_area_may_be_one_half():
    made = result(1.5)
    assert "This share says nothing" not in Seen(page.build(made).html()).said
    made["memorised_prompts"]["auc"] = {"value": 0.462, "low": 0.373, "high": 0.554}
    said = Seen(page.build(made).html()).said
    assert said.count("This share says nothing: the AUC's interval, 0.462 [0.373, 0.554], holds 0.5.") == 2


def test_no_word_of_a_court_and_no_one_minus_p():
    for made in (result(), result(1.5), result(1.5, blind_differs=True)):
        said = Seen(page.build(made).html()).said
        assert not re.search("accuse|innocent|guilty|1 - p|複製|無罪", said)
        assert "legal judgement" in said and "法的な判断ではありません" in said
    assert (cells.percent(9 / 80), cells.percent(0.0), cells.percent(1.0)) == ("11.3 %", "0.0 %", "100.0 %")
    assert cells.share({"value": 9 / 80, "low": 0.0528, "high": 0.2028}) == "11.3 % [5.3 %, 20.3 %]"


def test_every_heading_of_a_table_is_in_both_languages():
    """But for symbols, names of attacks, and numbers."""
    html = page.build(result(1.5)).html()
    heads = [head for head in re.findall(r"<th[^>]*>(.*?)</th>", html) if head]
    plain = {"AUC [95 %]", "p", "95 %", "loss", "clid"}
    assert len(heads) > 30 and [head for head in heads if " / " not in head and head not in plain] == []
    assert cells.p(1.0) == "1.000" and cells.p(0.000041) == "4.1e-05" and "<td>1</td>" not in html


def test_the_points_of_the_curves_are_drawn_and_not_dumped():
    html = page.build(result(1.5)).html()
    assert "<details>" in html and "&quot;roc&quot;" not in html and "&quot;carried_over&quot;" in html


def test_hostile_strings_stay_text_and_nothing_is_asked_of_others(tmp_path):
    image = Image.new("RGB", (64, 64), "red")
    image.save(tmp_path / "a.png")

    def built(text: str) -> str:
        source = ImageRef(str(tmp_path / "a.png"), {"key": text, "author": text, "license": text})
        return page.build(
            result(text=text),
            [Example(text, source, image, source, 0.91, 0.92)],
            [Extracted(source, (image, image), text, 0.03)],
        ).html()

    plain, hostile = Seen(built("円")), Seen(built(HOSTILE))
    assert hostile.tags == plain.tags and HOSTILE in hostile.said
    assert all(address.startswith(("#", "data:image/webp;base64,")) for address in hostile.addresses)
    assert "script" not in {tag for tag, _ in hostile.tags} and "default-src 'none'" in built("x")
    for address in (a for a in hostile.addresses if a.startswith("#") and len(a) > 1):
        assert hostile.ids.count(address[1:]) == 1, address


def test_the_same_audit_gives_the_same_page():
    made = result()
    assert page.build(made).html() == page.build(copy.deepcopy(made)).html()


def test_in_a_browser_on_a_phone_in_the_dark(tmp_path: Path):
    image = Image.new("RGB", (64, 64), "red")
    image.save(tmp_path / "a.png")
    source = ImageRef(str(tmp_path / "a.png"), {"key": "k", "author": HOSTILE})
    page.build(result(1.5, text=HOSTILE), [Example(HOSTILE, source, image, source, 0.91, 0.92)]).write(
        tmp_path / "mia.html"
    )
    with Browser(tmp_path / "profile") as browser:
        metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        for command, params in (("setDeviceMetricsOverride", metrics), ("setEmulatedMedia", dark)):
            browser.call("POST", "/goog/cdp/execute", {"cmd": f"Emulation.{command}", "params": params})
        browser.requests()
        browser.open((tmp_path / "mia.html").as_uri())
        assert browser.script("return document.documentElement.scrollWidth") <= 390
        assert browser.script("return [...document.images].every(image => image.naturalWidth == 64)")
        color = "getComputedStyle(document.querySelector('.plot svg text')).fill"
        assert browser.script(f"return {color}") == browser.script("return getComputedStyle(document.body).color")
        assert browser.script("return document.querySelectorAll('.plot svg').length") == 2
        browser.script("document.querySelector('summary').focus()")
        browser.call("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": [
            {"type": "keyDown", "value": "\ue007"}, {"type": "keyUp", "value": "\ue007"},
        ]}]})  # fmt: skip
        assert browser.script("return document.querySelector('details').open"), "by keyboard"
        assert all(url.startswith(("file:", "data:")) for url in browser.requests())
