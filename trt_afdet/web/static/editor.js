// Draws zones and lines on a camera's picture, with mouse, pen or finger.

import { element, toast } from "./text.js";
import { drawShape, shapeColor } from "./view.js";

const copy = (value) => JSON.parse(JSON.stringify(value));
const pointsOf = (shape) => shape.polygon ?? shape.points;
// Their place is known when the picture's size is; until then the server sends them as they are.
const inPixels = (shape) => shape.units === "pixels";
const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);

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
    this.stored = copy(zones);
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
    if (JSON.stringify(zones) === JSON.stringify(this.stored)) return;
    this.stored = copy(zones);
    if (!this.active) this.render();
    else if (!this.changed) { this.draft = copy(zones); this.render(); }
  }

  get changed() {
    return this.active && JSON.stringify(this.draft) !== JSON.stringify(this.stored);
  }

  begin() {
    this.active = true;
    this.draft = this.drafts.get(this.camera) ?? copy(this.stored);
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
    return this.active ? [...this.draft.zones, ...this.draft.lines] : [...this.stored.zones, ...this.stored.lines];
  }

  changedNow() {
    if (this.changed) this.drafts.set(this.camera, this.draft);
    else this.drafts.delete(this.camera);
    this.render();
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
    if (!this.active && this.stored.zones.concat(this.stored.lines).some(inPixels)) {
      this.tools.replaceChildren(element("span", { className: "hint" }, "Zones in pixels can be shown and edited once there is a picture."));
      return;
    }
    if (!this.active) {
      this.tools.replaceChildren(button("Edit zones and lines", "", () => this.begin(), { id: "edit" }));
      return;
    }
    const drawing = this.pending;
    const parts = drawing
      ? [element("span", { className: "hint" }, this.advice())]
      : [
        button("Draw a zone", "", () => this.start("zone"), { id: "draw-zone" }),
        button("Draw a line", "", () => this.start("line"), { id: "draw-line" }),
        element("span", { className: "hint" }, this.advice()),
      ];
    if (drawing) {
      if (drawing.kind === "zone") {
        parts.push(button("Finish", "primary", () => this.finish(), { id: "finish", disabled: drawing.points.length < 3 }));
      }
      parts.push(button("Undo point", "", () => this.undoPoint(), { disabled: !drawing.points.length }));
      parts.push(button("Cancel", "", () => this.cancel()));
    } else {
      parts.push(button("Discard", "", () => this.discard(), { id: "discard" }));
      parts.push(button("Save", "primary", () => this.save(), { id: "save", disabled: !this.changed }));
    }
    this.tools.replaceChildren(...parts);
  }

  advice() {
    if (this.pending?.kind === "zone") {
      return this.pending.points.length < 3 ? "Tap the zone’s corners one after the other." : "Tap the first corner or Finish to close the zone.";
    }
    if (this.pending) return "Tap where the line begins and where it ends. The arrow shows which way counts as forward.";
    return this.shapes.length ? "Drag corners to move them; drag the middle of a side to bend it." : "";
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
      if (this.changed) this.drafts.set(this.camera, this.draft);
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
    const points = drawn.points.filter((p, i) => !i || distance(this.view.toScreen(p), this.view.toScreen(drawn.points[i - 1])) > 3);
    if (points.length < (drawn.kind === "zone" ? 3 : 2)) return;
    const name = this.freshName(drawn.kind);
    const shape = drawn.kind === "zone" ? { name, polygon: points } : { name, points: points.slice(0, 2) };
    (drawn.kind === "zone" ? this.draft.zones : this.draft.lines).push(shape);
    this.pending = null;
    this.selected = shape;
    this.changedNow();
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
    this.changedNow();
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
        this.stored = copy(value);
        this.stop();
        this.render();
      }
      toast("Saved");
    } catch (error) {
      toast(`Not saved: ${error.message}`, true);
    }
  }

  // What is under the pointer: a corner, the middle of a side, or a shape.
  hit(event) {
    const at = this.view.toScreen(this.view.fromEvent(event));
    const near = event.pointerType === "touch" ? 24 : 11;
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
      const near = event.pointerType === "touch" ? 24 : 11;
      if (kind === "zone" && points.length > 2 && distance(this.view.toScreen(points[0]), this.view.toScreen(point)) < near) {
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
      this.drag = { ...hit, from: this.view.fromEvent(event), before: copy(points) };
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
      if (distance(this.view.toScreen(point), this.view.toScreen(this.pending.points[0])) > 20) {
        this.pending.points.push(point);
        this.finish();
      }
    } else if (this.drag) {
      this.drag = null;
      this.changedNow();
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

function middle(a, b) {
  return [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
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
