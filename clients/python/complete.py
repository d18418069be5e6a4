"""Goes on with a text, and says how likely each token was.

    python complete.py "Call me Ishmael."

The openai package is the client; it finds the server by OPENAI_BASE_URL and the key by OPENAI_API_KEY.
"""

import math
import sys

import openai


def main(text):
    client = openai.OpenAI()
    model = client.models.list().data[0].id
    answer = client.completions.create(model=model, prompt=text, max_tokens=8, temperature=0, logprobs=2)
    choice = answer.choices[0]
    print(text + choice.text)
    for token, logprob, top in zip(choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs):
        others = ", ".join(f"{other!r} {math.exp(value):.2f}" for other, value in top.items() if other != token)
        print(f"{math.exp(logprob):.2f}  {token!r}  instead of {others}")
    print(f"{answer.usage.prompt_tokens} + {answer.usage.completion_tokens} tokens, {choice.finish_reason}")


if __name__ == "__main__":
    main(sys.argv[1])
