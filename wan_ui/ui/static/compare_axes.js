// What changes along the columns, rows and pages of a comparison: a field and its values for each, and the baseline.
// The value is {axes: [field, values, … of the three, baseline]}. The prop `choices` has the fields that the form's
// model takes, as {field, label, hint, lines, start}; the prop `folders` the training jobs whose checkpoints can be
// filled in, as [label, folder], which are asked for when an axis first needs them; the prop `checkpoints` those of one,
// as {axis, paths, turn}, where `turn` counts the presses.
// The values of an axis are chips in a box that is typed into: Enter, a comma or leaving the box makes a chip of what
// is typed, Backspace in the empty box takes the last one away, a press on a chip puts it back into the box.
const FORM = '.compare-form'; // as page.js knows it
const CROSS = '<svg viewBox="0 0 16 16" aria-hidden="true"><path d="m4.5 4.5 7 7M11.5 4.5l-7 7"/></svg>';
const baseline = element.querySelector('[data-part="baseline"]');
const axes = [...element.querySelectorAll('.axis')].map((node) => ({
  name: node.dataset.axis,
  field: node.querySelector('[data-part="field"]'),
  values: node.querySelector('[data-part="values"]'),
  picked: node.querySelector('.picked'),
  typed: node.querySelector('textarea'),
  pieces: [], // the values that are chips
  at: null, // before which of them the typed one stands; null: after all
  jobs: node.querySelector('[data-part="jobs"] select'),
}));
let drawnChoices = '', drawnFolders = '', drawnValue = '', isAsked = false, isTyped = false;
let turn = 0, filledTurn = 0; // of the presses for a job's checkpoints: the last one, and the last that is answered

