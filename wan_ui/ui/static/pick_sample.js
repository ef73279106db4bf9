element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (!button) return;
  trigger('click', {pressed: {...button.dataset}});
  if (button.dataset.do === 'reproduce') window.scrollTo({top: 0});
});
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
