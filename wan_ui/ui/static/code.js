// "API": a request as a call with curl and with Python, to copy.
(() => {
  const server = () => new URL('.', document.baseURI).href.replace(/\/$/, '');
  /** @type {Record<string, [string, (server: string, request: object) => string]>} */
  const KINDS = { curl: ['curl', curlCall], python: ['Python', pythonCall] };

  const dialog = make('dialog', { id: 'code', 'aria-label': textOf('code.name') });
  dialog.innerHTML = `<div class="bh"><h2>API</h2><span class="seg" role="group" aria-label="${textOf('code.language')}"></span></div>
    <pre tabindex="0"></pre><p class="hint">${textOf('code.password')}</p>
    <div class="acts"><button type="button" class="small" data-do="copy">${textOf('code.copy')}</button><a class="small" href="v1/docs" target="_blank">${textOf('code.docs')}</a><button type="button" class="small" data-do="close">${textOf('code.close')}</button></div>`;
  const group = dialog.querySelector('.seg'), text = dialog.querySelector('pre');
  let request = {}, kind = 'curl';
  const draw = () => {
    text.textContent = KINDS[kind][1](server(), request);
    for (const button of group.children) button.setAttribute('aria-pressed', String(button.dataset.kind === kind));
  };
  for (const [id, [label]] of Object.entries(KINDS)) {
    group.append(makeButton({ 'data-kind': id }, () => { kind = id; draw(); }, label));
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
    draw();
    showDialog(dialog);
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
