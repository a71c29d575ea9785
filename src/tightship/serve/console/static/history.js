// What happened over the last minutes, from counters that only grow: differences between two looks at the server.

const KEPT_S = 300;
const WINDOW_S = 3; // rates are over so many seconds: each worker writes its counters once a second

export class History {
  constructor() {
    this.looks = [];
  }

  add(overview) {
    const counts = new Map();
    for (const model of overview.models) {
      for (const version of model.versions) counts.set(`${model.name}\n${version.version}`, version);
    }
    const last = this.looks.at(-1);
    if (last && (overview.server.started > last.started + 1 || overview.server.now <= last.at)) this.looks = [];
    this.looks.push({ at: overview.server.now, started: overview.server.started, counts });
    this.bounds = overview.latency_bounds_s;
    while (this.looks[0].at < overview.server.now - KEPT_S - WINDOW_S) this.looks.shift();
  }

  get now() {
    return this.looks.at(-1)?.at ?? 0;
  }

  // Points {at, requests, failures, p50, p95}: per second and in seconds, over the versions that `wanted` picks.
  points(wanted) {
    const found = [];
    let before = 0;
    for (let index = 1; index < this.looks.length; index++) {
      while (this.looks[before + 1].at <= this.looks[index].at - WINDOW_S) before++;
      if (this.looks[before].at > this.looks[index].at - WINDOW_S + 1.5 && index > 3) continue;
      found.push(this.#between(this.looks[before], this.looks[index], wanted));
    }
    return found;
  }

  latest(wanted) {
    return this.points(wanted).at(-1) ?? null;
  }

  #between(one, other, wanted) {
    const seconds = other.at - one.at;
    const buckets = new Array(this.bounds.length + 1).fill(0);
    let failures = 0;
    for (const [name, version] of other.counts) {
      if (!wanted(...name.split("\n"))) continue;
      const earlier = one.counts.get(name);
      version.latency.forEach((value, index) => (buckets[index] += value - (earlier?.latency[index] ?? 0)));
      failures += sum(version.failures) - (earlier ? sum(earlier.failures) : 0);
    }
    const requests = buckets.reduce((total, value) => total + value, 0);
    return {
      at: other.at,
      requests: requests / seconds,
      failures: failures / seconds,
      p50: quantile(buckets, this.bounds, 0.5),
      p95: quantile(buckets, this.bounds, 0.95),
    };
  }
}

export function sum(counts) {
  return Object.values(counts).reduce((total, value) => total + value, 0);
}

// In seconds, interpolated within its bucket; null where nothing was counted.
export function quantile(buckets, bounds, fraction) {
  const total = buckets.reduce((all, value) => all + value, 0);
  if (total <= 0) return null;
  let wanted = fraction * total;
  let low = 0;
  for (let index = 0; index < buckets.length; index++) {
    const high = bounds[index] ?? bounds.at(-1);
    if (buckets[index] > 0 && wanted <= buckets[index]) return low + ((high - low) * wanted) / buckets[index];
    wanted -= buckets[index];
    low = high;
  }
  return low;
}
