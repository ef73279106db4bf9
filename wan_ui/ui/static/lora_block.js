// The LoRA block: files dropped or uploaded, the chosen ones with their cards and strengths, and the picker, which asks
// GET /v1/loras when it is opened. Everything that is pressed goes to the server in one event, which answers with the
// block's value; only a strength is written here.
const part = (name) => element.querySelector(`[data-part="${name}"]`);
const items = part('items'), drop = part('drop'), file = part('file'), picker = part('picker');
const list = part('list'), search = part('search'), reading = part('reading');
const SLOTS = { high: textOf('lora.high'), low: textOf('lora.low') };
const [LOWEST, HIGHEST, STEP] = [0, 1.5, 0.05]; // of the slider; the field takes all that the request does
const LARGEST = 4; // of a strength, and -4 the least
let adding = false, wantedSlot = null;

// One press after the other, since Gradio drops one while the one before is not answered, and none while the form is being
// filled: its answer is for what the form holds. A press on a chosen LoRA finds it again by its file and slot, as one
// before may have moved it.
const FORM = '#form';
const keyOf = (item) => `${item.slot} ${item.source}`;
const presses = [];
let isDownloading = false; // whether the press that is not answered yet downloads a LoRA
const pressNext = () => {
  if (!presses.length || window.wanUi.isFilling(FORM)) return;
  const { pressed, key } = presses.shift();
  const index = key === null ? null : props.value.items.findIndex((item) => keyOf(item) === key);
  if (index === -1) {
    pressNext();
    return;
  }
  isDownloading = pressed.do === 'fetch';
  window.wanUi.filling(FORM);
  trigger('click', { pressed: index === null ? pressed : { ...pressed, index } });
};
const press = (pressed) => {
  const item = 'index' in pressed ? props.value.items[Number(pressed.index)] : null;
  presses.push({ pressed, key: item ? keyOf(item) : null });
  pressNext();
};
let sending = 0; // calls of `send` at work
window.wanUi.held.waitFor(() => (sending || presses.length) && textOf('pressed.lora'));
window.wanUi.held.waitFor(() => isDownloading && textOf('pressed.download'));
let isReading = false; // whether the block says that an uploaded file is read
// What was refused is answered with the same LoRAs, or without any: nothing is drawn then.
document.addEventListener('wan-ui-filled', ({ detail: form }) => {
  if (form !== FORM) return;
  isDownloading = false;
  if (document.querySelector('#lora-problem .problem')) window.wanUi.held.drop(); // the LoRA was refused
  if (isReading && !presses.length) reading.hidden = true;
  if (items.querySelector('[data-do="fetch"]:disabled')) {
    drawn = null;
    draw();
  }
  pressNext();
});
const isPair = () => document.documentElement.hasAttribute('data-pair');

// The chosen files

const CHANGES = /[,;，、；]|\d\s*(?:to|->|→|到|至)/; // a strength of several values; the server reads them
const strengthTyped = (text) => {
  const typed = text.trim();
  return !typed ? null : Number.isFinite(Number(typed)) ? Number(typed) : typed;
};

