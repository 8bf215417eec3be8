// Shows the pipeline's messages: a card per camera, totals, events, and one camera in full.

import { Chart, SPAN } from "./chart.js";
import { Editor } from "./editor.js";
import { EventList, placeOf } from "./events.js";
import { Link } from "./link.js";
import { CameraView } from "./view.js";
import { count, duration, element, pairs, ranked, rate, seconds, setText, swatch } from "./text.js";

const $ = (id) => document.getElementById(id);
const known = { state: null, zones: {}, events: [], points: new Map(), skew: 0 };
const cards = new Map();
const list = new EventList($("events"));

class Card {
  constructor(name) {
    this.view = new CameraView();
    this.chart = new Chart(false);
    this.rate = element("span", { className: "rate" });
    this.head = element("div", { className: "card-head" }, element("span", { className: "dot" }), element("b", {}, name), this.rate);
    this.stats = element("dl", { className: "stats" });
    this.chips = element("div", { className: "chips" });
    this.root = element("a", { className: "card", href: `#/camera/${encodeURIComponent(name)}`, data: { camera: name } },
      this.view.root, element("div", { className: "body" }, this.head, this.stats, this.chips, this.chart.root));
  }
}

const focus = { camera: null, view: new CameraView(), chart: new Chart(true), list: new EventList($("focus-events"), "") };
$("stage").append(focus.view.root);
$("focus-chart").append(focus.chart.root);
const cameraOf = (name) => known.state?.cameras.find((camera) => camera.name === name);
const zonesOf = (name) => known.zones[name] ?? { zones: [], lines: [] };
const keyOf = (name) => cameraOf(name)?.key ?? encodeURIComponent(name);
const editor = new Editor(focus.view, $("tools"), $("shapes"), keyOf, (camera, zones) => {
  known.zones[camera] = zones;
  showZones();
});

const link = new Link({
  open(isOpen, reason) {
    $("banner").hidden = isOpen;
    // The pipeline may be another one now; all of this is sent again.
    if (isOpen) Object.assign(known, { events: [], points: new Map() });
    if (isOpen) return;
    setText($("banner"), reason || "The connection to the pipeline is lost; trying again.");
    $("health").dataset.status = "waiting";
    setText($("health").lastElementChild, "No connection");
  },
  message(message) {
    if (message.type === "state") showState(message);
    else if (message.type === "zones") { known.zones = message.zones; showZones(); }
    else if (message.type === "points") addPoints(message.points);
    else if (message.type === "events") addEvents(message.events);
  },
  picture(header, bitmap) {
    const view = header.camera === focus.camera ? focus.view : cards.get(header.camera)?.view;
    if (!view) { bitmap.close(); return; }
    const first = !view.bitmap;
    view.show(header, bitmap);
    const camera = cameraOf(header.camera);
    if (first && camera) showView(view, camera);
    if (view !== focus.view) showChips(cards.get(header.camera), header);
  },
});

function showState(state) {
  known.state = state;
  known.skew = state.time - Date.now() / 1000;
  const { health, cameras } = state;
  $("health").dataset.status = health.status;
  $("health").title = health.reasons.join("\n");
  const away = cameras.filter((c) => ["stalled", "lost", "failed"].includes(c.state)).length;
  setText($("health").lastElementChild, {
    ok: "All is well", degraded: `${away} of ${cameras.length} away`, unhealthy: health.reasons[0] ?? "Not working",
  }[health.status]);
  showTotals(state);
  for (const [name, { root }] of cards) {
    if (cameraOf(name)) continue;
    onScreen.unobserve(root);
    root.remove();
    cards.delete(name);
  }
  for (const camera of cameras) {
    let card = cards.get(camera.name);
    if (!card) {
      card = new Card(camera.name);
      cards.set(camera.name, card);
      $("grid").append(card.root);
      onScreen.observe(card.root);
      card.view.zones = zonesOf(camera.name);
    }
    showCard(card, camera);
  }
  $("grid").dataset.count = cameras.length;
  setText(document.querySelector("title"), `${cameras.filter((c) => c.state === "live").length}/${cameras.length} live · trt-afdet`);
  if (!location.hash.startsWith("#/camera/") || focus.camera) showFocus();
  else route();
  showCharts();
  watch();
}

function showTotals({ cameras, uptime }) {
  const sum = (key) => cameras.reduce((total, camera) => total + (camera[key] ?? 0), 0);
  const lost = sum("dropped") + sum("stale"), received = sum("received");
  const slowest = Math.max(0, ...cameras.map((camera) => camera.p99 ?? 0));
  const live = cameras.filter((camera) => camera.state === "live").length;
  $("totals").replaceChildren(...pairs([
    ["live", `${live} of ${cameras.length}`],
    ["frames/s", rate(sum("fps"))],
    ["latency p99", slowest ? seconds(slowest) : "–"],
    ["dropped", received ? `${((100 * lost) / received).toFixed(lost && lost / received < 0.1 ? 1 : 0)} %` : "–"],
    ["up", duration(uptime), "optional"],
  ]));
}

function showView(view, camera) {
  view.colors = known.state.colors;
  view.tallies = camera.tallies;
  const away = camera.state !== "live" ? camera.state : view.bitmap ? "" : "waiting";
  if (view.notice.dataset.text === away + camera.detail) return;
  view.notice.dataset.text = away + camera.detail;
  view.notice.replaceChildren(...(away ? [element("b", {}, away), element("span", {}, camera.detail)] : []));
}

