"use strict";
// The gallery of a run's answers, its questions one by one, and the readout of its curves.
// Texts of models and data are only ever set as textContent, never as HTML.

const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const GROUPS_AT_ONCE = 6;
const ITEMS_AT_ONCE = 8;
const PICTURE_SIDE = 260; // largest side of a picture beside its answers, in CSS pixels
const TINY_SIDE = 160; // smaller pictures are enlarged without blur
const MOST_ENLARGED = 4;
const SHORT = 60; // characters of answers that stand in columns

let data = { runs: [], benchmarks: [], pictures: {}, charts: {} };
const view = { run: 0, page: 0, current: 0, question: null, found: [], whole: new Set() };
const itemView = { page: 0, found: [] };

// --- making elements ------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function option(value, text) {
  return make("option", { value, text });
}

function fill(select, values, everything) {
  const chosen = select.value;
  select.replaceChildren(option("all", everything), ...values.map((value) => option(`=${value}`, value || "(none)")));
  if ([...select.options].some((one) => one.value === chosen)) select.value = chosen;
}

const matches = (select, value) => select.value === "all" || select.value === `=${value}`;
const shown = (number, digits = 2) => (number === null || number === undefined ? "–" : String(Number(number.toFixed(digits))));
const once = (values) => [...new Set(values)];

// --- pictures and boxes -----------------------------------------------------------------------------

// boxes: { truth, answered: those of each answer, sides: true if the answers are of two models }
function boxesOf(size, boxes) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "boxes");
  svg.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const draw = (box, kind, answer) => {
    const rect = document.createElementNS(SVG, "rect");
    rect.setAttribute("class", kind);
    rect.setAttribute("x", box[0]);
    rect.setAttribute("y", box[1]);
    rect.setAttribute("width", Math.max(0, box[2] - box[0]));
    rect.setAttribute("height", Math.max(0, box[3] - box[1]));
    if (answer !== undefined) rect.dataset.answer = answer;
    svg.append(rect);
  };
  boxes.answered.forEach((own, answer) => own.forEach((box) => draw(box, markOf(boxes.sides, answer), answer)));
  boxes.truth.forEach((box) => draw(box, "true"));
  return svg;
}

const markOf = (sides, answer) => (sides && answer === 1 ? "answered second" : "answered");

function pictureFigure(image, number, of, boxes, scale) {
  const size = image.size || [200, 120];
  const side = scale ? null : Math.min(PICTURE_SIDE / size[0], PICTURE_SIDE / size[1], MOST_ENLARGED);
  const figure = make("figure", { class: "picture" });
  figure.style.width = `${size[0] * (scale || side)}px`;
  figure.style.aspectRatio = `${size[0]} / ${size[1]}`;
  const words = of > 1 ? `picture ${number} of ${of}` : "picture of the question";
  if (image.key) {
    const picture = make("img", { src: data.pictures[image.key], alt: `${words}, ${size[0]} x ${size[1]} pixels` });
    picture.decoding = "async";
    if (Math.max(...size) < TINY_SIDE) picture.className = "tiny";
    figure.append(picture);
  } else {
    figure.classList.add("missing");
    figure.append(make("p", { class: "no-picture", text: `No picture: ${image.why || "it was not kept"}` }));
  }
  if (boxes.truth.length || boxes.answered.some((own) => own.length)) figure.append(boxesOf(size, boxes));
  return figure;
}

function picturesOf(entry, answered, sides = false) {
  const place = make("div", { class: "pictures" });
  entry.images.forEach((image, index) => {
    const boxed = index === entry.boxed;
    const boxes = { truth: boxed ? entry.true_boxes : [], answered: boxed ? answered : [], sides };
    const figure = pictureFigure(image, index + 1, entry.images.length, boxes);
    if (image.key) {
      figure.append(make("button", { type: "button", "aria-label": `enlarge picture ${index + 1}` }));
      figure.addEventListener("click", () => openZoom(image, index + 1, entry.images.length, boxes));
    }
    place.append(figure);
  });
  return entry.images.length ? place : null;
}

const zoomed = { scale: 1, size: [1, 1] };

