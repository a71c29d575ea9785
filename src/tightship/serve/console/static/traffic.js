// Requests, times and failures of the last minutes, a line per model or version.

import { Chart } from "./chart.js";
import { h, live } from "./dom.js";
import { duration, rate } from "./words.js";

const MOST_LINES = 6;

export class Traffic {
  constructor() {
    this.requests = new Chart("Requests per second", rate, (point) => point.requests);
    this.times = new Chart("95 % answered within", duration, (point) => point.p95, (point) => point.p50);
    this.failures = new Chart("Failures per second", rate, (point) => point.failures);
    this.keys = live(h("p", { className: "keys" }), (names) => [
      ...names.map((name, index) => h("span", { className: `key s${index + 1}` }, name)),
      h("span", {}, `${names.length <= 2 ? "Dotted: half of the answers are quicker. " : ""}Since this page was opened, five minutes at most.`),
    ]);
    this.element = h("div", {}, h("div", { className: "charts" }, this.requests.element, this.times.element, this.failures.element), this.keys);
  }

  // `groups`: [{name, wanted(model, version)}], the first six are drawn.
  show(history, groups) {
    const lines = groups.slice(0, MOST_LINES).map((group, index) => ({ color: index + 1, points: history.points(group.wanted) }));
    this.keys.show(groups.length > 1 ? groups.slice(0, MOST_LINES).map((group) => group.name) : []);
    for (const chart of [this.requests, this.times, this.failures]) chart.show(lines, history.now);
  }
}
