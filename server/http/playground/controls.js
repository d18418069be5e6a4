// The fields of a request as controls. Which there are, their bounds, defaults and meaning, is what /v1/capabilities says;
// here is only which of them come first, and which the page sets itself.

const mainFields = ["max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "seed", "stop", "logprobs"];
const ownFields = new Set([
  "model", "prompt", "echo", "stream", "stream_options", "prompt_logprobs", "best_of", "return_token_ids",
  "return_tokens_as_token_ids", "skip_special_tokens", "truncate_prompt_tokens", "metadata",
]);
// Where the page begins when the API's default would show little.
const firstValues = { max_tokens: "48", logprobs: "5" };
const titles = { logprobs: "alternatives shown for each token" };

// How a field is written in a control and read from it; `read` gives undefined for "not set" and throws a message.
const kinds = {
  number: {
    read(text, schema) {
      const value = Number(text);
      if (text.trim() === "" || !Number.isFinite(value)) throw new Error("is not a number");
      if (schema.isInteger && !Number.isInteger(value)) throw new Error("must be a whole number");
      if (schema.isInteger && !Number.isSafeInteger(value)) throw new Error("has more digits than a browser can keep");
      checkBounds(value, schema);
      return value;
    },
  },
  text: { read: (text) => text },
  lines: {
    hint: "one to a line; \\n is a line break",
    read(text, schema) {
      const lines = text.split("\n").filter((line) => line !== "").map((line) => line.replace(/\\(n|t|\\)/g, (_, c) => ({ n: "\n", t: "\t", "\\": "\\" })[c]));
      if (lines.length > schema.maxItems) throw new Error(`has ${lines.length} lines; the limit is ${schema.maxItems}`);
      return lines;
    },
  },
  ids: {
    hint: "token ids, parted by commas",
    read(text) {
      const ids = text.split(/[\s,]+/).filter(Boolean).map(Number);
      if (!ids.every((id) => Number.isSafeInteger(id) && id >= 0)) throw new Error("must be token ids, such as 50, 1437");
      return ids;
    },
  },
  object: {
    hint: 'JSON, such as {"50": -100}',
    read(text) {
      let value = null;
      try {
        value = JSON.parse(text);
      } catch {
        // said below
      }
      if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error('must be a JSON object, such as {"50": -100}');
      return value;
    },
  },
  check: { read: (text) => text === "true" },
};

function checkBounds(value, { minimum, exclusiveMinimum, maximum }) {
  if (minimum !== undefined && value < minimum) throw new Error(`must be at least ${minimum}`);
  if (exclusiveMinimum !== undefined && value <= exclusiveMinimum) throw new Error(`must be more than ${exclusiveMinimum}`);
  if (maximum !== undefined && value > maximum) throw new Error(`must be at most ${maximum}`);
}

function kindOf(name, schema) {
  const types = [schema.type ?? []].flat();
  if (types.includes("number") || types.includes("integer")) return "number";
  if (types.includes("boolean")) return "check";
  if (types.includes("array")) return "ids";
  if (types.includes("object")) return "object";
  return schema.anyOf ? "lines" : "text";
}

const isWide = (bound) => bound === undefined || Math.abs(bound) >= 2 ** 31 - 1;

function describeBounds(schema, kind) {
  const parts = [];
  const low = schema.minimum ?? schema.exclusiveMinimum;
  if (!isWide(low) && !isWide(schema.maximum)) parts.push(`${schema.exclusiveMinimum === undefined ? "" : "> "}${low} to ${schema.maximum}`);
  else if (!isWide(low)) parts.push(schema.exclusiveMinimum === undefined ? `from ${low}` : `> ${low}`);
  if (kind !== "check" && schema.default !== null && schema.default !== undefined) parts.push(`default ${schema.default}`);
  return parts.join(", ");
}

class Controls {
  #fields = new Map();  // name: { schema, kind, input, range, wrong }

  constructor(onChange) {
    this.onChange = onChange;
    byId("fields-reset").addEventListener("click", () => this.reset());
  }

  get isBuilt() {
    return this.#fields.size > 0;
  }

  maximum(name) {
    return this.#fields.get(name)?.schema.maximum;
  }

  build(capabilities) {
    const saved = JSON.parse(tabStorage.get("fields") ?? "{}");
    const names = Object.keys(capabilities.fields).filter((name) => !ownFields.has(name));
    this.#fields.clear();
    const sort = (wanted) => names.filter((name) => mainFields.includes(name) === wanted);
    const main = sort(true).sort((a, b) => mainFields.indexOf(a) - mainFields.indexOf(b));
    const make = (name) => this.#makeField(name, capabilities, saved[name] ?? firstValues[name] ?? "");
    byId("fields-main").replaceChildren(...main.map(make));
    byId("fields-more").replaceChildren(...sort(false).map(make));
  }

  #makeField(name, capabilities, value) {
    const schema = { ...capabilities.fields[name] };
    schema.isInteger = [schema.type].flat().includes("integer");
    if (name === "max_tokens" || name === "min_tokens") schema.maximum = Math.min(schema.maximum, capabilities.limits.max_model_len);
    const list = schema.anyOf?.find((option) => option.type === "array");
    schema.maxItems ??= list?.maxItems;
    const kind = kindOf(name, schema);
    const field = { schema, kind, input: this.#makeInput(name, schema, kind) };
    this.#fields.set(name, field);
    field.wrong = element("p", { class: "wrong", id: `wrong-${name}`, hidden: true });
    field.input.setAttribute("aria-describedby", `bounds-${name} about-${name} wrong-${name}`);
    field.range = this.#makeRange(field);
    this.#write(field, value);
    field.input.addEventListener("input", () => this.#onInput(name));
    const label = element("label", { for: `field-${name}` }, name);
    const bounds = element("span", { class: "bounds", id: `bounds-${name}` }, describeBounds(schema, kind) || kinds[kind].hint || "");
    const about = element("p", { class: "about", id: `about-${name}` }, titles[name] ?? schema.description);
    if (kind === "check") return element("div", { class: "field check" }, field.input, label, bounds, about, field.wrong);
    const input = field.range ? element("div", { class: "pair" }, field.range, field.input) : field.input;
    return element("div", { class: "field" }, element("div", { class: "head" }, label, bounds), input, about, field.wrong);
  }

  #makeInput(name, schema, kind) {
    const common = { id: `field-${name}`, autocomplete: "off", spellcheck: "false" };
    if (kind === "check") return element("input", { ...common, type: "checkbox" });
    if (kind === "lines") return element("textarea", { ...common, rows: 2 });
    return element("input", { ...common, type: "text", inputmode: kind === "number" ? (schema.minimum >= 0 || schema.exclusiveMinimum >= 0 ? "decimal" : "text") : null });
  }

  // Beside a number that has two near bounds: the same by mouse. The keyboard has the number itself.
  #makeRange({ schema, kind, input }) {
    const low = schema.minimum ?? schema.exclusiveMinimum;
    if (kind !== "number" || isWide(low) || isWide(schema.maximum) || schema.maximum - low > 200) return null;
    const step = schema.isInteger ? 1 : 0.05;
    const range = element("input", { type: "range", min: schema.minimum ?? low + step, max: schema.maximum, step, tabindex: -1, "aria-hidden": "true" });
    range.addEventListener("input", () => {
      input.value = String(Number(Number(range.value).toFixed(2)));
      input.dispatchEvent(new Event("input"));
    });
    return range;
  }

  // Empty: the default.
  #write(field, text) {
    const shown = text || String(field.schema.default ?? "");
    if (field.kind === "check") field.input.checked = shown === "true";
    else field.input.value = shown;
    this.#moveRange(field);
  }

  #moveRange(field) {
    if (field.range) field.range.value = field.input.value.trim() === "" ? (field.schema.default ?? field.schema.minimum) : field.input.value;
  }

  #textOf(field) {
    return field.kind === "check" ? String(field.input.checked) : field.input.value;
  }

  #onInput(name) {
    this.#moveRange(this.#fields.get(name));
    this.#value(name);
    this.#save();
    this.onChange();
  }

  #save() {
    const texts = [...this.#fields].map(([name, field]) => [name, this.#textOf(field)]);
    tabStorage.set("fields", JSON.stringify(Object.fromEntries(texts)));
  }

  reset() {
    for (const [name, field] of this.#fields) {
      this.#write(field, firstValues[name] ?? "");
      this.#say(field, "");
    }
    this.#save();
    this.onChange();
  }

  #say(field, message) {
    field.wrong.textContent = message;
    field.wrong.hidden = message === "";
    field.input.setAttribute("aria-invalid", String(message !== ""));
  }

  // Undefined when the control is empty or wrong; then it says what is wrong.
  #value(name) {
    const field = this.#fields.get(name);
    const text = this.#textOf(field);
    let value;
    let message = "";
    try {
      if (text !== "") value = kinds[field.kind].read(text, field.schema);
    } catch (error) {
      message = `${name} ${error.message}`;
    }
    this.#say(field, message);
    return value;
  }

  // What differs from the API's defaults: { ok, values }. Not ok: a control is wrong, and has the focus now.
  read() {
    const values = {};
    for (const [name, field] of this.#fields) {
      const value = this.#value(name);
      if (value !== undefined && value !== field.schema.default) values[name] = value;
    }
    const wrong = [...this.#fields.values()].find((field) => !field.wrong.hidden);
    if (wrong) this.#reveal(wrong);
    return { ok: !wrong, values };
  }

  #reveal(field) {
    field.input.closest("details").open = true;
    field.input.focus();
  }

  // What the server finds wrong with a field, at the field. False when it has no control here.
  complain(param, message) {
    const field = this.#fields.get(param?.split(/[.[]/)[0]);
    if (!field) return false;
    this.#say(field, message);
    this.#reveal(field);
    return true;
  }
}
