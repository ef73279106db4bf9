// The player of a comparison: cells are kept by key, so that a poll never reloads a playing video; the first of the
// longest videos is the master, and every other one is led to its time.
const root = element.querySelector('.player');
const part = (name) => root.querySelector(`[data-part="${name}"]`);
const board = part('board'), bar = part('bar'), stage = part('stage'), canvas = part('canvas'), pop = part('pop');
const scrub = part('scrub'), count = part('count'), playButton = part('play'), links = part('links');
const cells = new Map();
const DRIFT = 1.5; // frames; more than that is led back by a seek, less by the playing speed
let shape = '', playing = false, rate = 1, loop = true, at = 0, opened = '', popped = null, asked = 0;
// Whether a person has chosen a frame or to play, and whether it is to play: by itself unless motion is unwanted.
let touched = false, shouldPlay = !reducedMotion.matches;
let page = 0; // of the third axis: only its cells are made, so that no video of another page is loaded
let mode = 'one', first = null, second = null, wipe = 0.5, gain = 4;

const clips = () => [...cells.values()].filter((cell) => cell.video && cell.video.readyState >= 1);
const length = (cell) => cell.data.frames / cell.data.fps;
const master = () => clips().reduce((best, cell) => (best && length(best) >= length(cell) - 1e-6 ? best : cell), null);
const lastFrame = () => { const lead = master(); return lead ? lead.data.frames - 1 : 0; };
const timeOf = (cell, frame) => timeOfFrame(frame, cell.data.frames, cell.data.fps);
const frameOf = (cell, time) => frameAtTime(time, cell.data.frames, cell.data.fps);

// Time

const show = (frame) => {
  at = frame;
  const last = lastFrame();
  if (scrub.max !== String(last)) scrub.max = last;
  if (scrub.value !== String(frame)) scrub.value = frame;
  scrub.setAttribute('aria-valuetext', textOf('player.frame_of', { frame: frame + 1, frames: last + 1 }));
  const text = `${frame + 1} / ${last + 1}`;
  if (count.textContent !== text) count.textContent = text;
  const notes = (props.value && props.value.notes) || [], note = notes[Math.min(frame, notes.length - 1)] || '';
  part('note').hidden = !note;
  if (part('note').textContent !== note) part('note').textContent = note;
};
const lead = (cell, time) => {
  if (Math.abs(cell.video.currentTime - time) > 1e-4) { cell.soughtAt = performance.now(); cell.video.currentTime = time; }
};
const toFrame = (frame) => {
  const wanted = Math.max(0, Math.min(lastFrame(), Math.round(frame)));
  for (const cell of clips()) lead(cell, timeOf(cell, wanted));
  show(wanted);
};
const settle = () => {
  const longest = master();
  for (const cell of clips()) {
    // A shorter clip holds its last frame until the longest begins again.
    cell.video.loop = loop && length(cell) >= length(longest) - 0.5 / cell.data.fps;
    cell.video.playbackRate = rate;
  }
  const any = Boolean(longest);
  for (const control of bar.querySelectorAll('button, input, select')) control.disabled = !any;
  if (any) show(Math.min(at, lastFrame()));
};
const pause = () => {
  if (playing) {
    playing = false;
    for (const cell of clips()) { cell.video.pause(); cell.video.playbackRate = rate; }
    const one = master();
    if (one) toFrame(frameOf(one, one.video.currentTime));
  }
  playButton.setAttribute('aria-label', textOf('player.play'));
  root.dataset.playing = 'no';
};
const play = () => {
  if (!master()) return;
  if (at >= lastFrame() && lastFrame() > 0) toFrame(0);
  playing = true;
  settle();
  for (const cell of clips()) cell.video.play().catch(() => {});
  playButton.setAttribute('aria-label', textOf('player.pause'));
  root.dataset.playing = 'yes';
  requestAnimationFrame(tick);
};
const taken = (plays) => { touched = true; shouldPlay = plays; };
// Plays once two cells are there, or the only one. Reduced motion gets the middle frame: in image-to-video the first
// one is the same in all cells.
const autoplay = () => {
  const enough = clips().length >= Math.min(2, cells.size);
  if (shouldPlay && !playing && enough && root.offsetParent !== null) play();
  else if (!shouldPlay && !touched) toFrame(Math.floor(lastFrame() / 2));
};
const step = (by) => { taken(false); pause(); toFrame(at + by); };

