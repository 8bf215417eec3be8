// Draws zones and lines on a camera's picture, with mouse, pen or finger.

import { element, path, swatch, toast } from "./text.js";
import { drawShape, shapeColor } from "./view.js";

const pointsOf = (shape) => shape.polygon ?? shape.points;
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
const middle = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
// Pixels within which a pointer hits a point.
const reach = (event) => (event.pointerType === "touch" ? 24 : 11);
const hint = (text) => element("span", { className: "hint" }, text);
const button = (text, kind, onclick, properties = {}) =>
  element("button", { type: "button", className: `button ${kind}`, onclick, ...properties }, text);

export class Editor {
  // tools, list: where buttons and the list of shapes go. keyOf(camera): its name in addresses.
  // saved(camera, zones) after saving.
  constructor(view, tools, list, keyOf, saved) {
    Object.assign(this, { view, tools, list, keyOf, saved });
    this.drafts = new Map(); // Camera → unsaved shapes; they outlive a look at another camera.
    this.camera = null;
    this.active = false;
    for (const kind of ["down", "move", "up"]) view.over.addEventListener(`pointer${kind}`, (event) => this[kind](event));
    view.over.addEventListener("pointercancel", () => { this.drag = null; });
    view.over.addEventListener("dblclick", () => this.finish());
    addEventListener("keydown", (event) => this.key(event));
    addEventListener("beforeunload", (event) => { if (this.drafts.size) event.preventDefault(); });
  }

  open(camera, zones) {
    this.camera = camera;
    this.stored = structuredClone(zones);
    this.setActive(false);
    if (this.drafts.has(camera)) this.begin();
    else this.render();
  }

  close() {
    this.setActive(false);
    this.camera = null;
  }

  // Zones changed on the server: shown, unless this browser has changes of its own.
  update(zones) {
    if (same(zones, this.stored)) return;
    const editing = this.changed;
    this.stored = structuredClone(zones);
    if (editing) return;
    if (this.active) this.draft = structuredClone(zones);
    this.render();
  }

  get changed() {
    return this.active && !same(this.draft, this.stored);
  }

  begin() {
    this.draft = this.drafts.get(this.camera) ?? structuredClone(this.stored);
    this.setActive(true);
    this.render();
  }

  setActive(active) {
    this.active = this.view.hideZones = active;
    this.pending = this.drag = this.selected = null; // Pending: being drawn, { kind, points, pointer }.
    this.view.drawExtra = active ? (context) => this.draw(context) : null;
    this.view.root.classList.toggle("editing", active);
  }

  discard() {
    this.drafts.delete(this.camera);
    this.open(this.camera, this.stored);
  }

  get shapes() {
    const { zones, lines } = this.active ? this.draft : this.stored;
    return [...zones, ...lines];
  }

  keepDraft(list = true) {
    if (this.changed) this.drafts.set(this.camera, this.draft);
    else this.drafts.delete(this.camera);
    if (list) this.render();
    else this.renderTools();
  }

  render() {
    this.renderTools();
    const rows = this.shapes.map((shape) => this.row(shape));
    this.list.replaceChildren(...(rows.length ? rows : [element("p", { className: "empty" }, "None yet. Zones tell who enters, leaves and stays; lines count who crosses.")]));
  }

  renderTools() {
    this.view.redraw();
    this.tools.replaceChildren(...this.toolsNow());
  }

  toolsNow() {
    // Their place is known when the picture's size is; until then the server sends pixels.
    const unplaced = this.shapes.some((shape) => shape.units === "pixels");
    if (!this.active && unplaced) return [hint("Zones in pixels can be shown and edited once there is a picture.")];
    if (!this.active) return [button("Edit zones and lines", "", () => this.begin(), { id: "edit" })];
    if (!this.pending) {
      return [
        button("Draw a zone", "", () => this.start("zone"), { id: "draw-zone" }),
        button("Draw a line", "", () => this.start("line"), { id: "draw-line" }),
        hint(this.shapes.length ? "Drag corners to move them; drag the middle of a side to bend it." : ""),
        button("Discard", "", () => this.discard(), { id: "discard" }),
        button("Save", "primary", () => this.save(), { id: "save", disabled: !this.changed }),
      ];
    }
    const { kind, points } = this.pending;
    const last = [
      button("Undo point", "", () => this.undoPoint(), { disabled: !points.length }),
      button("Cancel", "", () => this.start(null)),
    ];
    if (kind === "line") return [hint("Tap where the line begins and where it ends. The arrow shows which way counts as forward."), ...last];
    const advice = points.length < 3 ? "Tap the zone’s corners one after the other." : "Tap the first corner or Finish to close the zone.";
    return [hint(advice), button("Finish", "primary", () => this.finish(), { id: "finish", disabled: points.length < 3 }), ...last];
  }

