// Elements from text and children; nothing is ever parsed as HTML, whatever a model or a package is called.

export function h(name, properties, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && key !== "list") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...drawn(children));
  return element;
}

function drawn(children) {
  return [children].flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

// An element that is drawn anew only when what it shows has changed, so that a selection or a click is not lost.
export function live(element, draw) {
  let shown;
  return Object.assign(element, {
    show(value) {
      const text = JSON.stringify(value);
      if (text === shown) return;
      shown = text;
      element.replaceChildren(...drawn(draw(value)));
    },
  });
}

export function copyable(text) {
  const button = h("button", { type: "button", className: "tiny quiet" }, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return h("div", { className: "code" }, h("pre", {}, text), navigator.clipboard ? button : null);
}
