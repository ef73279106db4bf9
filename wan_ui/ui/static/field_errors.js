// What is wrong with a request, beneath the fields it concerns: the server names them in the message above Generate, or
// in the one of the LoRA block, where each LoRA has a strength.
// The first one is brought into view with the focus; a mark goes when its field changes.
(() => {
  const MORE = '#more';
  const fieldOf = (name) => document.getElementById(`field-${name.replace(/_/g, '-')}`);
  const STRENGTH = '.strength', LORA_SLOTS = ['single', 'high', 'low']; // in the order of a request
  const strengthOf = (name) => {
    const index = /^loras\.(\d+)\.network_multiplier$/.exec(name);
    if (!index) return null;
    const cards = [...document.querySelectorAll('#loras .lcard')];
    const card = LORA_SLOTS.flatMap((slot) => cards.filter((each) => each.dataset.slot === slot))[Number(index[1])];
    return card ? card.querySelector(STRENGTH) : null;
  };
  const controlOf = (field) => field.querySelector('[data-strength]') || field.querySelector('textarea, input:not([type=file]), select, button');
  const marks = new Map(); // by field: its message and its control

  const clear = (field) => {
    const mark = marks.get(field);
    if (!mark) return;
    marks.delete(field);
    mark.message.remove();
    field.classList.remove('invalid');
    mark.control.removeAttribute('aria-invalid');
    mark.control.removeAttribute('aria-describedby');
  };
  const mark = (field, name, text) => {
    clear(field);
    const control = controlOf(field);
    if (!control) return null;
    const message = make('p', { class: 'wrong at-field', id: `wrong-${name}` }, text);
    // Beneath the whole line of narrow fields, where there is room for a sentence.
    (field.closest('#form .row') || field).insertAdjacentElement('afterend', message);
    field.classList.add('invalid');
    control.setAttribute('aria-invalid', 'true');
    control.setAttribute('aria-describedby', message.id);
    marks.set(field, { message, control });
    return control;
  };
  const isHidden = (element) => element.offsetParent === null;
  const openFold = (field) => {
    const fold = field.closest(MORE);
    const button = fold && isHidden(field) && fold.querySelector(':scope > button.label-wrap');
    if (button) button.click();
  };
  const foldFor = (name) => {
    // The fold's fields are made when it is first opened.
    const fold = document.querySelector(MORE);
    return !fieldOf(name) && fold && fold.querySelector(':scope > button.label-wrap:not(.open)');
  };
  const show = (problem) => {
    problem.hidden = false;
    const items = [...problem.querySelectorAll('[data-field]')];
    const closed = items.map((item) => foldFor(item.dataset.field)).find(Boolean);
    if (closed) {
      closed.click();
      window.setTimeout(() => show(problem), 100);
      return;
    }
    let first = null;
    for (const item of items) {
      const name = item.dataset.field, field = fieldOf(name);
      if (!field) continue;
      openFold(field);
      const control = mark(field, name, item.textContent.trim());
      first = first || control;
      item.hidden = control !== null;
    }
    problem.classList.toggle('placed', items.length > 0 && items.every((item) => item.hidden) && !problem.querySelector('[data-other]'));
    if (first) {
      first.focus({ preventScroll: true });
      first.scrollIntoView({ behavior: reducedMotion.matches ? 'auto' : 'smooth', block: 'center' });
    }
  };
  const clearAll = (ofLoras) => {
    for (const field of [...marks.keys()]) if (field.matches(STRENGTH) === ofLoras) clear(field);
  };
  const look = () => {
    clearAll(false);
    const problem = document.querySelector('#form-problem .problem[data-fields]');
    if (problem) show(problem);
  };
  const lookAtLoras = () => {
    clearAll(true);
    const problem = document.querySelector('#lora-problem .problem');
    if (!problem) return;
    problem.hidden = false;
    const items = [...problem.querySelectorAll('[data-field]')];
    const controls = items.map((item) => {
      const field = strengthOf(item.dataset.field);
      return field && mark(field, item.dataset.field.replaceAll('.', '-'), item.textContent.trim());
    });
    items.forEach((item, index) => { item.hidden = Boolean(controls[index]); });
    problem.classList.toggle('placed', items.length > 0 && controls.every(Boolean) && !problem.querySelector('[data-other]'));
    const first = controls.find(Boolean);
    if (first) first.focus({ preventScroll: true });
    (first || problem).scrollIntoView({ block: 'nearest' });
  };
  const changed = (event) => {
    const field = event.target.closest(`[id^="field-"], ${STRENGTH}`);
    if (!field || !marks.has(field)) return;
    clear(field);
    const ofLoras = field.matches(STRENGTH);
    const problem = document.querySelector(`${ofLoras ? '#lora-problem' : '#form-problem'} .problem.placed`);
    if (problem && ![...marks.keys()].some((each) => each.matches(STRENGTH) === ofLoras)) problem.hidden = true;
  };
  for (const name of ['input', 'change']) document.addEventListener(name, changed);
  // Where messages come: how to look at them, and whether that was done since the last press of Generate.
  const homes = [
    { id: 'form-problem', look, isSeen: true },
    { id: 'lora-problem', look: lookAtLoras, isSeen: true },
  ];
  // Gradio shows an event's progress there too, and this script changes attributes of the message that is shown.
  const isMessage = (node) => node instanceof Element && Boolean(node.matches('.problem') || node.querySelector('.problem'));
  const isNew = (changes) => changes.some((change) => [...change.addedNodes, ...change.removedNodes].some(isMessage));
  const watch = () => {
    if (!document.getElementById(homes[0].id)) {
      requestAnimationFrame(watch);
      return;
    }
    for (const home of homes) {
      const observer = new MutationObserver((changes) => {
        if (!isNew(changes)) return;
        home.isSeen = true;
        home.look();
      });
      observer.observe(document.getElementById(home.id), { childList: true, subtree: true });
    }
    look();
  };
  watch();
  // The same answer again changes nothing that could be observed: it is looked at when it is drawn.
  document.addEventListener('click', (event) => {
    if (event.target.closest('#bench button.generate')) homes.forEach((home) => { home.isSeen = false; });
  }, true);
  document.addEventListener('wan-ui-answered', async () => {
    await whenDrawn();
    for (const home of homes) {
      if (!home.isSeen) home.look();
      home.isSeen = true;
    }
  });
})();
