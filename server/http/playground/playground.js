// The page: what its buttons do.

const bosIds = [2];  // every OPT's beginning of a text; the prompt of an empty one

const history = new History({ ...emptyState, text: tabStorage.get("text") ?? "" });
const gauges = new Gauges();
const alternatives = new AlternativesPanel();
const controls = new Controls(() => {});
const editor = new Editor({ alternatives, onEdit: edit, fork: (...where) => forkFrom(history.state, ...where) });
const answersPanel = new AnswersPanel({
  alternatives,
  choose: ({ answer, base }) => change(withAnswer(base, answer)),
  fork: (entry, ...where) => forkFromAnswer(entry, ...where),
  discard: () => change({ ...history.state, answers: [] }),
});

let running = null;  // { abort: AbortController } of the request that runs
let model = "";
let retry = null;  // what the button in the notice does

// --- showing ---------------------------------------------------------------------------------------------------------

const colour = () => document.querySelector('input[name="colour"]:checked').value;

function show() {
  const { state } = history;
  const focused = document.activeElement;
  byId("ink").dataset.colour = byId("answers").dataset.colour = byId("scale").dataset.colour = colour();
  editor.show(state, colour());
  answersPanel.show(state.answers, colour());
  byId("examples").hidden = state.text !== "";
  byId("undo").disabled = !history.canUndo;
  byId("redo").disabled = !history.canRedo;
  if (focused === byId("undo")) passFocus(focused, byId("redo"));
  if (focused === byId("redo")) passFocus(focused, byId("undo"));
  showScore(state.score);
}

// The focus of a button that cannot have it any more goes to its neighbour, so that the keyboard stays where it was.
function passFocus(from, to) {
  if (from?.disabled || from?.closest("[hidden]")) to.focus();
}

let frame = 0;
function showSoon() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    show();
  });
}

function showScale() {
  const [low, high] = { none: ["", ""], probability: ["< 0.1 %", "≥ 80 %"], surprise: ["< ½ bit", "≥ 9 bits"] }[colour()];
  byId("scale-low").textContent = low;
  byId("scale-high").textContent = high;
  byId("swatches").hidden = colour() === "none";
}

function say(text) {
  byId("status").textContent = text;
}

function notice(text, { kind = "error", again = null } = {}) {
  const focused = document.activeElement;
  byId("notice").hidden = text === null;
  byId("notice").dataset.kind = kind;
  byId("notice-text").textContent = text ?? "";
  byId("notice-retry").hidden = again === null;
  passFocus(focused, byId(running === null ? "continue" : "stop"));
  retry = again;
}

function setRunning(run) {
  const focused = document.activeElement;
  running = run;
  byId("continue").hidden = run !== null;
  byId("stop").hidden = run === null;
  passFocus(focused, byId(run === null ? "continue" : "stop"));
  gauges.busy = run !== null;
}

// --- editing and history ---------------------------------------------------------------------------------------------

function edit(text) {
  stop();
  history.keepTyping(performance.now());
  history.state = { ...withEdit(history.state, text), score: undefined };
  saveText();
  show();
}

function change(state) {
  stop();
  history.keep();
  history.state = state;
  saveText();
  show();
  editor.focus();
}

function travel(move) {
  stop();
  alternatives.close();
  history[move]();
  saveText();
  show();
}

// Long texts are not kept: a reload is no reason to fill the tab's storage.
const saveText = () => tabStorage.set("text", history.state.text.length < 200_000 ? history.state.text : "");

// --- asking the server -----------------------------------------------------------------------------------------------

function stop() {
  running?.abort.abort();
}

// Runs `work(signal)` as the one thing that runs; false when it failed or was stopped. `again` is offered after a failure.
async function run(work, again) {
  stop();
  const mine = { abort: new AbortController() };
  setRunning(mine);
  notice(null);
  say("Waiting for the server …");
  try {
    await work(mine.abort.signal);
    return true;
  } catch (error) {
    if (error.name === "AbortError") {
      if (running === mine) say("Stopped.");
    } else {
      fail(error, again);
    }
    return false;
  } finally {
    if (running === mine) setRunning(null);
    showSoon();
  }
}

function fail(error, again) {
  if (!(error instanceof ApiError)) {
    console.error(error);
    notice(`The page itself failed: ${error.message}`);
    return;
  }
  say("");
  gauges.refresh();
  if (error.status === 401) {
    byId("connection").open = true;
    byId("key").focus();
    notice(`${error.message}. Put your API key into its field.`, { again });
  } else if (error.status === 429 || error.status === 503) {
    waitAndOffer(error, again);
  } else if (controls.complain(error.param, error.message)) {
    notice(error.message);
  } else {
    notice(error.message, { again: error.status === 400 ? null : again });
  }
}

