// What changes along the columns, rows and pages of a comparison: a field and its values for each, and the baseline.
// The value is {axes: [field, values, … of the three, baseline]}. The prop `choices` has the fields that the form's
// model takes, as {field, label, hint, lines, start}; the prop `folders` the training jobs whose checkpoints can be
// filled in, as [label, folder], which are asked for when an axis first needs them.
const FORM = '.compare-form'; // as page.js knows it
const baseline = element.querySelector('[data-part="baseline"]');
const axes = [...element.querySelectorAll('.axis')].map((node) => ({
  name: node.dataset.axis,
  field: node.querySelector('[data-part="field"]'),
  values: node.querySelector('textarea'),
  jobs: node.querySelector('[data-part="jobs"] select'),
}));
let drawnChoices = '', drawnFolders = '', drawnValue = '', isAsked = false, isTyped = false;

const choiceOf = (field) => (props.choices || []).find((choice) => choice.field === field) || { field: '', hint: '', lines: 1, start: '' };
const arrange = () => {
  for (const axis of axes) {
    const choice = choiceOf(axis.field.value);
    axis.values.placeholder = choice.hint;
    axis.values.rows = Math.max(choice.lines, Math.min(8, axis.values.value.split('\n').length));
    axis.values.parentElement.hidden = !choice.field;
    axis.jobs.parentElement.hidden = choice.field !== 'lora';
  }
  if (!isAsked && axes.some((axis) => axis.field.value === 'lora')) {
    isAsked = true;
    trigger('click', { name: '', folder: '' });
  }
};
// An open page asks how many cells there are, for the axes as they are now. All such answers come in order: the page
// sends the next question only when the last one is answered.
const count = () => {
  if (window.wanUi && window.wanUi.isFilling && !window.wanUi.isFilling(FORM)) trigger('input', {});
};
const tell = () => {
  const value = { axes: [...axes.flatMap((axis) => [axis.field.value, axis.values.value]), baseline.checked] };
  drawnValue = JSON.stringify(value);
  props.value = value;
  trigger('input', {});
};
// While the page opens, its first answer would put an older draft over what is typed: that is told again afterwards.
const send = () => {
  arrange();
  tell();
  const page = window.wanUi;
  if (!page || !page.isFilling || !page.isFilling(FORM)) return;
  isTyped = true;
  page.afterFilling(FORM, () => { isTyped = false; tell(); });
};
const drawChoices = () => {
  const text = JSON.stringify(props.choices || []);
  if (text === drawnChoices) return;
  drawnChoices = text;
  for (const axis of axes) {
    const chosen = axis.field.value;
    axis.field.replaceChildren(...(props.choices || []).map((choice) => new Option(choice.label, choice.field)));
    axis.field.value = choiceOf(chosen).field;
  }
  arrange();
};
const drawValue = () => {
  const value = props.value, text = JSON.stringify(value);
  if (!value || isTyped || text === drawnValue) return;
  drawnValue = text;
  axes.forEach((axis, index) => {
    axis.field.value = choiceOf(value.axes[2 * index]).field;
    axis.values.value = value.axes[2 * index + 1];
  });
  baseline.checked = value.axes[2 * axes.length];
  arrange();
  count();
};
const drawFolders = () => {
  const text = JSON.stringify(props.folders || []);
  if (text === drawnFolders) return;
  drawnFolders = text;
  for (const { jobs } of axes) {
    jobs.replaceChildren(new Option('', ''), ...(props.folders || []).map(([label, folder]) => new Option(label, folder)));
  }
};
for (const axis of axes) {
  axis.field.addEventListener('change', () => {
    axis.values.value = choiceOf(axis.field.value).start; // those of the field before make no sense for another one
    send();
  });
  axis.values.addEventListener('input', send);
  axis.jobs.addEventListener('change', () => {
    if (axis.jobs.value) trigger('click', { name: axis.name, folder: axis.jobs.value });
    axis.jobs.value = '';
  });
}
baseline.addEventListener('change', send);
// Opening the tab may have changed the request: the cells are counted again, with what has been typed since.
document.addEventListener('wan-ui-axes', () => {
  if (element.isConnected && !(window.wanUi && window.wanUi.isFilling(FORM))) tell();
});
watch('choices', drawChoices);
watch('value', drawValue);
watch('folders', drawFolders);
drawChoices();
drawValue();
drawFolders();
