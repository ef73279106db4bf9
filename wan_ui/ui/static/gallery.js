// The gallery: asks /v1/gallery itself, when it comes into view and after what is done in it; nothing polls. Only what
// belongs to other tabs goes through Gradio: opening a comparison, and putting settings into a form.
const root = element.querySelector('.gallery');
const part = (name) => root.querySelector(`[data-part="${name}"]`);
const cards = part('cards'), status = part('status'), search = part('q'), more = part('more');
const filter = { q: '', model: '', lora: '', job: '', kept: '', kind: '', order: '' };
let checkpoints = new Map(); // by the training job's name, its files: what the API filters by, and how it is shown
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
// A LoRA's scale as in a request: a number, a list over the steps, or from one number to another.
const scaleText = (scale) => (Array.isArray(scale) ? scale.join(', ') : scale && scale.from !== undefined ? textOf('gallery.ramp', scale) : String(scale));
const LOCALE = textOf('locale');
const counted = (what, count) => textOf(`gallery.${what}`, { count, shown: count.toLocaleString(LOCALE) });
const brief = (entry) => entry.prompt.replace(/\s+/g, ' ').trim().slice(0, 200) || textOf('gallery.no_prompt');
const ago = (text) => {
  const seconds = (Date.now() - Date.parse(text)) / 1000;
  if (seconds < 60) return textOf('gallery.just_now');
  if (seconds < 3600) return textOf('gallery.minutes_ago', { minutes: Math.floor(seconds / 60) });
  if (seconds < 86400) return textOf('gallery.hours_ago', { hours: Math.floor(seconds / 3600) });
  return new Date(text).toLocaleDateString(LOCALE, { day: 'numeric', month: 'short', year: 'numeric' });
};

// The server

const query = (cursor = '') => {
  const asking = new URLSearchParams({ limit: String(PAGE) });
  for (const [name, value] of Object.entries(filter)) if (value && name !== 'lora') asking.set(name, value);
  for (const value of lorasWanted()) asking.append('lora', value);
  if (cursor) asking.set('cursor', cursor);
  return asking.toString();
};
const load = async () => {
  const turnOf = ++asked;
  cards.setAttribute('aria-busy', 'true');
  try {
    const answer = await callApi(`gallery?${query()}`);
    if (turnOf !== asked) return false;
    page = answer;
    show();
    return true;
  } catch (error) {
    if (turnOf === asked) fail(reasonOf(error));
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
    const answer = await callApi(`gallery?${query(page.older)}`);
    if (turnOf !== asked) return; // another filter meanwhile
    const known = new Set(page.entries.map((entry) => entry.id));
    const added = answer.entries.filter((entry) => !known.has(entry.id));
    page = { ...page, entries: [...page.entries, ...added], older: answer.older };
    cards.append(...added.map((entry) => card(entry)));
    status.textContent = textOf('gallery.shown', { number: page.entries.length });
  } catch (error) {
    status.textContent = reasonOf(error);
  } finally {
    delete more.dataset.loading;
  }
  requestAnimationFrame(() => { if (isNear()) loadMore(); }); // the end may still be in view
};
const isNear = () => root.offsetParent !== null && more.getBoundingClientRect().top < window.innerHeight + 600;
let choicesAsked = 0;
const loadChoices = async () => {
  const turnOf = ++choicesAsked;
  try {
    const options = await callApi('gallery/choices');
    if (turnOf !== choicesAsked) return;
    part('count').textContent = options.entries ? counted('entries', options.entries) + (options.kept ? textOf('gallery.and', { more: counted('favourites', options.kept) }) : '') : '';
    choices(part('model'), textOf('gallery.all_models'), filter.model, options.models.map((item) => [item.id, `${item.label} (${item.entries})`]));
    loraChoices(options.loras);
  } catch (error) {
    if (turnOf === choicesAsked) part('count').textContent = '';
  }
};
const choices = (select, all, chosen, options) => {
  if (chosen && !options.some(([value]) => value === chosen)) options.push([chosen, textOf('gallery.not_found')]);
  select.replaceChildren(make('option', { value: '' }, all), ...options.map(([value, text]) => make('option', { value }, text)));
  select.value = chosen;
};
// A training job is chosen first, then one of its checkpoints.
const loraChoices = (loras) => {
  checkpoints = new Map();
  for (const item of loras) {
    const { name, step, half } = loraParts(item.name);
    const files = checkpoints.get(name) || [];
    const twin = item.sha256 && loras.filter((other) => other.name === item.name).length > 1;
    const label = [step === null ? textOf('lora.final') : textOf('gallery.step', { step }), half && SLOTS[half], twin && item.sha256.slice(0, 8)];
    files.push({ value: item.sha256 || item.name, step: step === null ? Infinity : step, entries: item.entries, label: label.filter(Boolean).join(' · ') });
    checkpoints.set(name, files);
  }
  for (const files of checkpoints.values()) files.sort((one, other) => one.step - other.step);
  choices(part('lora'), textOf('gallery.all_loras'), filter.lora, [...checkpoints].map(([name, files]) =>
    [name, `${name} (${files.length > 1 ? textOf('gallery.checkpoints', { number: files.length }) : files[0].entries})`]));
  showSteps();
};
const showSteps = () => {
  const files = checkpoints.get(filter.lora) || [], select = part('step');
  select.hidden = files.length < 2;
  choices(select, textOf('gallery.all_steps'), files.some((file) => file.value === select.value) ? select.value : '',
    files.map((file) => [file.value, `${file.label} (${file.entries})`]));
};
const lorasWanted = () => {
  if (!filter.lora) return [];
  const files = checkpoints.get(filter.lora);
  if (!files) return [filter.lora];
  return part('step').value ? [part('step').value] : files.map((file) => file.value);
};
const refresh = () => Promise.all([load(), loadChoices()]);
const anew = () => { opened = null; return load(); };

