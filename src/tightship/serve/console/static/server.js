// Talking to the server: every request carries the key that a person gave, and a missing one is asked for once.

import { h } from "./dom.js";

const STORED = "tightship-key";
// Every second part is something that is typed.
const TO_CHANGE = ["To change what is served you need an administrator's key. The first one lies in the file ", "admin.key", " of the server's state folder, on its machine; ", "tightship access add", " makes others."];
export const TO_LOOK = ["This server answers only those who have a key. Its administrator makes one with ", "tightship access add", "."];
let asking = null;

export function key() {
  return sessionStorage.getItem(STORED) ?? "";
}

export class Failure extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// The answer of one request; throws a `Failure` with the server's own words.
export async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key()) headers.authorization = `Bearer ${key()}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Failure(0, "The server does not answer.");
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  let said = text.slice(0, 500);
  try {
    said = JSON.parse(text).error ?? said;
  } catch {
    // not from our server: a proxy's page, shown as it is
  }
  throw new Failure(answer.status, said || `The server answers with status ${answer.status}.`);
}

// As `call`; where the key is missing or may not do this, a person is asked for another one.
export async function callWithKey(path, options = {}) {
  for (;;) {
    try {
      return await call(path, options);
    } catch (failure) {
      if (![401, 403].includes(failure.status) || !(await askForKey(key() ? failure.message : "", TO_CHANGE))) throw failure;
    }
  }
}

// Resolves to true once there is a key, to false where the person would rather not.
export function askForKey(why = "", purpose = TO_CHANGE) {
  asking ??= dialog(why, purpose).finally(() => (asking = null));
  return asking;
}

function dialog(why, purpose) {
  const field = h("input", { type: "password", id: "key-field", autocomplete: "off", spellcheck: false, required: true, placeholder: "ts_…" });
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", {}, "Your key for this server"),
    why ? h("p", { className: "note wait" }, why) : null,
    h("p", {}, purpose.map((part, index) => (index % 2 ? h("code", {}, part) : part))),
    h("label", { htmlFor: "key-field" }, "Key"),
    field,
    h("p", { className: "small muted" }, "It stays in this tab, and is forgotten when you close it."),
    h(
      "div",
      { className: "actions" },
      h("button", { value: "use" }, "Use this key"),
      h("button", { value: "cancel", className: "quiet", formNoValidate: true }, "Cancel"),
      key() ? h("button", { value: "forget", className: "danger", formNoValidate: true }, "Forget the key") : null,
    ),
  );
  const box = h("dialog", { "aria-label": "Key" }, form);
  document.body.append(box);
  box.showModal();
  return new Promise((resolve) => {
    box.addEventListener("close", () => {
      const given = field.value.trim();
      if (box.returnValue === "use" && given) sessionStorage.setItem(STORED, given);
      if (box.returnValue === "forget") sessionStorage.removeItem(STORED);
      box.remove();
      document.dispatchEvent(new Event("key"));
      resolve(box.returnValue === "use" && Boolean(given));
    });
  });
}
