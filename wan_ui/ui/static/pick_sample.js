element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (!button) return;
  if (button.dataset.do === 'enlarge') { enlarge(button); return; }
  trigger('click', {pressed: {...button.dataset}});
  if (button.dataset.do === 'reproduce') window.scrollTo({top: 0});
});
// The sample plays in a dialog at its full size.
const enlarge = (opener) => {
  const make = (tag, attributes, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const close = make('button', { type: 'button' }, textOf('sample.close'));
  const dialog = make('dialog', { class: 'sample-large', 'aria-label': opener.dataset.name },
    make('img', { src: opener.dataset.film, alt: opener.dataset.name }), make('p', {}, close));
  const again = opener.parentElement.querySelector('.again');
  if (again) {
    const reproduce = make('button', { type: 'button', class: 'first' }, textOf('sample.reproduce'));
    reproduce.addEventListener('click', () => { dialog.close(); again.click(); });
    close.before(reproduce);
  }
  close.addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener('close', () => { dialog.remove(); opener.focus(); });
  (document.querySelector('.gradio-container') || document.body).append(dialog);
  dialog.showModal();
  close.focus();
};
const moves = (event, still) => {
  const button = event.target.closest && event.target.closest('button[data-film]');
  const image = button && button.querySelector('img');
  if (!image || (still && button.contains(event.relatedTarget))) return;
  if (!image.dataset.still) image.dataset.still = image.getAttribute('src');
  const wanted = still ? image.dataset.still : button.dataset.film;
  if (image.getAttribute('src') !== wanted) image.setAttribute('src', wanted);
};
for (const name of ['pointerover', 'focusin']) element.addEventListener(name, (event) => moves(event, false));
for (const name of ['pointerout', 'focusout']) element.addEventListener(name, (event) => moves(event, true));