function openZoom(image, number, of, boxes) {
  const size = image.size || [200, 120];
  const fit = Math.min((0.88 * innerWidth) / size[0], (0.72 * innerHeight) / size[1], 12);
  zoomed.scale = fit;
  zoomed.size = size;
  const figure = pictureFigure(image, number, of, boxes, fit);
  byId("zoom-area").replaceChildren(figure);
  const pixels = `${size[0]} x ${size[1]} pixels`;
  byId("zoom-note").textContent = image.full ? `${pixels}, small copy` : pixels;
  if (image.full && image.key) {
    const large = new Image();
    large.addEventListener("load", () => {
      figure.querySelector("img").src = large.src;
      byId("zoom-note").textContent = `${pixels}, full size`;
    });
    large.addEventListener("error", () => {
      byId("zoom-note").textContent = `${pixels}, small copy: the run folder is not beside this page`;
    });
    large.src = image.full;
  }
  byId("zoom").showModal();
}

function zoomBy(factor) {
  zoomed.scale = Math.min(32, Math.max(0.05, zoomed.scale * factor));
  const figure = byId("zoom-area").querySelector("figure");
  if (figure) figure.style.width = `${zoomed.size[0] * zoomed.scale}px`;
}

function lightBoxes(card, row, answer) {
  const light = (on) => () => {
    for (const svg of card.querySelectorAll("svg.boxes")) {
      svg.classList.toggle("one", on);
      for (const rect of svg.querySelectorAll("rect.answered")) {
        rect.classList.toggle("lit", on && Number(rect.dataset.answer) === answer);
      }
    }
  };
  row.addEventListener("pointerenter", light(true));
  row.addEventListener("pointerleave", light(false));
  row.addEventListener("focusin", light(true));
  row.addEventListener("focusout", light(false));
}

// --- groups of answers ------------------------------------------------------------------------------

const rewardsOf = (group) => group.answers.map((answer) => answer.reward).filter((reward) => reward !== null);

function describe(group) {
  const rewards = rewardsOf(group);
  group.mean = rewards.length ? rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length : null;
  group.spread = rewards.length ? Math.max(...rewards) - Math.min(...rewards) : 0;
  group.informative = group.spread > 1e-6;
  group.longest = Math.max(0, ...group.answers.map((answer) => answer.tokens || answer.text.length));
  group.kinds = new Set(group.answers.map((answer) => answer.kind));
  group.words = [group.id, group.question, group.truth, ...group.answers.map((answer) => answer.text)].join("\n").toLowerCase();
}

function rewardFits(group) {
  const wanted = byId("filter-reward").value;
  if (wanted === "any") return true;
  if (group.mean === null) return false;
  if (wanted === "high") return group.mean >= 0.75;
  return wanted === "low" ? group.mean < 0.25 : group.mean >= 0.25 && group.mean < 0.75;
}

function groupFits(group, step, words) {
  const reason = byId("filter-reason").value;
  const kind = byId("filter-kind").value;
  return (
    (step === null || group.step === step) &&
    (view.question === null || group.question_key === view.question) &&
    matches(byId("filter-task"), group.task) &&
    (reason === "all" || group.kinds.has(reason.slice(1))) &&
    (kind === "all" || group.informative === (kind === "informative")) &&
    rewardFits(group) &&
    (!words || group.words.includes(words))
  );
}

function currentStep() {
  const steps = data.runs[view.run].steps;
  return byId("all-steps").checked || view.question !== null ? null : steps[Number(byId("step").value)];
}

function findGroups() {
  const run = data.runs[view.run];
  const step = currentStep();
  const words = byId("search").value.trim().toLowerCase();
  view.found = run.groups.filter((group) => groupFits(group, step, words));
  const order = byId("filter-order").value;
  if (order === "spread") view.found.sort((one, other) => other.spread - one.spread);
  if (order === "long") view.found.sort((one, other) => other.longest - one.longest);
}

function showGroups(focus = false) {
  const run = data.runs[view.run];
  const first = view.page * GROUPS_AT_ONCE;
  const some = view.found.slice(first, first + GROUPS_AT_ONCE);
  byId("group-list").replaceChildren(...some.map((group, place) => groupCard(group, first + place)));
  if (!some.length) byId("group-list").append(make("p", { text: "No group fits these filters and this step." }));
  const range = some.length ? `, ${first + 1} to ${first + some.length} shown` : "";
  byId("answers-count").textContent = `${view.found.length} of ${run.groups.length} groups${range}`;
  byId("previous-groups").disabled = view.page === 0;
  byId("next-groups").disabled = first + GROUPS_AT_ONCE >= view.found.length;
  const step = run.steps[Number(byId("step").value)];
  byId("step-output").textContent = currentStep() === null ? "all" : String(step);
  byId("step").disabled = currentStep() === null;
  byId("one-question").hidden = view.question === null;
  byId("one-question").textContent = "one question over the run: show all questions again";
  markCurrent(focus);
}