const choiceOf = (field) => (props.choices || []).find((choice) => choice.field === field) || { field: '', hint: '', lines: 1, start: '' };
const isByLine = (axis) => choiceOf(axis.field.value).lines > 1; // a prompt holds commas, and a path may hold them
const textOfAxis = (axis) => {
  const at = axis.at ?? axis.pieces.length;
  const values = [...axis.pieces.slice(0, at), axis.typed.value.trim(), ...axis.pieces.slice(at)];
  return values.filter(Boolean).join(isByLine(axis) ? '\n' : ', ');
};
const setText = (axis, text) => {
  axis.pieces = axisPieces(text, isByLine(axis));
  axis.at = null;
  axis.typed.value = '';
};
// A LoRA's path is long: its chip has the file's name and step.
const shortName = (axis, value) => {
  if (axis.field.value !== 'lora') return value;
  const { name, step, half } = loraParts(value.split('/').pop());
  return [name, step, half].filter((part) => part !== null && part !== '').join(' ');
};
const drawChips = (axis) => {
  axis.picked.replaceChildren(...axis.pieces.map((value, index) => {
    const name = shortName(axis, value);
    const text = makeButton({ class: 'text', tabindex: '-1', title: value, 'aria-label': textOf('axis.change', { value: name }) }, () => change(axis, index), name);
    text.addEventListener('keydown', (event) => move(axis, index, event));
    const drop = makeButton({ class: 'drop', tabindex: '-1', title: textOf('axis.remove', { value: name }), 'aria-label': textOf('axis.remove', { value: name }) },
      () => { remove(axis, index); axis.typed.focus(); });
    drop.innerHTML = CROSS;
    return make('span', { role: 'listitem', class: 'val', 'data-value': value }, text, drop);
  }));
  axis.picked.hidden = !axis.pieces.length;
  axis.typed.placeholder = axis.pieces.length && !isByLine(axis) ? '' : choiceOf(axis.field.value).hint;
  axis.values.classList.toggle('lines', isByLine(axis));
};
/** Makes chips of what is typed: all of it, or what stands before the last comma or end of a line. */
const commit = (axis, isWhole) => {
  const text = axis.typed.value, end = isWhole ? text.length : text.search(isByLine(axis) ? /\n[^\n]*$/ : /[,;，；、\n][^,;，；、\n]*$/);
  if (end < 0 || !text) return false;
  const added = axisPieces(text.slice(0, end), isByLine(axis));
  axis.pieces.splice(axis.at ?? axis.pieces.length, 0, ...added);
  if (axis.at !== null) axis.at = isWhole ? null : axis.at + added.length;
  axis.typed.value = isWhole ? '' : text.slice(end + 1).trimStart();
  drawChips(axis);
  return true;
};
const remove = (axis, index) => {
  const [value] = axis.pieces.splice(index, 1);
  if (axis.at !== null && axis.at > index) axis.at -= 1;
  element.querySelector('[data-part="said"]').textContent = textOf('axis.removed', { value: shortName(axis, value) });
  send();
};
const change = (axis, index) => {
  const value = axis.pieces[index];
  commit(axis, true); // which may stand before it
  const now = axis.pieces[index] === value ? index : axis.pieces.indexOf(value);
  axis.pieces.splice(now, 1);
  axis.at = now;
  axis.typed.value = value;
  drawChips(axis);
  axis.typed.focus();
  axis.typed.select();
};
const focusOn = (axis, index) => (axis.picked.children[index] ? axis.picked.children[index].querySelector('.text') : axis.typed).focus();
const move = (axis, index, event) => {
  if (event.key === 'ArrowLeft' && index) focusOn(axis, index - 1);
  else if (event.key === 'ArrowRight') focusOn(axis, index + 1);
  else if (event.key === 'Delete' || event.key === 'Backspace') {
    remove(axis, index);
    focusOn(axis, index);
  } else return;
  event.preventDefault();
};
const typedKey = (axis, event) => {
  const isFirst = axis.typed.selectionStart === 0 && axis.typed.selectionEnd === 0;
  if (event.isComposing || event.ctrlKey || event.metaKey) return;
  if (event.key === 'Enter') {
    event.preventDefault();
    if (commit(axis, true)) send();
  } else if (event.key === 'Backspace' && !axis.typed.value && axis.pieces.length) remove(axis, axis.pieces.length - 1);
  else if (event.key === 'ArrowLeft' && isFirst && axis.pieces.length) {
    event.preventDefault();
    focusOn(axis, axis.pieces.length - 1);
  }
};
const arrange = () => {
  for (const axis of axes) {
    const choice = choiceOf(axis.field.value);
    drawChips(axis);
    axis.values.hidden = !choice.field;
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
  if (!window.wanUi.isFilling(FORM)) trigger('input', {});
};
const tell = () => {
  const value = { axes: [...axes.flatMap((axis) => [axis.field.value, textOfAxis(axis)]), baseline.checked] };
  drawnValue = JSON.stringify(value);
  props.value = value;
  trigger('input', {});
};
// While the page opens, its first answer would put an older draft over what is typed: that is told again afterwards.
const send = () => {
  arrange();
  tell();
  if (!window.wanUi.isFilling(FORM)) return;
  isTyped = true;
  window.wanUi.afterFilling(FORM, () => { isTyped = false; tell(); });
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
    setText(axis, value.axes[2 * index + 1]);
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
// The other axes may have been changed since the press, and so may the field of this one.
const fillCheckpoints = () => {
  const given = props.checkpoints || {};
  if (!given.turn || given.turn === filledTurn) return;
  filledTurn = given.turn;
  const axis = axes.find((each) => each.name === given.axis);
  if (!axis || axis.field.value !== 'lora') return;
  setText(axis, given.paths.join('\n'));
  send();
};
for (const axis of axes) {
  axis.field.addEventListener('change', () => {
    setText(axis, choiceOf(axis.field.value).start); // those of the field before make no sense for another one
    send();
  });
  axis.typed.addEventListener('input', (event) => {
    if (/** @type {InputEvent} */ (/** @type {unknown} */ (event)).isComposing) return;
    commit(axis, false);
    send();
  });
  axis.typed.addEventListener('compositionend', () => { commit(axis, false); send(); });
  axis.typed.addEventListener('keydown', (event) => typedKey(axis, event));
  axis.typed.addEventListener('blur', () => commit(axis, true));
  const box = axis.values.querySelector('.box');
  box.addEventListener('click', (event) => { if (!event.target.closest('button')) axis.typed.focus(); });
  // Leaving the typed value would draw the chips anew, under the press.
  box.addEventListener('mousedown', (event) => { if (event.target.closest('button')) event.preventDefault(); });
  axis.jobs.addEventListener('change', () => {
    if (axis.jobs.value) trigger('click', { name: axis.name, folder: axis.jobs.value, turn: ++turn });
    axis.jobs.value = '';
  });
}
baseline.addEventListener('change', send);
// Opening the tab may have changed the request: the cells are counted again, with what has been typed since.
document.addEventListener('wan-ui-axes', () => {
  if (element.isConnected && !window.wanUi.isFilling(FORM)) tell();
});
watch('choices', drawChoices);
watch('value', drawValue);
watch('folders', drawFolders);
watch('checkpoints', fillCheckpoints);
drawChoices();
drawValue();
drawFolders();
