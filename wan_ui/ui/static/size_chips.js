// Sizes as chips, the swap of width and height, and the length in seconds: they write into the numbers below them,
// which are what the request takes.
const chips = element.querySelector('.chips'), slider = element.querySelector('input[type=range]');
const seconds = element.querySelector('input[type=number]');
const MOST_SECONDS = 10; // of the slider; longer videos are typed
let sizes = [];

const { dom } = window.wanUi;
const number = (name) => Number(dom.value(name));
const mark = () => {
  const width = number('width'), height = number('height');
  const buttons = [...chips.children];
  const chosen = buttons.find((chip) => chip.dataset.size === `${width}x${height}`);
  for (const chip of buttons) {
    chip.setAttribute('aria-checked', String(chip === chosen));
    chip.tabIndex = chip === (chosen || buttons[0]) ? 0 : -1;
  }
  const frames = number('num-frames'), fps = number('fps');
  if (!(frames > 0) || !(fps > 0)) return;
  slider.max = String(Math.max(1, Math.floor((MOST_SECONDS * fps) / FRAMES_PER_LATENT)));
  slider.value = String(Math.round((frames - 1) / FRAMES_PER_LATENT));
  const length = (frames / fps).toFixed(1);
  if (document.activeElement !== seconds) seconds.value = length;
  slider.setAttribute('aria-valuetext', textOf('size.length_spoken', { seconds: length, frames }));
  slider.style.setProperty('--v', `${(100 * slider.value) / slider.max}%`);
};
const draw = () => {
  chips.replaceChildren(...sizes.map(([width, height]) => {
    const label = `${width} × ${height}`;
    const shape = make('i', { class: 'shape' });
    [shape.style.width, shape.style.height] = outlineOf(width, height, 16).map((side) => `${side}px`);
    return make('button', { type: 'button', class: 'chip', 'data-size': `${width}x${height}`, role: 'radio', 'aria-label': label }, shape, label);
  }));
  mark();
};
const choose = (width, height) => {
  dom.fill('width', width);
  dom.fill('height', height);
  mark();
};
chips.addEventListener('click', (event) => {
  const chip = event.target.closest('.chip');
  if (chip) choose(...chip.dataset.size.split('x').map(Number));
});
chips.addEventListener('keydown', (event) => {
  const all = [...chips.children], at = all.indexOf(document.activeElement);
  const to = indexAfterKey(event.key, at, all.length, { previous: ['ArrowLeft', 'ArrowUp'], next: ['ArrowRight', 'ArrowDown'] });
  if (to === null) return;
  event.preventDefault();
  const chip = all[to];
  chip.click();
  chip.focus();
});
element.querySelector('[data-do=swap]').addEventListener('click', () => choose(number('height'), number('width')));
slider.addEventListener('input', () => {
  dom.fill('num-frames', 1 + FRAMES_PER_LATENT * Number(slider.value));
  mark();
});
seconds.addEventListener('input', () => {
  const length = Number(seconds.value), fps = number('fps');
  if (!(length * fps > 0)) return;
  dom.fill('num-frames', framesOfLength(length, fps));
  mark();
});
seconds.addEventListener('blur', mark); // shows the length that these frames have
document.addEventListener('wan-ui-model', (event) => { sizes = event.detail.sizes; draw(); });
// The numbers change by typing and by the server's answers; both end in a note of the form.
document.addEventListener('input', (event) => { if (event.target.closest('#form .sizes')) mark(); });
const note = () => document.querySelector('#form .remarks.size');
const watchNote = () => {
  const shown = note();
  if (shown) new MutationObserver(mark).observe(shown, { childList: true, subtree: true, characterData: true });
  else requestAnimationFrame(watchNote);
};
watchNote();
if (window.wanUiModel) { sizes = window.wanUiModel.sizes; draw(); }
