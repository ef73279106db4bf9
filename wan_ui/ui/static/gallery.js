// The gallery: asks /v1/gallery itself, when it comes into view and after what is done in it; nothing polls. Only what
// belongs to other tabs goes through Gradio: opening a comparison, and putting settings into a form.
const root = element.querySelector('.gallery');
const part = (name) => root.querySelector(`[data-part="${name}"]`);
const cards = part('cards'), status = part('status'), search = part('q'), more = part('more');
const filter = { q: '', model: '', lora: '', job: '', kept: '', kind: '', order: '' };
const recipes = props.recipes || {};
const PAGE = 60; // cards; more of them are loaded when the end comes into view
const MOST_SHOWN = 8; // of a comparison's videos on its card
const selected = new Map(); // entries by id, in the order in which they were chosen
let page = null, opened = null, asked = 0, waiting = 0, seen = false;

const SHAPES = {
  play: '<path d="M5 3v14l12-7z"/>',
  grid: '<path d="M3 3h6v6H3zM11 3h6v6h-6zM3 11h6v6H3zM11 11h6v6h-6z"/>',
  star: '<path d="M10 2.2l2.4 5 5.4.7-4 3.8 1 5.4-4.8-2.6-4.8 2.6 1-5.4-4-3.8 5.4-.7z"/>',
  check: '<path d="M4 10.5l4 4 8-9"/>',
  share: '<path d="M10 12.5V3M6.5 6L10 2.5 13.5 6M4 11v5.5h12V11"/>',
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
const query = (cursor = '') => {
  const asking = new URLSearchParams({ limit: PAGE });
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
const loadMore = async () => {
  if (!page || !page.older || more.dataset.loading) return;
  const turnOf = asked;
  more.dataset.loading = 'yes';
  try {
    const answer = await call(`gallery?${query(page.older)}`);
    if (turnOf !== asked) return; // another filter meanwhile
    const known = new Set(page.entries.map((entry) => entry.id));
    const added = answer.entries.filter((entry) => !known.has(entry.id));
    page = { ...page, entries: [...page.entries, ...added], older: answer.older };
    cards.append(...added.map((entry) => card(entry)));
    status.textContent = `${page.entries.length} shown.`;
  } catch (error) {
    status.textContent = reason(error);
  } finally {
    delete more.dataset.loading;
  }
  requestAnimationFrame(() => { if (isNear()) loadMore(); }); // the end may still be in view
};
const isNear = () => root.offsetParent !== null && more.getBoundingClientRect().top < window.innerHeight + 600;
const loadChoices = async () => {
  try {
    const options = await call('gallery/choices');
    part('count').textContent = options.entries ? `${options.entries.toLocaleString('en')} ${options.entries === 1 ? 'entry' : 'entries'}` + (options.kept ? `, ${plural(options.kept, 'favourite')}` : '') : '';
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
const anew = () => { opened = null; return load(); };

// What is shown

const show = () => {
  if (opened && !page.entries.some((entry) => entry.id === opened)) opened = null;
  cards.replaceChildren(...page.entries.map((entry) => card(entry)));
  const none = page.entries.length === 0;
  root.dataset.state = none ? 'empty' : 'filled';
  cards.hidden = none;
  part('nothing').hidden = !none;
  if (!none) { if (isNear()) loadMore(); return; }
  const filtered = Object.entries(filter).some(([name, value]) => value && name !== 'order');
  if (filtered) nothing('No video matches', 'Try fewer or different words.', 'Show all', clear);
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
  cards.hidden = true;
  part('nothing').hidden = false;
  nothing('The gallery cannot be shown', message, 'Try again', refresh);
};
const clear = () => {
  for (const name of Object.keys(filter)) if (name !== 'order') filter[name] = '';
  search.value = part('model').value = part('lora').value = part('kind').value = '';
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
  const name = `Favourite: ${brief(entry).slice(0, 80)}`;
  return button({ class: 'icon keep', 'aria-pressed': String(entry.kept), 'aria-label': name, title: entry.kept ? 'Favourite: never deleted automatically' : 'Favourite' },
    () => keep(entry), icon('star'));
};
const binButton = (entry) => button({ class: 'icon bin', 'aria-label': `Delete: ${brief(entry).slice(0, 80)}`, title: 'Delete' },
  () => sure(entry), icon('bin'));
const shareButton = (entry) => button({ class: 'icon', 'aria-label': `Share: ${brief(entry).slice(0, 80)}`, title: 'Share' },
  () => window.wanUi.share(entry.id), icon('share'));
const acts = (entry) => make('div', { class: 'acts' },
  ...(entry.may_change ? [keepButton(entry)] : []), ...(entry.may_share ? [shareButton(entry)] : []), ...(entry.may_change ? [binButton(entry)] : []));
const pickButton = (entry) => {
  const made = button({ class: 'pick', 'aria-pressed': String(selected.has(entry.id)), 'aria-label': `Select: ${brief(entry).slice(0, 80)}`, title: 'Select' },
    () => pick(entry), icon('check'));
  return made;
};
const node = (entry) => cards.querySelector(`[data-id="${entry.id}"]`);
const redraw = (entry) => {
  const old = node(entry);
  if (old) old.replaceWith(card(entry));
  return node(entry);
};

const card = (entry) => (entry.id === opened && entry.kind === 'video' ? openCard(entry) : closedCard(entry));
const seconds = (entry) => `${(entry.num_frames / entry.fps).toFixed(1)} s`;
// A comparison's card shows a few of its videos, evenly chosen; a single video's its middle frame.
const shownOf = (entry) => {
  if (entry.kind === 'video') return [[`v1/${entry.poster_url}`, `v1/${entry.url}`]];
  const count = Math.min(MOST_SHOWN, entry.videos);
  const indexes = [...Array(count).keys()].map((place) => Math.floor(place * entry.videos / count));
  return indexes.map((index) => [`v1/${entry.poster_url}?video=${index}`, `v1/requests/${entry.request_id}/videos/${index}`]);
};
const screenOf = (entry, still) => {
  const images = shownOf(entry).map(([poster, url]) => {
    const image = make('img', { src: poster, alt: '', loading: 'lazy', decoding: 'async', 'data-url': url });
    image.addEventListener('error', () => {
      image.remove();
      still.classList.toggle('gone', !still.querySelector('img'));
    });
    return image;
  });
  const screen = make('span', { class: images.length > 1 ? 'sheet' : 'one' }, ...images);
  screen.style.setProperty('--columns', Math.min(4, images.length));
  return screen;
};
// Hovering, or the focus of the keyboard, plays what the card shows; nothing else on the page of cards plays.
const playHovered = (still) => {
  if (calm()) return;
  for (const image of still.querySelectorAll('img')) {
    const video = make('video', { src: image.dataset.url, loop: '', playsinline: '', muted: '', tabindex: '-1', 'aria-hidden': 'true', poster: image.src });
    video.muted = true;
    video.addEventListener('error', () => video.replaceWith(image));
    image.replaceWith(video);
    video.still = image;
    video.play().catch(() => {});
  }
};
const stopHovered = (still) => {
  for (const video of still.querySelectorAll('video')) video.replaceWith(video.still);
};
const closedCard = (entry) => {
  const comparison = entry.kind === 'comparison';
  const still = button({ class: 'still', 'aria-label': `${comparison ? 'Open the comparison' : 'Play'}: ${brief(entry)}` },
    () => (selected.size ? pick(entry) : comparison ? compare(entry) : open(entry)));
  still.append(screenOf(entry, still), make('span', { class: 'lost' }, 'File missing'));
  still.addEventListener('pointerenter', (event) => { if (event.pointerType === 'mouse') playHovered(still); });
  still.addEventListener('pointerleave', () => stopHovered(still));
  still.addEventListener('focus', () => { if (still.matches(':focus-visible')) playHovered(still); });
  still.addEventListener('blur', () => stopHovered(still));
  const part = entry.made < entry.videos ? `${entry.made} of ${plural(entry.videos, 'video')}` : plural(entry.videos, 'video');
  still.append(make('span', { class: 'badge' }, ...(comparison ? [icon('grid'), part] : [seconds(entry)])));
  const loras = entry.loras.map((item) => `${item.name.replace(/\.safetensors$/i, '')}${item.network_multiplier === null ? '' : ` × ${item.network_multiplier}`}`).join(', ');
  const size = comparison ? 'Comparison' : `${entry.width} × ${entry.height}`;
  return make('li', { class: selected.has(entry.id) ? 'entry selected' : 'entry', 'data-id': entry.id, 'data-kind': entry.kind }, still, pickButton(entry),
    make('div', { class: 'about-it' },
      make('p', { class: entry.prompt.trim() ? 'words' : 'words none', title: entry.prompt.slice(0, 600) }, brief(entry)),
      make('p', { class: 'facts', title: entry.model_label }, comparison ? `${size} · ${entry.model_label}` : `${entry.model_label} · ${size}`),
      make('p', { class: 'facts', title: loras || 'no LoRA' }, `${ago(entry.made_at)}${loras ? ` · ${loras}` : ''}`),
      acts(entry)));
};
const fact = (term, text, wide = false) => make('div', wide ? { class: 'wide' } : {}, make('dt', {}, term), make('dd', {}, ...[].concat(text)));
const SLOTS = { high: 'High-noise LoRA', low: 'Low-noise LoRA' };
const openCard = (entry) => {
  const screen = make('div', { class: 'screen' });
  const video = make('video', { src: `v1/${entry.url}`, poster: `v1/${entry.poster_url}`, controls: '', loop: '', playsinline: '', muted: '', preload: 'auto', 'aria-label': brief(entry) });
  video.muted = true;
  video.style.aspectRatio = `${entry.width} / ${entry.height}`;
  video.style.maxWidth = `${2 * entry.width}px`; // larger, it would only be blurred
  video.addEventListener('error', () => screen.replaceChildren(make('span', { class: 'lost' }, 'File missing')));
  screen.append(video);
  const list = make('dl', {},
    fact('Model', entry.model_label, true),
    fact('Size', `${entry.width} × ${entry.height}`),
    fact('Frames', `${entry.num_frames} at ${entry.fps} fps`),
    fact('Seed', String(entry.seed)),
    fact('Steps', String(entry.sample_steps)),
    fact('Guidance', String(entry.guidance_scale)),
    fact('Sampling', recipes[entry.recipe] || entry.recipe),
    fact('First frame', entry.has_first_frame ? 'an image' : 'none'),
    fact('Made', new Date(entry.made_at).toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'short' })));
  for (const item of entry.loras) {
    const scale = item.network_multiplier === null ? '' : ` × ${scaleText(item.network_multiplier)}`;
    list.append(fact(SLOTS[item.slot] || 'LoRA', [`${item.name}${scale}`, make('small', { title: item.sha256 }, item.sha256 ? `SHA-256 ${item.sha256.slice(0, 16)}…` : '')], true));
  }
  if (!entry.loras.length) list.append(fact('LoRA', 'none'));
  if (entry.neg) list.append(fact('Negative prompt', entry.neg, true));
  const use = button({ class: 'first' }, () => { use.disabled = true; setTimeout(() => { use.disabled = false; }, 3000); trigger('click', { do: 'use', entry: entry.id }); }, 'Use settings');
  const links = make('div', { class: 'card-acts' }, use,
    make('a', { href: `v1/${entry.url}`, download: `wan-ui-${entry.id.slice(0, 8)}-${entry.video}.mp4` }, 'Download'),
    make('a', { href: `v1/${entry.json_url}`, download: `wan-ui-${entry.id.slice(0, 8)}-${entry.video}.json` }, 'Download JSON'));
  if (entry.made > 1) links.append(button({}, () => { filter.job = entry.request_id; controls(); anew(); }, `All ${entry.made} of this request`));
  const whole = make('details', {}, make('summary', {}, 'All metadata'));
  whole.addEventListener('toggle', async () => {
    if (!whole.open || whole.querySelector('pre')) return;
    const text = make('pre', { tabindex: '0', 'aria-label': 'All metadata, as JSON' }, 'Loading…');
    whole.append(text);
    try { text.textContent = JSON.stringify(await call(entry.json_url), null, 2); } catch (error) { text.textContent = reason(error); }
  });
  const close = button({ class: 'icon', 'aria-label': 'Close', title: 'Close' }, () => shut(entry), icon('close'));
  const buttons = acts(entry);
  buttons.append(close);
  const head = make('div', { class: 'head' }, make('strong', {}, entry.kept ? 'Favourite' : ago(entry.made_at)), buttons);
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

// The selection

const pick = (entry) => {
  if (selected.has(entry.id)) selected.delete(entry.id);
  else selected.set(entry.id, entry);
  const made = node(entry);
  if (made) {
    made.classList.toggle('selected', selected.has(entry.id));
    const button = made.querySelector('.pick');
    if (button) button.setAttribute('aria-pressed', String(selected.has(entry.id)));
  }
  showSelection();
};
const showSelection = () => {
  const chosen = [...selected.values()];
  part('chosen').hidden = !chosen.length;
  root.dataset.selecting = chosen.length ? 'yes' : 'no';
  part('chosen-count').textContent = `${chosen.length} selected`;
  const videos = chosen.length === 2 && chosen.every((entry) => entry.kind === 'video');
  part('chosen-compare').disabled = !videos;
  part('chosen-compare').title = videos ? 'Compare side by side' : 'Select two videos to compare them';
  part('chosen-zip').href = `v1/gallery/clips.zip?ids=${chosen.map((entry) => entry.id).join(',')}`;
  const mine = chosen.length && chosen.every((entry) => entry.may_change);
  part('chosen-keep').hidden = part('chosen-delete').hidden = !mine;
  part('chosen-keep').textContent = chosen.every((entry) => entry.kept) ? 'Not favourite' : 'Favourite';
};
const clearSelection = () => {
  for (const entry of [...selected.values()]) pick(entry);
};
part('chosen-clear').addEventListener('click', () => { clearSelection(); search.focus(); });
part('chosen-compare').addEventListener('click', () => {
  const ids = [...selected.keys()];
  clearSelection();
  trigger('click', { do: 'pair', first: ids[0], second: ids[1] });
});
part('chosen-keep').addEventListener('click', async () => {
  const chosen = [...selected.values()], kept = !chosen.every((entry) => entry.kept);
  for (const entry of chosen) if (entry.kept !== kept) await keep(entry);
  showSelection();
});
part('chosen-delete').addEventListener('click', () => {
  const chosen = [...selected.values()], bar = part('chosen');
  if (bar.querySelector('.sure')) return;
  const cancel = button({ class: 'small cancel' }, () => { box.remove(); part('chosen-delete').focus(); }, 'Cancel');
  const box = make('div', { class: 'sure', role: 'alertdialog', 'aria-label': 'Delete?' },
    make('p', {}, `Delete ${plural(chosen.length, 'entry').replace('entrys', 'entries')} and all their files? This cannot be undone.`),
    make('div', { class: 'pair' }, button({ class: 'danger' }, async () => {
      box.remove();
      clearSelection();
      const failed = [];
      for (const entry of chosen) await call(`gallery/${entry.id}`, { method: 'DELETE' }).catch((error) => failed.push([entry, reason(error)]));
      status.textContent = failed.length ? failed[0][1] : 'Deleted.';
      await refresh();
      for (const [entry, message] of failed) refuse(entry, message);
      search.focus();
    }, 'Delete'), cancel));
  bar.append(box);
  cancel.focus();
});
root.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || !selected.size) return;
  const box = part('chosen').querySelector('.sure');
  if (box) box.querySelector('.cancel').click();
  else clearSelection();
});
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
    status.textContent = now.kept ? 'Added to favourites.' : 'Removed from favourites.';
    if (filter.kept && !now.kept) await load();
    else {
      const card = node(entry);
      if (card) {
        const fresh = keepButton(entry);
        card.querySelector('.keep').replaceWith(fresh);
        const head = card.querySelector('.head strong');
        if (head) head.textContent = now.kept ? 'Favourite' : ago(entry.made_at);
        if (!selected.size) fresh.focus();
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
    make('p', {}, `Delete ${what} and all its files? ${entry.kept ? 'It is a favourite. ' : ''}This cannot be undone.`),
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
  if (selected.has(entry.id)) pick(entry);
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
for (const name of ['model', 'lora', 'kind', 'order']) {
  part(name).addEventListener('change', (event) => { filter[name] = event.target.value; anew(); });
}
part('kept').addEventListener('click', () => { filter.kept = filter.kept ? '' : 'true'; controls(); anew(); });
part('job').addEventListener('click', () => { filter.job = ''; controls(); search.focus(); anew(); });
part('size').addEventListener('input', (event) => cards.style.setProperty('--card', `${event.target.value}px`));
new IntersectionObserver((changes) => { if (changes.some((change) => change.isIntersecting)) loadMore(); }, { rootMargin: '600px' }).observe(more);

// It asks when it comes into view; out of view nothing plays.
new IntersectionObserver((changes) => {
  const now = changes[changes.length - 1].isIntersecting;
  if (now && !seen) refresh();
  if (!now) for (const video of root.querySelectorAll('video')) video.pause();
  seen = now;
}).observe(root);
