// Draws zones and lines on a camera's picture, with mouse, pen or finger.

import { element, toast } from "./text.js";
import { drawShape, shapeColor } from "./view.js";

const pointsOf = (shape) => shape.polygon ?? shape.points;
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
const middle = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
// Pixels within which a pointer hits a point.
const reach = (event) => (event.pointerType === "touch" ? 24 : 11);

export class Editor {
  // tools, list: where buttons and the list of shapes go. keyOf(camera): its name in addresses.
  // saved(camera, zones) after saving.
  constructor(view, tools, list, keyOf, saved) {
    Object.assign(this, { view, tools, list, keyOf, saved });
    this.drafts = new Map(); // Camera → unsaved shapes; they outlive a look at another camera.
    this.camera = null;
    this.active = false;
    const canvas = view.over;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", () => { this.drag = null; });
    canvas.addEventListener("dblclick", () => this.finish());
    addEventListener("keydown", (event) => this.key(event));
    addEventListener("beforeunload", (event) => { if (this.drafts.size) event.preventDefault(); });
  }

  open(camera, zones) {
    this.camera = camera;
    this.stored = structuredClone(zones);
    this.stop();
    if (this.drafts.has(camera)) this.begin();
    else this.render();
  }

  close() {
    this.stop();
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
    this.active = true;
    this.draft = this.drafts.get(this.camera) ?? structuredClone(this.stored);
    this.selected = null;
    this.pending = null; // The shape being drawn: { kind, points, pointer }.
    this.view.hideZones = true;
    this.view.drawExtra = (context) => this.draw(context);
    this.view.root.classList.add("editing");
    this.render();
  }

  stop() {
    this.active = false;
    this.pending = this.drag = this.selected = null;
    this.view.hideZones = false;
    this.view.drawExtra = null;
    this.view.root.classList.remove("editing");
  }

  discard() {
    this.drafts.delete(this.camera);
    this.stop();
    this.render();
  }

  get shapes() {
    const { zones, lines } = this.active ? this.draft : this.stored;
    return [...zones, ...lines];
  }

  keepDraft() {
    if (this.changed) this.drafts.set(this.camera, this.draft);
    else this.drafts.delete(this.camera);
  }

  render() {
    this.view.redraw();
    this.renderTools();
    this.renderList();
  }

  renderTools() {
    const button = (text, kind, act, properties = {}) => {
      const made = element("button", { type: "button", className: `button ${kind}`, ...properties }, text);
      made.addEventListener("click", act);
      return made;
    };
    const hint = (text) => element("span", { className: "hint" }, text);
    this.tools.replaceChildren(...this.toolsNow(button, hint));
  }

  toolsNow(button, hint) {
    if (!this.active) {
      // Their place is known when the picture's size is; until then the server sends pixels.
      const unplaced = this.shapes.some((shape) => shape.units === "pixels");
      return unplaced
        ? [hint("Zones in pixels can be shown and edited once there is a picture.")]
        : [button("Edit zones and lines", "", () => this.begin(), { id: "edit" })];
    }
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
      button("Cancel", "", () => this.cancel()),
    ];
    if (kind === "line") return [hint("Tap where the line begins and where it ends. The arrow shows which way counts as forward."), ...last];
    const advice = points.length < 3 ? "Tap the zone’s corners one after the other." : "Tap the first corner or Finish to close the zone.";
    return [hint(advice), button("Finish", "primary", () => this.finish(), { id: "finish", disabled: points.length < 3 }), ...last];
  }

  renderList() {
    const rows = this.shapes.map((shape) => this.row(shape));
    this.list.replaceChildren(...(rows.length ? rows : [element("p", { className: "empty" }, "None yet. Zones tell who enters, leaves and stays; lines count who crosses.")]));
  }

  row(shape) {
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = shapeColor(shape.name);
    const kind = shape.polygon ? "zone" : "line";
    if (!this.active) return element("div", { className: "shape" }, swatch, element("span", {}, shape.name), element("small", {}, kind), "");
    const input = element("input", { value: shape.name, maxLength: 100, "aria-label": `Name of the ${kind}`, spellcheck: false });
    input.addEventListener("focus", () => { if (this.selected !== shape) { this.selected = shape; this.view.redraw(); } });
    input.addEventListener("input", () => {
      shape.name = input.value;
      swatch.style.background = shapeColor(shape.name);
      this.keepDraft();
      this.renderTools();
      this.view.redraw();
    });
    const remove = element("button", { type: "button", title: `Delete this ${kind}`, "aria-label": `Delete ${shape.name}` }, "×");
    remove.addEventListener("click", () => this.remove(shape));
    return element("div", { className: "shape", "aria-current": String(this.selected === shape), data: { name: shape.name } },
      swatch, input, element("small", {}, kind), remove);
  }

  start(kind) {
    this.pending = { kind, points: [], pointer: null };
    this.selected = null;
    this.render();
  }

  cancel() {
    this.pending = null;
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
    this.render();
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
    this.render();
  }

  async save() {
    const camera = this.camera, body = JSON.stringify(this.draft);
    try {
      const answer = await fetch(`api/zones/${this.keyOf(camera)}`, {
        method: "PUT", headers: { "Content-Type": "application/json" }, body,
      });
      const value = await answer.json();
      if (!answer.ok) throw new Error(value.error ?? "not saved");
      this.drafts.delete(camera);
      this.saved(camera, value);
      if (camera === this.camera) {
        this.stored = structuredClone(value);
        this.stop();
        this.render();
      }
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
      if (kind === "zone" && points.length > 2 && this.apart(points[0], point) < reach(event)) {
        this.finish();
        return;
      }
      points.push(point);
      this.pending.pointer = point;
      if (kind === "line" && points.length === 2) this.finish();
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
      this.render();
    }
  }

  key(event) {
    if (!this.active || event.target instanceof HTMLInputElement) return;
    if (event.key === "Escape" && this.pending) this.cancel();
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
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
  context.fillStyle = color;
  context.fill();
  context.lineWidth = 2;
  context.strokeStyle = "#0b0f17";
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

function within(at, screen, near) {
  if (screen.length === 2) {
    const [a, b] = screen, length = distance(a, b) || 1;
    const along = ((at[0] - a[0]) * (b[0] - a[0]) + (at[1] - a[1]) * (b[1] - a[1])) / length;
    const off = Math.abs((at[0] - a[0]) * (b[1] - a[1]) - (at[1] - a[1]) * (b[0] - a[0])) / length;
    return off < near && along > 0 && along < length;
  }
  let inside = false;
  screen.forEach((p, i) => {
    const q = screen[(i + 1) % screen.length];
    if (p[1] > at[1] !== q[1] > at[1] && at[0] < ((q[0] - p[0]) * (at[1] - p[1])) / (q[1] - p[1]) + p[0]) inside = !inside;
  });
  return inside;
}