function showCard(card, camera) {
  card.view.root.style.aspectRatio = commonRatio();
  card.root.dataset.state = camera.state;
  setText(card.rate, camera.state === "live" ? `${rate(camera.fps)} fps` : camera.state);
  showView(card.view, camera);
  const lost = camera.dropped + camera.stale;
  card.stats.replaceChildren(...pairs([
    ["p50", seconds(camera.p50)],
    ["p99", seconds(camera.p99)],
    ["dropped", count(lost), lost > 0.5 * camera.received && lost > 20 ? "warn" : ""],
    ["reconnects", count(camera.reconnects), camera.reconnects ? "warn" : ""],
  ]));
  if (camera.state !== "live" || !card.view.header) showChips(card, { boxes: [] });
}

// All pictures of the grid have one shape, so that its rows are even.
function commonRatio() {
  const size = known.state.cameras.find((camera) => camera.size)?.size;
  return size ? String(Math.min(2, Math.max(1.2, size[0] / size[1]))) : "16 / 9";
}

function showChips(card, { boxes }) {
  const found = new Map();
  for (const { name } of boxes) found.set(name, (found.get(name) ?? 0) + 1);
  const key = [...found].sort().join();
  if (card.chips.dataset.key === key) return;
  card.chips.dataset.key = key;
  const chips = ranked(found).slice(0, 6).map(([name, number]) =>
    element("span", { className: "chip" }, swatch(known.state?.colors[name]), `${name} ${number}`));
  card.chips.replaceChildren(...(chips.length ? chips : [element("span", { className: "chip none" }, "nothing in the picture")]));
}

function showFocus() {
  const camera = cameraOf(focus.camera);
  if (!camera) return;
  showView(focus.view, camera);
  const [w, h] = camera.size ?? [16, 9];
  Object.assign(focus.view.root.style, { aspectRatio: `${w} / ${h}`, maxWidth: `calc((100dvh - 210px) * ${w / h})` });
  $("focus-state").dataset.state = camera.state;
  $("focus-state").replaceChildren(element("span", { className: "dot" }), camera.state);
  $("figures").replaceChildren(...pairs([
    ["Frames/s", rate(camera.fps)],
    ["Picture", camera.size ? camera.size.join(" × ") : "–"],
    ["Latency p50", seconds(camera.p50)],
    ["Latency p99", seconds(camera.p99)],
    ["Captured", count(camera.received)],
    ["Processed", count(camera.processed ?? 0)],
    ["Dropped", count(camera.dropped)],
    ["Too old", count(camera.stale)],
    ["Reconnects", count(camera.reconnects)],
    [`${camera.state} for`, duration(Math.max(0, known.state.time - camera.since))],
    ...ranked(Object.entries(camera.objects ?? {})).slice(0, 8).map(([name, number]) => [`${name} detections`, count(number), "wide"]),
  ]));
}

function addPoints(points) {
  for (const point of points) {
    const all = [...(known.points.get(point.camera) ?? []), point];
    known.points.set(point.camera, all.filter(({ time }) => point.time - time <= SPAN + 10));
  }
  showCharts();
}

function showCharts() {
  if (!known.state) return;
  const now = Date.now() / 1000 + known.skew;
  if (focus.camera) focus.chart.show(known.points.get(focus.camera) ?? [], known.state.colors, now);
  else for (const [name, card] of cards) card.chart.show(known.points.get(name) ?? [], known.state.colors, now);
}

function addEvents(events) {
  const first = known.events.length === 0;
  known.events = [...known.events, ...events].slice(-300);
  for (const event of first ? [] : events) {
    const place = placeOf(event);
    if (place) (event.camera === focus.camera ? focus.view : cards.get(event.camera)?.view)?.flash(place);
  }
  showEvents();
}

const showEvents = () => (focus.camera ? focus.list : list).show(known.events);

function showZones() {
  for (const [name, card] of cards) {
    card.view.zones = zonesOf(name);
    card.view.redraw();
  }
  if (!focus.camera) return;
  focus.view.zones = zonesOf(focus.camera);
  editor.update(focus.view.zones);
  focus.view.redraw();
}

// Only what can be seen is asked for, as large as it is shown.
function watch() {
  const wanted = {};
  if (!focus.camera) for (const [name, card] of cards) if (card.visible) wanted[name] = card.view.wanted;
  if (cards.has(focus.camera)) wanted[focus.camera] = focus.view.wanted;
  link.watch(wanted);
}

const onScreen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const card = cards.get(target.dataset.camera);
    if (card) card.visible = isIntersecting;
  }
  watch();
}, { rootMargin: "100px" });

function route() {
  const name = location.hash.startsWith("#/camera/") ? decodeURIComponent(location.hash.slice(9)) : null;
  const camera = cameraOf(name) ? name : null;
  if (camera === focus.camera) return;
  editor.close();
  focus.camera = camera;
  $("focus").hidden = !camera;
  $("overview").hidden = Boolean(camera);
  if (camera) {
    focus.view.bitmap = focus.view.header = null;
    focus.view.canvas.width = 0;
    setText($("focus-name"), camera);
    focus.list.camera = camera;
    focus.view.zones = zonesOf(camera);
    editor.open(camera, focus.view.zones);
    showFocus();
    scrollTo(0, 0);
  }
  showCharts();
  showEvents();
  watch();
}

addEventListener("hashchange", route);
addEventListener("resize", watch);
$("filter").addEventListener("click", ({ target }) => {
  if (!target.dataset.kind) return;
  for (const button of $("filter").children) button.setAttribute("aria-pressed", String(button === target));
  list.kind = target.dataset.kind;
  showEvents();
});
