# %% [markdown]
# # Perplexity by position
#
# How much does context help? A model scores texts, and the mean loss is plotted by the position of the token: it falls as
# the model sees more. Open this file as a notebook (VS Code and Jupytext know the cell marks), or run it:
#
#     python perplexity_by_position.py texts.txt plot.png
#
# The server is found by OPENAI_BASE_URL, the key by OPENAI_API_KEY.

# %%
import math
import pathlib
import sys

import matplotlib
import openai

matplotlib.use("Agg")  # draws into files
import matplotlib.pyplot as plt  # noqa: E402

TEXTS, PLOT = (sys.argv[1:3] if len(sys.argv) >= 3 else ("texts.txt", "plot.png"))
client = openai.OpenAI()
model = client.models.list().data[0].id

# %% [markdown]
# `max_tokens=0` with `echo` scores the prompt and generates nothing. The first token has no log probability: nothing stands
# before it.

# %%
texts = [text for text in pathlib.Path(TEXTS).read_text(encoding="utf-8").split("\n\n") if text.strip()]
answer = client.completions.create(model=model, prompt=texts, max_tokens=0, echo=True, logprobs=0)
losses = [[-logprob for logprob in choice.logprobs.token_logprobs[1:]] for choice in answer.choices]
total, count = sum(map(sum, losses)), sum(map(len, losses))
print(f"{len(texts)} texts, {count} tokens, perplexity {math.exp(total / count):.2f}")

# %% [markdown]
# Positions are put together in groups of twice the size each, because late ones are rare.

# %%
groups = []
begin, size = 0, 4
while begin < max(map(len, losses)):
    found = [loss for text in losses for loss in text[begin:begin + size]]
    groups.append((begin + 1, begin + size, math.exp(sum(found) / len(found)), len(found)))
    begin, size = begin + size, size * 2
print("positions  perplexity  tokens")
for first, last, perplexity, tokens in groups:
    print(f"{first:>4}-{last:<4}  {perplexity:>10.2f}  {tokens:>6}")

# %%
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.plot([(first + last) / 2 for first, last, *_ in groups], [group[2] for group in groups], marker="o")
axes.set(xscale="log", yscale="log", xlabel="position in the text (tokens)", ylabel="perplexity", title=f"{model}: {count} tokens")
axes.grid(alpha=0.3)
figure.savefig(PLOT, dpi=120)
print(f"plotted {PLOT}")
