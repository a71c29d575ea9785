// Trying a model with a picture, a text, a sound or numbers, and the same as a command for a terminal.

import { copyable, h, live } from "./dom.js";
import { callWithKey, key } from "./server.js";
import { asWav, record } from "./sound.js";
import { TensorForm, tensorAnswer } from "./tensors.js";
import { duration, percent, plural } from "./words.js";

const NAMES = { image: "Picture", text: "Text", audio: "Sound" };
const MOST_NUMBERS = 200;
const EXAMPLES = { image: ["image/jpeg", "photo.jpg"], audio: ["audio/wav", "sound.wav"] };

export class TryPart {
  constructor(model) {
    this.model = model;
    this.path = `/v2/models/${encodeURIComponent(model)}/infer`;
    this.answer = h("div", { className: "answer", "aria-live": "polite" });
    this.form = live(h("div", {}), (shape) => this.#draw(shape));
    this.element = h("div", {}, this.form, this.answer);
  }

  show(version) {
    this.form.show(version?.state === "ready" ? { takes: version.takes, inputs: version.inputs } : null);
  }

  #draw(shape) {
    this.answer.replaceChildren();
    if (!shape) return h("p", { className: "muted" }, "As soon as it is loaded, it can be tried here.");
    if (!shape.takes) return [h("p", { className: "muted small" }, "Its package declares no pictures, texts or sounds, so it takes tensors."), this.#tensors(shape)];
    const panels = { [NAMES[shape.takes]]: () => this.#media(shape.takes), Numbers: () => this.#tensors(shape) };
    const panel = h("div", { role: "tabpanel" });
    const tabs = Object.keys(panels).map((name) => {
      const tab = h("button", { type: "button", role: "tab" }, name);
      tab.addEventListener("click", () => {
        tabs.forEach((other) => other.setAttribute("aria-selected", String(other === tab)));
        panel.replaceChildren(panels[name]());
        this.answer.replaceChildren();
      });
      return tab;
    });
    tabs[0].click();
    return [h("div", { className: "tabs", role: "tablist", "aria-label": "What to send" }, tabs), panel];
  }

  #media(kind) {
    if (kind === "text") return this.#text();
    return kind === "image" ? this.#picture() : this.#sound();
  }

  #picture() {
    const { drop, hint } = dropZone("image/*", "Choose a picture", "or drop it here, or paste one", (file) => {
      drop.classList.add("filled");
      hint.replaceChildren(h("img", { src: URL.createObjectURL(file), alt: "The picture that was sent" }), h("span", {}, "Choose another one"));
      this.#send(file, file.type || "image/*");
    });
    const paste = (event) => {
      if (!drop.isConnected) return removeEventListener("paste", paste);
      const [file] = [...event.clipboardData.files].filter((entry) => entry.type.startsWith("image/"));
      if (file) drop.take(file);
    };
    addEventListener("paste", paste);
    return h("div", {}, drop, this.#command(`--data-binary @${EXAMPLES.image[1]}`, EXAMPLES.image[0]));
  }

  #text() {
    const field = h("textarea", { id: "text", placeholder: "Write or paste something …", rows: 5 });
    const send = () => this.#send(field.value, "text/plain; charset=utf-8");
    field.addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && send());
    return h("div", {}, h("label", { htmlFor: "text" }, "Text"), field, h("div", { className: "actions" }, h("button", { type: "button", onclick: send }, "Ask the model"), h("small", { className: "muted" }, "or Ctrl + Enter")), this.#command(`--data-binary 'a text'`, "text/plain"));
  }

  #sound() {
    const player = h("audio", { controls: true, hidden: true });
    const take = async (blob) => {
      try {
        const wav = await asWav(blob);
        player.src = URL.createObjectURL(wav);
        player.hidden = false;
        await this.#send(wav, "audio/wav");
      } catch (error) {
        this.#failed(error.message || "This sound cannot be read.");
      }
    };
    const { drop } = dropZone("audio/*", "Choose a sound", "or drop it here", take);
    const actions = h("div", { className: "actions" });
    if (navigator.mediaDevices && window.MediaRecorder) actions.append(this.#recorder(take));
    return h("div", {}, drop, actions, player, this.#command(`--data-binary @${EXAMPLES.audio[1]}`, EXAMPLES.audio[0]));
  }

  #recorder(take) {
    const button = h("button", { type: "button", className: "quiet" }, "Record with the microphone");
    let stop = null;
    button.addEventListener("click", async () => {
      if (stop) return stop();
      try {
        const { blob, finish } = await record();
        stop = finish;
        button.textContent = "Stop, and ask the model";
        const made = await blob;
        await take(made);
      } catch (error) {
        this.#failed(`The microphone cannot be used: ${error.message}`);
      }
      stop = null;
      button.textContent = "Record with the microphone";
    });
    return button;
  }

