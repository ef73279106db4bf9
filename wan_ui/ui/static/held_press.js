// A press that submits the form waits for what is still on its way into it: a picture or a LoRA file that is uploaded, the
// answer to a LoRA that was chosen, another model's values. Without that the video would be made as the form was before.
// The press is carried out when all is there, and dropped when something went wrong, of which the page tells at its place.
(() => {
  const BUTTONS = '#bench button.generate, #bench .scales .line button';
  const waits = []; // each gives what the button says while there is something to wait for; the page's own come last
  let held = null;
  const awaited = () => waits.map((wait) => wait()).find(Boolean);
  const drop = () => {
    if (held) held.removeAttribute('aria-busy');
    held = null;
  };
  const look = () => {
    if (!held) return;
    const button = held, text = awaited();
    if (text) {
      button.dataset.pressed = text;
      return;
    }
    drop();
    button.click();
  };
  window.addEventListener('click', (event) => {
    const button = event.target.closest(BUTTONS), text = button && !button.disabled && awaited();
    if (!text) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (held !== button) drop();
    held = button;
    button.dataset.pressed = text;
    button.setAttribute('aria-busy', 'true');
  }, true);
  window.wanUi.held = { waitFor: (wait) => waits.unshift(wait), look, drop };
})();