const follow = (cell, leader) => {
  const { video } = cell, longest = length(leader), now = leader.video.currentTime, end = length(cell);
  const shorter = !video.loop && loop;
  if (shorter && now >= end - 0.5 / cell.data.fps) return;
  if (video.ended || video.paused) {
    if (!leader.video.ended) { lead(cell, now); video.play().catch(() => {}); }
    return;
  }
  const drift = video.loop ? loopedDrift(video.currentTime, now, longest) : video.currentTime - now;
  const frames = Math.abs(drift) * cell.data.fps;
  if (frames > DRIFT) {
    // Aims at where the master will be once the seek has ended, which is what the last one took.
    if (!video.seeking && performance.now() - (cell.soughtAt || 0) > 250) {
      const aim = now + Math.min(0.15, (cell.seekTook || 30) / 1000) * rate;
      lead(cell, video.loop ? aim % longest : Math.min(aim, end - 0.5 / cell.data.fps));
    }
  } else {
    const wanted = frames > 0.2 ? rate * (1 - Math.max(-0.1, Math.min(0.1, drift * 2))) : rate;
    if (Math.abs(video.playbackRate - wanted) > 0.005) video.playbackRate = wanted;
  }
};
const tick = () => {
  if (!playing) return;
  const leader = master();
  if (!leader || root.offsetParent === null || !root.isConnected) { pause(); return; }
  if (leader.video.ended) { taken(false); pause(); toFrame(lastFrame()); return; }
  if (leader.video.paused) leader.video.play().catch(() => {});
  for (const cell of clips()) if (cell !== leader) follow(cell, leader);
  show(frameOf(leader, leader.video.currentTime));
  draw();
  requestAnimationFrame(tick);
};

// Cells

