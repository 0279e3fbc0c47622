const DATA = JSON.parse(document.getElementById("data").textContent);  // null, or all that an exported file shows
const HELD = new Map((DATA ? DATA.documents : []).map(each => [each.number, each]));
const NAMES = {folder: "outcome", stage: "stage", reason: "reason", source: "source", language: "language"};
const FOLDERS = {documents: "kept", rejected: "dropped", dead: "dead letter"};
const ROWS = 50;
// Characters that are not seen and change what is: controls, direction marks, zero widths. Joiners have their use
// outside of Latin script.
const UNSEEN = /[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]|(?<=[\0-\u024f])[\u200c\u200d]/gu;
const element = id => document.getElementById(id);
const number = value => Number(value).toLocaleString("en");

/* Everything that a document says reaches the page through these two, as text. */
function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "on") made.addEventListener("click", value); else made.setAttribute(name, value);
  }
  for (const child of children) child instanceof Node ? made.append(child) : put(made, String(child));
  return made;
}
function put(parent, text) {
  let from = 0;
  for (const {0: unseen, index} of text.matchAll(UNSEEN)) {
    const code = "U+" + unseen.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    const shown = document.createElement("span");
    shown.className = "odd";
    shown.textContent = code;
    parent.append(text.slice(from, index), shown);
    from = index + unseen.length;
  }
  parent.append(text.slice(from));
}
/* A name, which may go on in the next line after any of its parts. */
const named = name => make("bdi", null, ...String(name).split(/(?<=[\/._-])(?=[^\/._-])/u).flatMap((part, n) => n ? [document.createElement("wbr"), part] : [part]));
/* A text with pieces of it marked: [{start, end, ...}], those that begin within another left out. */
function marked(id, text, pieces) {
  const made = make("pre", {id});
  let from = 0;
  for (const piece of [...pieces].sort((a, b) => a.start - b.start)) {
    if (piece.start < from) continue;
    put(made, text.slice(from, piece.start));
    const attributes = piece.title === undefined ? {"data-difference": piece.number} : {class: "found", title: piece.title};
    made.append(make("mark", piece.hit ? {class: "hit"} : attributes, text.slice(piece.start, piece.end)));
    from = piece.end;
  }
  put(made, text.slice(from));
  return made;
}

/* The state is the address: every view can be linked to, and Back goes back. */
const state = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
function go(change, replace) {
  const wanted = Object.entries({...state(), ...change}).filter(([, value]) => value !== "" && value != null);
  const hash = "#" + new URLSearchParams(wanted);
  if (replace) location.replace(hash); else location.hash = hash;
}

/* What a search looks for: words as the index takes them, by their beginnings. */
const fold = text => text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
function patterns(query, flags) {
  return (query || "").split(/\s+/).map(word => word.match(new RegExp(`[${SPACELESS}]|[^\\P{L}${SPACELESS}]+|[\\p{M}\\p{N}]+`, "gu")))
    .filter(Boolean).map(parts => new RegExp(
      (new RegExp(`^[${SPACELESS}]`).test(parts[0]) ? "" : "(?<![\\p{L}\\p{N}])") + parts.join("[^\\p{L}\\p{N}]*"), flags));
}

/* Two sources of the same answers: the server, or what an exported file carries. */
async function ask(path, query) {
  if (DATA === null) {
    const answer = await fetch("/api/" + path + "?" + new URLSearchParams(query));
    if (answer.status === 404) return null;
    if (!answer.ok) throw new Error(await answer.text());
    return answer.json();
  }
  if (path === "report") return DATA;
  if (path === "document") {
    const found = HELD.get(Number(query.number));
    return found && {...found, kept: HELD.get(found.kept), copies: found.copies.filter(copy => HELD.has(copy.number))};
  }
  const all = DATA.documents, words = patterns(fold(query.query || ""), "u");
  const fits = (each, but) => Object.keys(NAMES).every(name => name === but || !query[name] || each[name] === query[name])
    && words.every(word => word.test(fold([each.text, each.id, each.name].join("\n"))));
  if (path === "documents") {
    const rows = all.filter(each => fits(each)), from = Number(query.offset || 0);
    const row = each => ({...each, copies: each.copies_total, head: each.text.slice(0, 640).replace(/\s+/g, " ").slice(0, 160)});
    return {total: rows.length, rows: rows.slice(from, from + ROWS).map(row)};
  }
  const choices = {};
  for (const name of Object.keys(NAMES)) {
    const counts = new Map();
    for (const each of all) if (fits(each, name)) counts.set(each[name], (counts.get(each[name]) || 0) + 1);
    choices[name] = [...counts].sort((a, b) => b[1] - a[1]);
  }
  return choices;
}

