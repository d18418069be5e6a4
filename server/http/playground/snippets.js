// A request as code that does the same. The key is never in it: it comes from the environment.

const openaiFields = new Set([
  "model", "prompt", "best_of", "echo", "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty",
  "seed", "stop", "temperature", "top_p", "user",
]);

function curlCode(url, body, needsKey) {
  const json = JSON.stringify(body).replace(/'/g, "'\\''");
  const key = needsKey ? ` \\\n  -H "Authorization: Bearer $OPTSERVE_API_KEY"` : "";
  return `curl ${url}/v1/completions${key} \\\n  --json '${json}'\n`;
}

function pythonCode(url, body, needsKey) {
  const isOurs = ([name]) => !openaiFields.has(name);
  const named = Object.entries(body).filter((entry) => !isOurs(entry));
  const extra = Object.fromEntries(Object.entries(body).filter(isOurs));
  const lines = named.map(([name, value]) => `    ${name}=${pythonLiteral(value)},`);
  if (Object.keys(extra).length > 0) lines.push(`    extra_body=${pythonLiteral(extra)},  # what other servers do not have`);
  return [
    ...(needsKey ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${pythonLiteral(`${url}/v1`)}, api_key=${needsKey ? 'os.environ["OPTSERVE_API_KEY"]' : '"none"'})`,
    "completion = client.completions.create(",
    ...lines,
    ")",
    "for choice in completion.choices:",
    "    print(choice.text)",
    "",
  ].join("\n");
}

// JSON's strings and numbers are Python's too.
function pythonLiteral(value) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map(pythonLiteral).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${pythonLiteral(one)}`).join(", ")}}`;
  return JSON.stringify(value);
}