const name = (data) => data.label;
const fill = (cell) => {
  const { data, node } = cell;
  node.dataset.state = data.state;
  const figure = make('figure', { class: 'cell' });
  const ratio = `aspect-ratio: ${data.width} / ${data.height}`;
  cell.video = cell.picture = null;
  if (data.state === 'done') {
    const video = make('video', {
      src: data.url, muted: '', playsinline: '', preload: 'auto', tabindex: '-1', disablepictureinpicture: '',
      'aria-label': name(data),
    });
    video.muted = true;
    if (data.poster) video.poster = data.poster;
    const badge = make('span', { class: 'badge', 'aria-hidden': 'true' });
    const open = makeButton({ class: 'screen', style: ratio, 'aria-label': textOf('player.enlarge', { name: name(data) }) }, () => choose(cell.key), video, badge);
    video.addEventListener('loadedmetadata', () => {
      settle();
      const leader = master();
      if (leader !== cell && playing) { lead(cell, leader.video.currentTime); video.play().catch(() => {}); }
      else lead(cell, timeOf(cell, at));
      autoplay();
    });
    video.addEventListener('seeked', () => { cell.seekTook = performance.now() - (cell.soughtAt || 0); draw(); });
    video.addEventListener('loadeddata', draw);
    video.addEventListener('error', () => { figure.querySelector('figcaption span').textContent = textOf('player.file_missing'); });
    const info = makeButton({ class: 'info', 'aria-label': textOf('player.settings_of', { name: name(data) }), 'aria-expanded': 'false' },
      () => (popped === cell ? unpop() : popOver(cell, info)), 'i');
    const caption = make('figcaption', { class: data.brief ? '' : 'bare' }, make('span', {}, data.brief), info);
    info.addEventListener('focus', () => popOver(cell, info));
    caption.addEventListener('pointerenter', (event) => { if (event.pointerType === 'mouse') popOver(cell, info); });
    caption.addEventListener('pointerleave', leavePop);
    figure.append(open, caption);
    cell.video = video;
    cell.info = info;
    open.addEventListener('keydown', (event) => onCellKey(cell, event));
  } else {
    const screen = make('div', { class: 'screen', style: ratio });
    if (data.state === 'running') {
      screen.append(make('strong', {}, textOf('player.starting')), make('progress', { 'aria-label': textOf('player.progress_of', { name: name(data) }) }), make('span', {}, ' '));
    } else if (data.state === 'failed') {
      screen.append(make('strong', {}, textOf('state.failed')), make('span', { class: 'reason', title: data.error }, data.error));
    } else screen.append(make('span', {}, textOf(`player.${data.state}`)));
    figure.append(screen, ...(data.brief ? [make('figcaption', {}, make('span', {}, data.brief))] : []));
  }
  node.replaceChildren(figure);
  judging.adorn(cell);
};
// Within the grid S and X mark the focused cell, and the arrows go to the cell beside it.
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const onCellKey = (cell, event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const way = STEPS[event.key];
  if (way) {
    for (let at = [cell.data.column + way[0], cell.data.row + way[1]], tries = 0; tries < 64; tries += 1) {
      const next = cells.get(at.join(','));
      if (next && next.video && next.node.offsetParent) { next.node.querySelector('button.screen').focus(); break; }
      at = [at[0] + way[0], at[1] + way[1]];
    }
  } else if (!judging.key(cell, event.key)) return;
  event.preventDefault();
  event.stopPropagation();
};
const rebuild = (value) => {
  cells.clear();
  const table = make('table', { 'aria-label': textOf('player.the_comparison') });
  const heads = value.rows.some(Boolean);
  table.style.setProperty('--columns', value.columns.length);
  table.style.setProperty('--rows', value.rows.length);
  table.classList.toggle('heads', heads);
  const short = heads && value.columns.some(Boolean) ? value : { column_heads: value.columns, row_heads: value.row_heads || value.rows };
  if (value.columns.some(Boolean)) {
    const titles = [value.column_title && `${value.column_title} →`, value.row_title && `${value.row_title} ↓`].filter(Boolean);
    const line = make('tr', {}, ...(heads ? [make('td', { class: 'corner' }, ...titles.map((text) => make('span', {}, text)))] : []));
    value.columns.forEach((text, x) => line.append(make('th', { scope: 'col', title: text, 'data-column': x, class: x === value.baseline ? 'frozen' : '' },
      make('span', {}, (short.column_heads || value.columns)[x]))));
    table.append(make('thead', {}, line));
  }
  const body = make('tbody');
  value.rows.forEach((text, y) => {
    const line = make('tr', { 'data-row': y }, ...(heads ? [make('th', { scope: 'row', title: text }, make('span', {}, (short.row_heads || value.rows)[y]))] : []));
    value.columns.forEach((_, x) => {
      if (x !== value.baseline) line.append(make('td', { 'data-key': `${x},${y}`, 'data-column': x }));
      // The same video for every row: shown once, and in view however far the others are scrolled.
      else if (y === 0) line.append(make('td', { 'data-key': `${x},0`, 'data-column': x, class: 'frozen', rowspan: value.rows.length }));
    });
    body.append(line);
  });
  table.append(body);
  board.replaceChildren(table);
  fit();
};

// The size of the cells: as large as lets the whole grid be seen, or as it was chosen.

const SMALLEST = 96, LARGEST = 460; // CSS pixels
const size = part('size');
let chosenSize = 0;
const touch = window.matchMedia('(pointer: coarse)'), MARKS_HEIGHT = 48; // of the buttons that stand below a cell on touch
const WIDE = 1100; // CSS pixels of the player from which the enlarged cell stands beside the grid
const fit = () => {
  const value = props.value, table = board.querySelector('table');
  root.classList.toggle('beside', !stage.hidden && root.clientWidth >= WIDE);
  if (!value || !table || !root.offsetParent) return;
  const head = table.classList.contains('heads') ? (root.clientWidth < 520 ? 84 : 124) : 0;
  const first = value.cells[0], ratio = first ? first.width / first.height : 1;
  const room = root.classList.contains('beside') ? root.clientWidth * 0.6 : root.clientWidth;
  const wide = (room - 2 - head) / value.columns.length - 12;
  const below = touch.matches && judged() ? MARKS_HEIGHT : 0;
  const high = (window.innerHeight * 0.74 / value.rows.length - 14 - below) * ratio;
  const fitting = Math.max(SMALLEST, Math.min(LARGEST, wide, high));
  table.style.setProperty('--cell', `${Math.floor(chosenSize || fitting)}px`);
  if (!chosenSize) size.value = fitting;
};
size.addEventListener('input', () => { chosenSize = Number(size.value); fit(); });
part('fit').addEventListener('click', () => { chosenSize = 0; fit(); });
new ResizeObserver(() => fit()).observe(root);

