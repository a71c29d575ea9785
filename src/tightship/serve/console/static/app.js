// The console: looks at the server once a second, and shows the page that the address names: all models, or one.

import { h } from "./dom.js";
import { History } from "./history.js";
import { ModelPage } from "./model.js";
import { ModelsPage } from "./models.js";
import { Failure, TO_LOOK, askForKey, call, key } from "./server.js";
import { plural, span } from "./words.js";

const EVERY_MS = 1000;
const main = document.getElementById("main");
const banner = document.getElementById("banner");
const keyButton = document.getElementById("key");
const history = new History();
let overview = null;
let page = null;
let shown = null;
let asked = false;

function open() {
  if (!overview) return;
  const name = location.hash.startsWith("#/model/") ? decodeURIComponent(location.hash.slice(8)) : null;
  const wanted = name ?? "";
  if (shown !== wanted) {
    shown = wanted;
    const known = overview.models.some((model) => model.name === name);
    page = name === null ? new ModelsPage() : known ? new ModelPage(name) : missing(name);
    main.replaceChildren(page.element);
    document.title = name === null ? "tightship" : `${name} – tightship`;
    scrollTo(0, 0);
  }
  page.show(overview, history);
}

function missing(name) {
  const element = h("div", {}, h("h1", {}, "No such model"), h("p", {}, `This server has no model called ${name}. `, h("a", { href: "#/" }, "See those it has.")));
  return { element, show: (now) => now.models.some((model) => model.name === name) && (shown = null) };
}

async function look() {
  try {
    overview = await (await call("/console/overview")).json();
    banner.hidden = true;
    history.add(overview);
    status(overview);
    open();
  } catch (failure) {
    if (failure instanceof Failure) await failed(failure);
    else console.error(failure); // a fault of this page: the next look may do better
  }
}

async function failed(failure) {
  const locked = [401, 403].includes(failure.status);
  banner.textContent = failure.status === 0 ? "The server does not answer. Trying again …" : failure.message;
  banner.hidden = locked && !key();
  if (!locked || overview || asked) return;
  asked = true;
  const enter = h("button", { type: "button", onclick: () => askForKey("", TO_LOOK) }, "Enter a key");
  main.replaceChildren(h("h1", {}, "A key is needed"), h("p", {}, "This server shows itself only to those who have one."), enter);
  if (!key()) await askForKey("", TO_LOOK);
}

function status({ server, models }) {
  const ready = models.filter((model) => model.ready).length;
  const state = server.draining ? ["wait", "going down"] : ready === models.length ? ["good", "ready"] : ["wait", `${ready} of ${models.length} models ready`];
  const pill = h("span", { className: `pill ${state[0]}` }, state[1]);
  const up = server.started ? `, up ${span(server.now - server.started)}` : "";
  document.getElementById("status").replaceChildren(pill, ` ${plural(server.workers, "worker")}${up}`);
}

function showKey() {
  keyButton.textContent = key() ? "Key: given" : "Enter a key";
}

async function forever() {
  for (;;) {
    const started = performance.now();
    if (!document.hidden || !overview) await look();
    await new Promise((resolve) => setTimeout(resolve, Math.max(200, EVERY_MS - (performance.now() - started))));
  }
}

keyButton.addEventListener("click", () => askForKey());
document.addEventListener("key", () => {
  showKey();
  look();
});
addEventListener("hashchange", () => {
  open();
  main.focus({ preventScroll: true });
});
addEventListener("resize", () => open());
showKey();
forever();