function updateGroups() {
  view.page = 0;
  view.current = 0;
  findGroups();
  showGroups();
}

function markCurrent(scroll) {
  for (const card of byId("group-list").querySelectorAll(".group")) {
    const isCurrent = Number(card.dataset.place) === view.current;
    card.classList.toggle("current", isCurrent);
    if (isCurrent && scroll) {
      card.focus({ preventScroll: true });
      card.scrollIntoView({ block: "start", behavior: "instant" });
    }
  }
}

function moveCurrent(by) {
  if (!view.found.length) return;
  view.current = Math.min(view.found.length - 1, Math.max(0, view.current + by));
  const page = Math.floor(view.current / GROUPS_AT_ONCE);
  if (page !== view.page) {
    view.page = page;
    showGroups(true);
  } else markCurrent(true);
}

function moveStep(by) {
  const slider = byId("step");
  byId("all-steps").checked = false;
  view.question = null;
  slider.value = Math.min(Number(slider.max), Math.max(0, Number(slider.value) + by));
  updateGroups();
}

function turnPage(by) {
  view.page = Math.max(0, view.page + by);
  view.current = view.page * GROUPS_AT_ONCE;
  showGroups(true);
}

function groupCard(group, place) {
  const kind = group.informative ? "informative" : "zero-variance";
  const isWhole = view.whole.has(keyOf(group));
  const card = make("article", { class: isWhole ? "group whole" : "group", tabindex: "-1", "data-step": group.step, "data-draw": group.draw, "data-place": place });
  const asked = data.runs[view.run].asked.get(group.question_key) || 1;
  const again = asked > 1 && view.question === null ? make("button", { type: "button", class: "more", text: `this question over the run (${asked} times)` }) : null;
  if (again) {
    again.addEventListener("click", () => {
      view.question = group.question_key;
      updateGroups();
    });
  }
  const rewards = rewardsOf(group);
  const range = rewards.length ? `, from ${shown(Math.min(...rewards))} to ${shown(Math.max(...rewards))}` : "";
  card.append(
    make(
      "header",
      {},
      make("b", { text: `step ${group.step}` }),
      make("span", { text: `question ${group.draw}` }),
      group.task ? make("span", { dir: "auto", text: group.task }) : null,
      make("span", { text: kind + (group.used ? "" : ", not used in the update") }),
      make("span", { text: `mean reward ${shown(group.mean)}${range}` }),
      make("span", { dir: "auto", text: `${group.source ? `${group.source}: ` : ""}${group.id}` }),
      again,
    ),
  );
  const talk = make("div", { class: "talk" });
  talk.append(make("p", { class: "question", dir: "auto", text: group.question }));
  talk.append(truthLine(group.truth));
  const isShort = group.answers.every((answer) => answer.text.length <= SHORT);
  const answers = make("div", { class: isShort ? "answers short" : "answers" });
  group.answers.forEach((answer, index) => answers.append(answerRow(card, answer, index)));
  talk.append(answers);
  const long = group.answers.some((answer) => answer.text.length > 220 || answer.text.split("\n").length > 3);
  if (long) {
    const toggle = make("button", { type: "button", class: "more", text: wholeWords(isWhole) });
    toggle.addEventListener("click", () => toggleWhole(card));
    talk.append(toggle);
  }
  const boxes = group.answers.map((answer) => answer.boxes);
  card.append(make("div", { class: "body" }, picturesOf(group, boxes), talk));
  card.addEventListener("pointerdown", () => {
    view.current = place;
    markCurrent(false);
  });
  return card;
}

function truthLine(text) {
  const line = make("p", { class: "truth" }, "true answer: ");
  line.append(make("b", { dir: "auto", text: text || "–" }));
  return line;
}

const keyOf = (group) => (group ? `${view.run} ${group.step} ${group.draw}` : "");
const wholeWords = (isWhole) => (isWhole ? "beginnings only" : "whole texts");

function toggleWhole(card) {
  const isWhole = card.classList.toggle("whole");
  view.whole[isWhole ? "add" : "delete"](keyOf(view.found[Number(card.dataset.place)])); // also when the card is made again
  const toggle = card.querySelector(".talk > .more");
  if (toggle) toggle.textContent = wholeWords(isWhole);
}

