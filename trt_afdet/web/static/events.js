// The list of events: changes of cameras' states, and events of zones and lines.

import { clock, element } from "./text.js";

const MOST = 200;
const STATES = {
  live: ["●", "good", "is live"], connecting: ["…", "", "is connecting"], stalled: ["!", "warn", "gives no pictures"],
  lost: ["!", "warn", "was lost"], failed: ["×", "bad", "has failed"], ended: ["■", "", "has ended"],
};
const MARKS = { enter: "→", leave: "←", dwell: "◷", cross: "⇄" };
const WORDS = { enter: "entered", leave: "left", dwell: "stays in", cross: "crossed" };

export class EventList {
  // kinds: "all", "zones" or "cameras"; camera: only its events, or null for all.
  constructor(list, camera = null) {
    Object.assign(this, { list, camera, kind: "all" });
  }

  show(events) {
    const wanted = events.filter((event) =>
      (!this.camera || event.camera === this.camera) &&
      (this.kind === "all" || (this.kind === "cameras") === (event.kind === "state")));
    const rows = wanted.slice(-MOST).reverse();
    const key = `${this.camera}/${this.kind}/${rows[0]?.id ?? 0}/${rows.length}`;
    if (key === this.key) return;
    this.key = key;
    this.list.replaceChildren(...rows.map((event) => this.row(event)));
  }

  row(event) {
    const [mark, tone, text, detail] = describe(event);
    const body = element("span", {}, text);
    const camera = this.camera || event.kind === "state" ? "" : event.camera;
    const below = [camera, detail].filter(Boolean).join(" · ");
    if (below) body.append(element("small", {}, below));
    return element("li", {}, element("a", { href: `#/camera/${encodeURIComponent(event.camera)}` },
      element("span", { className: "mark", data: { mark: tone } }, mark), body,
      element("time", {}, clock(event.time))));
  }
}

// The figures of a zone or line, for people: objects in it now, or crossings.
export function tallyText(tally) {
  if (!tally) return "";
  return tally.length === 1 ? String(tally[0]) : `${tally[0]} in, ${tally[1]} out`;
}

// The name of the zone or line that an event is about.
export const placeOf = (event) => event.zone ?? event.line ?? null;

function describe(event) {
  if (event.kind === "state") {
    const [mark, tone, words] = STATES[event.state] ?? ["●", "", event.state];
    return [mark, tone, `${event.camera} ${words}`, event.detail];
  }
  const { kind } = event;
  const who = `${event.class ?? "object"}${event.track_id == null ? "" : ` #${event.track_id}`}`;
  const stayed = event.seconds == null ? "" : `after ${event.seconds.toFixed(1)} s`;
  const lost = event.reason === "lost" ? "no longer seen" : "";
  const totals = event.total_in == null ? "" : `${event.total_in} in, ${event.total_out} out so far`;
  const text = `${who} ${WORDS[kind] ?? kind} ${placeOf(event) ?? ""} ${event.direction ?? ""}`.trim();
  return [MARKS[kind] ?? "◆", "zone", text, [stayed, lost, totals].filter(Boolean).join(", ")];
}
