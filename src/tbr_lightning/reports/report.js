(() => {
"use strict";
// All text comes from models and data sets: it is set as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
if (!form) return;
const list = document.getElementById("rows");
const more = document.getElementById("more");
const count = document.getElementById("count");
const BATCH = 40;
const LONGEST = 700; // words of a text that is compared word by word
const FOLDED = 1500; // letters of a text that would push the next answer off the screen
const samples = data.samples;
const models = data.models;
let found = samples, shown = 0, aim = null;
const watcher = "IntersectionObserver" in window && new IntersectionObserver(
  (seen) => { if (!more.hidden && seen.some((one) => one.isIntersecting)) grow(shown + BATCH); },
  { rootMargin: "600px" });

const make = (tag, look, text) => {
  const node = document.createElement(tag);
  if (look) node.className = look;
  if (text !== undefined && text !== null) node.textContent = text;
  return node;
};
const words = (text) => String(text).replaceAll("_", "-");

function pick(name, label, options) {
  const box = make("label", "", label);
  const select = make("select");
  select.name = name;
  for (const [value, text] of options) {
    const option = make("option", "", text);
    option.value = value;
    select.append(option);
  }
  box.append(select);
  form.append(box);
  select.addEventListener("change", filtered);
  return select;
}
function values(of) {
  const counts = new Map();
  for (const sample of samples) for (const value of of(sample)) counts.set(value, (counts.get(value) || 0) + 1);
  return [...counts].sort((a, b) => (a[0] < b[0] ? -1 : 1)).map(([v, n]) => [String(v), `${words(v)} (${n})`]);
}
const answersOf = (sample) => sample.answers.filter((one) => one !== null);

const search = make("input");
search.type = "search"; search.name = "search"; search.placeholder = "in prompts and answers";
const searchBox = make("label", "", "search");
searchBox.append(search);
form.append(searchBox);
let waiting = 0;
search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filtered, 120); });

const outcome = pick("outcome", "outcome", [["", "all"], ["wrong", "wrong"], ["right", "handled rightly"],
  ...values((s) => new Set(answersOf(s).map((a) => a.outcome)))]);
const kind = pick("kind", "kind", [["", "all"], ...values((s) => [s.kind])]);
const benchmark = pick("benchmark", "benchmark", [["", "all"], ...values((s) => [s.benchmark])]);
const category = pick("category", "category", [["", "all"], ...values((s) => [s.category])]);
let left = null, right = null, changed = null, marking = null;
if (models.length > 1) {
  const named = models.map((name, place) => [String(place), name]);
  left = pick("left", "model", named);
  right = pick("right", "beside it", named);
  right.value = String(models.length - 1);
  changed = pick("changed", "changed", [["", "all"], ["any", "another outcome"], ["answered", "refused, now answered"],
    ["refused", "answered, now refused"], ["better", "wrong, now right"], ["worse", "right, now wrong"]]);
  const box = make("label", "check");
  marking = make("input");
  marking.type = "checkbox"; marking.name = "differences";
  box.append(marking, "mark differing words");
  form.append(box);
  marking.addEventListener("change", filtered);
}
const reset = make("button", "", "Reset");
reset.type = "button";
reset.addEventListener("click", () => { initial(); filtered(); });
form.append(reset);
form.addEventListener("submit", (event) => event.preventDefault());

function initial() {
  form.reset();
  if (right) right.value = String(models.length - 1);
}
function filtered() {
  aim = null;
  apply();
}
const haystacks = new Map();
function haystack(sample) {
  if (!haystacks.has(sample)) {
    const parts = [sample.key, sample.prompt, sample.reference];
    for (const one of answersOf(sample)) parts.push(one.reflection, one.answer, one.because);
    haystacks.set(sample, parts.filter(Boolean).join("\n").toLowerCase());
  }
  return haystacks.get(sample);
}
const places = () => {
  if (!left) return [0];
  const two = [Number(left.value), Number(right.value)];
  return two[0] === two[1] ? [two[0]] : two;
};
function hasChanged(how, sample) {
  const [a, b] = places().map((place) => sample.answers[place]);
  if (!a || !b) return false;
  if (how === "any") return a.outcome !== b.outcome;
  if (how === "answered") return a.refused && !b.refused && b.parsed;
  if (how === "refused") return !a.refused && a.parsed && b.refused;
  if (how === "better") return a.handled_rightly === false && b.handled_rightly === true;
  return a.handled_rightly === true && b.handled_rightly === false;
}
function keeps(sample) {
  if (kind.value && sample.kind !== kind.value) return false;
  if (benchmark.value && sample.benchmark !== benchmark.value) return false;
  if (category.value && sample.category !== category.value) return false;
  const seen = places().map((place) => sample.answers[place]).filter(Boolean);
  const wanted = outcome.value;
  if (wanted === "wrong") { if (!seen.some((a) => a.handled_rightly === false)) return false; }
  else if (wanted === "right") { if (!seen.every((a) => a.handled_rightly === true)) return false; }
  else if (wanted && !seen.some((a) => a.outcome === wanted)) return false;
  if (changed && changed.value && !hasChanged(changed.value, sample)) return false;
  const text = search.value.trim().toLowerCase();
  return !text || haystack(sample).includes(text);
}