const ticks = () => make('div', { class: 'ticks', 'aria-hidden': 'true' }, ...[0, 0.5, 1, 1.5].map((at) => make('span', {}, String(at))));
const strength = (item, index) => {
  const many = (props.value.items || []).length > 1;
  const about = make('p', { class: 'hint' }, textOf('lora.over_steps'));
  const label = many || isPair() ? textOf('lora.strength_of', { name: `${item.name}${isPair() ? `, ${SLOTS[item.slot]}` : ''}` }) : textOf('lora.strength');
  const slider = make('input', { type: 'range', tabindex: -1, min: LOWEST, max: HIGHEST, step: STEP, 'aria-label': textOf('lora.slider', { label }) });
  const number = make('input', { type: 'text', role: 'spinbutton', inputmode: 'text', autocomplete: 'off', spellcheck: 'false', 'aria-label': label, title: textOf('lora.strength_title'), 'data-strength': index });
  const line = make('div', { class: 'strength' }, make('span', {}, (isPair() && SLOTS[item.slot]) || textOf('lora.strength')), slider, number, ticks());
  const mark = (value) => {
    const changes = typeof value === 'string' && CHANGES.test(value);
    line.classList.toggle('changes', changes);
    if (changes) line.append(about); else about.remove();
    if (typeof value === 'number') number.setAttribute('aria-valuenow', value); else number.removeAttribute('aria-valuenow');
    if (typeof value === 'string') number.setAttribute('aria-valuetext', value); else number.removeAttribute('aria-valuetext');
    slider.value = typeof value === 'number' ? value : 1;
    slider.style.setProperty('--v', `${(100 * (slider.value - LOWEST)) / (HIGHEST - LOWEST)}%`);
  };
  const set = (value, from) => {
    const changed = [...props.value.items];
    changed[index] = { ...changed[index], scale: value };
    item.scale = value;
    turn += 1;
    strengths.set(keyOf(item), { turn, scale: value });
    drawn = JSON.stringify({ ...props.value, items: changed, turn });
    props.value = { ...props.value, items: changed, turn };
    mark(value);
    if (from !== number) number.value = value;
    trigger('input', {});
  };
  mark(item.scale);
  number.value = item.scale === null ? '' : item.scale;
  slider.addEventListener('input', () => set(Number(slider.value), slider));
  number.addEventListener('input', () => set(strengthTyped(number.value), number));
  number.addEventListener('keydown', (event) => {
    const by = { ArrowUp: STEP, ArrowDown: -STEP }[event.key], value = strengthTyped(number.value);
    if (!by || typeof value === 'string') return;
    event.preventDefault();
    set(Math.max(-LARGEST, Math.min(LARGEST, Math.round(100 * ((value || 0) + by)) / 100)));
  });
  return line;
};
const sides = (item, index) => {
  const choices = Object.entries(SLOTS).map(([slot, label]) => {
    const attributes = { 'aria-pressed': String(item.slot === slot) };
    return makeButton(attributes, () => press({ do: 'slot', index, slot }), label);
  });
  return make('span', { class: 'seg', role: 'group', 'aria-label': textOf('lora.side_of', { name: item.name }) }, ...choices);
};
const row = (item, index) => {
  const about = make('div', { class: 'about' });
  about.innerHTML = item.html; // escaped by the server
  const remove = makeButton({ class: 'remove', 'aria-label': textOf('lora.remove', { name: item.name }) }, () => press({ do: 'remove', index }), '×');
  const [folder, name] = item.name.includes('/') ? [item.name.slice(0, item.name.lastIndexOf('/') + 1), item.name.slice(item.name.lastIndexOf('/') + 1)] : ['', item.name];
  const title = make('div', { class: 'lname', title: item.name }, make('span', { class: 'folder' }, folder), make('b', {}, name));
  const head = make('div', { class: 'lhead' }, title, remove);
  const parts = [head, about];
  if (isPair()) parts.push(sides(item, index));
  return make('li', { class: `lcard ${item.state || ''}`, 'data-source': item.source, 'data-slot': item.slot }, ...parts, strength(item, index));
};
// The strengths that were set, by the LoRA: which change of them each was. The server answers with the number of the
// last one that it knew; what was set since stays.
const strengths = new Map();
let turn = 0;
const keepStrengths = (value) => {
  if (typeof value.turn !== 'number' || value.turn >= turn) return false;
  const items = value.items.map((item) => {
    const set = strengths.get(keyOf(item));
    return set && set.turn > value.turn ? { ...item, scale: set.scale } : item;
  });
  props.value = { ...value, items, turn };
  return true;
};
// The strength that has the focus, and the same one when the block is drawn anew.
const focusedStrength = () => {
  const field = document.activeElement;
  if (!field || !items.contains(field) || !field.matches('[data-strength]')) return () => {};
  const { source, slot } = field.closest('.lcard').dataset, { selectionStart, selectionEnd } = field;
  return () => {
    const card = [...items.children].find((each) => each.dataset.source === source && each.dataset.slot === slot);
    if (!card) return;
    const again = card.querySelector('[data-strength]');
    again.focus({ preventScroll: true });
    again.setSelectionRange(selectionStart, selectionEnd);
  };
};
let drawn = null;
const draw = () => {
  const isKept = keepStrengths(props.value || {});
  const value = props.value || {};
  const text = JSON.stringify(value);
  if (isKept) trigger('input', {}); // the form's notes and its draft are those of the answer
  if (text === drawn) return;
  drawn = text;
  const chosen = value.items || [];
  const focusAgain = focusedStrength();
  items.replaceChildren(...chosen.map(row));
  focusAgain();
  element.querySelector('.lora-block').dataset.state = chosen.length ? 'chosen' : 'empty';
  part('pair').innerHTML = value.pair || ''; // escaped by the server
  part('notice').textContent = value.notice || '';
  const aside = value.aside || [];
  part('aside').hidden = !aside.length;
  part('aside').textContent = aside.length ? textOf('lora.aside', { names: aside.map((lora) => lora.name).join(', ') }) : '';
  reading.hidden = true;
  drawFast();
  document.dispatchEvent(new CustomEvent('wan-ui-fits', { detail: value.fits || [] }));
};
watch('value', draw);
document.addEventListener('wan-ui-model', () => { drawn = null; draw(); });

