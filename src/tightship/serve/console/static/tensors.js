// Numbers for a model's inputs, in the JSON of the Open Inference Protocol, and what comes back.

import { h } from "./dom.js";
import { count, spec } from "./words.js";

const DATATYPES = { float16: "FP16", float32: "FP32", float64: "FP64", bfloat16: "BF16", bool: "BOOL", str: "BYTES" };
const FEW = 64;
const SHOWN = 24;

export class TensorForm {
  constructor(inputs, send) {
    this.fields = inputs.map((input, index) => new TensorField(input, index));
    this.said = h("p", { className: "note bad", role: "alert", hidden: true });
    const button = h("button", {}, "Ask the model");
    this.element = h("form", {}, this.fields.map((field) => field.element), this.said, h("div", { className: "actions" }, button));
    this.element.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        this.said.hidden = true;
        await send({ inputs: this.fields.map((field) => field.tensor()) });
      } catch (error) {
        this.said.textContent = error.message;
        this.said.hidden = false;
      }
    });
  }

  // What can be sent, all zeros; null where that is too long to be shown.
  example() {
    return this.fields.some((field) => field.long) ? null : { inputs: this.fields.map((field) => field.example()) };
  }

  program() {
    return this.fields.map((field) => field.program());
  }
}

class TensorField {
  constructor(input, index) {
    this.input = input;
    const free = input.shape.some((dim) => typeof dim !== "number");
    const shape = input.shape.map((dim) => (typeof dim === "number" ? dim : 1));
    this.usual = shape;
    this.long = product(shape) > FEW;
    this.text = input.dtype === "str";
    this.shape = h("input", { type: "text", id: `shape${index}`, value: shape.join(", "), className: "mono" });
    const own = this.text || !this.long;
    this.fill = h("select", { id: `fill${index}` }, this.#fills().map(([value, name]) => h("option", { value, selected: value === (own ? "own" : "random") }, name)));
    this.values = h("textarea", { id: `values${index}`, className: "mono", rows: 3, spellcheck: false }, own ? JSON.stringify(this.#numbers("random", product(shape))) : "");
    const values = h("div", { hidden: !own }, h("label", { htmlFor: `values${index}` }, "Values ", h("small", {}, "JSON, in one list or in lists of lists")), this.values);
    this.fill.addEventListener("change", () => (values.hidden = this.fill.value !== "own"));
    this.element = h(
      "fieldset",
      { className: "tensor" },
      h("legend", {}, h("span", { className: "mono" }, spec(input))),
      free ? [h("label", { htmlFor: `shape${index}` }, "Shape ", h("small", {}, "one length per axis")), this.shape] : null,
      h("label", { htmlFor: `fill${index}` }, "Filled with"),
      this.fill,
      values,
    );
  }

  tensor() {
    const { name, dtype } = this.input;
    const shape = this.shape.value.split(/[, ]+/).filter(Boolean).map(Number);
    if (shape.some((length) => !Number.isInteger(length) || length < 0)) throw new Error(`${name}: "${this.shape.value}" is no shape; write for instance 1, 10`);
    const data = this.fill.value === "own" ? this.#own() : this.#numbers(this.fill.value, product(shape));
    if (data.length !== product(shape)) throw new Error(`${name}: ${count(data.length)} values were given; the shape ${shape.join(" × ")} takes ${count(product(shape))}`);
    return { name, datatype: datatype(dtype), shape, data };
  }

  example() {
    return { name: this.input.name, datatype: datatype(this.input.dtype), shape: this.usual, data: this.#numbers("zeros", product(this.usual)) };
  }

  program() {
    const [name, type] = [this.input.name, datatype(this.input.dtype)].map((text) => JSON.stringify(text));
    const value = this.text ? '"a text"' : this.input.dtype === "bool" ? "False" : "0";
    return `{"name": ${name}, "datatype": ${type}, "shape": ${JSON.stringify(this.usual)}, "data": [${value}] * ${product(this.usual)}}`;
  }

  #fills() {
    return this.text ? [["own", "my own texts"]] : [["own", "my own numbers"], ["random", "random numbers"], ["zeros", "zeros"]];
  }

  #own() {
    let found;
    try {
      found = JSON.parse(this.values.value);
    } catch (error) {
      throw new Error(`${this.input.name}: the values are no JSON (${error.message}); write for instance [1, 2.5, 3]`);
    }
    return [found].flat(Infinity);
  }

  #numbers(how, length) {
    if (this.text) return new Array(length).fill("a text");
    if (this.input.dtype === "bool") return new Array(length).fill(false);
    if (how === "zeros") return new Array(length).fill(0);
    const whole = this.input.dtype.includes("int"); // small: most often numbers of tokens, of which there are few for sure
    return Array.from({ length }, () => (whole ? Math.round(Math.random()) : Number(Math.random().toFixed(3))));
  }
}

export function tensorAnswer(outputs) {
  return h("div", {}, outputs.map(oneOutput));
}

function oneOutput({ name, datatype: type, shape, data }) {
  const flat = [data].flat(Infinity);
  const told = flat.slice(0, SHOWN).map((value) => (typeof value === "number" ? Number(value.toPrecision(6)).toString() : JSON.stringify(value)));
  const numbers = flat.length > 1 && flat.length <= 1e6 && flat.every((value) => typeof value === "number");
  const largest = numbers ? flat.reduce((best, value, index) => (value > flat[best] ? index : best), 0) : null;
  return h(
    "div",
    {},
    h("p", { className: "mono" }, `${name}: ${type}[${shape.join(", ")}]`),
    h("pre", {}, told.join(", ") + (flat.length > SHOWN ? `, … ${count(flat.length - SHOWN)} more` : "")),
    largest === null ? null : h("p", { className: "small muted" }, `The largest is number ${largest} (counted from 0): ${Number(flat[largest].toPrecision(6))}.`),
  );
}

function datatype(dtype) {
  return DATATYPES[dtype] ?? dtype.toUpperCase();
}

function product(shape) {
  return shape.reduce((total, length) => total * length, 1);
}
