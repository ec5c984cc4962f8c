"""How the page looks, and the little that it does by script. The page can be read without the script, in both languages."""

from commonart.core.output.html import FONTS

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1c1c; --soft: #595959; --line: #d4d4d4; --mark: #1d5fa6;
  --wash: #f4f4f2 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161616; --ink: #e4e4e4; --soft: #a9a9a9; --line: #3d3d3d; --mark: #83b4ec; --wash: #202020 }
}
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem }
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 FONTS; overflow-wrap: break-word; line-break: strict }
h1, h2, h3 { line-height: 1.3; font-weight: 650; text-wrap: balance }
h1 { font-size: 1.75rem; margin: 0 0 1rem; overflow-wrap: anywhere } h2 { font-size: 1.3rem; margin: 0 0 .75rem }
h3 { font-size: 1rem; margin: 0 }
section { margin-top: 3rem; padding-top: 1.5rem; border-top: 1px solid var(--line) }
p, .measure { max-width: 42rem } p { margin: 0 0 .75rem }
.lead { font-size: 1.125rem }
.soft, figcaption, dt { color: var(--soft) } .small, figcaption { font-size: .875rem }
a { color: var(--mark); text-underline-offset: .15em } .whole { white-space: nowrap }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px }
.skip { position: absolute; left: -100rem }
.skip:focus { left: 1rem; top: 1rem; background: var(--paper); padding: .5rem 1rem }
header { display: flex; flex-wrap: wrap; justify-content: space-between; align-items: flex-start; gap: 0 2rem }
.kind { margin: 0; color: var(--soft) }
fieldset { border: 0; margin: 0 0 1rem; padding: 0; display: flex; gap: .25rem }
fieldset label { padding: .15rem .5rem; min-height: 1.75rem; border-bottom: 2px solid transparent; cursor: pointer }
fieldset input { position: absolute; opacity: 0; width: 1px; height: 1px }
fieldset input:checked + label { border-color: var(--mark) }
fieldset input:focus-visible + label { outline: 2px solid var(--mark) }
nav ul { list-style: none; margin: 1.5rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem }
nav a { display: inline-block; min-height: 1.75rem; text-decoration: none } nav a:hover { text-decoration: underline }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 2.25rem 3rem;
  margin: 1.5rem 0 }
figure { margin: 0; min-width: 0 } figcaption { margin: 0 0 .5rem }
.chart { color: var(--ink) } .chart svg { display: block; width: 100%; max-width: 28rem; height: auto }
.chart svg text { font-family: inherit !important; font-variant-numeric: tabular-nums }
.keys { list-style: none; margin: 0 0 .5rem; padding: 0; display: flex; flex-wrap: wrap; gap: 0 1.5rem; font-size: .875rem }
.keys svg { width: 2rem; height: .6rem; margin-right: .5rem }
.table { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; line-height: 1.4 }
caption { text-align: left; font-weight: 650; padding: .5rem 0 }
th, td { padding: .4rem 1.5rem .4rem 0; text-align: left; vertical-align: top; font-weight: inherit;
  border-bottom: 1px solid var(--line) }
thead th { color: var(--soft); font-size: .875rem; vertical-align: bottom; white-space: normal }
.n { text-align: right; white-space: nowrap } tr > :last-child { padding-right: 0 }
tr.why th, tr.why td { border: 0; padding-top: 0; padding-bottom: .25rem; color: var(--soft); font-size: .875rem }
tr.why th { padding-left: 1.25rem } tr.step th { min-width: 6.5rem } figure ~ p { margin-top: 1rem }
tr.step th, tr.step td { border-bottom: 0; border-top: 1px solid var(--line) }
tr.gap th, tr.gap td { padding-left: 0; padding-top: .4rem; border-top: 1px solid var(--line) }
tr.ours { font-weight: 650 } tr.group th { padding-top: 1.25rem; color: var(--soft); font-size: .875rem }
td .small { display: block; white-space: normal }
.share { display: block; height: .4rem; background: var(--mark); min-width: 1px; margin-top: .5rem } .shares { width: 14rem }
.facts { display: grid; grid-template-columns: minmax(8rem, max-content) 1fr; gap: .35rem 1.5rem; margin: 1rem 0 }
.facts div { display: contents } .facts dd { margin: 0; font-variant-numeric: tabular-nums; min-width: 0 }
.list { list-style: none; margin: 1rem 0; padding: 0 }
.models li { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 2fr); gap: .25rem 2rem; padding: .75rem 0;
  border-top: 1px solid var(--line) }