  row(shape) {
    const dot = swatch(shapeColor(shape.name), "span", "swatch");
    const kind = shape.polygon ? "zone" : "line";
    if (!this.active) return element("div", { className: "shape" }, dot, element("span", {}, shape.name), element("small", {}, kind), "");
    const input = element("input", { value: shape.name, maxLength: 100, "aria-label": `Name of the ${kind}`, spellcheck: false });
    input.onfocus = () => { if (this.selected !== shape) { this.selected = shape; this.view.redraw(); } };
    input.oninput = () => {
      shape.name = input.value;
      dot.style.background = shapeColor(shape.name);
      this.keepDraft(false); // A new list would take the input away.
    };
    const title = `Delete this ${kind}`, onclick = () => this.remove(shape);
    const remove = element("button", { type: "button", title, onclick, "aria-label": `Delete ${shape.name}` }, "×");
    return element("div", { className: "shape", "aria-current": String(this.selected === shape), data: { name: shape.name } },
      dot, input, element("small", {}, kind), remove);
  }

  // Begins to draw a zone or line; null gives up.
  start(kind) {
    this.pending = kind && { kind, points: [], pointer: null };
    this.selected = null;
    this.render();
  }

  undoPoint() {
    this.pending.points.pop();
    this.render();
  }

  finish() {
    const drawn = this.pending;
    if (!drawn) return;
    // A double click has set its last point twice.
    const points = drawn.points.filter((p, i) => !i || this.apart(p, drawn.points[i - 1]) > 3);
    const closed = drawn.kind === "zone", name = this.freshName(drawn.kind);
    if (points.length < (closed ? 3 : 2)) return;
    const shape = closed ? { name, polygon: points } : { name, points: points.slice(0, 2) };
    (closed ? this.draft.zones : this.draft.lines).push(shape);
    this.pending = null;
    this.selected = shape;
    this.keepDraft();
    // On a phone the keyboard would cover the picture.
    if (this.pointer !== "touch") {
      const input = [...this.list.querySelectorAll("input")].find((i) => i.value === name);
      input?.focus();
      input?.select();
    }
  }

  freshName(kind) {
    const taken = new Set(this.shapes.map((shape) => shape.name));
    for (let n = 1; ; n += 1) if (!taken.has(`${kind} ${n}`)) return `${kind} ${n}`;
  }

  remove(shape) {
    this.draft.zones = this.draft.zones.filter((s) => s !== shape);
    this.draft.lines = this.draft.lines.filter((s) => s !== shape);
    if (this.selected === shape) this.selected = null;
    this.keepDraft();
  }

  async save() {
    const camera = this.camera, body = JSON.stringify(this.draft);
    try {
      const headers = { "Content-Type": "application/json" };
      const answer = await fetch(`api/zones/${this.keyOf(camera)}`, { method: "PUT", headers, body });
      const value = await answer.json();
      if (!answer.ok) throw new Error(value.error ?? "not saved");
      this.drafts.delete(camera);
      this.saved(camera, value);
      if (camera === this.camera) this.open(camera, value);
      toast("Saved");
    } catch (error) {
      toast(`Not saved: ${error.message}`, true);
    }
  }

  // Pixels between two points of the picture.
  apart(a, b) {
    return distance(this.view.toScreen(a), this.view.toScreen(b));
  }

  // What is under the pointer: a corner, the middle of a side, or a shape.
  hit(event) {
    const at = this.view.toScreen(this.view.fromEvent(event)), near = reach(event);
    const shapes = [...this.shapes].reverse().sort((a, b) => (b === this.selected) - (a === this.selected));
    for (const shape of shapes) {
      const points = pointsOf(shape), screen = points.map((p) => this.view.toScreen(p));
      const corner = screen.findIndex((p) => distance(p, at) < near);
      if (corner >= 0) return { shape, corner };
      if (shape === this.selected && shape.polygon) {
        const side = screen.findIndex((p, i) => distance(middle(p, screen[(i + 1) % screen.length]), at) < near);
        if (side >= 0) return { shape, side };
      }
    }
    const inside = shapes.find((shape) => within(at, pointsOf(shape).map((p) => this.view.toScreen(p)), near));
    return inside ? { shape: inside } : null;
  }