function answerRow(card, answer, index) {
  const reason = byId("filter-reason").value;
  const other = reason !== "all" && reason.slice(1) !== answer.kind;
  const row = make("div", { class: other ? "answer other" : "answer" });
  const reward = make("span", { class: "reward", text: shown(answer.reward), title: "reward" });
  if (answer.reward !== null) {
    reward.append(make("meter", { min: 0, max: Math.max(1, answer.reward), value: answer.reward, "aria-label": "reward" }));
  }
  const facts = make("span", { class: "facts" });
  const reasonPart = make("span", { class: "reason", dir: "auto", text: answer.reason || "no reason" });
  facts.append(reasonPart);
  if (answer.read) facts.append(make("span", { dir: "auto" }, "read: ", make("b", { text: answer.read })));
  const weight = answer.weight;
  // runs of older releases did not write weights down, and a group that is not used has none
  const words = weight === null ? "" : `weight ${weight > 0 ? "+" : ""}${Number(weight.toPrecision(2))}`;
  facts.append(make("span", { class: "weight", title: "above 0: made likelier", text: words }));
  for (const [name, part] of Object.entries(answer.parts)) facts.append(make("span", { text: `${name} ${shown(part)}` }));
  if (answer.tokens) facts.append(make("span", { text: `${answer.tokens} tokens${answer.cut ? ", cut at the limit" : ""}` }));
  row.append(reward, facts, make("p", { class: "text", dir: "auto", text: answer.text || "(empty)" }));
  lightBoxes(card, row, index);
  return row;
}

function showGroup(run, step, draw) {
  selectRun(run);
  for (const id of ["filter-task", "filter-reason", "filter-kind"]) byId(id).value = "all";
  byId("filter-reward").value = "any";
  byId("filter-order").value = "order";
  byId("search").value = "";
  byId("all-steps").checked = false;
  view.question = null;
  const place = data.runs[run].steps.indexOf(step);
  if (place < 0) return;
  byId("step").value = place;
  updateGroups();
  const index = view.found.findIndex((group) => group.draw === draw);
  view.current = Math.max(0, index);
  view.page = Math.floor(view.current / GROUPS_AT_ONCE);
  showGroups(true);
}

function selectRun(index) {
  view.run = index;
  byId("filter-run").value = String(index);
  const run = data.runs[index];
  fill(byId("filter-task"), once(run.groups.map((group) => group.task)).sort(), "all");
  fill(byId("filter-reason"), once(run.groups.flatMap((group) => [...group.kinds])).sort(), "all");
  byId("step").max = Math.max(0, run.steps.length - 1);
  byId("answers-note").textContent = run.note;
}

// before: where the reader was in the page that this one takes the place of
function startGallery(before = null) {
  for (const run of data.runs) {
    run.steps = once(run.groups.map((group) => group.step));
    run.asked = new Map();
    for (const group of run.groups) {
      describe(group);
      group.question_key = `${group.source}\n${group.id}\n${group.question}`;
      run.asked.set(group.question_key, (run.asked.get(group.question_key) || 0) + 1);
    }
  }
  if (!data.runs.length) return;
  const several = data.runs.length > 1;
  byId("filter-run-label").hidden = !several;
  byId("filter-run").replaceChildren(...data.runs.map((run, index) => option(String(index), run.name)));
  selectRun(Math.min(view.run, data.runs.length - 1));
  const { steps } = data.runs[view.run];
  byId("step").value = !before || before.atEnd ? steps.length - 1 : nearest(steps, before.step);
  const isOther = currentStep() !== null && steps[Number(byId("step").value)] !== before?.step;
  if (!before || isOther) updateGroups();
  else {
    findGroups();
    view.current = Math.max(0, view.found.findIndex((group) => keyOf(group) === before.group));
    view.page = Math.floor(view.current / GROUPS_AT_ONCE);
    showGroups();
  }
  showGlance();
}

