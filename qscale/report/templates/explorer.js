"use strict";
// The arithmetic of the law explorer: pure functions of numbers and of law files, no page.
// tests/report/test_explorer.py runs this very file and holds every function to its Python original.
// A form is described by its terms: scale * product of base(variable) ** (sign * exponent), summed.
const explorer = (() => {
  const BASES = { identity: (x) => x, log2: Math.log2, exp: Math.exp };

  /** The variables of a form as numbers; a variable with levels as the name of one. Throws where one is not valid. */
  function inputs(form, at) {
    const x = {};
    for (const variable of form.variables) {
      const value = at[variable.name];
      if (variable.levels.length) {
        const name = String(value);
        if (!variable.levels.includes(name)) {
          throw new RangeError(`${variable.name} is one of ${variable.levels.join(", ")}`);
        }
        x[variable.name] = name;
        continue;
      }
      const low = variable.least_allowed ? value < variable.least : value <= variable.least;
      const high = variable.most !== null && value > variable.most;
      if (typeof value !== "number" || !Number.isFinite(value) || low || high) {
        const sign = variable.least_allowed ? "at least" : "more than";
        const top = variable.most === null ? "" : `, at most ${variable.most}`;
        throw new RangeError(`${variable.name} (${variable.unit}) is a number ${sign} ${variable.least}${top}`);
      }
      x[variable.name] = value;
    }
    return x;
  }

  /** The name of a term's scale at a point; null where the term is absent. */
  function scaleName(term, x) {
    if (term.by === null) return term.scale;
    return x[term.by] === "none" ? null : `${term.scale}[${x[term.by]}]`;
  }

  /** The target at a point: Law.predict. */
  function predict(law, form, at) {
    const x = inputs(form, at);
    let sum = 0;
    for (const term of form.terms) {
      const name = scaleName(term, x);
      if (name === null) continue;
      let part = law.parameters[name];
      for (const axis of term.axes) {
        part *= BASES[axis.transform](x[axis.variable]) ** (axis.sign * law.parameters[axis.parameter]);
      }
      sum += part;
    }
    return sum;
  }

  /** The target under every stored draw: Law.draws. Null for a law without draws. */
  function draws(law, form, at) {
    if (law.draws === null) return null;
    const x = inputs(form, at);
    const column = new Map(law.draws.columns.map((name, i) => [name, i]));
    const parts = [];
    for (const term of form.terms) {
      const name = scaleName(term, x);
      if (name === null) continue;
      const axes = term.axes.map((axis) => {
        const base = BASES[axis.transform];
        const ratio = base(x[axis.variable]) / base(law.reference.at[axis.variable]);
        return [ratio, axis.sign, column.get(form.at_reference[axis.parameter])];
      });
      parts.push([column.get(form.at_reference[name]), axes]);
    }
    return law.draws.values.map((row) => {
      let sum = 0;
      for (const [scale, axes] of parts) {
        let part = row[scale];
        for (const [ratio, sign, exponent] of axes) part *= ratio ** (sign * row[exponent]);
        sum += part;
      }
      return sum;
    });
  }

  /** A quantile by linear interpolation, as numpy.quantile takes it. */
  function quantile(values, share) {
    const sorted = Float64Array.from(values).sort();
    const place = (sorted.length - 1) * share;
    const below = Math.floor(place);
    const a = sorted[below];
    const b = sorted[Math.min(below + 1, sorted.length - 1)];
    const part = place - below;
    return part >= 0.5 ? b - (b - a) * (1 - part) : a + (b - a) * part;
  }

  /** The equal-tailed interval of the mean law at a point: Law.interval. Null for a law without draws. */
  function interval(law, form, at, level) {
    const values = draws(law, form, at);
    if (values === null) return null;
    return [quantile(values, (1 - level) / 2), quantile(values, (1 + level) / 2)];
  }

  /** How many times outside the fitted box each variable is, 1 inside: Law.outside. */
  function outside(law, form, at) {
    const x = inputs(form, at);
    const times = {};
    for (const variable of form.variables) {
      if (variable.levels.length) continue;
      const [low, high] = law.box[variable.name];
      const value = x[variable.name];
      times[variable.name] = Math.max(1, value / high, value > 0 ? low / value : Infinity);
    }
    return times;
  }

  /** Bits of a weight with its share of a group's scale: qscale.planning.bits_per_weight. */
  function bitsPerWeight(format, G) {
    return format.bits + format.shared / G;
  }

  /** Bytes of a model: N weights of so many bits, the other parameters of 16. */
  function bytes(N, total, bits) {
    return (N * bits) / 8 + (total - N) * 2;
  }

  /** The multiplier of N that explains a delta: laws.derived.eff_of_delta. Null for a law without A and alpha. */
  function multiplier(baseline, delta, N) {
    const { A, alpha } = baseline.parameters;
    if (A === undefined || alpha === undefined) return null;
    return (A / (A + delta * N ** alpha)) ** (1 / alpha);
  }

  /** So many values from low to high, evenly on a logarithmic axis. */
  function spaced(low, high, count) {
    const step = Math.log(high / low) / (count - 1);
    return Array.from({ length: count }, (_, i) => (i === count - 1 ? high : low * Math.exp(step * i)));
  }

  /** The points that no other beats: of ascending bytes, each of less loss than all before it. */
  function front(points) {
    const kept = [];
    const ordered = [...points].sort((a, b) => a.bytes - b.bytes || a.loss - b.loss);
    for (const point of ordered) {
      if (!kept.length || point.loss < kept[kept.length - 1].loss) kept.push(point);
    }
    return kept;
  }

  /**
   * What could be shipped: each choice at each size.
   * choices: {name, law, form, format, groups, at}; law null: unquantized. at: the other variables, D among them.
   * others: parameters besides N, of 16 bits.
   */
  function candidates(choices, baseline, baselineForm, sizes, others) {
    const found = [];
    for (const choice of choices) {
      for (const N of sizes) {
        const whole = predict(baseline, baselineForm, { ...choice.at, N });
        for (const G of choice.groups) {
          const at = { ...choice.at, N, G };
          let loss = whole;
          if (choice.law !== null) {
            const value = predict(choice.law, choice.form, at);
            loss = choice.form.target === "loss" ? value : whole + value;
          }
          const bits = bitsPerWeight(choice.format, G);
          found.push({ name: choice.name, N, G, bits, bytes: bytes(N, N + others, bits), loss });
        }
      }
    }
    return found;
  }

  const SUFFIXES = { "": 1, k: 1e3, m: 1e6, b: 1e9, g: 1e9, t: 1e12 };

  /** A number from "595M", "7e9" or "2.5"; NaN where it cannot be read. */
  function parseCount(text) {
    const match = /^\s*([0-9][0-9_]*(?:\.[0-9]*)?(?:e[+-]?[0-9]{1,3})?)\s*([kmbgt]?)\s*$/i.exec(text);
    return match ? Number(match[1].replaceAll("_", "")) * SUFFIXES[match[2].toLowerCase()] : NaN;
  }

  /** A count as people write it: 595M, 7B; below a thousand three digits. */
  function shortCount(value) {
    for (const [suffix, size] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3]]) {
      if (value >= size) return `${Number((value / size).toPrecision(3))}${suffix}`;
    }
    return String(Number(value.toPrecision(3)));
  }

  /** Bytes as people write them: 4.2 GB. */
  function shortBytes(value) {
    const text = shortCount(value).replace("B", "G");
    return /[0-9]$/.test(text) ? `${text} B` : `${text.slice(0, -1)} ${text.slice(-1)}B`;
  }

  return {
    inputs, predict, draws, quantile, interval, outside, bitsPerWeight, bytes, multiplier, spaced, front,
    candidates, parseCount, shortCount, shortBytes,
  };
})();
