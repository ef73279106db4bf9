// "API": a request as a call with curl and with Python, to copy.
(() => {
  const server = () => new URL('.', document.baseURI).href.replace(/\/$/, '');
  const curl = (request) => `curl -s '${server()}/v1/inference' -H 'Content-Type: application/json' -d @- <<'JSON'
${JSON.stringify(request, null, 2)}
JSON
# {"request_id": "…", …}; then, until it has succeeded:
curl -s '${server()}/v1/requests/REQUEST_ID/status'
curl -s '${server()}/v1/requests/REQUEST_ID/result'`;
  const WORDS = new Map([[true, 'True'], [false, 'False'], [null, 'None']]);
  // JSON's strings and numbers are Python's too.
  const literal = (value, indent = '') => {
    const inner = `${indent}    `;
    if (WORDS.has(value)) return WORDS.get(value);
    if (typeof value !== 'object') return JSON.stringify(value);
    const [open, end] = Array.isArray(value) ? '[]' : '{}';
    const items = Array.isArray(value)
      ? value.map((item) => literal(item, inner))
      : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${literal(item, inner)}`);
    return items.length ? `${open}\n${items.map((item) => `${inner}${item},\n`).join('')}${indent}${end}` : open + end;
  };
  const python = (request) => `import time

import requests

SERVER = ${JSON.stringify(`${server()}/v1`)}
REQUEST = ${literal(request)}

answer = requests.post(f"{SERVER}/inference", json=REQUEST, timeout=60)
answer.raise_for_status()
address = f"{SERVER}/requests/{answer.json()['request_id']}"
while requests.get(f"{address}/status", timeout=60).json()["status"] not in ("succeeded", "failed", "canceled"):
    time.sleep(2)
result = requests.get(f"{address}/result", timeout=60).json()
video = requests.get(result["outputs"]["videos"][0]["url"], timeout=600)
open("video.mp4", "wb").write(video.content)`;
  const KINDS = { curl: ['curl', curl], python: ['Python', python] };

  const dialog = document.createElement('dialog');
  dialog.id = 'code';
  dialog.setAttribute('aria-label', textOf('code.name'));
  dialog.innerHTML = `<div class="bh"><h2>API</h2><span class="seg" role="group" aria-label="${textOf('code.language')}"></span></div>
    <pre tabindex="0"></pre><p class="hint">${textOf('code.password')}</p>
    <div class="acts"><button type="button" class="small" data-do="copy">${textOf('code.copy')}</button><a class="small" href="v1/docs" target="_blank">${textOf('code.docs')}</a><button type="button" class="small" data-do="close">${textOf('code.close')}</button></div>`;
  const group = dialog.querySelector('.seg'), text = dialog.querySelector('pre');
  let request = {}, kind = 'curl';
  const draw = () => {
    text.textContent = KINDS[kind][1](request);
    for (const button of group.children) button.setAttribute('aria-pressed', String(button.dataset.kind === kind));
  };
  for (const [id, [label]] of Object.entries(KINDS)) {
    const button = document.createElement('button');
    button.type = 'button';
    button.dataset.kind = id;
    button.textContent = label;
    button.addEventListener('click', () => { kind = id; draw(); });
    group.append(button);
  }
  const copy = async () => {
    if (navigator.clipboard) await navigator.clipboard.writeText(text.textContent);
    else { // without TLS there is no clipboard API
      window.getSelection().selectAllChildren(text);
      document.execCommand('copy');
    }
    const button = dialog.querySelector('[data-do=copy]');
    button.textContent = textOf('code.copied');
    window.setTimeout(() => { button.textContent = textOf('code.copy'); }, 2000);
  };
  dialog.addEventListener('click', (event) => {
    const pressed = event.target.closest('[data-do]');
    if (event.target === dialog || (pressed && pressed.dataset.do === 'close')) dialog.close();
    else if (pressed) copy();
  });
  const open = (shown) => {
    request = shown;
    (document.querySelector('.gradio-container') || document.body).append(dialog);
    draw();
    dialog.showModal();
  };
  document.addEventListener('click', (event) => {
    if (!event.target.closest('[data-code]')) return;
    try {
      open(JSON.parse(document.querySelector('#json textarea').value));
    } catch (error) {
      window.wanUi.toast(textOf('code.incomplete'));
    }
  });
  window.wanUi.code = { open };
})();
