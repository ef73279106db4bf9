// The gallery: asks /v1/gallery itself, when it comes into view and after what is done in it; nothing polls. Only what
// belongs to other tabs goes through Gradio: opening a comparison, and putting settings into a form.
const root = element.querySelector('.gallery');
const part = (name) => root.querySelector(`[data-part="${name}"]`);
const cards = part('cards'), status = part('status'), search = part('q'), turn = part('turn');
const filter = { q: '', model: '', lora: '', job: '', kept: '' };
const recipes = props.recipes || {};
let cursor = '', page = null, opened = null, asked = 0, waiting = 0, seen = false;

const SHAPES = {
  play: '<path d="M5 3v14l12-7z"/>',
  grid: '<path d="M3 3h6v6H3zM11 3h6v6h-6zM3 11h6v6H3zM11 11h6v6h-6z"/>',
  star: '<path d="M10 2.2l2.4 5 5.4.7-4 3.8 1 5.4-4.8-2.6-4.8 2.6 1-5.4-4-3.8 5.4-.7z"/>',
  bin: '<path d="M4 5.5h12M8 5.5V3.8h4v1.7M5.5 5.5l.7 10.7h7.6l.7-10.7M8.5 8.5v5M11.5 8.5v5"/>',
  close: '<path d="M5 5l10 10M15 5L5 15"/>',
};
const icon = (name) => {
  const holder = document.createElement('span');
  holder.innerHTML = `<svg viewBox="0 0 20 20" aria-hidden="true">${SHAPES[name]}</svg>`;
  return holder.firstChild;
};
const make = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
  made.append(...children);
  return made;
};
const button = (attributes, press, ...children) => {
  const made = make('button', { type: 'button', ...attributes }, ...children);
  made.addEventListener('click', press);
  return made;
};
// A LoRA's scale as in a request: a number, a list over the steps, or from one number to another.
const scaleText = (scale) => (Array.isArray(scale) ? scale.join(', ') : scale && scale.from !== undefined ? `${scale.from} to ${scale.to}` : String(scale));
const plural = (count, word) => `${count.toLocaleString('en')} ${word}${count === 1 ? '' : 's'}`;
const brief = (entry) => entry.prompt.replace(/\s+/g, ' ').trim().slice(0, 200) || '(no prompt)';
const ago = (text) => {
  const seconds = (Date.now() - Date.parse(text)) / 1000;
  if (seconds < 60) return 'just now';
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(text).toLocaleDateString('en-GB', { day: 'numeric', month: 'short', year: 'numeric' });
};
const calm = () => window.matchMedia('(prefers-reduced-motion: reduce)').matches;

// The server

const call = async (path, options = {}) => {
  const answer = await window.fetch(`v1/${path}`, { cache: 'no-store', ...options });
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  let message = 'The server could not do this. Try again.';
  try { message = (await answer.json()).detail.error.message; } catch (error) { /* no error of ours: the sentence above */ }
  throw new Error(message);
};
const reason = (error) => (error instanceof TypeError ? 'The server does not answer. Try again.' : error.message);
const query = () => {
  const asking = new URLSearchParams();
  for (const [name, value] of Object.entries(filter)) if (value) asking.set(name, value);
  if (cursor) asking.set('cursor', cursor);
  return asking.toString();
};
const load = async () => {
  const turnOf = ++asked;
  cards.setAttribute('aria-busy', 'true');
  try {
    const answer = await call(`gallery?${query()}`);
    if (turnOf !== asked) return false;
    page = answer;
    show();
    return true;
  } catch (error) {
    if (turnOf === asked) fail(reason(error));
    return false;
  } finally {
    if (turnOf === asked) cards.setAttribute('aria-busy', 'false');
  }
};
const loadChoices = async () => {
  try {
    const options = await call('gallery/choices');
    part('count').textContent = options.entries ? `${options.entries.toLocaleString('en')} ${options.entries === 1 ? 'entry' : 'entries'}` + (options.kept ? `, ${options.kept.toLocaleString('en')} kept` : '') : '';
    choices(part('model'), 'All models', filter.model, options.models.map((item) => [item.id, `${item.label} (${item.entries})`]));
    const names = options.loras.map((item) => item.name);
    choices(part('lora'), 'All LoRAs', filter.lora, options.loras.map((item) => {
      const twin = names.filter((name) => name === item.name).length > 1 && item.sha256;
      return [item.sha256 || item.name, `${item.name.replace(/\.safetensors$/i, '')}${twin ? ` · ${item.sha256.slice(0, 8)}` : ''} (${item.entries})`];
    }));
  } catch (error) {
    part('count').textContent = '';
  }
};
const choices = (select, all, chosen, options) => {
  if (chosen && !options.some(([value]) => value === chosen)) options.push([chosen, 'Not found']);
  select.replaceChildren(make('option', { value: '' }, all), ...options.map(([value, text]) => make('option', { value }, text)));
  select.value = chosen;
};
const refresh = () => Promise.all([load(), loadChoices()]);
const anew = () => { cursor = ''; opened = null; return load(); };