// The pages of the third axis, one at a time: a list of tabs over the grid.
const pages = part('pages');
const drawPages = (value) => {
  const labels = value.pages || [''];
  pages.hidden = labels.length < 2;
  const title = value.page_title ? [make('span', { class: 'title', 'aria-hidden': 'true' }, value.page_title)] : [];
  pages.replaceChildren(...title, ...(pages.hidden ? [] : labels.map((text, number) => {
    const attributes = { role: 'tab', 'aria-label': text };
    return makeButton(attributes, () => turnTo(number), value.page_heads[number]);
  })));
  markPage();
};
const tabs = () => [...pages.querySelectorAll('[role="tab"]')];
const markPage = () => tabs().forEach((tab, number) => {
  tab.setAttribute('aria-selected', String(number === page));
  tab.tabIndex = number === page ? 0 : -1;
});
const turnTo = (number) => {
  if (number === page) return;
  const plays = shouldPlay;
  pause();
  unpop();
  closeStage();
  page = number;
  shouldPlay = plays;
  markPage();
  rebuild(props.value);
  refresh();
};
pages.addEventListener('keydown', (event) => {
  const all = tabs(), to = indexAfterKey(event.key, all.indexOf(event.target), all.length);
  event.stopPropagation();
  if (to === null) return;
  event.preventDefault();
  turnTo(to);
  tabs()[page].focus();
});
const isOnPage = (data) => (data.page || 0) === page;

const fillCells = (value) => {
  for (const data of value.cells.filter(isOnPage)) {
    if (data.column === value.baseline && data.row > 0) continue;
    const key = `${data.column},${data.row}`;
    const known = cells.get(key), text = JSON.stringify(data);
    if (known && known.text === text) continue;
    const cell = { key, text, data, node: board.querySelector(`[data-key="${key}"]`), video: null };
    cells.set(key, cell);
    fill(cell);
  }
};
const refresh = () => {
  const value = props.value;
  root.dataset.state = value ? 'filled' : 'empty';
  if (!value) return;
  const wanted = JSON.stringify([value.id, value.columns, value.rows, value.pages]);
  if (wanted !== shape) {
    pause();
    unpop();
    closeStage();
    shape = wanted;
    at = 0;
    touched = false;
    shouldPlay = !reducedMotion.matches;
    page = 0;
    drawPages(value);
    rebuild(value);
  }
  fillCells(value);
  const made = value.cells.some((data) => data.state === 'done');
  links.hidden = !made || Boolean(value.plain || value.pair);
  root.dataset.plain = value.plain ? 'yes' : 'no';
  part('picks').hidden = !judged();
  part('tools').hidden = Boolean(value.plain);
  part('share').hidden = !value.share;
  part('shared').hidden = !value.shared;
  if (value.shared) part('shared').replaceChildren(...(value.prompt ? [make('p', { class: 'words' }, value.prompt)] : []), facts({ facts: value.shared }));
  if (made) {
    part('grid').href = `v1/requests/${value.id}/grid.mp4${pages.hidden ? '' : `?page=${page}`}`;
    part('zip').href = `v1/requests/${value.id}/cells.zip`;
    part('sheet').href = `v1/requests/${value.id}/sheet.png?frame=0`;
  }
  part('link').href = `?compare=${value.id}`;
  settle();
  options();
  advance();
  if (judged()) judging.follow(value.id);
};
const advance = () => {
  const now = props.progress || {};
  for (const cell of cells.values()) {
    if (cell.data.state !== 'running') continue;
    const screen = cell.node.querySelector('.screen'), [head, meter, text] = screen.children;
    screen.classList.toggle('counted', Boolean(now.text));
    head.textContent = now.head || textOf('player.starting');
    text.textContent = now.text || '\u00a0';
    if (now.max) { meter.max = now.max; meter.value = now.value; } else meter.removeAttribute('value');
  }
  showPicture();
};

