// A line chart of the last minutes, in SVG: one scale, a few lines, and under the pointer the numbers of that moment.

import { h } from "./dom.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const SHORTEST_S = 60;
const LONGEST_S = 300;
const MOST_FAINT = 2;
const LEFT = 46;
const BOTTOM = 18;
const TOP = 6;

export class Chart {
  // `format` says a value; `value` takes a line's value from a point of the history, or null.
  constructor(title, format, value, faint = null) {
    this.format = format;
    this.value = value;
    this.faint = faint;
    this.lines = [];
    this.now = h("span", { className: "now" });
    this.svg = document.createElementNS(NAMESPACE, "svg");
    this.svg.setAttribute("role", "img");
    this.svg.setAttribute("aria-label", title);
    this.element = h("figure", { className: "sheet chart" }, h("figcaption", {}, h("span", {}, title), this.now), this.svg);
    this.pointer = null;
    this.svg.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.#point(null));
  }

  // `lines`: [{name, color: 1..6, points}], `end` is the moment at the right edge.
  show(lines, end) {
    this.lines = lines;
    this.end = end;
    const first = Math.min(end, ...lines.flatMap((line) => line.points.slice(0, 1).map((point) => point.at)));
    this.span = Math.min(LONGEST_S, Math.max(SHORTEST_S, Math.ceil((end - first) / 60) * 60));
    this.#draw();
  }

  #point(x) {
    this.pointer = x;
    this.#draw();
  }

  #draw() {
    const { width, height } = this.svg.getBoundingClientRect();
    if (!width) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const top = niceTop(Math.max(0, ...this.lines.flatMap((line) => line.points.map((point) => this.value(point) ?? 0))));
    const x = (at) => LEFT + ((at - this.end + this.span) / this.span) * (width - LEFT);
    const y = (value) => TOP + (1 - value / top) * (height - TOP - BOTTOM);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const level = y(top * share);
      parts.push(svg("line", { class: "grid", x1: LEFT, x2: width, y1: level, y2: level }));
      if (share === 0 || top > 0) parts.push(svg("text", { x: LEFT - 8, y: level + 4, "text-anchor": "end" }, this.format(top * share)));
    }
    for (const [share, anchor] of [[1, "start"], [0.5, "middle"], [0, "end"]]) {
      parts.push(svg("text", { x: x(this.end - share * this.span), y: height - 3, "text-anchor": anchor }, ago(share * this.span)));
    }
    for (const line of this.lines) parts.push(...this.#line(line, x, y));
    if (!this.lines.some((line) => line.points.some((point) => this.value(point) !== null))) {
      parts.push(svg("text", { class: "nothing", x: (LEFT + width) / 2, y: (height - BOTTOM) / 2 + TOP }, "nothing yet"));
    }
    const moment = this.pointer === null ? null : this.end - this.span + ((this.pointer - LEFT) / (width - LEFT)) * this.span;
    if (moment !== null && this.pointer > LEFT) {
      parts.push(svg("line", { class: "cursor", x1: this.pointer, x2: this.pointer, y1: TOP, y2: height - BOTTOM }));
    }
    this.svg.replaceChildren(...parts);
    this.now.textContent = this.#told(moment);
  }

  #line(line, x, y) {
    const parts = [];
    if (this.faint && this.lines.length <= MOST_FAINT) parts.push(svg("path", { class: `faint s${line.color}`, d: path(line.points, this.faint, x, y) }));
    const drawn = path(line.points, this.value, x, y);
    if (this.lines.length === 1 && drawn && !this.faint) parts.push(svg("path", { class: `area s${line.color}`, d: area(line.points, this.value, x, y) }));
    return [...parts, svg("path", { class: `s${line.color}`, d: drawn })];
  }

  #told(moment) {
    const values = this.lines.map((line) => {
      const points = moment === null ? line.points.slice(-1) : line.points.filter((point) => Math.abs(point.at - moment) < 1.5);
      return points.length ? this.value(points[0]) : null;
    });
    const some = values.filter((value) => value !== null);
    if (!some.length) return "–";
    if (moment !== null && this.lines.length > 1) return values.map((value) => (value === null ? "–" : this.format(value))).join(" · ");
    return some.length > 1 ? "" : this.format(some[0]);
  }
}

function svg(name, attributes, text) {
  const element = document.createElementNS(NAMESPACE, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function path(points, value, x, y) {
  let drawn = "";
  let gap = true;
  for (const point of points) {
    const found = value(point);
    if (found === null) {
      gap = true;
      continue;
    }
    drawn += `${gap ? "M" : "L"}${x(point.at).toFixed(1)} ${y(found).toFixed(1)}${gap ? "h0" : ""}`; // h0: a point alone is a dot
    gap = false;
  }
  return drawn;
}

function area(points, value, x, y) {
  const known = points.filter((point) => value(point) !== null);
  if (!known.length) return "";
  const line = known.map((point) => `${x(point.at).toFixed(1)} ${y(value(point)).toFixed(1)}`).join("L");
  return `M${x(known[0].at).toFixed(1)} ${y(0)}L${line}L${x(known.at(-1).at).toFixed(1)} ${y(0)}Z`;
}

function ago(seconds) {
  if (!seconds) return "now";
  return seconds < 60 ? `${seconds} s ago` : `${seconds / 60} min ago`;
}

// The next of 1, 2, 5, 10, ... that holds the value.
function niceTop(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 2, 5, 10]) if (value <= step * power) return step * power;
  return value;
}
