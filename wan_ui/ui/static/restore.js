// A video dropped anywhere on the page, or chosen: its settings by POST /v1/restore, then into the form by an event.
const root = element.querySelector('.restore');
const part = (name) => root.querySelector(`[data-part="${name}"]`);
const box = part('message'), input = part('file');
const TAKES_VIDEOS = '#match .upload, .trainer-form .upload'; // training samples are MP4s too
let current = null, ticket = 0;

// What it says is seen, too.
const state = (name) => {
  root.dataset.state = name;
  root.open = true;
};
const named = (file) => make('b', {}, file.name);
// A sentence with the file's name in it, in bold.
const around = (key, file, more = '') => {
  const [before, after] = textOf(key, { name: '\u0000' }).split('\u0000');
  return [before, named(file), `${more}${after}`];
};
const problem = (message) => {
  state('wrong');
  box.replaceChildren(make('div', {class: 'problem', role: 'alert'}, message));
};
const showBox = () => {
  const { top, bottom } = root.getBoundingClientRect();
  if (top < 0 || bottom > window.innerHeight) root.scrollIntoView({block: 'nearest'});
};
const button = (what, label) => make('button', {type: 'button', class: 'small', 'data-do': what}, label);

const ask = async (file, query) => {
  const body = new FormData();
  body.append('file', file);
  const reply = await fetch(`v1/restore${query}`, {method: 'POST', body}); // relative, for a proxy's path
  const answer = await reply.json();
  if (!reply.ok) throw new Error(translated(answer.detail.error.message));
  return answer;
};
const open = (request, what) => {
  current.ticket = ticket += 1;
  current.opens = what;
  // As text: Gradio takes what holds a `path` for a file of its own.
  trigger('click', {pressed: {do: what === 'frame' ? 'frame' : 'open', request: JSON.stringify(request), ticket}});
};
const take = async (file, query, what) => {
  ticket += 1;
  const mine = ticket;
  state('reading');
  box.replaceChildren(make('p', {class: 'hint'}, ...around('restore.reading', file)));
  showBox();
  try {
    const answer = await ask(file, query);
    if (mine !== ticket) return;
    current = {file, answer};
    open(what === 'comparison' ? answer.comparison : answer.request, what);
  } catch (error) {
    if (mine !== ticket) return;
    const gone = error instanceof TypeError || error instanceof SyntaxError;
    problem(gone ? textOf('restore.no_answer') : error.message);
  }
};
const show = () => {
  const {file, answer, opens} = current;
  state('done');
  const cell = answer.cell ? ` (${answer.cell})` : '';
  const head = opens === 'comparison' || answer.request.compare
    ? around('restore.comparison_of', file) : around('restore.settings_of', file, cell);
  const list = make('ul', {}, ...answer.notes.map((note) => make('li', {}, translated(note))));
  const acts = make('div', {class: 'acts'});
  if (answer.first_frame === 'missing' && !answer.request.compare) acts.append(button('frame', textOf('restore.use_frame')));
  if (answer.comparison && opens !== 'comparison') acts.append(button('comparison', textOf('restore.whole')));
  acts.append(button('form', textOf('restore.show_form')));
  box.replaceChildren(make('p', {class: 'found'}, ...head));
  window.wanUi.toast(box.textContent);
  if (answer.notes.length) box.append(make('p', {class: 'hint'}, textOf('restore.differs')), list);
  box.append(acts);
  showWhileGrowing(showBox, 1500); // the form above takes its values meanwhile
};

watch('value', () => {
  const answer = props.value;
  if (!answer || !current || answer.ticket !== current.ticket) return;
  if (answer.problem) problem(answer.problem);
  else show();
});
input.addEventListener('change', () => {
  const [file] = input.files;
  if (file) take(file, '', 'request');
  input.value = ''; // so that the same file may be chosen again
});
box.addEventListener('click', (event) => {
  const pressed = event.target.closest('button[data-do]');
  if (!pressed || !current) return;
  if (pressed.dataset.do === 'form') document.getElementById('bench').scrollIntoView({block: 'start'});
  else if (pressed.dataset.do === 'comparison') open(current.answer.comparison, 'comparison');
  else take(current.file, '?from_video=true', current.opens === 'comparison' ? 'comparison' : 'frame');
});

// From the empty stage.
document.addEventListener('click', (event) => {
  if (event.target.closest('[data-do="from-video"]')) input.click();
});

// Anywhere on the page, but where another video is asked for.
const carried = (event) => {
  const items = event.dataTransfer ? [...event.dataTransfer.items] : [];
  return items.some((item) => item.kind === 'file' && item.type === 'video/mp4')
    && !(event.target.closest && event.target.closest(TAKES_VIDEOS));
};
const own = (event) => event.target.closest && root.contains(event.target) && event.target.closest('.drop');
const over = (is) => {
  document.body.dataset.drop = textOf('restore.over');
  document.body.classList.toggle('drops-video', is);
};
document.addEventListener('dragover', (event) => {
  const ours = carried(event) || Boolean(own(event));
  over(ours);
  if (!ours) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = 'copy';
}, true);
document.addEventListener('dragleave', (event) => { if (!event.relatedTarget) over(false); }, true);
document.addEventListener('drop', (event) => {
  over(false);
  if (!carried(event) && !own(event)) return;
  event.preventDefault();
  event.stopPropagation();
  const [file] = event.dataTransfer.files;
  if (file) take(file, '', 'request');
}, true);
