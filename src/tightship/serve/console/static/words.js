// Numbers as a person says them.

export function count(value) {
  return Math.round(value).toLocaleString("en-US");
}

export function rate(value) {
  if (value === null || value === undefined) return "–";
  return value >= 10 ? count(value) : Number(value.toPrecision(2)).toString();
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined || !isFinite(seconds)) return "–";
  if (seconds === 0) return "0";
  if (seconds >= 1) return `${round3(seconds)} s`;
  if (seconds >= 0.001) return `${round3(seconds * 1e3)} ms`;
  return `${round3(seconds * 1e6)} µs`;
}

export function span(seconds) {
  for (const [length, name] of [[86400, "day"], [3600, "hour"], [60, "minute"]]) {
    if (seconds >= length) return plural(Math.floor(seconds / length), name);
  }
  return plural(Math.max(0, Math.floor(seconds)), "second");
}

export function bytes(value) {
  for (const [size, name] of [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (value >= size) return `${round3(value / size)} ${name}`;
  }
  return `${value} bytes`;
}

export function percent(fraction) {
  if (fraction === null || fraction === undefined || !isFinite(fraction)) return "–";
  const value = fraction * 100;
  return `${value === 0 || value >= 10 || Number.isInteger(value) ? Number(value.toFixed(1)) : Number(value.toPrecision(2))} %`;
}

export function plural(number, name, several = `${name}s`) {
  return `${count(number)} ${number === 1 ? name : several}`;
}

export function when(epoch) {
  return new Date(epoch * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

export function spec(tensor) {
  return `${tensor.name}: ${tensor.dtype}[${tensor.shape.join(", ")}]`;
}

function round3(value) {
  return value >= 100 ? value.toFixed(0) : Number(value.toPrecision(3)).toString();
}