// What is shown

const show = () => {
  if (opened && !page.entries.some((entry) => entry.id === opened)) opened = null;
  put(page.entries.map(cardAsBefore));
  const none = page.entries.length === 0;
  root.dataset.state = none ? 'empty' : 'filled';
  cards.hidden = none;
  part('nothing').hidden = !none;
  if (!none) { if (isNear()) loadMore(); return; }
  const filtered = Object.entries(filter).some(([name, value]) => value && name !== 'order');
  if (filtered) nothing(textOf('gallery.none_matches'), textOf('gallery.other_words'), textOf('gallery.show_all'), clear);
  else nothing(textOf('gallery.empty'), textOf('gallery.empty_text'), '', null);
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
  nothing(textOf('gallery.failed'), message, textOf('gallery.try_again'), refresh);
};
const clear = () => {
  for (const name of Object.keys(filter)) if (name !== 'order') filter[name] = '';
  search.value = part('model').value = part('lora').value = part('kind').value = '';
  showSteps();
  controls();
  search.focus();
  return anew();
};
const controls = () => {
  part('kept').setAttribute('aria-pressed', String(Boolean(filter.kept)));
  part('job').hidden = !filter.job;
  part('job').setAttribute('aria-pressed', 'true');
  part('job').setAttribute('aria-label', textOf('gallery.one_request'));
};

const keepButton = (entry) => {
  const name = textOf('gallery.favourite_which', { name: brief(entry).slice(0, 80) });
  return makeButton({ class: 'icon keep', 'aria-pressed': String(entry.kept), 'aria-label': name, title: textOf(entry.kept ? 'gallery.never_deleted' : 'gallery.favourite') },
    () => keep(entry), icon('star'));
};
const binButton = (entry) => makeButton({ class: 'icon bin', 'aria-label': textOf('gallery.delete_which', { name: brief(entry).slice(0, 80) }), title: textOf('gallery.delete') },
  () => sure(entry), icon('bin'));
const shareButton = (entry) => makeButton({ class: 'icon', 'aria-label': textOf('gallery.share_which', { name: brief(entry).slice(0, 80) }), title: textOf('gallery.share') },
  () => window.wanUi.share(entry.id), icon('share'));
const acts = (entry) => make('div', { class: 'acts' },
  ...(entry.may_change ? [keepButton(entry)] : []), ...(entry.may_share ? [shareButton(entry)] : []), ...(entry.may_change ? [binButton(entry)] : []));
