// Which checkpoint files the model is loaded from: asks GET /v1/models/{id}/bases when it comes into view.
const choices = element.querySelector('[data-part=choices]'), said = element.querySelector('[data-part=said]');
let model = document.documentElement.dataset.model, listing = null, asked = null;
const bytes = (size) => (size === null || size === undefined ? '' : size >= 1e9 ? `${(size / 1e9).toFixed(1)} GB` : `${Math.ceil(size / 1e6)} MB`);
const OPTIONS = { auto: textOf('base.auto'), folder: textOf('base.folder'), files: textOf('base.files') };
const kind = () => (typeof props.value === 'string' ? props.value : 'files');
const set = (value) => { props.value = value; trigger('input', {}); draw(); };
const files = () => (typeof props.value === 'object' && props.value ? props.value : {});

const radio = (name, label) => {
  const wrap = document.createElement('label'), input = document.createElement('input');
  input.type = 'radio';
  input.name = 'base-choice';
  input.value = name;
  input.checked = kind() === name;
  input.addEventListener('change', () => set(name === 'files' ? (listing && listing.auto ? listing.auto.base : {}) : name));
  wrap.append(input, label);
  return wrap;
};
const select = ({ component, options }) => {
  const wrap = document.createElement('label'), list = document.createElement('select');
  wrap.append(component.replace(/_/g, ' '), list);
  list.append(new Option(textOf('base.automatic'), ''));
  for (const option of options) {
    const size = bytes(option.size), state = option.state === 'complete' ? '' : `, ${textOf(`base.state_${option.state}`)}`;
    list.append(new Option(`${option.name} (${option.precision}${size && `, ${size}`}${state})`, option.name));
  }
  list.value = files()[component] || '';
  list.addEventListener('change', () => {
    const { [component]: _, ...others } = files();
    set(list.value ? { ...others, [component]: list.value } : others);
  });
  return wrap;
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
  if (lacking.length) texts.push(textOf(total ? 'base.missing_bytes' : 'base.missing', { names: lacking.map(({ component }) => component.replace(/_/g, ' ')).join(', '), bytes: bytes(total) }));
  said.textContent = [...texts, ...listing.notes.map(translated)].join(' ');
};
const ask = async () => {
  if (!element.isConnected || !element.offsetParent || asked === model) return;
  asked = model;
  listing = null;
  try {
    const answer = await window.fetch(`v1/models/${model}/bases`, { cache: 'no-store' });
    if (answer.ok && asked === model) listing = await answer.json();
  } catch (error) {
    asked = null; // the server is gone; the next look asks again
  }
  draw();
};
document.addEventListener('wan-ui-model', (event) => { model = event.detail.id; ask(); });
new IntersectionObserver(ask).observe(element);
watch('value', draw);
draw();