// A picture says more than a curve: some questions of the last steps, with a typical answer each.
function showGlance() {
  const run = data.runs[0];
  const groups = run.groups.filter((group) => group.step >= run.steps[Math.max(0, run.steps.length - 6)]);
  const pictured = groups.filter((group) => group.images.some((image) => image.key));
  const byMean = (pictured.length ? pictured : groups).slice(-24).sort((one, other) => one.mean - other.mean);
  // the worst, the best and two between: four right answers would flatter it
  const places = once([0, 1, 2, 3].map((third) => Math.round((third * (byMean.length - 1)) / 3)));
  const boxed = byMean.findIndex((group) => group.true_boxes.length);
  if (boxed >= 0 && places.length > 2 && !places.some((place) => byMean[place].true_boxes.length)) places[1] = boxed;
  const some = once(places).sort((one, other) => one - other).map((place) => byMean[place]);
  byId("glance").hidden = !some.length;
  const hasBoxes = (groups) => groups.some((group) => group.true_boxes.length);
  byId("glance").querySelector(".boxes-legend").hidden = !hasBoxes(some);
  document.querySelector("#answers .boxes-legend").hidden = !data.runs.some((one) => hasBoxes(one.groups));
  const cards = some.map((group) => {
    const byReward = [...group.answers].sort((one, other) => (one.reward || 0) - (other.reward || 0));
    const typical = byReward[Math.floor(byReward.length / 2)];
    const card = make("article");
    const answered = typical ? [typical.boxes] : [];
    const pictures = picturesOf({ ...group, images: group.images.slice(0, 1) }, answered);
    if (pictures) card.append(pictures);
    card.append(make("p", { dir: "auto", text: clip(group.question, 200) }));
    card.append(make("p", {}, "true answer: ", make("b", { dir: "auto", text: clip(group.truth, 80) })));
    if (typical) {
      card.append(make("p", {}, "it answers: ", make("code", { dir: "auto", text: clip(typical.text, 200) })));
      card.append(make("p", { class: "small", dir: "auto", text: `reward ${shown(typical.reward)}, its verifier says: ${clip(typical.reason, 80)}` }));
    }
    return card;
  });
  byId("glance").querySelector(".cards").replaceChildren(...cards);
}

const clip = (text, most) => (text.length > most ? `${text.slice(0, most)}...` : text);

// --- questions of evaluations -------------------------------------------------------------------------

function selectBenchmark() {
  const part = data.benchmarks[Number(byId("item-benchmark").value) || 0];
  const changes = byId("item-change");
  const chosen = changes.value;
  const shownOf = (kind) => part.items.filter((item) => item.change === kind).length;
  const words = (kind, count) => `${kind} (${shownOf(kind) < count ? `${shownOf(kind)} of ${count}` : count})`;
  changes.replaceChildren(
    option("all", "all"),
    ...Object.entries(part.changes).map(([kind, count]) => option(`=${kind}`, words(kind, count))),
  );
  if ([...changes.options].some((one) => one.value === chosen)) changes.value = chosen;
  fill(byId("item-tag"), once(part.items.map((item) => item.tag)).sort(), "all");
  fill(byId("item-reason"), once(part.items.map(lastKind)).sort(), "all");
}

const lastKind = (item) => item.answers.filter((answer, place) => answer && !item.blank[place]).map((answer) => answer.kind).pop() || "";

function updateItems() {
  itemView.page = 0;
  findItems();
  showItems();
}

function findItems() {
  const part = data.benchmarks[Number(byId("item-benchmark").value) || 0];
  const words = byId("item-search").value.trim().toLowerCase();
  itemView.found = part.items.filter(
    (item) =>
      matches(byId("item-change"), item.change) &&
      matches(byId("item-tag"), item.tag) &&
      matches(byId("item-reason"), lastKind(item)) &&
      (!words || [item.id, item.question, item.truth, ...item.answers.map((answer) => (answer ? answer.text : ""))].join("\n").toLowerCase().includes(words)),
  );
  itemView.page = Math.min(itemView.page, Math.max(0, Math.ceil(itemView.found.length / ITEMS_AT_ONCE) - 1));
}

function showItems() {
  const part = data.benchmarks[Number(byId("item-benchmark").value) || 0];
  const first = itemView.page * ITEMS_AT_ONCE;
  const some = itemView.found.slice(first, first + ITEMS_AT_ONCE);
  byId("item-list").replaceChildren(...some.map((item) => itemCard(item, part)));
  const range = some.length ? `, ${first + 1} to ${first + some.length} shown` : "";
  byId("items-count").textContent = `${itemView.found.length} of ${part.items.length} questions${range}`;
  byId("previous-items").disabled = itemView.page === 0;
  byId("next-items").disabled = first + ITEMS_AT_ONCE >= itemView.found.length;
}

