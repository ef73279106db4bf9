// A press on a job of a list, or on one of its buttons; Delete removes the job that has the focus, where it can be removed.
const press = (button) => {
  // Its place in the list is taken by the next job, or there is none after it: the focus stays in the list.
  if (button.dataset.do === 'remove') {
    const item = button.closest('li'), stays = item.nextElementSibling ? item : item.previousElementSibling;
    if (stays) stays.querySelector('.show').focus();
  }
  trigger('click', { job: button.dataset.job, do: button.dataset.do || '' });
};
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-job]');
  if (button) press(button);
});
element.addEventListener('keydown', (event) => {
  const item = event.key === 'Delete' && event.target.closest('li');
  const button = item && item.querySelector('[data-do="remove"]');
  if (button) press(button);
});
