// The server now: whether it is ready, and the few numbers of /metrics that tell how busy it is. Asked every second while
// an answer comes, else every three, and not at all while nobody looks.

class Gauges {
  #rates = [];  // tokens a second, latest last
  #last = null;  // { time, tokens }
  #timer = 0;
  #isBusy = false;

  start() {
    document.addEventListener("visibilitychange", () => this.#askAgain(0));
    this.#askAgain(0);
  }

  set busy(isBusy) {
    if (isBusy === this.#isBusy) return;
    this.#isBusy = isBusy;
    this.#askAgain(isBusy ? 300 : 0);
  }

  refresh() {
    this.#askAgain(0);
  }

  #askAgain(milliseconds) {
    clearTimeout(this.#timer);
    if (document.visibilityState === "visible") this.#timer = setTimeout(() => this.#ask(), milliseconds);
  }

  async #ask() {
    const [ready, metrics] = await Promise.allSettled([callApi("readyz"), callApi("metrics").then((response) => response.text())]);
    this.#showReady(ready);
    this.#showMetrics(metrics.value);
    this.#askAgain(this.#isBusy ? 1000 : 3000);
  }

  #showReady({ status, reason }) {
    const words = { model_loading: "loading", shutting_down: "shutting down", engine_restarting: "restarting", engine_dead: "engine dead", invalid_api_key: "needs a key" };
    const gauge = byId("gauge-ready");
    const isReady = status === "fulfilled";
    gauge.dataset.state = isReady ? "ready" : "away";
    const text = isReady ? "ready" : reason.status === 0 ? "no answer" : words[reason.code] ?? "not ready";
    if (gauge.textContent !== text) gauge.textContent = text;
    gauge.title = isReady ? "" : reason.message;
  }

  #showMetrics(text) {
    const values = new Map((text ?? "").split("\n").filter((line) => line && !line.startsWith("#")).map((line) => line.split(" ")));
    const get = (name) => (values.has(`optserve_${name}`) ? Number(values.get(`optserve_${name}`)) : null);
    const show = (id, value) => (byId(id).textContent = value === null ? "–" : value);
    show("gauge-running", get("requests_running"));
    show("gauge-waiting", get("requests_waiting"));
    const kv = get("kv_cache_usage_ratio");
    show("gauge-kv", kv === null ? null : `${Math.round(100 * kv)} %`);
    const tokens = get("generation_tokens_total");
    const now = performance.now() / 1000;
    if (tokens === null) {
      this.#last = null;
      show("gauge-rate", null);
      return;
    }
    // An engine that was replaced counts from 0 again.
    if (this.#last) this.#rates.push(Math.max(0, tokens - this.#last.tokens) / (now - this.#last.time));
    this.#last = { time: now, tokens };
    this.#rates = this.#rates.slice(-60);
    show("gauge-rate", this.#rates.length === 0 ? null : Math.round(this.#rates.at(-1)).toLocaleString("en"));
    this.#plot();
  }

  #plot() {
    const top = Math.max(1, ...this.#rates);
    const rates = [...Array(60 - this.#rates.length).fill(0), ...this.#rates];
    byId("gauge-path").setAttribute("d", `M${rates.map((rate, i) => `${i} ${(15 - (14 * rate) / top).toFixed(2)}`).join("L")}`);
  }
}