.models p, .works p { margin: 0 }
.works { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); gap: 1.5rem 3rem }
.works li { display: grid; grid-template-columns: 6rem minmax(0, 1fr); gap: 1rem }
.works img { display: block; width: 6rem; height: 6rem; object-fit: contain; background: var(--wash) }
.works .none { width: 6rem; height: 6rem; background: var(--wash); color: var(--soft); font-size: .75rem; padding: .5rem;
  line-height: 1.35 }
.works .title { font-weight: 650 } .works p { font-size: .875rem; line-height: 1.45; overflow-wrap: anywhere }
.works p + p { margin-top: .2rem }
.search { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: center; margin: 1rem 0 }
input[type=search] { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--soft);
  border-radius: 0;
  padding: .35rem .6rem; flex: 1 1 16rem; max-width: 28rem; min-width: 0 }
button { font: inherit; color: var(--mark); background: none; border: 1px solid var(--soft); padding: .35rem 1rem;
  cursor: pointer }
details { margin: .5rem 0 } summary { cursor: pointer; min-height: 1.75rem }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8125rem; margin: .25rem 0 .75rem }
.grid { display: block; max-width: 100%; height: auto }
[hidden] { display: none !important }
span.en + span.ja::before { content: " / " }
@supports selector(:has(*)) {
  html:has(#lang-ja:checked) .en, html:has(#lang-en:checked) .ja { display: none }
  html:has(#lang-ja:checked) span.en + span.ja::before { content: none }
}
@supports not selector(:has(*)) { fieldset { display: none } }
@media (max-width: 34rem) {
  body { padding: 1rem 1rem 3rem } section { margin-top: 2.25rem }
  table { font-size: .875rem } th, td { padding-right: .6rem } table .small { font-size: .8125rem }
  .shares { width: 4rem; min-width: 3rem } .many .shares, .many th:last-child { display: none }
  .models li { grid-template-columns: minmax(0, 1fr) }
  .facts { grid-template-columns: minmax(0, 1fr); gap: 0 } .facts dd { margin-bottom: .6rem }
  .works li { grid-template-columns: 5rem minmax(0, 1fr) } .works img, .works .none { width: 5rem; height: 5rem }
}
@media print {
  :root { --paper: #fff; --ink: #000; --soft: #444; --line: #bbb; --mark: #1d5fa6 }
  html { font-size: 10pt } body { max-width: none; padding: 0 } .share { print-color-adjust: exact }
  nav, fieldset, #find, .search label, .skip, #more { display: none }
  figure, tr, li { break-inside: avoid } h2, h3, figcaption { break-after: avoid } a { color: inherit }
}
""".replace("FONTS", ", ".join(name if name.islower() else f'"{name}"' for name in FONTS))

# A search through the sample, shown in portions. `lang` of the page follows the choice of the language.
SCRIPT = """
(() => {
  const one = id => document.getElementById(id), japanese = one("lang-ja")
  const follow = () => { document.documentElement.lang = japanese.checked ? "ja" : "en" }
  if (navigator.language.startsWith("ja") && CSS.supports("selector(:has(*))")) japanese.checked = true
  for (const radio of [one("lang-en"), japanese]) radio.addEventListener("change", follow)
  follow()
  const list = one("list")
  if (!list) return
  const plain = text => text.normalize("NFKC").toLowerCase()
  const works = [...list.children].map(item => [item, plain(item.textContent)])
  const portion = 24
  let shown = portion
  const show = () => {
    const words = plain(one("find").value).split(/\\s+/).filter(word => word)
    let found = 0
    for (const [item, text] of works) item.hidden = !words.every(word => text.includes(word)) || ++found > shown
    for (const place of document.querySelectorAll(".found")) place.textContent = found
    for (const place of document.querySelectorAll(".shown")) place.textContent = Math.min(shown, found)
    one("more").hidden = found <= shown
  }
  one("find").addEventListener("input", () => { shown = portion; show() })
  one("more").addEventListener("click", () => {
    const next = shown
    shown += portion
    show()
    const item = [...list.children].filter(item => !item.hidden)[next]
    if (item) { item.tabIndex = -1; item.focus({ preventScroll: true }) }
  })
  one("search").hidden = false
  show()
})()
""".strip()
