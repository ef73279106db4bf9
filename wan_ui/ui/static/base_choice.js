// Which checkpoint files the model is loaded from: asks GET /v1/models/{id}/bases when it comes into view. Where neither
// header nor name tell what a file is, the owner is asked once in a dialog; POST keeps the answer by the file's content.
const choices = element.querySelector('[data-part=choices]'), said = element.querySelector('[data-part=said]');
let model = document.documentElement.dataset.model, listing = null, asked = null;
const OPTIONS = { auto: textOf('base.auto'), folder: textOf('base.folder'), files: textOf('base.files') };
const kind = () => (typeof props.value === 'string' ? props.value : 'files');
const set = (value) => { props.value = value; trigger('input', {}); draw(); };
const files = () => (typeof props.value === 'object' && props.value ? props.value : {});

const radio = (name, label) => {
  const input = make('input', { type: 'radio', name: 'base-choice', value: name });
  input.checked = kind() === name;
  input.addEventListener('change', () => set(name === 'files' ? (listing && listing.auto ? listing.auto.base : {}) : name));
  return make('label', {}, input, label);
};
const select = ({ component, options }) => {
  const list = make('select', {}, new Option(textOf('base.automatic'), ''));
  for (const option of options) {
    const size = option.size ? bytesText(option.size) : '', state = option.state === 'complete' ? '' : `, ${textOf(`base.state_${option.state}`)}`;
    list.append(new Option(`${option.name} (${option.precision}${size && `, ${size}`}${state})`, option.name));
  }
  list.value = files()[component] || '';
  list.addEventListener('change', () => {
    const { [component]: _, ...others } = files();
    set(list.value ? { ...others, [component]: list.value } : others);
  });
  return make('label', {}, component.replace(/_/g, ' '), list);
};
// What would have to be downloaded: the parts without a complete option.
const missing = () => (listing ? listing.components : [])
  .filter(({ options }) => !options.some((option) => option.state === 'complete'));
const draw = () => {
  const parts = Object.entries(OPTIONS).map(([name, label]) => radio(name, label));
  if (kind() === 'files' && listing) parts.push(...listing.components.map(select));
  choices.replaceChildren(...parts);
  if (!listing) return;
  const lacking = missing();
  const sizes = lacking.map(({ options }) => options.map((option) => option.size).find((size) => size)).filter(Boolean);
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const texts = [];
  if (kind() === 'auto' && listing.auto) texts.push(translated(listing.auto.reason));
  if (lacking.length) texts.push(textOf(total ? 'base.missing_bytes' : 'base.missing', { names: lacking.map(({ component }) => component.replace(/_/g, ' ')).join(', '), bytes: bytesText(total) }));
  said.textContent = [...texts, ...listing.notes.map(translated)].join(' ');
  drawQuestion();
};

const part = (name) => element.querySelector(`[data-part=${name}]`);
const dialog = element.querySelector('dialog'), keep = part('keep');
let owner = null, postponed = false; // whether this browser may answer; whether it was asked and said later
const labelOf = (id) => {
  const tab = document.querySelector(`[role=tab][data-model="${id}"]`);
  return tab ? tab.textContent : id;
};
const drawQuestion = () => {
  const questions = owner && listing ? listing.questions : [];
  part('asks').hidden = !questions.length;
  part('open').textContent = textOf('base_choice.unknown', { count: questions.length });
  if (questions.length && !postponed && !dialog.open) showQuestion();
};
const showQuestion = () => {
  const { name, candidates } = listing.questions[0];
  const halves = new Set(candidates.map((candidate) => candidate.model)).size < candidates.length;
  part('lead').textContent = textOf('base_choice.not_told', { name });
  part('refused').textContent = '';
  keep.disabled = true;
  part('candidates').replaceChildren(...candidates.map(({ model: id, component }) => {
    const half = halves ? `, ${textOf(`base_choice.${component}`)}` : '';
    const input = make('input', { type: 'radio', name: 'base-candidate', value: JSON.stringify({ model: id, component, name }) });
    input.addEventListener('change', () => { keep.disabled = false; });
    return make('label', {}, input, `${labelOf(id)}${half}`);
  }));
  if (!dialog.open) dialog.showModal();
};
const answerQuestion = async (event) => {
  event.preventDefault();
  const chosen = part('candidates').querySelector('input:checked');
  if (!chosen) return;
  const { model: id, component, name } = JSON.parse(chosen.value);
  keep.disabled = true;
  try {
    await sendJson('POST', `models/${id}/bases`, { name, component });
  } catch (error) {
    part('refused').textContent = reasonOf(error);
    keep.disabled = false;
    return;
  }
  dialog.close();
  asked = null;
  await ask(); // asks the next question, if any
};
const mayAnswer = async () => {
  const reply = await window.fetch('v1/machine', { cache: 'no-store' });
  return reply.ok && (await reply.json()).owner;
};
element.querySelector('dialog form').addEventListener('submit', answerQuestion);
part('open').addEventListener('click', showQuestion);
part('later').addEventListener('click', () => { postponed = true; dialog.close(); });
dialog.addEventListener('cancel', () => { postponed = true; });
dialog.addEventListener('keydown', (event) => event.stopPropagation()); // the page's own keys
const ask = async () => {
  if (!element.isConnected || !element.offsetParent || asked === model) return;
  const wanted = asked = model;
  listing = null;
  let told = null;
  try {
    const answer = await window.fetch(`v1/models/${wanted}/bases`, { cache: 'no-store' });
    if (answer.ok) told = await answer.json();
    if (told && told.questions.length && owner === null) owner = await mayAnswer();
  } catch (error) {
    if (asked === wanted) asked = null; // the server is gone; the next look asks again
  }
  if (wanted !== model) return; // another model was chosen meanwhile
  listing = told;
  draw();
};
document.addEventListener('wan-ui-model', (event) => { model = event.detail.id; ask(); });
new IntersectionObserver(ask).observe(element);
watch('value', draw);
draw();
