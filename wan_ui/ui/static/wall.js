// The wall of a training job: each sample beside the newest render of it here. The renders come from /v1/jobs/ID/renders,
// when the wall is drawn and when jobs change; each pair is compared with its sample once it has been in view.
const renders = new Map(); // by step and sample
const checklists = new Map(); // promises of the checklist of a finished render, by its video
const keyOf = (pair) => `${pair.dataset.step} ${pair.dataset.sample}`;
const checked = (render) => {
  const path = `requests/${render.request_id}/checklist?video=${render.video}`;
  if (!checklists.has(path)) {
    const answer = callApi(path);
    answer.catch(() => checklists.delete(path));
    checklists.set(path, answer);
  }
  return checklists.get(path);
};
const decibels = ({ mean_psnr: psnr }) => make('span', { class: `psnr ${nearness(psnr)}` }, `${psnr.toFixed(1)} dB`);
const mark = async (pair, render) => {
  const { comparison } = await checked(render);
  const own = pair.querySelector('.own');
  if (comparison && own.dataset.of === `${render.request_id} ${render.video} yes` && !own.querySelector('.psnr')) own.append(decibels(comparison));
};
const inView = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const render = renders.get(keyOf(target));
    if (!isIntersecting || !render || !render.url) continue;
    inView.unobserve(target);
    mark(target, render).catch(() => {});
  }
});

// The right half of a pair: the button that reproduces it, until there is a render to show.
const draw = (pair) => {
  const own = pair.querySelector('.own');
  const render = renders.get(keyOf(pair));
  if (!own || !render) return;
  const state = `${render.request_id} ${render.video} ${render.url ? 'yes' : render.status}`;
  if (own.dataset.of === state) return;
  own.dataset.of = state;
  own.dataset.do = render.url ? 'enlarge' : 'wait';
  own.classList.remove('again');
  const name = pair.querySelector('.theirs').dataset.name;
  if (render.url) {
    own.setAttribute('aria-label', `${textOf('wall.own')}: ${name}`);
    // The first frame, as in the sample's thumbnail.
    const source = `v1/requests/${render.request_id}/videos/${render.video}#t=0.001`;
    const film = make('video', { src: source, loop: '', playsinline: '', preload: 'metadata', 'aria-hidden': 'true', tabindex: '-1' });
    film.muted = true;
    own.replaceChildren(film);
    inView.observe(pair);
  } else {
    own.removeAttribute('aria-label');
    own.replaceChildren(make('span', {}, textOf(render.status === 'in_progress' ? 'wall.running' : 'wall.waiting')));
  }
};
const job = () => element.querySelector('.wall')?.dataset.job;
let asked = 0;
const look = async () => {
  const of = job(), turn = ++asked;
  if (!of || document.hidden) return;
  try {
    const answer = await callApi(`jobs/${of}/renders`);
    if (turn !== asked || of !== job()) return;
    renders.clear();
    for (const render of answer.renders) renders.set(`${render.step} ${render.sample}`, render);
    for (const pair of element.querySelectorAll('.pair')) draw(pair);
  } catch (error) {
    // The notice of a lost connection says so.
  }
};
const showPictures = (pictures) => {
  if (document.hidden || !element.offsetParent) return;
  for (const pair of element.querySelectorAll('.pair')) {
    const render = renders.get(keyOf(pair));
    const picture = render && !render.url && pictures[render.request_id];
    if (!picture || picture.video !== render.video) continue;
    const own = pair.querySelector('.own');
    const image = own.querySelector('img') || make('img', { alt: textOf('wall.running') });
    image.src = `v1/requests/${render.request_id}/live.webp?video=${picture.video}&number=${picture.number}`;
    if (!image.isConnected) own.replaceChildren(image);
  }
};

