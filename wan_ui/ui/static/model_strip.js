// The tabs of the models over the one form: the chosen one shows at once, and the server confirms with the form's values.
// What a model has is said by attributes of the document, from which the style sheet shows and hides controls.
const strip = element.querySelector('[role=tablist]'), about = element.querySelector('.about');
const models = props.models;
const tabs = Object.entries(models).map(([id, model]) => {
  const attributes = { type: 'button', id: `model-${id}`, 'data-model': id, role: 'tab', 'aria-controls': 'bench' };
  return make('button', attributes, model.label);
});
strip.replaceChildren(...tabs);
let shown = null;

const show = (id) => {
  const model = models[id];
  if (!model) return;
  shown = id;
  for (const tab of tabs) {
    const chosen = tab.dataset.model === id;
    tab.setAttribute('aria-selected', String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    // Only sideways: the page itself must not move when it opens.
    if (chosen && strip.scrollWidth > strip.clientWidth) strip.scrollLeft = tab.offsetLeft - strip.clientWidth / 3;
  }
  about.textContent = about.title = model.about;
  const root = document.documentElement;
  root.dataset.model = id;
  root.dataset.firstFrame = model.firstFrame;
  root.toggleAttribute('data-last-frame', model.lastFrame);
  root.toggleAttribute('data-pair', model.pair);
  window.wanUiModel = { id, ...model };
  document.dispatchEvent(new CustomEvent('wan-ui-model', { detail: window.wanUiModel }));
};
const choose = (id) => {
  show(id);
  if (window.wanUi.isFilling('#form')) {
    // The answer in flight shows another model: this one is chosen again as soon as it is in.
    window.wanUi.afterFilling('#form', () => choose(id));
    return;
  }
  if (id === props.value) return;
  const previous = props.value;
  props.value = id;
  window.wanUi.filling('#form');
  trigger('select', { previous });
};
strip.addEventListener('click', (event) => {
  const tab = event.target.closest('[role=tab]');
  if (tab) choose(tab.dataset.model);
});
strip.addEventListener('keydown', (event) => {
  const at = [...strip.children].indexOf(document.activeElement);
  const to = indexAfterKey(event.key, at, tabs.length);
  if (to === null) return;
  event.preventDefault();
  const tab = tabs[to];
  tab.focus();
  choose(tab.dataset.model);
});
// Marks the models that the first LoRA was made for.
document.addEventListener('wan-ui-fits', (event) => {
  const fits = event.detail;
  element.querySelector('.models').classList.toggle('filtered', fits.length > 0);
  for (const tab of tabs) tab.classList.toggle('fits', fits.includes(tab.dataset.model));
});
watch('value', () => show(props.value));
show(props.value);
