// A camera's picture with boxes and zones on it. The picture and what is drawn over it lie on two
// canvases at the screen's own resolution, so text is crisp however small the picture was sent.

import { tallyText } from "./events.js";
import { element, path } from "./text.js";

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';

export class CameraView {
  constructor() {
    this.canvas = element("canvas", { className: "picture" });
    this.over = element("canvas", { className: "draw" });
    this.notice = element("div", { className: "notice" });
    this.root = element("div", { className: "view" }, this.canvas, this.over, this.notice);
    this.bitmap = this.header = null;
    this.colors = {};
    this.zones = { zones: [], lines: [] };
    this.tallies = {};
    this.flashes = new Map();
    this.drawExtra = null; // (context): what an editor draws on top.
    this.hideZones = false;
    new ResizeObserver(() => this.redraw()).observe(this.root);
  }

  // The width worth sending: what is shown, in device pixels.
  get wanted() {
    return Math.ceil(this.root.clientWidth * Math.min(devicePixelRatio || 1, 2));
  }

  show(header, bitmap) {
    this.bitmap?.close();
    Object.assign(this, { header, bitmap });
    this.redraw();
  }

  flash(name) {
    this.flashes.set(name, performance.now());
    this.redraw();
  }

  redraw() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = null;
      this.draw();
    });
  }

  // Where the picture lies in the view, in CSS pixels.
  get place() {
    const wide = this.root.clientWidth, tall = this.root.clientHeight;
    const [w, h] = this.header?.size ?? [16, 9];
    const scale = Math.min(wide / w, tall / h);
    return { x: (wide - w * scale) / 2, y: (tall - h * scale) / 2, w: w * scale, h: h * scale };
  }

  toScreen([x, y]) {
    const p = this.place;
    return [p.x + x * p.w, p.y + y * p.h];
  }

  // From a pointer event to shares of the picture, 0 to 1.
  fromEvent(event) {
    const r = this.over.getBoundingClientRect(), p = this.place;
    const clamp = (v) => Math.min(1, Math.max(0, v));
    return [clamp((event.clientX - r.left - p.x) / p.w), clamp((event.clientY - r.top - p.y) / p.h)];
  }

  draw() {
    const ratio = devicePixelRatio || 1, wide = this.root.clientWidth, tall = this.root.clientHeight;
    if (!wide || !tall) return;
    for (const canvas of [this.canvas, this.over]) {
      const w = Math.round(wide * ratio), h = Math.round(tall * ratio);
      if (canvas.width !== w || canvas.height !== h) Object.assign(canvas, { width: w, height: h });
    }
    const p = this.place, [picture, over] = [this.canvas, this.over].map((canvas) => canvas.getContext("2d"));
    for (const context of this.bitmap ? [picture, over] : [over]) {
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, wide, tall);
    }
    if (this.bitmap) {
      picture.imageSmoothingQuality = "high";
      picture.drawImage(this.bitmap, p.x, p.y, p.w, p.h);
    }
    if (!this.hideZones) this.drawZones(over);
    // The best come first and are drawn last, on top.
    for (const box of [...(this.header?.boxes ?? [])].reverse()) this.drawBox(over, box, p);
    this.drawExtra?.(over);
  }

  drawBox(context, { box: [x1, y1, x2, y2], name, confidence, track }, p) {
    const color = this.colors[name] ?? "#ffffff";
    const x = p.x + x1 * p.w, y = p.y + y1 * p.h, w = (x2 - x1) * p.w, h = (y2 - y1) * p.h;
    context.lineJoin = "round";
    for (const [strokeStyle, lineWidth] of [["rgb(0 0 0 / .55)", 4], [color, 2]]) {
      Object.assign(context, { strokeStyle, lineWidth });
      context.strokeRect(x, y, w, h);
    }
    const size = p.w < 600 ? 11 : 13;
    label(context, `${name}${track == null ? "" : ` #${track}`} ${Math.round(confidence * 100)}%`, x - 1, y, color, size, p);
  }

  drawZones(context) {
    const now = performance.now();
    let flashing = false;
    for (const shape of [...this.zones.zones, ...this.zones.lines]) {
      if (shape.units === "pixels") continue; // It has no place yet.
      const lit = Math.max(0, 1 - (now - (this.flashes.get(shape.name) ?? -1e9)) / 1500);
      flashing ||= lit > 0;
      const text = [shape.name, tallyText(this.tallies[shape.name])].filter(Boolean).join(" · ");
      const closed = Boolean(shape.polygon), points = shape.polygon ?? shape.points;
      drawShape(context, this, points, closed, text, { lit, color: shapeColor(shape.name) });
    }
    if (flashing) setTimeout(() => this.redraw(), 60);
  }
}