// The fast look: a speed LoRA of the model beside the chosen LoRAs. What it sets is filled into the form by the server.

const fast = part('speed'), fastAbout = part('speed-about');
const BOLT = '<svg class="i" viewBox="0 0 16 16" aria-hidden="true"><path d="M9 1.5 3.5 9H8l-1 5.5L12.5 7H8z"/></svg>';
const drawFast = () => {
  const choices = (window.wanUiModel && window.wanUiModel.speed) || [];
  const value = (props.value && props.value.speed) || null;
  const choice = choices.find((each) => value && each.id === value.id) || choices[0];
  fast.hidden = !choice;
  fastAbout.hidden = !value || !choice;
  if (!choice) return;
  fast.setAttribute('aria-pressed', String(value !== null));
  fast.innerHTML = BOLT;
  fast.append(textOf('lora_block.fast_look', { steps: choice.steps }));
  if (!value) return;
  const parts = [];
  if (choices.length > 1) {
    const menu = make('select', { 'aria-label': textOf('lora_block.speed_lora') }, ...choices.map((each) => new Option(each.label, each.id)));
    menu.value = choice.id;
    menu.addEventListener('change', () => press({ do: 'speed', on: true, id: menu.value }));
    parts.push(menu);
  } else parts.push(make('b', {}, choice.label));
  parts.push(make('p', { class: 'sets' }, choice.sets));
  parts.push(make('p', { class: value.missing ? 'where missing' : 'where' }, value.where));
  if (value.note) parts.push(make('p', {}, value.note));
  fastAbout.replaceChildren(...parts);
};
fast.addEventListener('click', () => {
  const on = fast.getAttribute('aria-pressed') !== 'true';
  fast.setAttribute('aria-pressed', String(on)); // at once; the answer confirms
  press({ do: 'speed', on });
});

// Uploads