function showFilters(choices, now) {
  const parts = [];
  for (const [name, title] of Object.entries(NAMES)) {
    const values = choices[name].filter(([value]) => value !== "");
    if (now[name] && !values.some(([value]) => value === now[name])) values.unshift([now[name], 0]);
    if (!values.length) continue;
    parts.push(make("h2", null, title));
    for (const [value, count] of values) {
      const chosen = now[name] === value;
      parts.push(make("button", {class: "choice" + (chosen ? " chosen" : ""), "aria-pressed": chosen, "data-filter": name,
        "data-value": value, on: () => go({[name]: chosen ? "" : value, number: "", offset: ""})},
        named(name === "folder" ? FOLDERS[value] : value), make("span", {class: "n"}, number(count))));
    }
  }
  element("filters").replaceChildren(...parts);
}

function showList(found, now) {
  const from = Number(now.offset || 0), query = Object.keys(NAMES).concat("query").filter(name => now[name]);
  const top = make("p", {class: "soft", id: "total"}, number(found.total) + " found" + (from ? ", from " + number(from + 1) : "") + " ");
  if (query.length) top.append(make("button", {class: "link", id: "clear",
    on: () => go(Object.fromEntries([...query, "number", "offset"].map(name => [name, ""])))}, "show all"));
  const rows = found.rows.map(row => make("button", {class: "row", "data-number": row.number, on: () => go({number: row.number})},
    make("b", null, named(row.name)),
    make("span", {class: "tag " + row.folder}, row.reason || FOLDERS[row.folder], row.value && !row.kept_id ? " " + row.value : ""),
    ...(row.copies ? [make("span", {class: "tag"}, `stayed for ${number(row.copies)}`)] : []),
    make("span", {class: "head"}, make("bdi", null, row.head))));
  const ends = [];
  if (from) ends.push(make("button", {class: "more", on: () => go({offset: Math.max(0, from - ROWS) || ""})}, "earlier"));
  if (from + ROWS < found.total) ends.push(make("button", {class: "more", id: "next", on: () => go({offset: from + ROWS})}, "more"));
  element("list").replaceChildren(top, ...rows, ...ends);
  element("list").scrollTop = 0;
}

/* Metadata as lines: scores.education 2.31 */
function facts(values, prefix = "") {
  return Object.entries(values || {}).flatMap(([name, value]) => {
    if (value !== null && typeof value === "object" && !Array.isArray(value)) return facts(value, prefix + name + ".");
    const plain = Array.isArray(value) && value.every(each => typeof each !== "object") ? value.join(", ") : value;
    return [[prefix + name, typeof plain === "object" ? JSON.stringify(plain) : String(plain)]];
  });
}
const table = rows => make("table", {class: "facts"},
  ...rows.map(([name, value]) => make("tr", null, make("td", null, make("bdi", null, name)), make("td", null, make("bdi", null, value)))));

/* Spans of evaluation items, given in characters, as pieces in UTF-16 units. Only where the text there is still that. */
function contaminated(found) {
  const items = found.metadata.contamination;
  if (!Array.isArray(items)) return [];
  const characters = Array.from(found.text);
  return items.flatMap(item => (item.spans || []).map(span => {
    const start = characters.slice(0, span.start).join("").length;
    const end = start + characters.slice(span.start, span.end).join("").length;
    return {start, end, title: item.item, is: found.text.startsWith(span.text, start)};
  })).filter(piece => piece.is);
}

function searched(text, query) {
  return patterns(query, "giu").flatMap(pattern => Array.from(text.matchAll(pattern),
    ({0: hit, index}) => ({start: index, end: index + hit.length, hit: true})));
}

const cut = found => found.text.length < found.characters
  ? [make("p", {class: "soft"}, `The first ${number(found.text.length)} of ${number(found.characters)} characters are shown.`)] : [];

