// The page's buttons, keys and first moments.

function chooseColour(name) {
  document.querySelector(`input[name="colour"][value="${name}"]`).checked = true;
  showScale();
  return name;
}

// --- code ------------------------------------------------------------------------------------------------------------

// What Continue would send, as code. The prompt is a text where the server makes the same ids of it, else the ids.
async function showCode() {
  const { ok, values } = controls.read();
  if (!ok) return;
  const { state } = history;
  const { logprobs: _, ...fields } = values;
  const prompt = state.ids !== null && state.text !== "" && !(await isTokenizedTo(state)) ? state.ids : state.text || bosIds;
  const body = { model, prompt, ...fields };
  const url = new URL(".", document.baseURI).href.replace(/\/$/, "");
  const isPython = document.querySelector('input[name="language"]:checked').value === "python";
  byId("code-text").textContent = (isPython ? pythonCode : curlCode)(url, body, apiKey.get() !== "");
  const reason = Array.isArray(prompt) && state.text !== "" ? "The prompt is token ids, because as a text it would be cut into other tokens than those that were generated. " : "";
  const key = apiKey.get() ? "The key is read from the environment variable OPTSERVE_API_KEY." : "";
  byId("code-hint").textContent = `${reason}${key}`;
  byId("code-copy").textContent = "Copy";
  if (!byId("code").open) byId("code").showModal();
}

async function isTokenizedTo({ text, ids }) {
  try {
    const response = await callApi("tokenize", { body: { prompt: text } });
    const { tokens } = await response.json();
    return tokens.length === ids.length && tokens.every((id, i) => id === ids[i]);
  } catch {
    return false;  // the ids are right in any case
  }
}

async function copyCode() {
  const text = byId("code-text").textContent;
  try {
    await navigator.clipboard.writeText(text);
    byId("code-copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(byId("code-text"));
    byId("code-copy").textContent = "Selected: copy it with Ctrl C";
  }
}

// --- theme -----------------------------------------------------------------------------------------------------------

const themes = [["", "Auto", "as the system has it"], ["light", "Light", "light"], ["dark", "Dark", "dark"]];

function showTheme(name) {
  const [value, label, words] = themes.find(([one]) => one === name) ?? themes[0];
  if (value) document.documentElement.dataset.theme = value;
  else delete document.documentElement.dataset.theme;
  byId("theme").textContent = label;
  byId("theme").setAttribute("aria-label", `Theme: ${words}`);
  tabStorage.set("theme", value);
}

function nextTheme() {
  const now = document.documentElement.dataset.theme ?? "";
  showTheme(themes[(themes.findIndex(([one]) => one === now) + 1) % themes.length][0]);
}

// --- examples --------------------------------------------------------------------------------------------------------

const examples = ["It is a truth universally acknowledged, that", "Call me Ishmael.", "In the beginning"];

function exampleButton(text) {
  return element("button", {
    type: "button",
    onclick: () => change({ ...emptyState, text }),
  }, text);
}

// --- beginning -------------------------------------------------------------------------------------------------------

// Asked again until the server answers: it may be loading, or want a key first.
async function loadCapabilities() {
  try {
    const capabilities = await (await callApi("v1/capabilities")).json();
    model = capabilities.model;
    byId("model").textContent = model;
    document.title = `${model} · optserve playground`;
    controls.build(capabilities);
    notice(null);
  } catch (error) {
    fail(error, loadCapabilities);
    if (error.status === 0 || error.status === 503) setTimeout(() => controls.isBuilt || loadCapabilities(), 2000);
  }
}

function setKey(value) {
  apiKey.set(value.trim());
  gauges.refresh();
  if (!controls.isBuilt) loadCapabilities();
}

function onKey(event) {
  const isCommand = event.ctrlKey || event.metaKey;
  const inEditor = event.target === byId("text");
  if (event.key === "Escape" && running) stop();
  else if (event.key === "Escape" && alternatives.isOpen) alternatives.close({ refocus: true });
  else if (isCommand && event.key === "Enter" && !document.querySelector("dialog[open]")) event.shiftKey ? score() : continueText();
  else if (isCommand && inEditor && event.key.toLowerCase() === "z") travel(event.shiftKey ? "redo" : "undo");
  else if (isCommand && inEditor && event.key.toLowerCase() === "y") travel("redo");
  else return;
  event.preventDefault();
}

function on(id, type, handler) {
  byId(id).addEventListener(type, handler);
}

function begin() {
  byId("examples").append(...examples.map(exampleButton));
  for (let level = 0; level < 8; ++level) byId("swatches").append(element("i", { "data-level": level }));
  on("continue", "click", () => continueText());
  on("stop", "click", stop);
  on("undo", "click", () => travel("undo"));
  on("redo", "click", () => travel("redo"));
  on("score", "click", score);
  on("notice-close", "click", () => notice(null));
  on("notice-retry", "click", () => retry?.());
  on("key", "change", (event) => setKey(event.target.value));
  on("key-forget", "click", () => {
    byId("key").value = "";
    setKey("");
  });
  on("theme", "click", nextTheme);
  on("code-open", "click", showCode);
  on("code-copy", "click", copyCode);
  on("code-close", "click", () => byId("code").close());
  on("help-open", "click", () => byId("help").showModal());
  on("help-close", "click", () => byId("help").close());
  document.querySelectorAll('input[name="language"]').forEach((radio) => radio.addEventListener("change", showCode));
  document.querySelectorAll('input[name="colour"]').forEach((radio) => radio.addEventListener("change", () => {
    showScale();
    show();
  }));
  document.addEventListener("keydown", onKey);
  byId("text").addEventListener("beforeinput", (event) => {
    if (event.inputType !== "historyUndo" && event.inputType !== "historyRedo") return;
    event.preventDefault();  // the browser's own history knows nothing of the model's words
    travel(event.inputType === "historyUndo" ? "undo" : "redo");
  });
  if (matchMedia("(max-width: 900px)").matches) byId("sampling").open = false;
  byId("key").value = apiKey.get();
  showTheme(tabStorage.get("theme") ?? "");
  showScale();
  show();
  gauges.start();
  loadCapabilities();
}

begin();