function itemCard(item, part) {
  const card = make("article", { class: "item", "data-change": item.change });
  card.append(
    make(
      "header",
      {},
      make("b", { text: item.change }),
      make("span", { dir: "auto", text: item.tag }),
      make("span", { dir: "auto", text: item.id }),
    ),
  );
  const talk = make("div", { class: "talk" }, make("p", { class: "question", dir: "auto", text: item.question }));
  if (item.choices.length) talk.append(make("p", { class: "small", dir: "auto", text: `choices: ${item.choices.join(" | ")}` }));
  talk.append(truthLine(item.truth));
  const isPair = item.answers.length === 2;
  const last = item.answers.map((answer, place) => (answer && !item.blank[place] ? place : -1)).reduce((one, other) => Math.max(one, other), -1);
  const boxes = item.answers.map((answer, place) => (answer && (place === last || isPair) ? answer.boxes : []));
  item.answers.forEach((answer, place) => {
    if (!answer) return;
    const row = make("div", { class: "answer" });
    const mark = boxes[place].length ? make("i", { class: markOf(isPair, place) }) : null;
    const facts = make("span", { class: "facts" }, make("b", { dir: "auto", text: part.columns[place] }));
    if (mark) facts.prepend(mark);
    facts.append(make("span", { class: "reason", dir: "auto", text: answer.reason }));
    if (answer.read) facts.append(make("span", { dir: "auto" }, "read: ", make("b", { text: answer.read })));
    row.append(make("span", { class: "reward", text: shown(answer.score), title: "score" }), facts);
    row.append(make("p", { class: "text", dir: "auto", text: answer.text || "(empty)" }));
    lightBoxes(card, row, place);
    talk.append(row);
  });
  card.classList.add("whole");
  card.append(make("div", { class: "body" }, picturesOf(item, boxes, isPair), talk));
  return card;
}

function startItems() {
  data.benchmarks.forEach((part) => part.items.forEach((item) => (item.blank = part.blank)));
  byId("items").hidden = !data.benchmarks.length;
  if (!data.benchmarks.length) return;
  const names = byId("item-benchmark");
  const chosen = names.value;
  names.replaceChildren(...data.benchmarks.map((part, index) => option(String(index), part.name)));
  if (chosen && Number(chosen) < data.benchmarks.length) names.value = chosen;
  selectBenchmark();
  findItems();
  showItems();
}

// --- what a curve says below the pointer ----------------------------------------------------------------

function nearest(xs, x) {
  let best = 0;
  xs.forEach((value, place) => {
    if (Math.abs(value - x) < Math.abs(xs[best] - x)) best = place;
  });
  return best;
}

const stepsOf = (lines) => lines.reduce((one, line) => (line.x.length > one.length ? line.x : one), []);

function sayValues(figure, chart, x) {
  const svg = figure.querySelector(":scope > svg");
  const { frame, lines } = chart;
  const xs = stepsOf(lines);
  if (!xs.length) return;
  const step = xs[nearest(xs, x)];
  figure.dataset.step = step;
  const across = frame.left + ((step - frame.x[0]) / (frame.x[1] - frame.x[0] || 1)) * (frame.right - frame.left);
  let cursor = svg.querySelector(".cursor");
  if (!cursor) {
    cursor = document.createElementNS(SVG, "line");
    cursor.setAttribute("class", "cursor");
    svg.append(cursor);
  }
  for (const [name, value] of [["x1", across], ["x2", across], ["y1", frame.top], ["y2", frame.bottom]]) cursor.setAttribute(name, value);
  const words = lines.map((line) => {
    const place = nearest(line.x, step);
    const value = line.y[place];
    if (line.x[place] !== step && Math.abs(line.x[place] - step) > (frame.x[1] - frame.x[0]) / 20) return null;
    const said = value === null ? "–" : String(Number(value.toPrecision(3)));
    const ends = line.low && line.low[place] !== null ? ` [${shown(line.low[place])}, ${shown(line.high[place])}]` : "";
    return `${line.label ? `${line.label} ` : ""}${said}${ends}`;
  });
  figure.querySelector(".readout").textContent = `${step}: ${words.filter((word) => word !== null).join(", ")}`;
}

function stopSaying(figure) {
  const cursor = figure.querySelector(".cursor");
  if (cursor) cursor.remove();
  figure.querySelector(".readout").textContent = "";
}

