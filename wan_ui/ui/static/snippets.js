// A request as a call of the API with curl and with Python: pure texts, tested by tests/js/snippets.test.mjs.

/** @param {string} server the page's address without a slash at its end @param {object} request */
const curlCall = (server, request) => `curl -s '${server}/v1/inference' -H 'Content-Type: application/json' -d @- <<'JSON'
${JSON.stringify(request, null, 2)}
JSON
# {"request_id": "…", …}; then, until it has succeeded:
curl -s '${server}/v1/requests/REQUEST_ID/status'
curl -s '${server}/v1/requests/REQUEST_ID/result'`;

/** A JSON value as a Python literal; JSON's strings and numbers are Python's too.
 * @param {any} value @param {string} indent @returns {string} */
const pythonLiteral = (value, indent = '') => {
  const inner = `${indent}    `;
  if (value === null) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (typeof value !== 'object') return JSON.stringify(value);
  const [open, end] = Array.isArray(value) ? '[]' : '{}';
  const items = Array.isArray(value)
    ? value.map((item) => pythonLiteral(item, inner))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${pythonLiteral(item, inner)}`);
  return items.length ? `${open}\n${items.map((item) => `${inner}${item},\n`).join('')}${indent}${end}` : open + end;
};

/** @param {string} server the page's address without a slash at its end @param {object} request */
const pythonCall = (server, request) => `import time

import requests

SERVER = ${JSON.stringify(`${server}/v1`)}
REQUEST = ${pythonLiteral(request)}

answer = requests.post(f"{SERVER}/inference", json=REQUEST, timeout=60)
answer.raise_for_status()
address = f"{SERVER}/requests/{answer.json()['request_id']}"
while requests.get(f"{address}/status", timeout=60).json()["status"] not in ("succeeded", "failed", "canceled"):
    time.sleep(2)
result = requests.get(f"{address}/result", timeout=60).json()
video = requests.get(result["outputs"]["videos"][0]["url"], timeout=600)
open("video.mp4", "wb").write(video.content)`;