// What is shown

const show = () => {
  if (opened && !page.entries.some((entry) => entry.id === opened)) opened = null;
  cards.replaceChildren(...page.entries.map((entry) => card(entry)));
  const none = page.entries.length === 0;
  root.dataset.state = none ? 'empty' : 'filled';
  cards.hidden = none;
  turn.hidden = !page.older && !page.newer;
  part('older').disabled = !page.older;
  part('newer').disabled = !page.newer;
  part('nothing').hidden = !none;
  if (!none) return;
  const filtered = Object.values(filter).some(Boolean);
  if (cursor) nothing('No more videos here', 'They were deleted meanwhile.', 'To the newest', anew);
  else if (filtered) nothing('No video matches', 'Other words, or fewer of them, may find it.', 'Show all', clear);
  else nothing('No videos yet', 'Every video you make is kept here, with all its settings, to be found and used again.', '', null);
};
const nothing = (head, text, act, press) => {
  part('nothing-head').textContent = head;
  part('nothing-text').textContent = text;
  part('nothing-act').textContent = act;
  part('nothing-act').hidden = !act;
  part('nothing-act').onclick = press;
};
const fail = (message) => {
  root.dataset.state = 'failed';
  cards.replaceChildren();
  cards.hidden = turn.hidden = true;
  part('nothing').hidden = false;
  nothing('The gallery cannot be shown', message, 'Try again', refresh);
};
const clear = () => {
  for (const name of Object.keys(filter)) filter[name] = '';
  search.value = part('model').value = part('lora').value = '';
  controls();
  search.focus();
  return anew();
};
const controls = () => {
  part('kept').setAttribute('aria-pressed', String(Boolean(filter.kept)));
  part('job').hidden = !filter.job;
  part('job').setAttribute('aria-pressed', 'true');
  part('job').setAttribute('aria-label', 'Videos of one request only: show all');
};

const keepButton = (entry) => {
  const name = `Keep: ${brief(entry).slice(0, 80)}`;
  return button({ class: 'icon keep', 'aria-pressed': String(entry.kept), 'aria-label': name, title: entry.kept ? 'Kept: never deleted by itself' : 'Keep' },
    () => keep(entry), icon('star'));
};
const binButton = (entry) => button({ class: 'icon bin', 'aria-label': `Delete: ${brief(entry).slice(0, 80)}`, title: 'Delete' },
  () => sure(entry), icon('bin'));
const acts = (entry) => make('div', { class: 'acts' }, ...(entry.may_change ? [keepButton(entry), binButton(entry)] : []));
const node = (entry) => cards.querySelector(`[data-id="${entry.id}"]`);
const redraw = (entry) => {
  const old = node(entry);
  if (old) old.replaceWith(card(entry));
  return node(entry);
};

