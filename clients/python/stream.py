"""Goes on with a text as the tokens come, and says how soon they came.

    python stream.py "Call me Ishmael."

The field `seed` makes the answer the same each time; optserve's own fields go into `extra_body`.
"""

import sys
import time

import openai


def main(text):
    client = openai.OpenAI()
    model = client.models.list().data[0].id
    began = time.monotonic()
    first = usage = None
    stream = client.completions.create(model=model, prompt=text, max_tokens=40, temperature=0.8, seed=7, stream=True,
                                       stream_options={"include_usage": True},
                                       extra_body={"top_k": 50, "repetition_penalty": 1.1})
    print(text, end="", flush=True)
    for event in stream:
        first = first or time.monotonic() - began
        usage = event.usage or usage
        for choice in event.choices:  # none in the last event, which has the usage
            print(choice.text, end="", flush=True)
    seconds = time.monotonic() - began
    print(f"\n{usage.completion_tokens} tokens in {seconds:.3f} s, the first after {first:.3f} s", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