const send = async (files) => {
  sending += 1;
  for (const one of files) {
    reading.hidden = isReading = false;
    reading.textContent = textOf('lora.uploading', { name: one.name });
    try {
      const stored = await upload(one);
      reading.textContent = textOf('lora.reading', { name: one.name });
      isReading = true;
      press({ do: 'upload', file: stored.path, name: one.name, add: adding || files.length > 1 });
    } catch (error) {
      reading.textContent = textOf('lora.upload_failed', { name: one.name });
      window.wanUi.held.drop();
      break;
    }
  }
  sending -= 1;
  window.wanUi.held.look();
};
file.addEventListener('change', () => {
  send([...file.files]);
  file.value = ''; // so that the same file may be chosen again
});
const isLora = (event) => {
  const held = event.dataTransfer ? [...event.dataTransfer.items] : [];
  // While a file is over the page the browser names its type alone, and safetensors has none.
  return held.some((item) => item.kind === 'file' && !item.type);
};
document.addEventListener('dragover', (event) => {
  const over = isLora(event) && element.isConnected && element.offsetParent !== null && !event.target.closest('.trainer-form');
  drop.classList.toggle('over', over);
  if (over) event.preventDefault();
});
document.addEventListener('dragleave', (event) => { if (!event.relatedTarget) drop.classList.remove('over'); });
document.addEventListener('drop', (event) => {
  drop.classList.remove('over');
  if (!isLora(event) || element.offsetParent === null || event.target.closest('.trainer-form')) return;
  event.preventDefault();
  send([...event.dataTransfer.files]);
});

// The picker