// The live picture of the running cell; a new one replaces the one before once it is there.
let pictures = {};
const showPicture = () => {
  const picture = props.value && pictures[props.value.id];
  if (!picture || document.hidden || root.offsetParent === null) return;
  const source = `v1/requests/${props.value.id}/live.webp?video=${picture.video}&number=${picture.number}`;
  for (const cell of cells.values()) {
    if (cell.data.state !== 'running' || cell.data.video !== picture.video || cell.picture === source) continue;
    cell.picture = source;
    const screen = cell.node.querySelector('.screen'), image = screen.querySelector('img') || make('img', { alt: '' });
    const next = new Image();
    next.onload = () => { image.src = source; screen.append(image); screen.classList.add('live'); };
    next.src = source;
  }
};
window.wanUi.events.on('pictures', (latest) => { pictures = latest; showPicture(); });

// A cell's settings

const facts = (data) => {
  const list = make('dl', { class: 'used' });
  for (const [term, text] of data.facts) list.append(make('div', {}, make('dt', {}, term), make('dd', {}, text)));
  return list;
};
const use = (data) => {
  if (props.value.plain) return [];
  const attributes = { class: 'small', 'aria-label': textOf('player.use_which', { name: name(data) }) };
  return [makeButton(attributes, () => { unpop(); load(data); }, textOf('player.use'))];
};
const load = (data) => trigger('click', { page: data.page || 0, column: data.column, row: data.row, job: data.job || props.value.id, video: data.video });
const judged = () => Boolean(props.value && props.value.judged);
const judging = window.wanUi.judging({ root, cells, judged, use: load, all: () => (props.value ? props.value.cells : []) });
// Asked for when it is opened: the server compares frame by frame.
const check = (data) => {
  if (!data.check) return [];
  const summary = make('p', { class: 'quiet', role: 'status' }), list = make('ul', { class: 'cell-checks' });
  const box = make('details', { class: 'cell-check' }, make('summary', {}, textOf('player.against_sample')), summary, list);
  box.addEventListener('toggle', async () => {
    if (!box.open || summary.textContent) return;
    summary.textContent = textOf('player.comparing');
    try {
      const reply = await fetch(data.check), answer = await reply.json();
      if (!reply.ok) throw new Error(translated(answer.detail.error.message));
      const count = (state) => { const number = answer.rows.filter((row) => row.state === state).length; return number ? textOf(`player.checks_${state}`, { number }) : ''; };
      const psnr = answer.comparison ? `PSNR ${answer.comparison.mean_psnr.toFixed(1)} dB` : '';
      summary.textContent = [count('red'), count('amber'), count('green'), psnr].filter(Boolean).join(' · ');
      for (const state of ['red', 'amber'])
        for (const row of answer.rows) if (row.state === state) list.append(make('li', { 'data-state': state }, translated(row.message)));
    } catch (error) {
      summary.textContent = error.message;
    }
    placePop();
  });
  return [box];
};
let leaving = 0;
const unpop = () => {
  clearTimeout(leaving);
  if (popped && popped.info) popped.info.setAttribute('aria-expanded', 'false');
  popped = null;
  pop.hidden = true;
};
const inUse = () => pop.matches(':hover, :focus-within')
  || (popped && (popped.info.matches(':focus-visible') || popped.info.closest('figcaption').matches(':hover')));
const leavePop = () => {
  clearTimeout(leaving);
  leaving = setTimeout(() => { if (!inUse()) unpop(); }, 220);
};
const popOver = (cell, anchor) => {
  clearTimeout(leaving);
  if (popped === cell) return;
  unpop();
  popped = cell;
  anchor.setAttribute('aria-expanded', 'true');
  pop.replaceChildren(make('p', { class: 'title' }, name(cell.data)), facts(cell.data), ...check(cell.data), ...use(cell.data));
  pop.hidden = false;
  placePop();
};
const placePop = () => {
  if (!popped) return;
  const anchor = popped.info;
  const host = root.getBoundingClientRect(), box = anchor.closest('td').getBoundingClientRect();
  const left = Math.max(0, Math.min(box.right - host.left - pop.offsetWidth, host.width - pop.offsetWidth));
  const below = box.bottom - host.top + 4;
  const fits = box.bottom + pop.offsetHeight + 8 < window.innerHeight;
  pop.style.left = `${left}px`;
  pop.style.top = `${fits ? below - 8 : Math.max(0, box.bottom - host.top - 36 - pop.offsetHeight)}px`;
};
pop.addEventListener('pointerleave', leavePop);
root.addEventListener('focusout', leavePop);
board.addEventListener('scroll', placePop, { passive: true });