export function shapeColor(name) {
  let hash = 0;
  for (const letter of name) hash = (hash * 31 + letter.codePointAt(0)) % 360;
  return `hsl(${(hash * 137) % 360} 85% 68%)`;
}

export function drawShape(context, view, points, closed, name, { lit = 0, strong = false, color = shapeColor(name) } = {}) {
  const screen = points.map((point) => view.toScreen(point));
  context.save();
  path(context, screen, { fillStyle: color, globalAlpha: (strong ? 0.22 : 0.1) + 0.35 * lit });
  if (closed) {
    context.closePath();
    context.fill();
  }
  Object.assign(context, { globalAlpha: 1, strokeStyle: "rgb(0 0 0 / .5)", lineWidth: (strong ? 5 : 4) + 3 * lit });
  context.stroke();
  Object.assign(context, { strokeStyle: color, lineWidth: (strong ? 2.5 : 1.75) + 2 * lit });
  context.setLineDash(strong || lit ? [] : [7, 5]);
  context.stroke();
  context.restore();
  if (!closed && screen.length === 2) arrow(context, screen, color);
  if (name && screen.length > 1) {
    const [x, y] = [0, 1].map((axis) => screen.reduce((sum, s) => sum + s[axis], 0) / screen.length);
    const text = { font: `600 12px ${FONT}`, textAlign: "center", textBaseline: "middle", fillStyle: color };
    Object.assign(context, text, { lineWidth: 3.5, lineJoin: "round", strokeStyle: "rgb(0 0 0 / .75)" });
    // A line's name stands beside it, on the side that its arrow does not point to.
    const [nx, ny] = closed ? [0, 0] : normal(screen);
    const left = x - nx * (10 + context.measureText(name).width / 2), top = y - ny * 14;
    context.strokeText(name, left, top);
    context.fillText(name, left, top);
    context.textAlign = "left";
  }
}

// Unit vector to the right of a line's direction.
function normal([[x1, y1], [x2, y2]]) {
  const length = Math.hypot(x2 - x1, y2 - y1) || 1;
  return [-(y2 - y1) / length, (x2 - x1) / length];
}

// A short arrow across a line's middle: the way that counts as forward, from left to right.
function arrow(context, line, color) {
  const [[x1, y1], [x2, y2]] = line, [nx, ny] = normal(line);
  const mx = (x1 + x2) / 2, my = (y1 + y2) / 2;
  const tip = [mx + nx * 12, my + ny * 12];
  const barb = (side) => [tip[0] - nx * 6 + side * ny * 5, tip[1] - ny * 6 - side * nx * 5];
  path(context, [[mx, my], tip, barb(1), tip, barb(-1)], { strokeStyle: color, lineWidth: 2 });
  context.stroke();
}

function label(context, text, x, y, color, size, place) {
  Object.assign(context, { font: `600 ${size}px ${FONT}`, textBaseline: "middle", fillStyle: color });
  const wide = context.measureText(text).width + 10, tall = size + 6;
  const left = Math.min(Math.max(place.x, x), place.x + place.w - wide);
  const top = y - tall >= place.y ? y - tall : Math.max(place.y, y);
  context.beginPath();
  context.roundRect(left, top, wide, tall, 4);
  context.fill();
  context.fillStyle = dark(color) ? "#fff" : "#0a0d14";
  context.fillText(text, left + 5, top + tall / 2 + 0.5);
}

function dark(color) {
  const n = parseInt(color.slice(1), 16);
  return 0.299 * (n >> 16) + 0.587 * ((n >> 8) & 255) + 0.114 * (n & 255) < 140;
}