  down(event) {
    if (!this.active || event.button) return;
    event.preventDefault();
    this.pointer = event.pointerType;
    this.view.over.setPointerCapture(event.pointerId);
    const point = snap(this.view.fromEvent(event), this.view);
    if (this.pending) {
      const { kind, points } = this.pending;
      const closing = kind === "zone" && points.length > 2 && this.apart(points[0], point) < reach(event);
      if (!closing) points.push(point);
      this.pending.pointer = point;
      if (closing || (kind === "line" && points.length === 2)) this.finish();
      else this.render();
      return;
    }
    const hit = this.hit(event);
    this.selected = hit?.shape ?? null;
    if (hit) {
      const points = pointsOf(hit.shape);
      if (hit.side != null) {
        hit.corner = hit.side + 1;
        points.splice(hit.corner, 0, point);
      }
      this.drag = { ...hit, from: this.view.fromEvent(event), before: structuredClone(points) };
    }
    this.render();
  }

  move(event) {
    if (!this.active) return;
    const raw = this.view.fromEvent(event), point = snap(raw, this.view);
    if (this.pending) {
      this.pending.pointer = point;
    } else if (this.drag) {
      const points = pointsOf(this.drag.shape);
      if (this.drag.corner != null) points[this.drag.corner] = point;
      else shift(points, this.drag.before, raw, this.drag.from);
    } else {
      const hit = this.hit(event);
      this.view.over.dataset.over = !hit ? "" : hit.corner != null || hit.side != null ? "grab" : "move";
      return;
    }
    this.view.redraw();
  }

  up(event) {
    if (!this.active) return;
    if (this.pending?.kind === "line" && this.pending.points.length === 1) {
      // A line may also be drawn in one stroke.
      const point = snap(this.view.fromEvent(event), this.view);
      if (this.apart(point, this.pending.points[0]) > 20) {
        this.pending.points.push(point);
        this.finish();
      }
    } else if (this.drag) {
      this.drag = null;
      this.keepDraft();
    }
  }

  key(event) {
    if (!this.active || event.target instanceof HTMLInputElement) return;
    if (event.key === "Escape" && this.pending) this.start(null);
    else if (event.key === "Enter" && this.pending) this.finish();
    else if (event.key === "Backspace" && this.pending?.points.length) this.undoPoint();
    else if ((event.key === "Delete" || event.key === "Backspace") && this.selected) this.remove(this.selected);
    else return;
    event.preventDefault();
  }

  draw(context) {
    for (const shape of this.shapes) {
      const strong = shape === this.selected, points = pointsOf(shape);
      drawShape(context, this.view, points, Boolean(shape.polygon), shape.name, { strong });
      points.forEach((p) => handle(context, this.view.toScreen(p), strong ? 6 : 4, shapeColor(shape.name)));
      if (strong && shape.polygon) {
        points.forEach((p, i) => handle(context, middle(this.view.toScreen(p), this.view.toScreen(points[(i + 1) % points.length])), 3.5, "#ffffff99"));
      }
    }
    if (!this.pending) return;
    const { kind, points, pointer } = this.pending;
    const all = pointer && points.length ? [...points, pointer] : points;
    drawShape(context, this.view, all, kind === "zone" && all.length > 2, "", { strong: true, color: "#5eead4" });
    points.forEach((p, i) => handle(context, this.view.toScreen(p), i === 0 && points.length > 2 ? 9 : 5, "#5eead4"));
  }
}

function handle(context, [x, y], radius, color) {
  Object.assign(context, { fillStyle: color, strokeStyle: "#0b0f17", lineWidth: 2 });
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
  context.fill();
  context.stroke();
}

// Close to the picture's edge means the edge.
function snap([x, y], view) {
  const { w, h } = view.place;
  const edge = (v, size) => (v * size < 8 ? 0 : (1 - v) * size < 8 ? 1 : Math.round(v * 1e5) / 1e5);
  return [edge(x, w), edge(y, h)];
}

// Moves all points as far as the pointer went, but not out of the picture.
function shift(points, before, to, from) {
  [0, 1].forEach((axis) => {
    const values = before.map((p) => p[axis]);
    const by = Math.max(-Math.min(...values), Math.min(1 - Math.max(...values), to[axis] - from[axis]));
    before.forEach((p, i) => { points[i][axis] = Math.round((p[axis] + by) * 1e5) / 1e5; });
  });
}

const probe = document.createElement("canvas").getContext("2d");

function within([x, y], screen, near) {
  path(probe, screen, { lineWidth: 2 * near });
  return screen.length === 2 ? probe.isPointInStroke(x, y) : probe.isPointInPath(x, y);
}
