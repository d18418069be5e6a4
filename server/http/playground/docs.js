// The API's description of itself, /openapi.json, as a page for readers. Nothing is said here that is not said there.

const schemaOf = (document, schema) => (schema?.$ref ? schema.$ref.slice(2).split("/").reduce((node, name) => node[name], document) : schema);
const anchorOf = (method, path) => `${method}${path.replace(/[^a-z0-9]+/gi, "-")}`.replace(/-$/, "");

// "integer, 1 to 128", "text or null".
function typeText(document, schema) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  const options = schema.anyOf ?? schema.oneOf;
  if (options) return [...new Set(options.map((option) => typeText(document, option)))].join(" or ");
  const types = [schema.type ?? "anything"].flat().filter((type) => type !== "null");
  const name = types.map((type) => (type === "array" ? `list of ${typeText(document, schema.items ?? {})}` : type)).join(" or ");
  return name || "null";
}

// A range that is only what the machine's integers hold tells a reader nothing.
function boundsText(schema) {
  const isTold = (bound) => bound !== undefined && Math.abs(bound) < 2 ** 31 - 1;
  const parts = [];
  if (isTold(schema.minimum)) parts.push(`≥ ${schema.minimum}`);
  if (isTold(schema.exclusiveMinimum)) parts.push(`> ${schema.exclusiveMinimum}`);
  if (isTold(schema.maximum)) parts.push(`≤ ${schema.maximum}`);
  if (schema.maxLength) parts.push(`at most ${schema.maxLength} bytes`);
  const most = schema.maxItems ?? schema.maxProperties ?? schema.anyOf?.map((option) => option.maxItems).find(Boolean);
  if (most) parts.push(`at most ${most}`);
  return parts.join(", ");
}

function fieldTable(document, schema) {
  const required = new Set(schema.required ?? []);
  const rows = Object.entries(schema.properties ?? {}).map(([name, field]) => {
    const standard = field.default === undefined ? (required.has(name) ? "required" : "") : JSON.stringify(field.default);
    return element("tr", {},
      element("th", { scope: "row" }, name), element("td", { class: "type" }, typeText(document, field)), element("td", {}, boundsText(field)),
      element("td", { class: "type" }, standard), element("td", {}, field.description ?? ""));
  });
  const head = ["field", "type", "bounds", "default", "meaning"].map((name) => element("th", { scope: "col" }, name));
  return element("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Fields" },
    element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)));
}

function answerTable(document, responses) {
  const rows = Object.entries(responses).map(([status, reference]) => {
    const response = schemaOf(document, reference);
    const kinds = Object.entries(response.content ?? {}).map(([type, { schema }]) => (schema?.$ref ? `${type}: ${typeText(document, schema)}` : type));
    return element("tr", {}, element("th", { scope: "row" }, status), element("td", {}, response.description), element("td", { class: "type" }, kinds.join("; ")));
  });
  return element("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "Answers" },
    element("table", {}, element("tbody", {}, ...rows)));
}

function route(document, method, path, operation, isFirstOfSchema) {
  const isOpen = operation.security?.length === 1;
  const children = [
    element("h2", {}, element("span", { class: "method" }, method.toUpperCase()), path, isOpen ? element("span", { class: "tag" }, "needs no key") : null),
    element("p", { class: "lead" }, operation.summary),
  ];
  const reference = operation.requestBody?.content["application/json"].schema;
  if (reference) {
    children.push(element("h3", {}, "Request"));
    children.push(isFirstOfSchema ? fieldTable(document, schemaOf(document, reference)) : element("p", {}, "The fields are those of ", element("a", { href: "#post-v1-completions" }, "/v1/completions"), "."));
  }
  children.push(element("h3", {}, "Answers"), answerTable(document, operation.responses));
  return element("section", { class: "route", id: anchorOf(method, path) }, ...children);
}

function objects(document) {
  return Object.entries(document.components.schemas).filter(([name]) => !name.endsWith("Request")).map(([name, schema]) =>
    element("section", { class: "route", id: `object-${name}` }, element("h2", {}, name), fieldTable(document, schema)));
}

// The addresses are this server's own, so that the examples work as they are.
function examples() {
  const url = new URL(".", location.href).href.replace(/\/$/, "");
  const json = '{"prompt": "Call me Ishmael.", "max_tokens": 16}';
  const python = `from openai import OpenAI\n\nclient = OpenAI(base_url="${url}/v1", api_key="none")\nprint(client.completions.create(model="", prompt="Call me Ishmael.").choices[0].text)`;
  return element("section", { class: "route", id: "examples" },
    element("h2", {}, "To begin with"),
    element("h3", {}, "curl"), element("pre", { tabindex: 0 }, `curl ${url}/v1/completions --json '${json}'`),
    element("h3", {}, "Python, with the openai package"), element("pre", { tabindex: 0 }, python.replace('model=""', 'model=client.models.list().data[0].id')));
}

function show(document) {
  const seen = new Set();
  const routes = [];
  const links = [element("p", {}, "Routes")];
  for (const [path, operations] of Object.entries(document.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const schema = operation.requestBody?.content["application/json"].schema.$ref;
      routes.push(route(document, method, path, operation, !seen.has(schema)));
      if (schema) seen.add(schema);
      links.push(element("a", { href: `#${anchorOf(method, path)}` }, path));
    }
  }
  links.push(element("p", {}, "Objects"), ...objects(document).map((section) => element("a", { href: `#${section.id}` }, section.firstChild.textContent)));
  byId("docs").replaceChildren(
    element("nav", { class: "contents", "aria-label": "Contents" }, ...links),
    element("article", {},
      element("header", {}, element("h2", {}, `${document.info.title} ${document.info.version}`), element("p", { class: "lead" }, document.info.description)),
      examples(), ...routes, ...objects(document)));
  window.document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

try {
  const response = await fetch("openapi.json");
  show(await response.json());
} catch (error) {
  byId("docs").replaceChildren(element("p", { role: "alert" }, `openapi.json could not be read: ${error.message}`));
}
