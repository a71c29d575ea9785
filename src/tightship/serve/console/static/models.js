// The first page: how the server does, and its models.

import { h, live } from "./dom.js";
import { sum } from "./history.js";
import { Traffic } from "./traffic.js";
import { bytes, count, duration, percent, plural, rate } from "./words.js";

const TAKES = { image: "takes pictures", text: "takes text", audio: "takes sound", "": "takes tensors" };

export class ModelsPage {
  constructor() {
    this.tiles = live(h("div", { className: "tiles" }), (tiles) => tiles.map(tile));
    this.traffic = new Traffic();
    this.cards = live(h("div", { className: "cards" }), (models) => (models.length ? models.map(card) : empty()));
    this.element = h(
      "div",
      {},
      h("h1", {}, "Models"),
      h("section", {}, this.cards),
      h("section", {}, h("h2", {}, "Traffic"), this.tiles, this.traffic.element),
    );
  }

  show(overview, history) {
    const all = history.latest(() => true);
    this.tiles.show(tilesOf(overview, all));
    this.cards.show(overview.models.map((model) => cardOf(model, history)));
    const groups = overview.models.map((model) => ({ name: model.name, wanted: (name) => name === model.name }));
    this.traffic.show(history, groups);
  }
}

function tilesOf({ server, models }, now) {
  const versions = models.flatMap((model) => model.versions);
  const requests = versions.reduce((total, version) => total + version.requests, 0);
  const failures = versions.reduce((total, version) => total + sum(version.failures), 0);
  const refused = sum(server.refused);
  return [
    ["Requests", rate(now?.requests), "per second", `${count(requests)} since the start`],
    ["Time to answer", duration(now?.p95), "", now?.p50 ? `half within ${duration(now.p50)}` : "95 of 100 are within this"],
    ["Failures", requests ? percent(failures / requests) : "–", "", refused ? `${count(refused)} more were turned away` : `${count(failures)} since the start`],
    ["Memory", bytes(server.resident_bytes), "", plural(server.workers, "worker process", "worker processes")],
  ];
}

function tile([name, value, unit, detail]) {
  return h("div", { className: "sheet tile" }, h("h3", {}, name), h("p", { className: "value" }, value, " ", h("small", {}, unit)), h("p", { className: "detail" }, detail));
}

function cardOf(model, history) {
  const now = history.latest((name) => name === model.name);
  const stable = model.versions.find((version) => version.role === "stable");
  return {
    name: model.name,
    state: stateOf(model),
    use: stable?.package.intended_use ?? "",
    takes: TAKES[stable?.takes ?? ""],
    stable: stable?.version ?? "",
    candidate: model.routes?.candidate ?? null,
    share: model.routes?.share ?? 0,
    requests: rate(now?.requests),
    p95: duration(now?.p95),
  };
}

export function stateOf(model) {
  const stable = model.versions.find((version) => version.role === "stable");
  if (model.rollout) return ["wait", "rollout running"];
  if (model.ready) return ["good", "ready"];
  return { failed: ["bad", "cannot be loaded"], kept: ["", "unloaded"] }[stable?.state] ?? ["wait", "loading"];
}

function card(model) {
  const versions = model.candidate ? `version ${model.stable}, and ${model.candidate} on trial with ${percent(model.share)}` : `version ${model.stable}`;
  return h(
    "a",
    { className: "sheet model", href: `#/model/${encodeURIComponent(model.name)}` },
    h("span", { className: "spread" }, h("strong", {}, model.name), h("span", { className: `pill ${model.state[0]}` }, model.state[1])),
    model.use ? h("p", {}, model.use) : null,
    h("p", { className: "small muted" }, `${versions}, ${model.takes}`),
    h("span", { className: "spread" }, h("span", { className: "figures" }, h("span", {}, h("b", {}, model.requests), " requests/s"), h("span", {}, "95 % within ", h("b", {}, model.p95))), h("span", { className: "small" }, "Try it →")),
  );
}

function empty() {
  return h("div", { className: "sheet" }, h("h2", {}, "Nothing is served yet"), h("p", {}, "Start the server with a package, "), h("pre", {}, "tightship serve model.ship"), h("p", {}, "or load one into this server: see ", h("code", {}, "POST /v2/repository/models/NAME/load"), " in the ", h("a", { href: "/openapi.json" }, "API description"), "."));
}