// The stage: one cell large, two under a wipe, or how they differ

const done = () => [...cells.values()].filter((cell) => cell.video);
const options = () => {
  for (const [select, chosen] of [[part('first'), first], [part('second'), second]]) {
    const wanted = done().map((cell) => [cell.key, name(cell.data)]);
    const known = [...select.options].map((option) => [option.value, option.textContent]);
    if (JSON.stringify(known) !== JSON.stringify(wanted)) {
      select.replaceChildren(...wanted.map(([key, text]) => make('option', { value: key }, text)));
    }
    if (chosen) select.value = chosen;
  }
  part('wipe').disabled = part('difference').disabled = done().length < 2;
};
const mark = () => {
  for (const cell of cells.values()) {
    const badge = cell.node.querySelector('.badge');
    const letter = stage.hidden ? '' : cell.key === first ? 'A' : mode !== 'one' && cell.key === second ? 'B' : '';
    cell.node.dataset.chosen = letter;
    if (badge) badge.textContent = mode === 'one' ? '' : letter;
  }
};
const draw = () => {
  if (stage.hidden) return;
  const a = cells.get(first), b = cells.get(second);
  if (!a || !a.video || a.video.readyState < 2) return;
  const { width, height } = a.data, context = canvas.getContext('2d');
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  context.globalCompositeOperation = 'source-over';
  context.drawImage(a.video, 0, 0, width, height);
  if (mode === 'one' || !b || !b.video || b.video.readyState < 2) return;
  if (mode === 'wipe') {
    const edge = Math.round(width * wipe);
    context.save();
    context.beginPath();
    context.rect(edge, 0, width - edge, height);
    context.clip();
    context.drawImage(b.video, 0, 0, width, height);
    context.restore();
  } else {
    context.globalCompositeOperation = 'difference';
    context.drawImage(b.video, 0, 0, width, height);
    context.globalCompositeOperation = 'lighter';
    for (let times = 1; times < gain; times *= 2) context.drawImage(canvas, 0, 0);
  }
  context.globalCompositeOperation = 'source-over';
};
const arrange = () => {
  const pair = mode !== 'one';
  stage.dataset.mode = mode;
  for (const kind of ['one', 'wipe', 'difference']) part(kind).setAttribute('aria-pressed', String(kind === mode));
  part('second-of').hidden = part('swap').hidden = !pair;
  part('edge').hidden = part('handle').hidden = mode !== 'wipe';
  part('gain-of').hidden = mode !== 'difference';
  part('frame').style.setProperty('--wipe', wipe);
  part('edge').value = Math.round(wipe * 1000);
  const a = cells.get(first), b = cells.get(second);
  const sheets = [[a, 'A'], ...(pair ? [[b, 'B']] : [])].filter(([cell]) => cell);
  part('about').replaceChildren(...sheets.map(([cell, letter]) => make('div', { class: 'side' },
    make('p', { class: 'title' }, ...(pair ? [make('b', {}, letter), ' '] : []), name(cell.data)), facts(cell.data), ...check(cell.data), ...use(cell.data))));
  canvas.setAttribute('aria-label', { one: a && name(a.data), wipe: textOf('player.wipe_sides'), difference: textOf('player.how_differ') }[mode] || '');
  if (a) part('frame').style.setProperty('--ratio', a.data.width / a.data.height);
  options();
  mark();
  draw();
};
const other = () => (done().find((cell) => cell.key !== first) || { key: null }).key;
const choose = (key) => {
  if (stage.hidden || mode === 'one') first = key;
  else if (key !== first) second = key;
  const hidden = stage.hidden;
  stage.hidden = false;
  fit();
  arrange();
  if (hidden) {
    root.scrollIntoView({ behavior: reducedMotion.matches ? 'auto' : 'smooth', block: 'start' });
  }
};
const turn = (kind) => {
  mode = kind;
  if (kind !== 'one' && (!second || second === first || !cells.get(second) || !cells.get(second).video)) second = other();
  arrange();
};
const closeStage = () => {
  if (stage.hidden) return;
  const back = first && cells.get(first);
  stage.hidden = true;
  fit();
  mode = 'one';
  second = null;
  mark();
  if (back && back.node.isConnected && stage.contains(document.activeElement)) back.node.querySelector('button.screen').focus();
};
for (const kind of ['one', 'wipe', 'difference']) part(kind).addEventListener('click', () => turn(kind));
part('close').addEventListener('click', () => {
  const back = first && cells.get(first);
  closeStage();
  if (back) back.node.querySelector('button.screen').focus();
});
part('swap').addEventListener('click', () => { [first, second] = [second, first]; arrange(); });
part('first').addEventListener('change', (event) => { first = event.target.value; if (first === second) second = other(); arrange(); });
part('second').addEventListener('change', (event) => { second = event.target.value; if (first === second) first = (done().find((cell) => cell.key !== second) || {}).key; arrange(); });
part('gain').addEventListener('change', (event) => { gain = Number(event.target.value); draw(); });
const slide = (to) => { wipe = Math.max(0, Math.min(1, to)); part('frame').style.setProperty('--wipe', wipe); part('edge').value = Math.round(wipe * 1000); draw(); };
part('edge').addEventListener('input', (event) => slide(event.target.value / 1000));
const drag = (event) => { const box = canvas.getBoundingClientRect(); slide((event.clientX - box.left) / box.width); };
canvas.addEventListener('pointerdown', (event) => {
  if (mode !== 'wipe') return;
  canvas.setPointerCapture(event.pointerId);
  drag(event);
});
canvas.addEventListener('pointermove', (event) => { if (mode === 'wipe' && canvas.hasPointerCapture(event.pointerId)) drag(event); });