// The server has said when it may be asked again: until then the button counts down.
function waitAndOffer(error, again) {
  const until = performance.now() + 1000 * (error.retryAfter ?? 1);
  notice(error.message, { kind: "wait", again });
  const button = byId("notice-retry");
  const mine = retry;
  const tick = () => {
    if (retry !== mine) return;
    const left = Math.ceil((until - performance.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    if (left > 0) setTimeout(tick, 250);
  };
  tick();
}

const promptOf = (state) => state.ids ?? (state.text === "" ? bosIds : state.text);

// Continues the text. `from`: { prompt, base, echo }, where it is not simply the state as it is. Echoed is what ends inside a
// character: only the whole text shows what becomes of it.
async function continueText(from = {}) {
  const { ok, values } = controls.read();
  if (!ok) return;
  const base = from.base ?? { ...history.state, answers: [], score: undefined };
  const prompt = from.prompt ?? promptOf(base);
  const echoes = from.echo ?? endsInsideCharacter(base);
  const body = { prompt, logprobs: 0, ...values, return_token_ids: true };
  if (echoes) body.echo = true;
  stop();
  history.keep();
  const answers = Array.from({ length: body.n ?? 1 }, () => new Answer({ echoes }));
  const began = performance.now();
  let first = null;
  await run(async (signal) => {
    let usage = null;
    for await (const chunk of streamCompletion(body, signal)) {
      if (first === null) say("Writing …");
      first ??= performance.now();
      for (const choice of chunk.choices) answers[choice.index].add(choice);
      usage = chunk.usage ?? usage;
      history.state = stateOf(base, answers);
      showSoon();
    }
    say(summary(usage, answers, first - began, performance.now() - began));
  }, () => continueText(from));
  saveText();
}

function stateOf(base, answers) {
  if (answers.length === 1) return withAnswer(base, answers[0]);
  return { ...base, answers: answers.map((answer) => ({ answer, base })) };
}

function summary(usage, answers, firstMs, totalMs) {
  const tokens = usage.completion_tokens;
  const cached = usage.prompt_tokens_details.cached_tokens;
  // What came all at once tells how the network cut it, not how fast the server is.
  const rate = totalMs - firstMs > 50 ? ` · ${formatNumber((1000 * (tokens - 1)) / (totalMs - firstMs), 0)} tokens/s` : "";
  const prompt = `prompt ${formatCount(usage.prompt_tokens, "token")}${cached ? `, ${cached} of them from the cache` : ""}`;
  return `${formatCount(tokens, "token")} · first after ${formatSeconds(firstMs / 1000)}${rate} · ${prompt}${ending(answers)}`;
}

function ending(answers) {
  if (answers.length > 1) return "";
  const [{ finishReason, stopReason }] = answers;
  if (finishReason === "length") return " · reached max_tokens";
  if (finishReason !== "stop") return "";
  if (typeof stopReason === "string") return ` · stopped at ${visibleText(stopReason)}`;
  return stopReason === null ? " · the model ended the text" : ` · stopped at token ${stopReason}`;
}

// --- forking ---------------------------------------------------------------------------------------------------------

// Goes on from before token `index` of a group with the alternative of that rank in its place.
//
// The request names the alternative by its id, because a text may be tokenized otherwise than it was generated. Lists of
// log probabilities have texts, so the same position is asked for once more, with ids in place of texts; log probabilities
// are the same bits each time. An alternative that is only part of a character has no text yet: then all is echoed.
async function forkFrom(state, group, index, rank) {
  const token = group.tokens[index];
  const before = group.ids.slice(0, group.first + index);
  const [text] = token.top[rank];
  let id = null;
  const found = await run(async (signal) => {
    id = text === token.text ? group.ids[group.first + index] : await idOfAlternative(before, token, rank, signal);
  }, () => forkFrom(state, group, index, rank));
  if (!found) return;
  const isPartial = index > 0 || text.startsWith("bytes:");
  const start = upTo(state, group);
  const base = isPartial ? start : { ...start, text: start.text + text, groups: [...start.groups, forkedGroup(group, before, id, token, rank, start.text.length)] };
  await continueText({ base, prompt: [...before, id], echo: isPartial });
}

// The alternative as a token of the new text: what could have come there is what could have come before.
function forkedGroup(group, before, id, token, rank, start) {
  const [text, logprob] = token.top[rank];
  return { start, end: start + text.length, first: before.length, ids: [...before, id], tokens: [{ text, logprob, top: token.top }] };
}

async function idOfAlternative(before, token, rank, signal) {
  const body = { prompt: before, max_tokens: 1, temperature: 0, logprobs: token.top.length, return_tokens_as_token_ids: true };
  const limit = controls.maximum("logprobs");
  if (limit !== undefined) body.logprobs = Math.min(body.logprobs, limit);
  const response = await callApi("v1/completions", { body, signal });
  const [lists] = (await response.json()).choices.map((choice) => choice.logprobs);
  const all = Object.entries(lists.top_logprobs[0]).sort((a, b) => b[1] - a[1]);
  const wanted = token.top[rank][1];
  const same = all.filter(([, logprob]) => logprob === wanted);
  const among = token.top.filter(([, logprob]) => logprob === wanted).indexOf(token.top[rank]);
  if (!same[among]) throw new ApiError("The server no longer gives this alternative the same probability: score the text again.", { status: 400 });
  return Number(same[among][0].replace("token_id:", ""));
}

// The same within an answer that waits to be chosen: it becomes part of the text, and the answers are gone.
function forkFromAnswer({ answer, base }, group, index, rank) {
  editor.focus();
  const whole = withAnswer(base, answer);
  const shift = answer.echoes ? 0 : base.text.length;
  return forkFrom(whole, { ...group, start: group.start + shift, end: group.end + shift }, index, rank);
}

// --- scoring ---------------------------------------------------------------------------------------------------------

async function score() {
  const { ok, values } = controls.read();
  if (!ok) return;
  const { state } = history;
  if (state.text === "") {
    notice("There is no text to score.");
    return;
  }
  const body = { prompt: promptOf(state), max_tokens: 0, echo: true, logprobs: values.logprobs ?? 0, return_token_ids: true };
  const kept = ["add_special_tokens", "parse_special_tokens", "cache_salt", "timeout", "user", "priority", "batch"];
  for (const name of kept) if (name in values) body[name] = values[name];
  await run(async (signal) => {
    const response = await callApi("v1/completions", { body, signal });
    const answer = new Answer({ echoes: true });
    answer.add((await response.json()).choices[0]);
    history.keep();
    const { nats, count } = sumLogprobs(answer.groups);
    history.state = { ...withAnswer(state, answer), score: { nats, count, groups: answer.groups, bytes: new TextEncoder().encode(answer.text).length } };
    say(`${formatCount(count, "token")} scored.`);
    if (colour() === "none") byId("ink").dataset.colour = chooseColour("surprise");
  }, score);
}

function showScore(score) {
  byId("score-panel").hidden = score === undefined;
  if (score === undefined || showScore.shown === score) return;
  showScore.shown = score;
  const total = bits(score.nats);
  const figures = [
    ["tokens", score.count.toLocaleString("en")],
    ["log-likelihood, nats", formatNumber(score.nats)],
    ["perplexity", formatNumber(Math.exp(-score.nats / score.count))],
    ["bits per token", formatNumber(total / score.count)],
    ["bits per byte", formatNumber(total / score.bytes)],
  ];
  byId("score-figures").replaceChildren(...figures.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  plotSurprise(score.groups.flatMap((group) => group.tokens).filter((token) => token.logprob !== null).map((token) => bits(token.logprob)));
}

// A bar for each token, and the mean of all up to it.
function plotSurprise(surprises) {
  const top = Math.max(1, ...surprises);
  const height = 72;
  const y = (value) => (height - (height * value) / top).toFixed(2);
  let sum = 0;
  const means = surprises.map((value, i) => `${i + 0.5} ${y((sum += value) / (i + 1))}`);
  const bars = surprises.map((value, i) => `M${i + 0.08} ${height}V${y(value)}H${i + 0.92}V${height}Z`);
  byId("score-plot").setAttribute("viewBox", `0 0 ${surprises.length} ${height}`);
  byId("score-plot").replaceChildren(
    svgElement("path", { class: "bars", d: bars.join("") }), svgElement("path", { class: "mean", d: means.length > 1 ? `M${means.join("L")}` : "" }));
  const last = surprises.reduce((a, b) => a + b, 0) / surprises.length;
  byId("score-caption").textContent = `Surprise of each token in bits, up to ${formatNumber(top, 1)}; the line is their mean so far, ${formatNumber(last)} at the end.`;
}