function startCurves() {
  for (const figure of document.querySelectorAll("figure.chart")) {
    const chart = data.charts[figure.dataset.chart];
    const svg = figure.querySelector(":scope > svg");
    if (!chart || !svg || !chart.lines.length) continue;
    const { frame } = chart;
    svg.addEventListener("pointermove", (event) => {
      const edges = svg.getBoundingClientRect();
      const across = ((event.clientX - edges.left) / edges.width) * svg.viewBox.baseVal.width;
      const share = (across - frame.left) / (frame.right - frame.left);
      sayValues(figure, chart, frame.x[0] + share * (frame.x[1] - frame.x[0]));
    });
    svg.addEventListener("pointerleave", () => stopSaying(figure));
    figure.addEventListener("blur", () => stopSaying(figure));
    figure.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      event.preventDefault();
      const xs = stepsOf(chart.lines);
      const last = xs.length - 1;
      const by = Math.max(1, Math.round(last / 40)) * (event.key === "ArrowLeft" ? -1 : 1);
      const place = figure.dataset.step === undefined ? last : nearest(xs, Number(figure.dataset.step)) + by;
      sayValues(figure, chart, xs[Math.min(last, Math.max(0, place))]);
    });
  }
}

// --- theme, keys, live --------------------------------------------------------------------------------

function remembered(name) {
  try {
    return localStorage.getItem(`gpg-vl-${name}`);
  } catch {
    return null; // storage is off for this page
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(`gpg-vl-${name}`, value);
  } catch {
    // storage is off: it is not kept
  }
}

function setTheme(theme, keep) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = theme === "dark" ? "light" : "dark";
  if (keep) remember("theme", theme);
}

const otherTheme = () => (document.documentElement.dataset.theme === "dark" ? "light" : "dark");

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const zoomOpen = byId("zoom").open;
  if (zoomOpen && ["+", "=", "-"].includes(event.key)) zoomBy(event.key === "-" ? 1 / 1.4 : 1.4);
  if (document.querySelector("dialog[open]") || event.target.closest("input:not([type=range]):not([type=checkbox]), select, textarea")) return;
  const card = byId("group-list") ? byId("group-list").querySelector(".current") : null;
  const keys = {
    j: () => moveCurrent(1),
    k: () => moveCurrent(-1),
    "]": () => moveStep(1),
    "[": () => moveStep(-1),
    "/": () => byId("search").focus(),
    "?": () => byId("help").showModal(),
    t: () => setTheme(otherTheme(), true),
    z: () => card && card.querySelector("figure.picture") && card.querySelector("figure.picture").click(),
    Enter: () => card && event.target === card && toggleWhole(card),
  };
  const needsGroups = ["j", "k", "]", "[", "/", "z", "Enter"].includes(event.key);
  if (!(event.key in keys) || (needsGroups && !data.runs.length)) return;
  // whoever speaks to the computer can switch single letters off; ? opens the place for it
  if (!byId("keys-on").checked && event.key !== "?") return;
  if (event.key !== "Enter") event.preventDefault();
  keys[event.key]();
}

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64); // browsers since 2025
  const characters = atob(base64);
  const bytes = new Uint8Array(characters.length);
  for (let place = 0; place < bytes.length; place += 1) bytes[place] = characters.charCodeAt(place);
  return bytes;
}

