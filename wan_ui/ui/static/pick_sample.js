element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (!button) return;
  trigger('click', {pressed: {...button.dataset}});
  if (button.dataset.do === 'reproduce') window.scrollTo({top: 0});
});
