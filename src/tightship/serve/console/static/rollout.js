// A new version on its way: how far it is, what was seen of it, what comes next, and the buttons that end it.

import { h, live } from "./dom.js";
import { callWithKey } from "./server.js";
import { count, duration, percent, span, when } from "./words.js";

const OUTCOMES = { promoted: ["good", "went live"], "rolled back": ["bad", "was taken back"], aborted: ["", "was stopped by hand"] };

const STRATEGIES = [
  ["canary", "Canary: a growing share of the requests"],
  ["blue-green", "Blue-green: watched first, then all requests at once"],
  ["shadow", "Shadow: sees copies of requests, answers nobody until you promote it"],
  ["rolling", "Rolling: one worker process after the other"],
];

export class RolloutPart {
  constructor(model) {
    this.model = model;
    this.now = live(h("div", {}), (found) => (found.rollout ? this.#running(found) : resting(found)));
    this.said = h("p", { className: "note bad", role: "alert", hidden: true });
    this.start = this.#startForm();
    this.past = live(h("div", {}), (found) => this.#past(found));
    this.element = h("div", {}, this.now, this.said, this.start, this.past);
  }

  show(model) {
    const running = model.rollout;
    this.start.hidden = Boolean(running);
    this.now.show(!running ? { stable: model.routes?.stable, ready: model.ready } : { ...running, old: running.rollout.old, share: model.routes?.share ?? 0, seconds: Math.floor(Date.now() / 1000 - running.rollout.started_at) });
    this.past.show({ stable: model.routes?.stable, ended: model.ended, running: Boolean(running) });
  }

  async #tell(verb, button) {
    button.disabled = true;
    this.said.hidden = true;
    try {
      const body = JSON.stringify({ why: "in the console" });
      await callWithKey(`/admin/rollouts/${encodeURIComponent(this.model)}/${verb}`, { method: "POST", body, headers: { "content-type": "application/json" } });
    } catch (failure) {
      this.#say(failure.message);
    }
    button.disabled = false;
  }

  #say(text) {
    this.said.textContent = text;
    this.said.hidden = false;
  }

  #button(verb, text, kind = "") {
    const button = h("button", { type: "button", className: kind }, text);
    button.addEventListener("click", () => this.#tell(verb, button));
    return button;
  }

  #running(found) {
    const { rollout, reason } = found;
    const { steps, strategy } = rollout.plan;
    return [
      h("p", {}, "Version ", h("b", {}, rollout.new), " is on trial beside version ", h("b", {}, rollout.old), `. ${capital(strategy)}, since ${span(found.seconds)}, started by ${rollout.who}.`),
      rollout.state === "preparing" ? h("p", { className: "note wait" }, h("span", { className: "spin" }), " It is being loaded and warmed up.") : [stepList(steps, rollout.step), split(rollout, found.share)],
      found.evidence ? evidenceTable(rollout, found.evidence) : null,
      reason ? h("p", { className: `note ${found.verdict === "roll back" ? "bad" : "wait"}` }, h("b", {}, "Next: "), reason) : null,
      h(
        "div",
        { className: "actions" },
        this.#button("promote", `Promote version ${rollout.new} now`),
        this.#button("abort", `Stop, keep version ${rollout.old}`, "danger"),
      ),
    ];
  }

  #past({ stable, ended, running }) {
    if (!ended.length) return null;
    const back = ended.find((one) => one.state === "promoted" && one.new === stable && one.plan.strategy !== "rollback");
    return [
      back && !running ? h("div", { className: "actions" }, this.#button("rollback", `Go back to version ${back.old}`, "danger")) : null,
      h("details", { open: !running && ended[0].state === "rolled back" }, h("summary", {}, "Earlier rollouts"), ended.map(outcome)),
    ];
  }