async function decoded(text) {
  const bytes = bytesOf(text);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

// Where the reader is, for the page that takes the place of this one.
function whereTheReaderIs() {
  const figure = document.activeElement.closest("figure.chart");
  const section = [...document.querySelectorAll("section")].find((one) => one.getBoundingClientRect().bottom > 100);
  return {
    step: data.runs[view.run].steps[Number(byId("step").value)],
    atEnd: byId("step").value === byId("step").max,
    group: keyOf(view.found[view.current]),
    isInGroups: byId("group-list").contains(document.activeElement),
    chart: figure && figure.dataset.chart,
    chartStep: figure && figure.dataset.step,
    section,
    top: section ? section.getBoundingClientRect().top : 0,
  };
}

function bringBack(before) {
  const card = byId("group-list").querySelector(".current");
  if (before.isInGroups && card) card.focus({ preventScroll: true });
  const figure = before.chart && document.querySelector(`figure.chart[data-chart="${CSS.escape(before.chart)}"]`);
  if (figure) {
    figure.focus({ preventScroll: true });
    if (before.chartStep !== undefined) sayValues(figure, data.charts[before.chart], Number(before.chartStep));
  }
  if (before.section) scrollBy({ top: before.section.getBoundingClientRect().top - before.top, behavior: "instant" });
}

// Returns what `gpg-vl watch` answers; null = it has ended.
async function ask(name) {
  try {
    const answer = await fetch(name, { cache: "no-store" });
    return { ok: answer.ok, text: await answer.text() };
  } catch {
    return null;
  }
}

// Returns the version of the page that is shown now; null = there is no page any more.
async function refresh() {
  const answer = await ask("page");
  if (!answer || !answer.ok) return null;
  const fresh = new DOMParser().parseFromString(answer.text, "text/html");
  const newData = await decoded(fresh.getElementById("data").textContent);
  const before = whereTheReaderIs();
  data = newData;
  const own = document.querySelectorAll("#head, .refreshed");
  const theirs = fresh.querySelectorAll("#head, .refreshed");
  own.forEach((part, index) => part.replaceChildren(...theirs[index].childNodes));
  startCurves();
  startGallery(before);
  startItems();
  bringBack(before);
  return fresh.documentElement.dataset.live;
}

function startLive() {
  const button = byId("live");
  const isOn = () => button.getAttribute("aria-pressed") === "true";
  const say = (words) => (button.textContent = isOn() ? words : "paused");
  let seen = document.documentElement.dataset.live;
  let isLooking = false;
  const look = async () => {
    if (!isOn() || isLooking) return;
    isLooking = true;
    const answer = await ask("version");
    if (answer && answer.text !== seen && isOn()) {
      const shown = await refresh();
      seen = shown || seen;
      say(shown ? "live" : "run folder is gone");
    } else say(answer ? "live" : "not connected");
    isLooking = false;
  };
  document.documentElement.style.overflowAnchor = "none"; // `bringBack` scrolls
  setInterval(look, 2000);
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(!isOn()));
    say("live");
    look();
  });
}


function listen() {
  for (const id of ["filter-task", "filter-reason", "filter-reward", "filter-kind", "filter-order", "all-steps"]) {
    byId(id).addEventListener("change", updateGroups);
  }
  byId("search").addEventListener("input", updateGroups);
  byId("step").addEventListener("input", updateGroups);
  byId("filter-run").addEventListener("change", (event) => {
    view.question = null;
    selectRun(Number(event.target.value));
    byId("step").value = byId("step").max;
    updateGroups();
    showGlance();
  });
  byId("one-question").addEventListener("click", () => {
    view.question = null;
    updateGroups();
  });
  byId("previous-groups").addEventListener("click", () => turnPage(-1));
  byId("next-groups").addEventListener("click", () => turnPage(1));
}

function listenToItems() {
  byId("item-benchmark").addEventListener("change", () => {
    selectBenchmark();
    updateItems();
  });
  for (const id of ["item-change", "item-tag", "item-reason"]) byId(id).addEventListener("change", updateItems);
  byId("item-search").addEventListener("input", updateItems);
  const turn = (by) => () => {
    itemView.page += by;
    showItems();
    byId("items").scrollIntoView({ block: "start", behavior: "instant" });
  };
  byId("previous-items").addEventListener("click", turn(-1));
  byId("next-items").addEventListener("click", turn(1));
}

async function start() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  setTheme(remembered("theme") || (dark.matches ? "dark" : "light"), false);
  dark.addEventListener("change", () => remembered("theme") || setTheme(dark.matches ? "dark" : "light", false));
  byId("theme").addEventListener("click", () => setTheme(otherTheme(), true));
  byId("show-help").addEventListener("click", () => byId("help").showModal());
  byId("keys-on").checked = remembered("keys") !== "off";
  byId("keys-on").addEventListener("change", (event) => remember("keys", event.target.checked ? "on" : "off"));
  byId("zoom-in").addEventListener("click", () => zoomBy(1.4));
  byId("zoom-out").addEventListener("click", () => zoomBy(1 / 1.4));
  document.addEventListener("keydown", onKey);
  for (const form of document.querySelectorAll("form.controls")) form.addEventListener("submit", (event) => event.preventDefault());
  data = await decoded(byId("data").textContent);
  byId("data").textContent = ""; // the text is not needed twice
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.to-group");
    if (!link) return;
    event.preventDefault();
    showGroup(Number(link.dataset.run), Number(link.dataset.step), Number(link.dataset.draw));
  });
  if (byId("group-list")) listen();
  listenToItems();
  startCurves();
  if (byId("group-list")) startGallery();
  startItems();
  if (document.documentElement.dataset.live) startLive();
  document.documentElement.dataset.ready = "true";
}

start();