const card = (entry) => (entry.id === opened && entry.kind === 'video' ? openCard(entry) : closedCard(entry));
const closedCard = (entry) => {
  const comparison = entry.kind === 'comparison';
  const still = button({ class: 'still', 'aria-label': `${comparison ? 'Open the comparison' : 'Play'}: ${brief(entry)}` },
    () => (comparison ? compare(entry) : open(entry)));
  const image = make('img', { src: `v1/${entry.poster_url}`, alt: '', loading: 'lazy', decoding: 'async' });
  image.addEventListener('error', () => still.classList.add('gone'));
  still.append(image, make('span', { class: 'lost' }, 'The file is gone.'), make('span', { class: 'glyph' }, icon(comparison ? 'grid' : 'play')));
  if (comparison) {
    const part = entry.made < entry.videos ? `${entry.made} of ${plural(entry.videos, 'video')}` : plural(entry.cells, 'cell');
    still.append(make('span', { class: 'badge' }, icon('grid'), part));
  }
  const loras = entry.loras.map((item) => item.name.replace(/\.safetensors$/i, '')).join(', ');
  const size = comparison ? 'Comparison' : `${entry.width} × ${entry.height}`;
  return make('li', { class: 'entry', 'data-id': entry.id, 'data-kind': entry.kind }, still,
    make('div', { class: 'about-it' },
      make('p', { class: entry.prompt.trim() ? 'words' : 'words none', title: entry.prompt.slice(0, 600) }, brief(entry)),
      make('p', { class: 'facts', title: entry.model_label }, comparison ? `${size} · ${entry.model_label}` : `${entry.model_label} · ${size}`),
      make('p', { class: 'facts', title: loras || 'No LoRA' }, `${ago(entry.made_at)}${loras ? ` · ${loras}` : ''}`),
      acts(entry)));
};
const fact = (term, text, wide = false) => make('div', wide ? { class: 'wide' } : {}, make('dt', {}, term), make('dd', {}, ...[].concat(text)));
const SLOTS = { high: 'High-noise LoRA', low: 'Low-noise LoRA' };
const openCard = (entry) => {
  const screen = make('div', { class: 'screen' });
  const video = make('video', { src: `v1/${entry.url}`, poster: `v1/${entry.poster_url}`, controls: '', loop: '', playsinline: '', muted: '', preload: 'auto', 'aria-label': brief(entry) });
  video.muted = true;
  video.style.aspectRatio = `${entry.width} / ${entry.height}`;
  video.addEventListener('error', () => screen.replaceChildren(make('span', { class: 'lost' }, 'The file is gone.')));
  screen.append(video);
  const list = make('dl', {},
    fact('Model', entry.model_label, true),
    fact('Size', `${entry.width} × ${entry.height}`),
    fact('Frames', `${entry.num_frames} at ${entry.fps} fps`),
    fact('Seed', String(entry.seed)),
    fact('Steps', String(entry.sample_steps)),
    fact('Guidance', String(entry.guidance_scale)),
    fact('Match', recipes[entry.recipe] || entry.recipe),
    fact('First frame', entry.has_first_frame ? 'an image' : 'none'),
    fact('Made', new Date(entry.made_at).toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'short' })));
  for (const item of entry.loras) {
    const scale = item.network_multiplier === null ? '' : ` × ${scaleText(item.network_multiplier)}`;
    list.append(fact(SLOTS[item.slot] || 'LoRA', [`${item.name}${scale}`, make('small', { title: item.sha256 }, item.sha256 ? `SHA-256 ${item.sha256.slice(0, 16)}…` : '')], true));
  }
  if (!entry.loras.length) list.append(fact('LoRA', 'none'));
  if (entry.neg) list.append(fact('Negative prompt', entry.neg, true));
  const use = button({ class: 'first' }, () => { use.disabled = true; setTimeout(() => { use.disabled = false; }, 3000); trigger('click', { do: 'use', entry: entry.id }); }, 'Use these settings');
  const links = make('div', { class: 'card-acts' }, use,
    make('a', { href: `v1/${entry.url}`, download: `wan-ui-${entry.id.slice(0, 8)}-${entry.video}.mp4` }, 'Download MP4'),
    make('a', { href: `v1/${entry.json_url}`, download: `wan-ui-${entry.id.slice(0, 8)}-${entry.video}.json` }, 'Download JSON'));
  if (entry.made > 1) links.append(button({}, () => { filter.job = entry.request_id; controls(); anew(); }, `All ${entry.made} of this request`));
  const whole = make('details', {}, make('summary', {}, 'Everything it was made with'));
  whole.addEventListener('toggle', async () => {
    if (!whole.open || whole.querySelector('pre')) return;
    const text = make('pre', { tabindex: '0', 'aria-label': 'Everything it was made with, as JSON' }, 'Loading…');
    whole.append(text);
    try { text.textContent = JSON.stringify(await call(entry.json_url), null, 2); } catch (error) { text.textContent = reason(error); }
  });
  const close = button({ class: 'icon', 'aria-label': 'Close', title: 'Close' }, () => shut(entry), icon('close'));
  const buttons = acts(entry);
  buttons.append(close);
  const head = make('div', { class: 'head' }, make('strong', {}, entry.kept ? 'Kept' : ago(entry.made_at)), buttons);
  const details = make('div', { class: 'details' }, head, make('p', { class: 'prompt' }, entry.prompt.trim() || '(no prompt)'), links, list, whole);
  const made = make('li', { class: 'entry open', 'data-id': entry.id, 'data-kind': entry.kind }, screen, details);
  made.addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && !made.querySelector('.sure')) { event.stopPropagation(); shut(entry); }
  });
  return made;
};

// What is done