function title(found) {
  const tags = [found.source, found.language, found.folder === "dead" ? "" : number(found.characters) + " characters"].filter(Boolean);
  return [make("h3", {id: "title"}, named(found.name)),
    make("span", {class: "tag " + found.folder}, found.reason || FOLDERS[found.folder]),
    ...(found.value && !found.kept_id ? [make("span", {class: "tag rejected"}, make("bdi", null, found.value))] : []),
    ...tags.map(tag => make("span", {class: "tag"}, make("bdi", null, tag)))];
}

/* A duplicate and the one that stayed, with a button from difference to difference. */
function pair(found) {
  const {differences, sides} = compare(found.text, found.kept.text), kept = found.kept;
  const likeness = found.value.startsWith(found.kept_id + " ") ? `, likeness ${found.value.slice(found.kept_id.length + 1)}` : "";
  const says = differences === null ? "The two differ too much to be aligned: marked is what shares no three words in a row with the other"
    : differences ? `${number(differences)} ${differences === 1 ? "difference" : "differences"}` : "The same words";
  const bar = make("div", {class: "bar"}, make("span", {id: "differences"}, says + likeness));
  let at = -1;
  const step = by => {
    at = (at + by + differences) % differences;
    for (const old of document.querySelectorAll("mark.now")) old.classList.remove("now");
    for (const mark of document.querySelectorAll(`mark[data-difference="${at}"]`)) {
      mark.classList.add("now");
      const side = mark.closest("pre");
      side.scrollTop += mark.getBoundingClientRect().top - side.getBoundingClientRect().top - side.clientHeight / 3;
    }
  };
  if (differences) bar.append(make("button", {class: "link", id: "earlier", on: () => step(at < 0 ? 0 : -1)}, "previous"),
    make("button", {class: "link", id: "later", on: () => step(1)}, "next"));
  const note = kept.folder === "documents" ? "stayed: " : "stayed then, and went later: ";
  return [bar, make("div", {class: "pair"}, make("b", null, "dropped"),
    make("span", null, make("b", null, note), make("button", {class: "link", id: "kept", on: () => go({number: kept.number})}, named(kept.name)),
      ...(kept.folder === "documents" ? [] : [" ", make("span", {class: "tag rejected"}, kept.reason)])),
    make("div", null, marked("left", found.text, sides[0]), ...cut(found)), make("div", null, marked("right", kept.text, sides[1]), ...cut(kept)))];
}

function showDocument(found, now) {
  if (!found) return element("main").replaceChildren(make("p", {class: "soft"}, "There is no such document here."));
  const parts = title(found), {signals, ...metadata} = found.metadata || {};
  if (found.kept) parts.push(...pair(found));
  else {
    if (found.kept_id) parts.push(make("p", {class: "soft"}, "The one that stayed is not here: ", found.kept_id));
    const items = contaminated(found);
    parts.push(marked("text", found.text, [...items, ...searched(found.text, now.query)]), ...cut(found));
  }
  if (found.copies_total) {
    parts.push(make("h2", null, `${number(found.copies_total)} went because this one stayed`));
    parts.push(make("div", {class: "copies"}, ...found.copies.map(copy =>
      make("button", {class: "row", "data-copy": copy.number, on: () => go({number: copy.number})},
        make("span", {class: "tag rejected"}, copy.reason), named(copy.name)))));
    if (found.copies.length < found.copies_total) parts.push(make("p", {class: "soft"}, `${number(found.copies.length)} of them are listed.`));
  }
  if (Array.isArray(metadata.contamination)) {
    parts.push(make("h2", null, "evaluation items in it"),
      table(metadata.contamination.map(item => [item.item, `${Math.round(100 * item.fraction)} % of the item`])));
    delete metadata.contamination;
  }
  parts.push(make("h2", null, "facts"), table([["id", found.id], ...(found.value ? [["value", found.value]] : []), ...facts(metadata)]));
  if (signals) parts.push(make("details", null, make("summary", null, "what stages measured"), table(facts(signals))));
  element("main").replaceChildren(...parts);
  element("main").scrollTop = 0;
}

