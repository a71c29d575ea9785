// One model: what it is, trying it, a rollout of a new version, traffic by version, its report.

import { h, live } from "./dom.js";
import { sum } from "./history.js";
import { stateOf } from "./models.js";
import { RolloutPart } from "./rollout.js";
import { key } from "./server.js";
import { Traffic } from "./traffic.js";
import { TryPart } from "./trying.js";
import { count, duration, percent, spec, when } from "./words.js";

export class ModelPage {
  constructor(name) {
    this.name = name;
    this.head = live(h("div", {}), head);
    this.trying = new TryPart(name);
    this.rollout = new RolloutPart(name);
    this.traffic = new Traffic();
    this.versions = live(h("div", { className: "scroll" }), versionTable);
    this.about = live(h("div", {}), about);
    this.report = live(h("div", {}), (version) => report(name, version));
    this.element = h(
      "div",
      {},
      h("p", { className: "crumb" }, h("a", { href: "#/" }, "← All models")),
      this.head,
      h(
        "div",
        { className: "columns" },
        h("section", { className: "sheet" }, h("h2", {}, "Try it"), this.trying.element),
        h("div", {}, h("section", { className: "sheet" }, h("h2", {}, "New versions"), this.rollout.element), h("section", { className: "sheet" }, h("h2", {}, "About this model"), this.about)),
      ),
      h("section", {}, h("h2", {}, "Traffic by version"), this.traffic.element),
      h("section", { className: "sheet" }, h("h2", {}, "Versions"), this.versions),
      h("section", { className: "sheet" }, h("h2", {}, "Report"), this.report),
    );
  }

  show(overview, history) {
    const model = overview.models.find((entry) => entry.name === this.name);
    if (!model) return;
    const stable = model.versions.find((version) => version.role === "stable");
    this.head.show({ name: model.name, state: stateOf(model), use: stable?.package.intended_use, problem: stable?.problem });
    this.trying.show(stable);
    this.rollout.show(model);
    const seen = model.versions.filter((version) => version.requests || version.role !== "spare");
    this.traffic.show(history, seen.map((version) => ({ name: `version ${version.version}`, wanted: (name, number) => name === this.name && number === version.version })));
    this.versions.show(model.versions.map(rowOf).reverse());
    this.about.show(stable ? aboutOf(stable) : null);
    this.report.show(stable?.package.report ? stable.version : null);
  }
}

function head({ name, state, use, problem }) {
  return [
    h("div", { className: "head" }, h("h1", {}, name), h("span", { className: `pill ${state[0]}` }, state[1])),
    use ? h("p", { className: "lead" }, use) : null,
    problem ? h("p", { className: "note bad" }, problem) : null,
  ];
}

function rowOf(version) {
  const requests = version.requests;
  return {
    version: version.version,
    role: { stable: "answers", candidate: "on trial", spare: version.state === "kept" ? "can come back" : "only when asked for" }[version.role],
    state: { ready: ["good", "ready"], loading: ["wait", "loading"], failed: ["bad", "failed"], kept: ["", "not loaded"] }[version.state],
    problem: version.problem,
    added: version.added_at ? when(version.added_at) : "at the start",
    requests: count(requests),
    reasons: Object.entries(version.failures).map(([name, number]) => `${count(number)} ${name}`).join(", "),
    failures: requests ? percent(sum(version.failures) / requests) : "–",
    mean: requests ? duration(version.latency_sum_s / requests) : "–",
    target: version.target,
    digest: version.digest.slice(0, 12),
  };
}

function versionTable(rows) {
  const cells = (row) => [
    h("td", {}, h("b", {}, row.version), h("br"), h("small", { className: "muted mono" }, row.digest)),
    h("td", {}, row.role),
    h("td", {}, h("span", { className: `pill ${row.state[0]}` }, row.state[1]), row.problem ? h("p", { className: "small" }, row.problem) : null),
    h("td", { className: "number" }, row.requests),
    h("td", { className: "number" }, row.failures, row.reasons ? [h("br"), h("small", { className: "muted" }, row.reasons)] : null),
    h("td", { className: "number" }, row.mean),
    h("td", {}, row.target || "–"),
    h("td", {}, row.added),
  ];
  const heads = [["Version"], ["Traffic"], ["State"], ["Requests", "number"], ["Failures", "number"], ["Mean time", "number"], ["Runs on"], ["Since"]];
  return h("table", {}, h("thead", {}, h("tr", {}, heads.map(([name, kind]) => h("th", { className: kind ?? "", scope: "col" }, name)))), h("tbody", {}, rows.map((row) => h("tr", {}, cells(row)))));
}

function aboutOf(version) {
  return { inputs: version.inputs.map(spec), outputs: version.outputs.map(spec), target: version.target, loading: version.load_s, batches: version.batches, facts: version.package, source: version.source };
}

function about(found) {
  if (!found) return h("p", { className: "muted" }, "It is not loaded.");
  const { facts } = found;
  const lines = (values) => values.map((value) => h("div", { className: "mono" }, value));
  const rows = [
    ["Inputs", lines(found.inputs)],
    ["Outputs", lines(found.outputs)],
    ["Runs on", found.target],
    ["Loaded in", duration(found.loading)],
    ["Requests", found.batches ? "those that wait run together" : "run one by one"],
    ["What was proven", facts.verdict],
    ["Measured", Object.entries(facts.metrics ?? {}).map(([name, value]) => h("div", {}, `${name.replaceAll("_", " ")}: ${Number(value.toPrecision(6)).toLocaleString("en-US")}`))],
    ["Licence", facts.licence],
    ["Made by", facts.made_by],
    ["Package", facts.sealed ? "sealed: what it says of itself is not shown" : ""],
  ];
  return h("dl", {}, rows.filter(([, value]) => value?.length).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

// The report is another document, in a frame without scripts; the key, where one is needed, goes in the form's body.
function report(model, version) {
  if (version === null) return h("p", { className: "muted" }, "Its package has no report. ", h("code", {}, "tightship optimize"), " writes one, and ", h("code", {}, "tightship pack"), " takes it along.");
  const frame = h("iframe", { name: "report", title: `Report of ${model}, version ${version}`, hidden: true });
  frame.setAttribute("sandbox", "");
  const form = h(
    "form",
    { method: "post", target: "report", action: `/console/report/${encodeURIComponent(model)}/${encodeURIComponent(version)}` },
    h("p", {}, "How this model was made small and fast, what was tried, and what it costs in quality."),
    h("input", { type: "hidden", name: "key", value: "" }),
    h("button", { className: "quiet" }, "Show the report"),
  );
  form.addEventListener("submit", () => {
    form.elements.key.value = key();
    frame.hidden = false;
  });
  return [form, h("p", {}), frame];
}
