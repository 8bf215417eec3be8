// Objects per frame by class over the last minutes, as lines on a canvas.

import { clock, element, path, ranked, swatch } from "./text.js";

export const SPAN = 300;
const STEP = 2;

export class Chart {
  // full: with axes, legend and a read-out under the pointer; otherwise a bare sparkline.
  constructor(full) {
    this.full = full;
    this.canvas = element("canvas");
    this.box = element("div", { className: "chart" }, this.canvas);
    this.legend = element("div", { className: "legend" });
    this.root = full ? element("div", {}, this.box, this.legend) : this.box;
    Object.assign(this, { hidden: new Set(), points: [], colors: {}, hover: null });
    new ResizeObserver(() => this.draw()).observe(this.box);
    if (!full) return;
    this.canvas.onpointermove = (event) => { this.hover = event.offsetX; this.draw(); };
    this.canvas.onpointerleave = () => { this.hover = null; this.draw(); };
  }

  show(points, colors, now) {
    Object.assign(this, { points, colors, now });
    const seen = new Map();
    for (const { counts } of points) {
      for (const [name, n] of Object.entries(counts)) seen.set(name, (seen.get(name) ?? 0) + n);
    }
    this.names = ranked(seen).slice(0, 8).map(([name]) => name);
    if (this.full) this.showLegend();
    this.draw();
  }

  showLegend() {
    const key = this.names.join("\n");
    if (key === this.key) return;
    this.key = key;
    this.legend.replaceChildren(...this.names.map((name) => {
      const properties = { type: "button", className: "chip", "aria-pressed": String(!this.hidden.has(name)) };
      const button = element("button", properties, swatch(this.colors[name]), name);
      button.onclick = () => {
        if (!this.hidden.delete(name)) this.hidden.add(name);
        button.setAttribute("aria-pressed", String(!this.hidden.has(name)));
        this.draw();
      };
      return button;
    }));
  }

  draw() {
    const wide = this.box.clientWidth, tall = this.box.clientHeight, ratio = devicePixelRatio || 1;
    if (!wide || !this.names) return;
    this.canvas.width = Math.round(wide * ratio);
    this.canvas.height = Math.round(tall * ratio);
    const c = this.canvas.getContext("2d");
    c.scale(ratio, ratio);
    const names = this.names.filter((name) => !this.hidden.has(name));
    const high = niceTop(Math.max(1, ...this.points.flatMap(({ counts }) => names.map((name) => counts[name] ?? 0))));
    // A pipeline that has just begun fills the chart too.
    const span = Math.min(SPAN, Math.max(60, this.now - (this.points[0]?.time ?? this.now)));
    const area = this.full ? { l: 30, r: 8, t: 8, b: 20 } : { l: 0, r: 3, t: 3, b: 3 };
    const x = (time) => wide - area.r - ((this.now - time) / span) * (wide - area.l - area.r);
    const y = (value) => tall - area.b - (value / high) * (tall - area.t - area.b);
    if (this.full) this.drawAxes(c, wide, area, high, span, x, y);
    c.save();
    c.beginPath();
    c.rect(area.l, 0, wide - area.l, tall);
    c.clip();
    for (const name of [...names].reverse()) this.drawLine(c, name, x, y);
    c.restore();
    if (this.full && this.hover != null) this.drawHover(c, names, wide, area, x, y);
  }

  drawLine(c, name, x, y) {
    const color = this.colors[name] ?? "#fff";
    const style = { strokeStyle: color, fillStyle: color, lineWidth: this.full ? 2 : 1.5, lineJoin: "round" };
    for (const run of runs(this.points)) {
      path(c, run.map(({ time, counts }) => [x(time), y(counts[name] ?? 0)]), style);
      c.stroke();
      c.lineTo(x(run.at(-1).time), y(0));
      c.lineTo(x(run[0].time), y(0));
      c.globalAlpha = 0.06;
      c.fill();
      c.globalAlpha = 1;
    }
  }

  drawAxes(c, wide, area, high, span, x, y) {
    Object.assign(c, { font: '11px system-ui, "DejaVu Sans", sans-serif', textAlign: "right", textBaseline: "middle" });
    for (const share of [0, 0.5, 1]) {
      const value = high * share, line = Math.round(y(value)) + 0.5;
      path(c, [[area.l, line], [wide - area.r, line]], { fillStyle: "#66738c", strokeStyle: "#253049", lineWidth: 1 });
      c.stroke();
      c.fillText(Number(value.toFixed(1)), area.l - 6, line);
    }
    Object.assign(c, { textAlign: "center", textBaseline: "bottom" });
    const step = span > 150 ? 60 : 20;
    for (let back = step; back < span - step / 3; back += step) {
      c.fillText(step === 60 ? `−${back / 60} min` : `−${back} s`, x(this.now - back), y(0) + 19);
    }
  }

  drawHover(c, names, wide, area, x, y) {
    const nearest = this.points.reduce((best, point) =>
      !best || Math.abs(x(point.time) - this.hover) < Math.abs(x(best.time) - this.hover) ? point : best, null);
    if (!nearest) return;
    const at = x(nearest.time);
    path(c, [[at, area.t], [at, y(0)]], { strokeStyle: "#9aa7bf" });
    c.stroke();
    const lines = [clock(nearest.time), ...names.map((n) => `${n}  ${(nearest.counts[n] ?? 0).toFixed(1)}`)];
    const width = Math.max(...lines.map((line) => c.measureText(line).width)) + 16;
    const left = at + width + 8 > wide ? at - width - 8 : at + 8;
    Object.assign(c, { fillStyle: "rgb(20 28 44 / .95)", textAlign: "left", textBaseline: "top" });
    c.beginPath();
    c.roundRect(left, area.t, width, lines.length * 15 + 10, 6);
    c.fill();
    lines.forEach((line, i) => {
      c.fillStyle = i ? this.colors[names[i - 1]] ?? "#fff" : "#e8edf7";
      c.fillText(line, left + 8, area.t + 6 + i * 15);
    });
  }
}

// A camera that was away leaves a gap.
function runs(points) {
  const all = [];
  for (const point of points) {
    const last = all.at(-1)?.at(-1);
    if (last && point.time - last.time <= 3 * STEP) all.at(-1).push(point);
    else all.push([point]);
  }
  return all;
}

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((n) => n * power >= value) * power;
}
