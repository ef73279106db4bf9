// Small tools beside the form's fields: a random seed, the seed of the shown result, recent prompts, and the negative
// prompt that Wan's own programs use. They write into the fields as if it were typed.
(() => {
  const { dom, toast } = window.wanUi;
  const PROMPTS = 12; // most that are listed
  const icon = (path) => `<svg class="i" viewBox="0 0 16 16" aria-hidden="true">${path}</svg>`;
  const DICE = icon('<rect x="2.5" y="2.5" width="11" height="11" rx="2.5"/><path d="M5.5 5.5h.01M10.5 5.5h.01M8 8h.01M5.5 10.5h.01M10.5 10.5h.01" stroke-width="2"/>');
  const REUSE = icon('<path d="M3 8a5 5 0 0 1 8.5-3.5L13 6M13 2.5V6H9.5M13 8a5 5 0 0 1-8.5 3.5L3 10M3 13.5V10h3.5"/>');
  const CLOCK = icon('<circle cx="8" cy="8" r="5.5"/><path d="M8 5v3l2 1.5"/>');
  const button = (className, label, html, press) => {
    const made = makeButton({ class: className, 'aria-label': label, title: label }, press);
    made.innerHTML = html;
    return made;
  };

  const seeds = () => make('span', { class: 'seed-acts' },
    button(null, textOf('form_tools.random'), DICE, () => dom.fill('seed', -1)),
    button(null, textOf('form_tools.reuse'), REUSE, () => {
      const result = document.querySelector('#result [data-seed]');
      if (result) dom.fill('seed', result.dataset.seed);
      else toast(textOf('form_tools.no_seed'));
    }),
  );
  const negative = () => button('chip dash negative', null, textOf('form_tools.negative'), () => {
    const usual = window.wanUiModel.negative, typed = dom.value('neg').trim();
    if (typed.includes(usual)) return;
    dom.fill('neg', typed ? `${typed}, ${usual}` : usual);
    dom.input('neg').focus();
  });

  const recent = make('dialog', { id: 'recent-prompts', 'aria-label': textOf('form_tools.recent') });
  recent.innerHTML = `<h2>${textOf('form_tools.recent')}</h2><p class="hint" role="status"></p><ul></ul><button type="button" class="small">${textOf('form_tools.close')}</button>`;
  const [status, list, close] = recent.querySelectorAll('p, ul, button');
  close.addEventListener('click', () => recent.close());
  recent.addEventListener('click', (event) => { if (event.target === recent) recent.close(); });
  const entry = ({ prompt, neg, model_label: model }) => {
    const choose = () => {
      dom.fill('prompt', prompt);
      if (neg) dom.fill('neg', neg);
      recent.close();
      dom.input('prompt').focus();
    };
    const about = neg ? textOf('form_tools.with_negative', { model }) : model;
    return make('li', {}, makeButton({ class: 'prompt' }, choose, make('span', {}, prompt), make('small', {}, about)));
  };
  const openRecent = async () => {
    list.replaceChildren();
    status.textContent = textOf('form_tools.reading');
    showDialog(recent);
    try {
      const { entries } = await callApi('gallery?limit=60');
      const own = entries.filter((each) => each.may_change && each.prompt.trim());
      const distinct = [...new Map(own.reverse().map((each) => [`${each.prompt}\n${each.neg}`, each])).values()].reverse();
      list.replaceChildren(...distinct.slice(0, PROMPTS).map(entry));
      status.textContent = distinct.length ? '' : textOf('form_tools.none');
      const first = list.querySelector('button');
      if (first) first.focus();
    } catch (error) {
      status.textContent = textOf('form_tools.lost');
    }
  };
  list.addEventListener('keydown', (event) => {
    const all = [...list.querySelectorAll('button')], at = all.indexOf(document.activeElement);
    const to = indexAfterKey(event.key, at, all.length, { previous: ['ArrowUp'], next: ['ArrowDown'], wraps: false });
    if (to === null) return;
    event.preventDefault();
    all[to].focus();
  });

  // Gradio makes its controls when they first come into view.
  /** @type {[string, () => HTMLElement][]} */
  const PLACES = [
    ['#field-seed', seeds],
    ['#field-neg', negative],
    ['#form .words', () => button('link recent', null, CLOCK + textOf('form_tools.recent'), openRecent)],
  ];
  const place = () => {
    for (const [where, make] of PLACES) {
      const home = document.querySelector(where);
      if (!home || 'tools' in home.dataset) continue;
      home.dataset.tools = '';
      home.append(make());
    }
  };
  new MutationObserver(place).observe(document.body, { childList: true, subtree: true });
  place();
})();