  #tensors(shape) {
    const form = new TensorForm(shape.inputs, async (body) => this.#send(JSON.stringify(body), "application/json"));
    const example = form.example();
    return h("div", {}, form.element, example ? this.#command(`-d '${JSON.stringify(example)}'`, "application/json") : this.#program(form.program()));
  }

  async #send(body, type) {
    this.answer.replaceChildren(h("p", { className: "muted" }, h("span", { className: "spin" }), " The model is at work …"));
    const started = performance.now();
    try {
      const found = await (await callWithKey(this.path, { method: "POST", body, headers: { "content-type": type } })).json();
      this.#show(found, (performance.now() - started) / 1000);
    } catch (failure) {
      this.#failed(failure.message);
    }
  }

  #show(found, seconds) {
    this.answer.replaceChildren(
      h("h3", {}, "Answer"),
      found.classes ? classList(found.classes) : found.numbers ? numberList(found.numbers) : tensorAnswer(found.outputs),
      h("p", { className: "small muted" }, `Version ${found.model_version} answered in ${duration(seconds)}, the way to it and back included.`),
      h("details", {}, h("summary", {}, "The answer as JSON"), h("pre", {}, shortened(JSON.stringify(found, null, 1)))),
    );
  }

  #failed(text) {
    this.answer.replaceChildren(h("p", { className: "note bad", role: "alert" }, text));
  }

  #command(data, type) {
    const access = key() ? " -H 'Authorization: Bearer KEY'" : "";
    return described(`curl ${location.origin}${this.path} -H 'Content-Type: ${type}'${access} ${data}`);
  }

  // What is too long to be typed, in Python.
  #program(inputs) {
    const access = key() ? ', "Authorization": "Bearer KEY"' : "";
    return described(
      `import json, urllib.request\n\nbody = json.dumps({"inputs": [${inputs.join(", ")}]}).encode()\n` +
        `headers = {"Content-Type": "application/json"${access}}\n` +
        `request = urllib.request.Request("${location.origin}${this.path}", body, headers)\n` +
        `print(json.load(urllib.request.urlopen(request))["outputs"])`,
    );
  }
}

// A place to drop a file on, which is an ordinary file field underneath: keyboard and screen readers know it.
function dropZone(accept, action, detail, take) {
  const field = h("input", { type: "file", accept });
  const hint = h("div", {}, h("strong", {}, action), h("div", {}, detail));
  const drop = h("label", { className: "drop" }, hint, field);
  drop.take = take;
  field.addEventListener("change", () => field.files[0] && take(field.files[0]));
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, () => drop.classList.add("over"));
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  return { drop, hint };
}

function described(text) {
  return h("details", {}, h("summary", {}, "From a terminal or a program"), copyable(text));
}

function classList(classes) {
  const fractions = classes.every(({ score }) => score !== null && score >= 0 && score <= 1.0001);
  const highest = Math.max(...classes.map(({ score }) => score ?? 0));
  const item = ({ label, index, score }, place) => {
    const told = score === null ? "no number" : fractions ? percent(score) : Number(score.toPrecision(4)).toString();
    const share = fractions ? score : highest > 0 ? Math.max(0, score / highest) : 0;
    const bar = h("progress", { max: 1, value: share, "aria-hidden": "true" });
    if (place === 0) bar.className = "first";
    return h("li", {}, h("div", { className: "spread" }, h("span", { className: "label" }, label, label === String(index) ? h("small", { className: "muted" }, " (class number)") : null), h("span", { className: "score" }, told)), bar);
  };
  return h("ol", { className: "results" }, classes.map(item));
}

function numberList(numbers) {
  const entries = Object.entries(numbers);
  const told = (value) => {
    const flat = [value].flat(Infinity);
    return flat.length === 1 && typeof flat[0] === "number" ? Number(flat[0].toPrecision(6)).toString() : shortened(JSON.stringify(value), 400);
  };
  return h(
    "div",
    {},
    h("dl", {}, entries.slice(0, MOST_NUMBERS).map(([name, value]) => [h("dt", {}, name), h("dd", { className: "mono" }, told(value))])),
    entries.length > MOST_NUMBERS ? h("p", { className: "muted" }, `and ${plural(entries.length - MOST_NUMBERS, "more value")}`) : null,
  );
}

function shortened(text, most = 20000) {
  return text.length > most ? `${text.slice(0, most)} …` : text;
}
