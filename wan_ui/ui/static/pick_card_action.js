element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-do]');
  if (!button) return;
  if (button.dataset.do === 'fetch') {
    button.disabled = true;
    button.textContent = 'Fetching…';
  }
  trigger('click', {pressed: {...button.dataset}});
});
