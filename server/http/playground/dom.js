// Elements without markup: every text goes in as text, so nothing that a model wrote can become part of the page.

const byId = (id) => document.getElementById(id);

// element("p", { class: "hint", onclick: f, disabled: true }, "text", child): attributes by their names, handlers by on...;
// false, null and undefined are left out.
function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svgElement(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// Numbers as people read them.
const formatPercent = (p) => (p >= 0.9995 ? "100 %" : p >= 0.1 ? `${(100 * p).toFixed(1)} %` : p >= 0.0001 ? `${(100 * p).toFixed(2)} %` : "< 0.01 %");
const formatNumber = (x, digits = 2) => x.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const formatCount = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
const formatSeconds = (s) => (s < 1 ? `${Math.round(1000 * s)} ms` : `${formatNumber(s, s < 10 ? 2 : 1)} s`);

// What survives a reload, but not the tab. Browsers may refuse it; then it lives as long as the page.
const tabStorage = {
  fallback: new Map(),
  get(name) {
    try {
      return sessionStorage.getItem(`optserve.${name}`);
    } catch {
      return this.fallback.get(name) ?? null;
    }
  },
  set(name, value) {
    try {
      if (value === null || value === "") sessionStorage.removeItem(`optserve.${name}`);
      else sessionStorage.setItem(`optserve.${name}`, value);
    } catch {
      this.fallback.set(name, value);
    }
  },
};
