// Formats figures, makes elements of the document, and draws paths.

export function seconds(value) {
  if (value == null) return "–";
  if (value < 0.0995) return `${(value * 1000).toFixed(value < 0.00995 ? 1 : 0)} ms`;
  return value < 0.9995 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(1)} s`;
}

export function duration(value) {
  const s = Math.floor(value), m = Math.floor(s / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
  if (d) return `${d} d ${h % 24} h`;
  if (h) return `${h} h ${m % 60} min`;
  return m ? `${m} min` : `${s} s`;
}

export function count(value) {
  if (value < 10000) return String(value);
  if (value < 999500) return `${(value / 1000).toFixed(value < 99950 ? 1 : 0)} k`;
  return `${(value / 1e6).toFixed(value < 99.95e6 ? 1 : 0)} M`;
}

export const rate = (value) => value == null ? "–" : value < 9.95 ? value.toFixed(1) : String(Math.round(value));
const TIME = { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false };
export const clock = (moment) => new Date(moment * 1000).toLocaleTimeString([], TIME);

// An element with properties, data attributes and children. Text is always text, never markup.
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "data") Object.assign(made.dataset, value);
    else if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// Pairs for a <dl>: [name, value, class].
export const pairs = (list) => list.map(([name, value, kind]) =>
  element("div", { className: kind ?? "" }, element("dt", {}, name), element("dd", {}, value)));

// Most objects first, as [name, number].
export const ranked = (counts) => [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));

// Sets text only if it differs, which spares the browser a layout.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A small square of a colour.
export function swatch(color, tag = "i", className = "") {
  const made = element(tag, { className });
  made.style.background = color ?? "#fff";
  return made;
}

// A path through points on a canvas, with a style.
export function path(context, points, style = {}) {
  Object.assign(context, style);
  context.beginPath();
  for (const [x, y] of points) context.lineTo(x, y); // The first one moves there.
}

export function toast(text, bad = false) {
  const note = element("div", { className: bad ? "toast bad" : "toast" }, text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), bad ? 8000 : 2500);
}