function showFunnel({report}) {
  const read = report.read || 1, stages = (report.funnel || []).map(row => row.stage);
  const track = parts => {
    const made = make("div", {class: "track"});
    for (const [kind, value] of parts) {
      const part = make("i", {class: kind});
      part.style.width = 100 * value / read + "%";
      made.append(part);
    }
    return make("td", null, made);
  };
  const numbers = values => values.map(value => make("td", {class: "n"}, value ? number(value) : ""));
  const choose = (attributes, change, name) => make("td", null, make("button", {...attributes,
    on: () => go({stage: "", reason: "", source: "", language: "", query: "", number: "", offset: "", ...change})}, make("bdi", null, name)));
  const stageOf = reason => stages.includes(reason.split(".")[0]) ? reason.split(".")[0] : "quality";
  const rows = (report.funnel || []).filter(row => row.dropped || row.dead).flatMap(row => [
    make("tr", null, choose({"data-stage": row.stage}, {stage: row.stage, folder: ""}, make("b", null, row.stage)),
      track([["documents", row.out], ["rejected", row.dropped], ["dead", row.dead]]), ...numbers([row.in, row.dropped, row.dead, row.out])),
    ...Object.entries(report.reasons || {}).filter(([reason]) => stageOf(reason) === row.stage).sort((a, b) => b[1] - a[1])
      .map(([reason, count]) => make("tr", {class: "reason"}, choose({"data-reason": reason}, {reason, folder: "rejected"}, reason),
        track([["rejected", count]]), ...numbers([0, count, 0, 0])))]);
  const head = ["stage and reason", "left, dropped, failed", "in", "dropped", "failed", "out"];
  const share = value => `${(100 * value / read).toFixed(1)} %`;
  const cards = [["read", report.read, "documents read"], ["kept", report.kept, `kept, ${share(report.kept)}`],
    ["dropped", report.dropped, `dropped, ${share(report.dropped)}`], ["dead", report.dead, `dead letters, ${share(report.dead)}`]];
  element("main").replaceChildren(...(report.funnel ? [
    make("div", {class: "cards", id: "cards"}, ...cards.map(([name, value, says]) => make("div", {class: "card", "data-card": name}, make("b", null, number(value)), make("span", {class: "soft"}, says)))),
    make("table", {id: "stages"}, make("tr", null, ...head.map((name, place) => make("th", place > 1 ? {class: "n"} : null, name))), ...rows),
    make("p", {class: "soft"}, rows.length ? "Choose a stage or a reason here, or an outcome on the left." : "Nothing was dropped.")]
    : [make("p", {class: "soft"}, "This run left no report: there is no funnel, only what is on the left.")]));
}

let turn = 0, listed = null, typing = 0, about = null;
async function show() {
  const mine = ++turn, now = state();
  if (!typing) element("query").value = now.query || "";
  const query = Object.fromEntries([...Object.keys(NAMES), "query", "offset"].filter(name => now[name]).map(name => [name, now[name]]));
  const list = JSON.stringify(query);
  try {
    const asked = list === listed ? [] : [ask("choices", query), ask("documents", query)];
    about = about || await ask("report", {});
    const [choices, found] = await Promise.all(asked);
    const whole = now.number ? await ask("document", {number: now.number}) : null;
    if (mine !== turn) return;
    if (asked.length) { showFilters(choices, now); showList(found, now); listed = list; }
    for (const row of document.querySelectorAll("#list .row")) row.classList.toggle("chosen", row.dataset.number === now.number);
    const part = about.held < about.seen ? `: ${number(about.held)} of ${number(about.seen)} outcomes, rare reasons whole` : "";
    element("run").textContent = about.run + part + (DATA === null ? "" : `; ${number(HELD.size)} are in this file`);
    if (now.number) showDocument(whole, now); else showFunnel(about);
    document.body.dataset.shown = location.hash || "#";
  } catch (error) {
    element("main").replaceChildren(make("p", {class: "failed"}, "Nothing came from the server: " + error.message));
  }
}
element("funnel").addEventListener("click", () => go({number: ""}));
element("query").addEventListener("input", event => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    typing = 0;
    go({query: event.target.value, offset: "", number: ""}, Boolean(state().query));
  }, 200);
});
addEventListener("hashchange", show);
show();
