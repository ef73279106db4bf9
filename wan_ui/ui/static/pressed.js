// What a press shows before the server answers: the button and the status card say so within the same frame. The
// answer replaces the card; where it refuses, the card gets back what it said.
(() => {
  const card = () => document.querySelector('#now .card');
  let before = null;

  // Gradio patches the card in place, so its nodes stay and only their text and class change.
  const say = (head) => {
    const shown = card();
    const chip = shown && shown.querySelector('.chip');
    const text = chip && chip.firstChild;
    if (!(text instanceof Text)) return;
    before = { shown, chip: text, name: shown.className, head: text.data, pressed: head };
    shown.className = 'card waiting';
    text.data = head;
  };
  const answered = () => {
    document.dispatchEvent(new Event('wan-ui-answered'));
    for (const button of document.querySelectorAll('button.generate[aria-busy]')) button.removeAttribute('aria-busy');
    if (before && before.chip.data === before.pressed) {
      before.shown.className = before.name;
      before.chip.data = before.head;
    }
    before = null;
  };
  document.addEventListener('click', (event) => {
    const button = event.target.closest('button');
    if (!button || button.disabled) return;
    if (button.matches('#bench button.generate')) {
      button.dataset.pressed = textOf('pressed.adding');
      button.setAttribute('aria-busy', 'true');
      // A card that tells of a running job stays: the new one waits behind it.
      if (!card() || !card().classList.contains('running')) say(textOf('pressed.adding'));
    } else if (button.id === 'cancel') say(textOf('pressed.cancelling'));
  }, true);
  window.wanUi.answered = answered;
})();
