// One choice of a completion, put together from its chunks: text, token ids, and groups of tokens with their places.
//
// A group is the least run of tokens that shows whole characters; nearly always it is one token. Places are in UTF-16 units,
// as JavaScript counts; the API's text_offset is in code points.
//   { start, end, first, tokens, ids }: text[start, end); ids[first] is the first of its tokens; ids is the list of the
//   answer, prompt in front, so that ids.slice(0, first + k) is all that came before its token k.
// A token: { text, logprob, top: [[text, logprob], ...] best first }; logprob null where nothing came before.

class Answer {
  #points = 0;  // text[0, #units) has #points code points
  #units = 0;
  #promptTokens = 0;

  // `echoes`: the text and the lists begin with the prompt's.
  constructor({ echoes = false } = {}) {
    this.echoes = echoes;
    this.text = "";
    this.ids = [];
    this.groups = [];
    this.finishReason = null;
    this.stopReason = null;
  }

  add(choice) {
    this.text += choice.text;
    if (choice.prompt_token_ids) {
      this.ids.push(...choice.prompt_token_ids);
      this.#promptTokens = choice.prompt_token_ids.length;
    }
    this.ids.push(...(choice.token_ids ?? []));
    const lists = choice.logprobs;
    lists?.tokens.forEach((text, i) => this.#addToken(text, lists.token_logprobs[i], lists.top_logprobs[i], lists.text_offset[i]));
    if (this.groups.length > 0) this.groups.at(-1).end = this.text.length;
    this.finishReason = choice.finish_reason ?? this.finishReason;
    this.stopReason = choice.stop_reason ?? this.stopReason;
  }

  #addToken(text, logprob, top, offset) {
    const start = this.#unitsAt(offset);
    // Keys that look like numbers come first in an object, whatever the server wrote: back into order.
    const token = { text, logprob, top: Object.entries(top ?? {}).sort((a, b) => b[1] - a[1]) };
    const last = this.groups.at(-1);
    if (last && last.start === start) {
      last.tokens.push(token);
      return;
    }
    if (last) last.end = start;
    const first = last ? last.first + last.tokens.length : this.echoes ? 0 : this.#promptTokens;
    this.groups.push({ start, end: this.text.length, first, tokens: [token], ids: this.ids });
  }

  #unitsAt(points) {
    while (this.#points < points && this.#units < this.text.length) {
      this.#units += this.text.codePointAt(this.#units) > 0xffff ? 2 : 1;
      ++this.#points;
    }
    return this.#units;
  }

  get numTokens() {
    return this.ids.length - this.#promptTokens;
  }

  // Whether ids are this text and nothing else, so that a request may go on from them. A stop string cuts the text inside a
  // token, and a stop token is in the ids and not in the text.
  get isExact() {
    return this.finishReason !== "stop";
  }
}

// The log probability of all that a group shows, or null.
function groupLogprob(group) {
  const known = group.tokens.filter((token) => token.logprob !== null);
  return known.length === 0 ? null : known.reduce((sum, token) => sum + token.logprob, 0);
}

// Sum and count over the tokens of groups, in nats.
function sumLogprobs(groups) {
  const known = groups.flatMap((group) => group.tokens).filter((token) => token.logprob !== null);
  return { nats: known.reduce((sum, token) => sum + token.logprob, 0), count: known.length };
}

const bits = (logprob) => -logprob / Math.LN2;
// Below the first is level 0. Even in what they feel like, not in what they are: most tokens of most texts are unlikely.
const probabilitySteps = [0.001, 0.01, 0.03, 0.1, 0.25, 0.5, 0.8];
const surpriseSteps = [0.5, 1, 2, 3, 4.5, 6.5, 9];  // bits

// 0 to 7: how strongly a token is coloured. Of probability more is stronger, of surprise also.
function colourLevel(logprob, colour) {
  if (logprob === null || colour === "none") return null;
  const [value, steps] = colour === "probability" ? [Math.exp(logprob), probabilitySteps] : [bits(logprob), surpriseSteps];
  const step = steps.findIndex((limit) => value < limit);
  return step < 0 ? steps.length : step;
}

// A token's text with its white space made visible; of a part of a character its bytes.
function visibleText(text) {
  if (text.startsWith("bytes:")) return text.slice(6);
  return text.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥").replace(/\r/g, "␍") || "∅";
}