  #startForm() {
    const file = h("input", { type: "file", id: "ship", accept: ".ship", required: true });
    const strategy = h("select", { id: "strategy" }, STRATEGIES.map(([value, text]) => h("option", { value }, text)));
    const steps = h("input", { type: "text", id: "steps", value: "1, 5, 25, 100", pattern: "[0-9., ]+" });
    const every = h("input", { type: "number", id: "every", value: "10", min: "0", step: "any" });
    const stepped = h("div", {}, h("label", { htmlFor: "steps" }, "Steps ", h("small", {}, "per cent of the requests")), steps);
    strategy.addEventListener("change", () => (stepped.hidden = strategy.value !== "canary"));
    const button = h("button", {}, "Start the rollout");
    const form = h(
      "form",
      {},
      h("label", { htmlFor: "ship" }, "Package of the new version"),
      file,
      h("label", { htmlFor: "strategy" }, "How it goes live"),
      strategy,
      stepped,
      h("label", { htmlFor: "every" }, "Minutes per step ", h("small", {}, "at least")),
      every,
      h("div", { className: "actions" }, button),
      h("p", { className: "small muted" }, "It is verified and warmed up first, compared with the version that answers now, and taken back by itself if it fails more often, is slower, or answers differently."),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#start(file.files[0], strategy.value, strategy.value === "canary" ? steps.value : "", Number(every.value) * 60, button);
    });
    return h("details", { className: "start" }, h("summary", {}, "Try a new version …"), form);
  }

  async #start(file, strategy, steps, everySeconds, button) {
    button.disabled = true;
    this.said.hidden = true;
    const shares = steps.split(/[, ]+/).filter(Boolean).map(Number);
    const order = JSON.stringify({ model: this.model, strategy, steps: shares, every_s: everySeconds, path: "", why: `${file.name}, in the console` });
    try {
      await callWithKey(`/admin/rollouts?order=${encodeURIComponent(order)}`, { method: "POST", body: file, headers: { "content-type": "application/octet-stream" } });
      this.start.open = false;
    } catch (failure) {
      this.#say(failure.message);
    }
    button.disabled = false;
  }
}

function resting({ stable, ready }) {
  if (!ready) return null;
  return h("p", {}, "Version ", h("b", {}, stable), " answers all requests. A new version can be tried beside it on a part of them.");
}

function stepList(steps, now) {
  if (steps.length < 2) return null;
  const item = (step, index) => {
    const state = index < now ? "done" : index === now ? "now" : "";
    return h("li", { className: state, "aria-current": index === now ? "step" : null }, h("b", {}, percent(step.share)), state === "done" ? "done" : state === "now" ? "now" : "later");
  };
  return h("ol", { className: "steps" }, steps.map(item));
}

function split(rollout, share) {
  const old = h("i", {});
  const candidate = h("i", {});
  old.style.width = `${(1 - share) * 100}%`;
  candidate.style.width = `${share * 100}%`;
  const { shadow } = rollout.plan.steps[rollout.step] ?? { shadow: 0 };
  const copies = shadow ? h("span", {}, `Copies of ${percent(shadow)} go to the version that does not answer, and both answers are compared.`) : null;
  return [
    h("div", { className: "split", role: "img", "aria-label": `${percent(share)} go to version ${rollout.new}` }, old, candidate),
    h("p", { className: "keys" }, h("span", { className: "key s1" }, `version ${rollout.old} answers ${percent(1 - share)}`), h("span", { className: "key s2" }, `version ${rollout.new} answers ${percent(share)}`), copies),
  ];
}

function evidenceTable(rollout, seen) {
  const { limits } = rollout.plan;
  const ms = (bounds) => (bounds.seen ? duration(bounds.value / 1000) : "–");
  const share = (bounds) => (bounds.seen ? percent(bounds.value) : "–");
  const rows = [
    ["Failures", share(seen.errors_old), share(seen.errors_new), `at most ${percent(limits.errors)} more`],
    ["95 % answered within", ms(seen.latency_old), ms(seen.latency_new), `at most ${limits.latency_ratio} times`],
    ["Answers that differ", "", seen.disagreement.seen ? `${share(seen.disagreement)} of ${count(seen.disagreement.seen)}` : "–", `at most ${percent(limits.disagreement)}`],
  ];
  const heads = ["", `version ${rollout.old}`, `version ${rollout.new}`, "allowed"];
  return h("table", {}, h("thead", {}, h("tr", {}, heads.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows.map(([name, ...cells]) => h("tr", {}, h("th", { scope: "row" }, name), cells.map((cell) => h("td", {}, cell))))));
}

function outcome(rollout) {
  const [kind, text] = OUTCOMES[rollout.state] ?? ["", rollout.state];
  const back = rollout.plan.strategy === "rollback" && rollout.state === "promoted";
  return h("div", { className: `note ${kind}` }, h("p", {}, h("b", {}, `Version ${rollout.new} ${back ? "answers again" : text}`), h("span", { className: "muted small" }, ` ${when(rollout.ended_at)}, begun by ${rollout.who}`)), rollout.reason ? h("p", { className: "small" }, rollout.reason) : null);
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