const pickButton = (entry) => makeButton({ class: 'pick', 'aria-pressed': String(selected.has(entry.id)), 'aria-label': textOf('gallery.select_which', { name: brief(entry).slice(0, 80) }), title: textOf('gallery.select') },
  () => pick(entry), icon('check'));
const node = (entry) => cards.querySelector(`[data-id="${entry.id}"]`);
const redraw = (entry) => {
  const old = node(entry);
  if (old) old.replaceWith(card(entry));
  return node(entry);
};

const isOpen = (entry) => entry.id === opened && entry.kind === 'video';
const drawn = new WeakMap(); // of each card's node the entry, which changes with it, and the time as it is said
const card = (entry) => {
  const made = isOpen(entry) ? openCard(entry) : closedCard(entry);
  drawn.set(made, { entry, time: ago(entry.made_at) });
  return made;
};
// A card that is the same stays with its focus, its video and a press that has begun; its entry is that of before.
const cardAsBefore = (entry, index) => {
  const old = node(entry), before = old && drawn.get(old);
  const isSame = before && old.classList.contains('open') === isOpen(entry) && (isOpen(entry) || before.time === ago(entry.made_at))
    && !old.querySelector('.gone') && JSON.stringify(before.entry) === JSON.stringify(entry);
  if (!isSame) return card(entry);
  page.entries[index] = before.entry;
  return old;
};
const put = (made) => {
  for (const old of [...cards.children]) if (!made.includes(old)) old.remove();
  made.forEach((each, index) => { if (cards.children[index] !== each) cards.insertBefore(each, cards.children[index] || null); });
};
const seconds = (entry) => `${(entry.num_frames / entry.fps).toFixed(1)} s`;
// A comparison's card shows a few of its videos, evenly chosen; a single video's its middle frame.
const shownOf = (entry) => {
  if (entry.kind === 'video') return [[`v1/${entry.poster_url}`, `v1/${entry.url}`]];
  return spread(MOST_SHOWN, entry.videos).map((index) => [`v1/${entry.poster_url}?video=${index}`, `v1/requests/${entry.request_id}/videos/${index}`]);
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
  if (reducedMotion.matches) return;
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
  const still = makeButton({ class: 'still', 'aria-label': textOf(comparison ? 'gallery.open_which' : 'gallery.play_which', { name: brief(entry) }) },
    () => (selected.size ? pick(entry) : comparison ? compare(entry) : open(entry)));
  still.append(screenOf(entry, still), make('span', { class: 'lost' }, textOf('gallery.file_missing')));
  still.addEventListener('pointerenter', (event) => { if (event.pointerType === 'mouse') playHovered(still); });
  still.addEventListener('pointerleave', () => stopHovered(still));
  still.addEventListener('focus', () => { if (still.matches(':focus-visible')) playHovered(still); });
  still.addEventListener('blur', () => stopHovered(still));
  const part = entry.made < entry.videos ? textOf('gallery.made_of', { made: entry.made, videos: counted('videos', entry.videos) }) : counted('videos', entry.videos);
  still.append(make('span', { class: 'badge' }, ...(comparison ? [icon('grid'), part] : [seconds(entry)])));
  const loras = entry.loras.map((item) => `${item.name.replace(/\.safetensors$/i, '')}${item.network_multiplier === null ? '' : ` × ${item.network_multiplier}`}`).join(', ');
  const size = comparison ? textOf('gallery.comparison') : `${entry.width} × ${entry.height}`;
  return make('li', { class: selected.has(entry.id) ? 'entry selected' : 'entry', 'data-id': entry.id, 'data-kind': entry.kind }, still, pickButton(entry),
    make('div', { class: 'about-it' },
      make('p', { class: entry.prompt.trim() ? 'words' : 'words none', title: entry.prompt.slice(0, 600) }, brief(entry)),
      make('p', { class: 'facts', title: entry.model_label }, comparison ? `${size} · ${entry.model_label}` : `${entry.model_label} · ${size}`),
      make('p', { class: 'facts', title: loras || textOf('gallery.no_lora') }, `${ago(entry.made_at)}${loras ? ` · ${loras}` : ''}`),
      acts(entry)));
};
const fact = (term, text, wide = false) => make('div', wide ? { class: 'wide' } : {}, make('dt', {}, term), make('dd', {}, ...[].concat(text)));
const SLOTS = { high: textOf('slot.high'), low: textOf('slot.low') };
const openCard = (entry) => {
  const screen = make('div', { class: 'screen' });
  const video = make('video', { src: `v1/${entry.url}`, poster: `v1/${entry.poster_url}`, controls: '', loop: '', playsinline: '', muted: '', preload: 'auto', 'aria-label': brief(entry) });
  video.muted = true;
  video.style.aspectRatio = `${entry.width} / ${entry.height}`;
  video.style.maxWidth = `${2 * entry.width}px`; // larger, it would only be blurred
  video.addEventListener('error', () => screen.replaceChildren(make('span', { class: 'lost' }, textOf('gallery.file_missing'))));
  screen.append(video);
  const list = make('dl', {},
    fact(textOf('fact.model'), entry.model_label, true),
    fact(textOf('fact.size'), `${entry.width} × ${entry.height}`),
    fact(textOf('fact.frames'), textOf('fact.frames_at', { frames: entry.num_frames, fps: entry.fps })),
    fact(textOf('fact.seed'), String(entry.seed)),
    fact(textOf('fact.steps'), String(entry.sample_steps)),
    fact(textOf('fact.guidance'), String(entry.guidance_scale)),
    fact(textOf('fact.sampling'), recipes[entry.recipe] || entry.recipe),
    fact(textOf('fact.first_frame'), textOf(entry.has_first_frame ? 'fact.an_image' : 'fact.none')),
    fact(textOf('fact.made'), new Date(entry.made_at).toLocaleString(LOCALE, { dateStyle: 'medium', timeStyle: 'short' })));
  for (const item of entry.loras) {
    const scale = item.network_multiplier === null ? '' : ` × ${scaleText(item.network_multiplier)}`;
    list.append(fact(SLOTS[item.slot] || 'LoRA', [`${item.name}${scale}`, make('small', { title: item.sha256 }, item.sha256 ? `SHA-256 ${item.sha256.slice(0, 16)}…` : '')], true));
  }
  if (!entry.loras.length) list.append(fact('LoRA', textOf('fact.none')));
  if (entry.neg) list.append(fact(textOf('fact.neg'), entry.neg, true));
  const use = makeButton({ class: 'first' }, () => { use.disabled = true; setTimeout(() => { use.disabled = false; }, 3000); trigger('click', { do: 'use', entry: entry.id }); }, textOf('gallery.use'));
  const links = make('div', { class: 'card-acts' }, use,
    make('a', { href: `v1/${entry.url}`, download: `wan-ui-${entry.id.slice(0, 8)}-${entry.video}.mp4` }, textOf('gallery.download')),
    make('a', { href: `v1/${entry.json_url}`, download: `wan-ui-${entry.id.slice(0, 8)}-${entry.video}.json` }, textOf('gallery.download_json')));
  if (entry.made > 1) links.append(makeButton({}, () => { filter.job = entry.request_id; controls(); anew(); }, textOf('gallery.all_of_request', { number: entry.made })));
  const whole = make('details', {}, make('summary', {}, textOf('gallery.metadata')));
  whole.addEventListener('toggle', async () => {
    if (!whole.open || whole.querySelector('pre')) return;
    const text = make('pre', { tabindex: '0', 'aria-label': textOf('gallery.metadata_json') }, textOf('gallery.loading'));
    whole.append(text);
    try { text.textContent = JSON.stringify(await callApi(entry.json_url), null, 2); } catch (error) { text.textContent = reasonOf(error); }
  });
  const close = makeButton({ class: 'icon', 'aria-label': textOf('gallery.close'), title: textOf('gallery.close') }, () => shut(entry), icon('close'));
  const buttons = acts(entry);
  buttons.append(close);
  const head = make('div', { class: 'head' }, make('strong', {}, entry.kept ? textOf('gallery.favourite') : ago(entry.made_at)), buttons);
  const details = make('div', { class: 'details' }, head, make('p', { class: 'prompt' }, entry.prompt.trim() || textOf('gallery.no_prompt')), links, list, whole);
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
  made.scrollIntoView({ behavior: reducedMotion.matches ? 'auto' : 'smooth', block: 'nearest' });
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
  part('chosen-count').textContent = textOf('gallery.selected', { number: chosen.length });
  const videos = chosen.length === 2 && chosen.every((entry) => entry.kind === 'video');
  part('chosen-compare').disabled = !videos;
  part('chosen-compare').title = textOf(videos ? 'gallery.side_by_side' : 'gallery.select_two');
  part('chosen-zip').href = `v1/gallery/clips.zip?ids=${chosen.map((entry) => entry.id).join(',')}`;
  const mine = chosen.length && chosen.every((entry) => entry.may_change);
  part('chosen-keep').hidden = part('chosen-delete').hidden = !mine;
  part('chosen-keep').textContent = textOf(chosen.every((entry) => entry.kept) ? 'gallery.not_favourite' : 'gallery.favourite');
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
  const cancel = makeButton({ class: 'small cancel' }, () => { box.remove(); part('chosen-delete').focus(); }, textOf('gallery.cancel'));
  const box = make('div', { class: 'sure', role: 'alertdialog', 'aria-label': textOf('gallery.delete_sure') },
    make('p', {}, textOf('gallery.delete_entries', { entries: counted('entries', chosen.length) })),
    make('div', { class: 'pair' }, makeButton({ class: 'danger' }, async () => {
      box.remove();
      clearSelection();
      const failed = [];
      for (const entry of chosen) await callApi(`gallery/${entry.id}`, { method: 'DELETE' }).catch((error) => failed.push([entry, reasonOf(error)]));
      status.textContent = failed.length ? failed[0][1] : textOf('gallery.deleted');
      await refresh();
      for (const [entry, message] of failed) refuse(entry, message);
      search.focus();
    }, textOf('gallery.delete')), cancel));
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
    const now = await sendJson('PATCH', `gallery/${entry.id}`, { kept: !entry.kept });
    Object.assign(entry, now);
    status.textContent = textOf(now.kept ? 'gallery.added' : 'gallery.removed');
    if (filter.kept && !now.kept) await load();
    else {
      const card = node(entry);
      if (card) {
        const fresh = keepButton(entry);
        card.querySelector('.keep').replaceWith(fresh);
        const head = card.querySelector('.head strong');
        if (head) head.textContent = now.kept ? textOf('gallery.favourite') : ago(entry.made_at);
        if (!selected.size) fresh.focus();
      }
    }
    loadChoices();
  } catch (error) {
    refuse(entry, reasonOf(error));
  }
};
const sure = (entry) => {
  const card = node(entry);
  const old = card.querySelector('.sure');
  if (old) { old.querySelector('.cancel').focus(); return; }
  const what = entry.kind === 'comparison' ? textOf('gallery.this_comparison', { videos: counted('videos', entry.made) }) : textOf('gallery.this_video');
  const back = () => { box.remove(); card.querySelector('.bin').focus(); };
  const cancel = makeButton({ class: 'small cancel' }, back, textOf('gallery.cancel'));
  const box = make('div', { class: 'sure', role: 'alertdialog', 'aria-label': textOf('gallery.delete_sure') },
    make('p', {}, textOf(entry.kept ? 'gallery.delete_favourite' : 'gallery.delete_this', { what })),
    make('div', { class: 'pair' }, makeButton({ class: 'danger' }, () => remove(entry), textOf('gallery.delete')), cancel));
  box.addEventListener('keydown', (event) => { if (event.key === 'Escape') { event.stopPropagation(); back(); } });
  (card.querySelector('.details .head') || card.querySelector('.about-it')).after(box);
  cancel.focus();
};
const remove = async (entry) => {
  const index = page.entries.findIndex((item) => item.id === entry.id);
  try {
    await callApi(`gallery/${entry.id}`, { method: 'DELETE' });
  } catch (error) {
    const box = node(entry) && node(entry).querySelector('.sure');
    if (box) box.remove();
    refuse(entry, reasonOf(error));
    return;
  }
  status.textContent = textOf('gallery.deleted');
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
  part(name).addEventListener('change', (event) => {
    filter[name] = event.target.value;
    if (name === 'lora') showSteps();
    anew();
  });
}
part('step').addEventListener('change', anew);
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