// Words of either text that the other lacks, by the longest common subsequence.
function differing(a, b) {
  const one = String(a).split(/(\s+)/), two = String(b).split(/(\s+)/);
  if (one.length > LONGEST || two.length > LONGEST) return null;
  const wide = two.length + 1;
  const table = new Uint16Array((one.length + 1) * wide);
  for (let i = one.length - 1; i >= 0; i--)
    for (let j = two.length - 1; j >= 0; j--)
      table[i * wide + j] = one[i] === two[j] ? table[(i + 1) * wide + j + 1] + 1
        : Math.max(table[(i + 1) * wide + j], table[i * wide + j + 1]);
  const parts = [[], []];
  let i = 0, j = 0;
  const add = (side, text, only) => {
    const last = parts[side][parts[side].length - 1];
    if (last && last[1] === only) last[0] += text; else parts[side].push([text, only]);
  };
  while (i < one.length || j < two.length) {
    if (i < one.length && j < two.length && one[i] === two[j]) { add(0, one[i++], false); add(1, two[j++], false); }
    else if (j >= two.length || (i < one.length && table[(i + 1) * wide + j] >= table[i * wide + j + 1])) add(0, one[i++], true);
    else add(1, two[j++], true);
  }
  return parts;
}
function fill(node, text, parts, quote) {
  if (text.length > FOLDED) { node.classList.add("long"); node.tabIndex = 0; }
  if (parts) {
    for (const [piece, only] of parts) node.append(only && piece.trim() ? make("span", "only", piece) : piece);
  } else if (quote && text.includes(quote)) {
    const at = text.indexOf(quote);
    node.append(text.slice(0, at), make("mark", "", quote), text.slice(at + quote.length));
  } else node.textContent = text;
}
function answerNode(one, place, parts) {
  if (!one) return make("div", "answer", "no answer");
  const right = one.handled_rightly;
  const node = make("div", `answer ${right === true ? "right" : right === false ? "wrong" : ""}`);
  if (models.length > 1) node.append(make("h3", `model m${place}`, models[place]));
  const label = one.outcome === words(one.label) ? "" : `, judged ${words(one.label)}`;
  node.append(make("div", "outcome", one.outcome + label + (one.cut ? ", cut off by the token limit" : "")));
  if (one.reflection !== null) {
    const text = make("div", "text reflection");
    text.dataset.part = "reflection";
    fill(text, one.reflection, parts && parts.reflection);
    node.append(text);
  }
  const text = make("div", "text");
  text.dataset.part = "answer";
  fill(text, one.answer || "(empty)", parts && parts.answer, one.because);
  node.append(text);
  if (one.because) {
    const whole = one.because.trim() === (one.answer || "").trim();
    const because = make("div", "because", whole ? "decided by the whole answer" : `decided by: ${one.because}`);
    because.dataset.part = "because";
    node.append(because);
  }
  if (one.second_label) node.append(make("div", "because",
    `second judge: ${words(one.second_label)}${one.second_because ? `, by: ${one.second_because}` : ""}`));
  return node;
}
const anchor = (sample) => `row-${sample.key}`;
function rowNode(sample) {
  const node = make("article");
  node.id = anchor(sample);
  const meta = make("div", "meta");
  const link = make("a", "", `row ${samples.indexOf(sample) + 1}`);
  link.href = `#${encodeURIComponent(anchor(sample))}`;
  link.title = `link to this row, id ${sample.key}`;
  meta.append(link, make("span", "", words(sample.kind)), make("span", "", sample.benchmark), make("span", "", sample.category));
  node.append(meta, make("div", "prompt", sample.prompt));
  if (sample.reference) node.append(make("div", "because", `right answer: ${sample.reference}`));
  const box = make("div", "answers");
  const here = places(), pair = here.map((place) => sample.answers[place]);
  const sides = [null, null];
  if (marking && marking.checked && pair.length === 2 && pair[0] && pair[1]) {
    for (const part of ["reflection", "answer"]) {
      const two = pair[0][part] !== null && pair[1][part] !== null ? differing(pair[0][part], pair[1][part]) : null;
      if (two) two.forEach((parts, side) => { sides[side] = sides[side] || {}; sides[side][part] = parts; });
    }
  }
  here.forEach((place, side) => box.append(answerNode(sample.answers[place], place, sides[side])));
  node.append(box);
  return node;
}
function grow(to) {
  const part = document.createDocumentFragment();
  const end = Math.min(found.length, to);
  for (; shown < end; shown++) part.append(rowNode(found[shown]));
  list.append(part);
  more.hidden = shown >= found.length;
  more.textContent = `Show more (${found.length - shown} left)`;
  if (watcher) { watcher.unobserve(more); watcher.observe(more); } // it may still be in sight
}
function apply() {
  found = samples.filter(keeps);
  shown = 0;
  list.replaceChildren();
  count.textContent = `${found.length} of ${samples.length} prompts`;
  if (aim) {
    const at = found.findIndex((sample) => anchor(sample) === aim);
    grow(Math.max(BATCH, at + 1));
    const node = document.getElementById(aim);
    if (node) { node.classList.add("aim"); node.scrollIntoView(); }
  } else grow(BATCH);
}
function follow() {
  let name = "";
  try { name = decodeURIComponent(location.hash.slice(1)); } catch { return; }
  if (!samples.some((sample) => anchor(sample) === name)) return;
  for (const node of list.querySelectorAll(".aim")) node.classList.remove("aim");
  aim = name;
  if (!found.some((sample) => anchor(sample) === name)) initial();
  apply();
}
more.addEventListener("click", () => grow(shown + BATCH));
window.addEventListener("hashchange", follow);
apply();
follow();
})();
