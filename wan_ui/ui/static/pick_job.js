// A press on a job of a list, or on one of its buttons; Delete removes the job that has the focus, where it can be removed.
// Presses go to the server one after the other, as Gradio drops one while that before is not answered.
const presses = []; // the first one is with the server
const send = () => { if (presses.length) trigger('click', presses[0]); };
document.addEventListener('wan-ui-picked', (event) => {
  if (event.detail !== props.list) return;
  presses.shift();
  send();
});
const press = (button) => {
  // Its place in the list is taken by the next job, or there is none after it: the focus stays in the list.
  if (button.dataset.do === 'remove') {
    const item = button.closest('li'), stays = item.nextElementSibling ? item : item.previousElementSibling;
    if (stays) stays.querySelector('.show').focus();
  }
  const pressed = { job: button.dataset.job, do: button.dataset.do || '' };
  if (presses.some((known) => known.job === pressed.job && known.do === pressed.do)) return; // a double click
  presses.push(pressed);
  if (presses.length === 1) send();
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