const PAGE = 60;
let asked = 0, query = null;
const step = (entry, group) => {
  const label = !entry.label || entry.label === 'final' ? textOf('lora.final') : entry.label;
  const button = make('button', { type: 'button', class: 'step', 'aria-label': `${group.name} ${label}${entry.slot ? `, ${SLOTS[entry.slot].toLowerCase()}` : ''}`, 'data-source': entry.source }, entry.slot ? `${label} ${textOf(`lora.short_${entry.slot}`)}` : label);
  button.addEventListener('click', () => choose(entry.source));
  return button;
};
// Thumbnails: the newest video of the gallery that a training job's LoRA made, asked for when the picker opens.
const NEWEST = 100; // entries of the gallery that are looked through
const FILM = '<svg class="i" viewBox="0 0 16 16" aria-hidden="true"><rect x="2.5" y="3.5" width="11" height="9" rx="1"/><path d="M5.5 3.5v9M10.5 3.5v9M2.5 8h11"/></svg>';
let posters = new Map(); // by the training job's name
const thumbnail = (group) => {
  const box = make('span', { class: 'thumb', 'data-name': group.job || group.name });
  box.innerHTML = FILM;
  return box;
};
const showPosters = () => {
  const boxes = [...list.querySelectorAll('.thumb')];
  const names = boxes.map((box) => box.dataset.name);
  for (const box of boxes) {
    const { name } = box.dataset, poster = posters.get(name);
    // Of two training jobs with the same name nobody knows which one made the video.
    const isOne = names.indexOf(name) === names.lastIndexOf(name);
    if (poster && isOne && !box.querySelector('img')) box.append(make('img', { src: poster, alt: '', loading: 'lazy', decoding: 'async' }));
    else if (!isOne) box.querySelectorAll('img').forEach((image) => image.remove());
  }
};
const askPosters = async () => {
  try {
    const { entries } = await callApi(`gallery?limit=${NEWEST}`);
    posters = new Map();
    for (const entry of entries) {
      // A comparison's last video has the highest strength.
      const query = entry.kind === 'comparison' && entry.made === entry.videos ? `?video=${entry.videos - 1}` : '';
      for (const { name } of entry.loras.map((item) => loraParts(item.name))) {
        if (!posters.has(name)) posters.set(name, `v1/${entry.poster_url}${query}`);
      }
    }
    showPosters();
  } catch (error) {
    part('foot').textContent = reasonOf(error);
  }
};
const groupRow = (group) => {
  const meta = [group.type, group.rank && `rank ${group.rank}`, group.trigger_word && textOf('lora.trigger', { word: group.trigger_word })].filter(Boolean).join(' · ');
  const name = make('div', { class: 'grow' }, make('b', {}, group.name), make('span', { class: 'meta' }, [group.folder, meta].filter(Boolean).join(' · ')));
  return make('div', { class: `job${group.fits ? '' : ' no'}` }, thumbnail(group), name, make('div', { class: 'steps' }, ...group.files.map((entry) => step(entry, group))));
};
const uploads = () => {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  return (props.value.uploads || []).filter((item) => words.every((word) => item.name.toLowerCase().includes(word)));
};
const heading = (text) => make('h3', {}, text);
const show = (answer, more) => {
  const parts = [];
  if (!more) {
    const mine = uploads();
    if (mine.length) parts.push(heading(textOf('lora.yours')), ...mine.map((item) => groupRow({ name: item.name, job: loraParts(item.name).name, folder: '', fits: true, files: [{ source: item.source, label: textOf('lora.choose') }] })));
  }
  let before = more ? list.dataset.fits : null;
  for (const group of answer.groups) {
    const fits = group.fits ? 'yes' : 'no';
    if (fits !== before) parts.push(heading(textOf(fits === 'yes' ? 'lora.for_this' : 'lora.for_others')));
    before = fits;
    parts.push(groupRow(group));
  }
  list.dataset.fits = before || '';
  if (more) list.append(...parts); else list.replaceChildren(...parts);
  showPosters();
  part('count').textContent = textOf('lora.files', { count: answer.files });
  const shown = list.querySelectorAll('.job').length;
  part('foot').textContent = !shown ? textOf('lora.none') : answer.left ? textOf('lora.more', { number: answer.left }) : '';
  query.left = answer.left;
};
const ask = async (more = false) => {
  const turn = ++asked;
  const offset = more && query ? query.offset + PAGE : 0;
  query = { offset, left: 0 };
  list.setAttribute('aria-busy', 'true');
  const wanted = new URLSearchParams({ search: search.value, model: document.documentElement.dataset.model, offset: String(offset), limit: String(PAGE) });
  try {
    const answer = await callApi(`loras?${wanted}`);
    if (turn === asked) show(answer, more);
  } catch (error) {
    if (turn === asked) part('foot').textContent = error instanceof TypeError ? textOf('server.gone') : textOf('lora.unreadable');
  } finally {
    if (turn === asked) list.setAttribute('aria-busy', 'false');
  }
};
const open = (add) => {
  adding = add;
  search.value = '';
  list.replaceChildren();
  picker.showModal();
  search.focus();
  ask();
  askPosters();
};
const choose = (source) => {
  picker.close();
  press({ do: 'choose', source, add: adding, slot: wantedSlot });
  adding = false;
};
let typing = null;
search.addEventListener('input', () => {
  window.clearTimeout(typing);
  typing = window.setTimeout(ask, 120);
});
search.addEventListener('keydown', (event) => {
  if (event.key !== 'ArrowDown' && event.key !== 'Enter') return;
  event.preventDefault();
  const first = list.querySelector('.step');
  if (first) { if (event.key === 'Enter') first.click(); else first.focus(); }
});
list.addEventListener('keydown', (event) => {
  const all = [...list.querySelectorAll('.step')], at = all.indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1 }[event.key];
  if (at < 0 || to === undefined) return;
  event.preventDefault();
  if (to < 0) search.focus(); else if (all[to]) all[to].focus();
});
list.addEventListener('scroll', () => {
  if (query && query.left && list.getAttribute('aria-busy') === 'false' && list.scrollTop + list.clientHeight > list.scrollHeight - 200) ask(true);
});
part('address').addEventListener('submit', (event) => {
  event.preventDefault();
  const input = part('address').querySelector('input');
  if (input.value.trim()) choose(input.value.trim());
  input.value = '';
});
picker.addEventListener('click', (event) => { if (event.target === picker) picker.close(); });

element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (!button) return;
  const { do: what } = button.dataset;
  if (what === 'browse') open('add' in button.dataset);
  else if (what === 'close') picker.close();
  else if (what === 'upload') { if (picker.open) picker.close(); file.click(); }
  else {
    if (what === 'fetch') {
      button.disabled = true;
      button.textContent = textOf('lora.downloading');
    }
    press({ ...button.dataset });
  }
});
draw();