// The bar

const toggle = () => { taken(!playing); if (playing) pause(); else play(); };
playButton.addEventListener('click', toggle);
part('back').addEventListener('click', () => step(-1));
part('forth').addEventListener('click', () => step(1));
// Fast dragging asks for more frames than can be sought: only the newest one of each moment is.
scrub.addEventListener('input', () => {
  taken(false);
  pause();
  show(Number(scrub.value));
  cancelAnimationFrame(asked);
  asked = requestAnimationFrame(() => toFrame(Number(scrub.value)));
});
part('speed').addEventListener('change', (event) => { rate = Number(event.target.value); settle(); });
part('loop').addEventListener('click', () => { loop = !loop; part('loop').setAttribute('aria-pressed', String(loop)); settle(); });
part('sheet').addEventListener('click', () => { part('sheet').href = `v1/requests/${props.value.id}/sheet.png?frame=${at}${pages.hidden ? '' : `&page=${page}`}`; });
part('share').addEventListener('click', () => window.wanUi.share(props.value.share));
part('link').addEventListener('click', (event) => {
  if (!navigator.clipboard) return; // without TLS there is none: the link itself is the address then
  event.preventDefault();
  navigator.clipboard.writeText(event.currentTarget.href).then(
    () => { part('link').textContent = textOf('player.copied'); setTimeout(() => { part('link').textContent = textOf('player.copy'); }, 2000); },
    () => { window.location.assign(part('link').href); },
  );
});
root.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === 'Escape') { if (popped) unpop(); else closeStage(); return; }
  const target = event.target;
  if (target.matches('select, input[type="range"]:not([data-part="scrub"])')) return;
  const onButton = target.matches('button, a, summary');
  if (event.key === ' ' && !onButton) toggle();
  else if (event.key === 'ArrowLeft') step(-1);
  else if (event.key === 'ArrowRight') step(1);
  else if (event.key === 'Home') { taken(false); pause(); toFrame(0); }
  else if (event.key === 'End') { taken(false); pause(); toFrame(lastFrame()); }
  else return;
  event.preventDefault();
});

// A tab that was hidden stops the player; it goes on when it is seen again.
new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) autoplay(); }).observe(root);
for (const name of ['tools', 'picks']) part(name).addEventListener('keydown', (event) => event.stopPropagation());
watch('value', refresh);
watch('progress', advance);
refresh();