const open = (entry) => {
  const before = opened && page.entries.find((item) => item.id === opened);
  opened = entry.id;
  if (before) redraw(before);
  const made = redraw(entry);
  const video = made.querySelector('video');
  video.play().catch(() => {});
  video.focus({ preventScroll: true });
  made.scrollIntoView({ behavior: calm() ? 'auto' : 'smooth', block: 'nearest' });
};
const shut = (entry) => {
  opened = null;
  redraw(entry).querySelector('.still').focus();
};
const compare = (entry) => trigger('click', { do: 'compare', job: entry.request_id });
const refuse = (entry, message) => {
  const card = node(entry);
  if (!card) return;
  card.querySelectorAll('.problem').forEach((item) => item.remove());
  (card.querySelector('.details') || card).append(make('p', { class: 'problem', role: 'alert' }, message));
};
const keep = async (entry) => {
  try {
    const now = await call(`gallery/${entry.id}`, { method: 'PATCH', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ kept: !entry.kept }) });
    Object.assign(entry, now);
    status.textContent = now.kept ? 'Kept.' : 'Not kept any more.';
    if (filter.kept && !now.kept) await load();
    else {
      const card = node(entry);
      if (card) {
        const fresh = keepButton(entry);
        card.querySelector('.keep').replaceWith(fresh);
        const head = card.querySelector('.head strong');
        if (head) head.textContent = now.kept ? 'Kept' : ago(entry.made_at);
        fresh.focus();
      }
    }
    loadChoices();
  } catch (error) {
    refuse(entry, reason(error));
  }
};
const sure = (entry) => {
  const card = node(entry);
  const old = card.querySelector('.sure');
  if (old) { old.querySelector('.cancel').focus(); return; }
  const what = entry.kind === 'comparison' ? `this comparison with ${plural(entry.made, 'video')}` : 'this video';
  const back = () => { box.remove(); card.querySelector('.bin').focus(); };
  const cancel = button({ class: 'small cancel' }, back, 'Cancel');
  const box = make('div', { class: 'sure', role: 'alertdialog', 'aria-label': 'Delete?' },
    make('p', {}, `Delete ${what} and all its files? ${entry.kept ? 'It is one that you keep. ' : ''}This cannot be undone.`),
    make('div', { class: 'pair' }, button({ class: 'danger' }, () => remove(entry), 'Delete'), cancel));
  box.addEventListener('keydown', (event) => { if (event.key === 'Escape') { event.stopPropagation(); back(); } });
  (card.querySelector('.details .head') || card.querySelector('.about-it')).after(box);
  cancel.focus();
};
const remove = async (entry) => {
  const index = page.entries.findIndex((item) => item.id === entry.id);
  try {
    await call(`gallery/${entry.id}`, { method: 'DELETE' });
  } catch (error) {
    const box = node(entry) && node(entry).querySelector('.sure');
    if (box) box.remove();
    refuse(entry, reason(error));
    return;
  }
  status.textContent = 'Deleted.';
  if (opened === entry.id) opened = null;
  await load();
  const stills = cards.querySelectorAll('.still');
  if (stills.length) stills[Math.min(index, stills.length - 1)].focus();
  else search.focus();
  loadChoices();
};

// What is asked for

root.querySelector('form').addEventListener('submit', (event) => { event.preventDefault(); find(); });
const find = () => {
  clearTimeout(waiting);
  if (filter.q === search.value.trim()) return;
  filter.q = search.value.trim();
  anew();
};
search.addEventListener('input', () => { clearTimeout(waiting); waiting = setTimeout(find, 250); });
search.addEventListener('change', find);
for (const name of ['model', 'lora']) {
  part(name).addEventListener('change', (event) => { filter[name] = event.target.value; anew(); });
}
part('kept').addEventListener('click', () => { filter.kept = filter.kept ? '' : 'true'; controls(); anew(); });
part('job').addEventListener('click', () => { filter.job = ''; controls(); search.focus(); anew(); });
const to = async (where) => {
  cursor = where;
  opened = null;
  if (!(await load())) return;
  if (!page.newer) cursor = ''; // the newest: new ones are to appear
  root.scrollIntoView({ behavior: calm() ? 'auto' : 'smooth', block: 'start' });
  const first = cards.querySelector('.still');
  if (first) first.focus({ preventScroll: true });
};
part('older').addEventListener('click', () => to(page.older));
part('newer').addEventListener('click', () => to(page.newer));

// It asks when it comes into view; out of view nothing plays.
new IntersectionObserver((changes) => {
  const now = changes[changes.length - 1].isIntersecting;
  if (now && !seen) refresh();
  if (!now) for (const video of root.querySelectorAll('video')) video.pause();
  seen = now;
}).observe(root);