// A pair enlarged: both play from the start, with what differs beside them.
const enlarge = (pair, opener) => {
  const theirs = pair.querySelector('.theirs'), again = pair.querySelector('[data-do="render"]');
  const render = renders.get(keyOf(pair));
  const name = theirs.dataset.name;
  const close = makeButton({}, () => dialog.close(), textOf('wall.close'));
  const acts = make('p', {}, close);
  const films = make('div', { class: 'films' });
  const film = (title, media) => films.append(make('figure', {}, media, make('figcaption', {}, title)));
  const report = make('div', { class: 'report', role: 'status' });
  const dialog = make('dialog', { class: 'sample-large', 'aria-label': name }, films, report, acts);
  const leave = (press) => () => { dialog.close(); press(); };
  if (render && render.url) {
    const base = `v1/requests/${render.request_id}`;
    const video = (source) => make('video', { src: source, muted: '', loop: '', playsinline: '', preload: 'auto' });
    const pairOf = [video(`${base}/preview.mp4?video=${render.video}`), video(`${base}/videos/${render.video}`)];
    film(textOf('wall.theirs'), pairOf[0]);
    film(textOf('wall.own'), pairOf[1]);
    for (const one of pairOf) one.muted = true;
    const play = () => { for (const one of pairOf) { one.currentTime = 0; one.play().catch(() => {}); } };
    if (reducedMotion.matches) for (const one of pairOf) one.controls = true;
    else for (const one of pairOf) one.addEventListener('canplay', () => { if (pairOf.every((each) => each.readyState > 2)) play(); }, { once: true });
    report.append(make('p', {}, textOf('wall.checking')));
    checked(render).then(({ rows, comparison }) => {
      const wrong = rows.filter((row) => row.state !== 'green');
      const red = wrong.filter((row) => row.state === 'red').length;
      const head = make('p', { class: 'sum' }, red ? textOf('wall.differ', { count: red }) : textOf('wall.all_match'));
      if (comparison) head.append(' ', decibels(comparison));
      report.replaceChildren(head, make('ul', {}, ...wrong.map((row) => make('li', { class: row.state }, translated(row.message)))));
      const listed = document.querySelector(`.jobs button.show[data-job="${render.request_id}"]`);
      if (red && listed) close.before(makeButton({ class: 'first' }, leave(() => {
        document.querySelector('#top [role="tab"]').click();
        listed.click();
      }), textOf('wall.fix')));
    }).catch(() => report.replaceChildren(make('p', {}, textOf('wall.failed'))));
  } else {
    film(textOf('wall.theirs'), make('img', { src: theirs.dataset.film, alt: name }));
  }
  if (again) close.before(makeButton({ class: 'first' }, leave(() => again.click()), textOf('wall.reproduce')));
  if (pair.querySelector('.own')) {
    const { step, sample } = pair.dataset;
    close.before(makeButton({}, leave(() => {
      trigger('click', { pressed: { do: 'reproduce', step, sample } });
      window.scrollTo({ top: 0 });
    }), textOf('wall.open_form')));
  }
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener('close', () => { dialog.remove(); opener.focus(); });
  showDialog(dialog);
  close.focus();
};

element.addEventListener('click', (event) => {
  const pressed = event.target.closest('button[data-do]');
  if (!pressed) return;
  const pair = pressed.closest('.pair');
  if (pressed.dataset.do === 'enlarge') enlarge(pair, pressed);
  else if (pressed.dataset.do === 'render') {
    pressed.replaceChildren(make('span', {}, textOf('wall.waiting')));
    trigger('click', { pressed: { ...pressed.dataset } });
  }
});
// Both halves move while the pair is pointed at.
const moves = (event, still) => {
  const pair = event.target.closest && event.target.closest('.pair');
  if (!pair || (still && pair.contains(event.relatedTarget))) return;
  const button = pair.querySelector('.theirs'), image = button.querySelector('img'), film = pair.querySelector('.own video');
  if (!image.dataset.still) image.dataset.still = image.getAttribute('src');
  const wanted = still ? image.dataset.still : button.dataset.film;
  if (image.getAttribute('src') !== wanted) image.setAttribute('src', wanted);
  if (!film) return;
  if (!still) film.play().catch(() => {});
  else film.pause();
  if (still) film.currentTime = 0.001;
};
for (const name of ['pointerover', 'focusin']) element.addEventListener(name, (event) => moves(event, false));
for (const name of ['pointerout', 'focusout']) element.addEventListener(name, (event) => moves(event, true));

// Gradio draws the wall of another job into the same element.
new MutationObserver((changes) => {
  if (changes.some((change) => [...change.addedNodes].some((node) => node instanceof Element && (node.matches('.wall') || node.querySelector('.wall'))))) look();
}).observe(element, { childList: true, subtree: true });
document.addEventListener('visibilitychange', look);
window.wanUi.events.on('jobs', look);
window.wanUi.events.on('pictures', showPictures);
look();
