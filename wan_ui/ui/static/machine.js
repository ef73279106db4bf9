// The header's line about the machine and the panel below it: device, loaded model, free memory and disk, Unload, and what
// this visitor has uploaded. It asks /v1/machine when the page opens, when jobs change, and when the panel is opened.
(() => {
  const line = document.getElementById('machine');
  const panel = document.getElementById('machine-panel');
  if (!line || !panel) return;
  const part = (name) => panel.querySelector(`[data-part="${name}"]`);
  const EVERY = 1500, STARTING = 4000; // milliseconds between two questions, and while the engine is being built
  let timer = 0, last = 0, due = false;
  let turn = 0; // of what was asked; an older answer may come later and is not shown

  const short = (label) => label.replace(/^Wan [\d.]+ /, '');

  const show = (state) => {
    const names = state.models.map((model) => model.label);
    const free = state.memory_free === null ? '' : bytesText(state.memory_free);
    const texts = [state.device || textOf('machine.starting')];
    if (names.length) texts.push(names.map(short).join(', '));
    if (free) texts.push(textOf('machine.free', { size: free }));
    line.querySelector('.says').textContent = texts.join(' · ');
    line.classList.toggle('loaded', names.length > 0);
    part('device').textContent = state.device || textOf('machine.starting');
    part('model').textContent = names.join(', ') || textOf('machine.none');
    part('unload').hidden = !state.owner || !names.length;
    for (const [name, value] of [
      ['memory', free && textOf('machine.of', { free, total: bytesText(state.memory_total) })],
      ['disk', state.disk_free === null ? '' : textOf('machine.free', { size: bytesText(state.disk_free) })],
    ]) {
      part(name).textContent = value;
      part(name).parentElement.hidden = !value;
    }
  };
  const look = async () => {
    timer = 0;
    if (document.hidden) return;
    due = false;
    last = performance.now();
    const own = ++turn;
    try {
      const state = await callApi('machine');
      if (own === turn) show(state);
      if (!state.device) window.setTimeout(want, STARTING);
    } catch (error) {
      // The notice of a lost connection says so; the line keeps what it said.
    }
  };
  const want = () => {
    due = true;
    if (!timer) timer = window.setTimeout(look, Math.max(0, last + EVERY - performance.now()));
  };
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden && due) want();
  });

  part('unload').addEventListener('click', async () => {
    part('unload').disabled = true;
    part('text').textContent = '';
    try {
      const state = await callApi('models/unload', { method: 'POST' });
      turn += 1;
      show(state);
      window.wanUi.toast(textOf('machine.unloaded'));
      line.focus();
    } catch (error) {
      part('text').textContent = reasonOf(error);
    } finally {
      part('unload').disabled = false;
    }
  });

  // Uploads

  const FOLDERS = { lora: 'uploads/loras', image: 'uploads/images', job: 'jobs' };
  const uploads = part('uploads'), list = part('files');
  const entry = (file) => {
    const kind = textOf(`machine.${file.kind}`), name = file.name || kind;
    const label = textOf('machine.delete', { name });
    // The first press asks, the second deletes.
    const remove = makeButton({ class: 'tool', 'aria-label': label, title: label }, async () => {
      if (!made.classList.contains('sure')) {
        made.classList.add('sure');
        remove.textContent = textOf('machine.sure');
        return;
      }
      try {
        await callApi(`${FOLDERS[file.kind]}/${file.id}`, { method: 'DELETE' });
        const next = made.nextElementSibling || made.previousElementSibling;
        made.remove();
        uploads.querySelector('summary').focus();
        if (next) next.querySelector('button').focus();
        part('no-files').hidden = list.children.length > 0;
      } catch (error) {
        part('text').textContent = reasonOf(error);
      }
    }, '×');
    remove.addEventListener('blur', () => { made.classList.remove('sure'); remove.textContent = '×'; });
    const made = make('li', {}, make('span', { title: `${kind} · ${file.id}` }, name), make('span', { class: 'size' }, bytesText(file.size)), remove);
    return made;
  };
  const listUploads = async () => {
    try {
      const { files } = await callApi('uploads');
      list.replaceChildren(...files.map(entry));
      part('no-files').hidden = files.length > 0;
    } catch (error) {
      part('text').textContent = textOf('machine.lost');
    }
  };
  uploads.addEventListener('toggle', () => { if (uploads.open) listUploads(); });
  panel.addEventListener('toggle', (event) => {
    if (event.target !== panel) return;
    line.setAttribute('aria-expanded', String(event.newState === 'open'));
    part('text').textContent = '';
    if (event.newState === 'open') want();
    if (event.newState === 'open' && uploads.open) listUploads();
  });

  window.wanUi.events.on('jobs', want);
  // A model is loaded in the middle of a job.
  let phases = '';
  window.wanUi.events.on('progress', (jobs) => {
    line.classList.toggle('busy', Object.keys(jobs).length > 0);
    const now = Object.values(jobs).map((job) => job.phase).join();
    if (now !== phases) want();
    phases = now;
  });
  want();
})();
