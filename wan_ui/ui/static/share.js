// Share links, for the owner: `window.wanUi.share(entryId)` opens a dialog that makes an address for one gallery entry,
// lists the open links to it and ends them.
(() => {
  const call = async (path, options = {}) => {
    const answer = await window.fetch(`v1/${path}`, { cache: 'no-store', ...options });
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    let message = textOf('server.refused');
    try { message = translated((await answer.json()).detail.error.message); } catch (error) { /* not an error of the API */ }
    throw new Error(message);
  };
  const day = (time) => new Date(time).toLocaleDateString(textOf('locale'), { day: 'numeric', month: 'long' });
  const make = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(name, value);
    made.append(...children);
    return made;
  };
  const button = (text, press, attributes = {}) => {
    const made = make('button', { type: 'button', ...attributes }, text);
    made.addEventListener('click', press);
    return made;
  };

  window.wanUi.share = (entryId) => {
    const opener = document.activeElement;
    const days = make('select', { 'aria-label': textOf('share.ends_after') },
      ...[1, 7, 30, 90].map((count) => make('option', { value: count }, textOf('share.days', { count }))));
    days.value = '7';
    const status = make('p', { class: 'share-status', role: 'status' }), list = make('ul', { class: 'share-list' });
    const address = make('input', { readonly: '', 'aria-label': textOf('share.address') });
    const copy = button(textOf('share.copy'), async () => {
      address.select();
      if (navigator.clipboard) await navigator.clipboard.writeText(address.value);
      else document.execCommand('copy'); // without TLS there is no clipboard API
      status.textContent = textOf('share.copied');
    });
    const made = make('p', { class: 'share-address' }, address, copy);
    made.hidden = true;
    const problem = (error) => {
      status.textContent = error instanceof TypeError ? textOf('server.gone') : error.message;
    };
    const refresh = async () => {
      const links = (await call('shares')).shares.filter((link) => link.entry === entryId);
      list.replaceChildren(...links.map((link) => make('li', {}, textOf('share.until', { day: day(link.ends_at) }),
        button(textOf('share.withdraw'), async () => {
          try {
            await call(`shares/${link.id}`, { method: 'DELETE' });
            if (made.dataset.id === link.id) made.hidden = true;
            status.textContent = textOf('share.withdrawn');
            await refresh();
          } catch (error) { problem(error); }
        }, { 'aria-label': textOf('share.withdraw_which', { day: day(link.ends_at) }) }))));
    };
    const create = button(textOf('share.create'), async () => {
      create.disabled = true;
      try {
        const link = await call('shares', {
          method: 'POST', headers: { 'Content-Type': 'application/json' },
          body: JSON.stringify({ entry: entryId, days: Number(days.value) }),
        });
        address.value = link.url;
        made.dataset.id = link.id;
        made.hidden = false;
        status.textContent = textOf('share.created', { day: day(link.ends_at) });
        await refresh();
        address.select();
      } catch (error) { problem(error); }
      create.disabled = false;
    }, { class: 'share-main' });
    const dialog = make('dialog', { class: 'share-dialog', 'aria-label': textOf('share.title') },
      make('h2', {}, textOf('share.title')),
      make('p', {}, textOf('share.about')),
      make('p', { class: 'share-new' }, `${textOf('share.ends_after')} `, days, create),
      made, status, list,
      button(textOf('share.close'), () => dialog.close()));
    dialog.addEventListener('close', () => { dialog.remove(); if (opener && opener.isConnected) opener.focus(); });
    dialog.addEventListener('keydown', (event) => event.stopPropagation()); // Space and arrows belong to its controls
    // Within Gradio's own element, whose class holds the page's colours.
    (document.querySelector('.gradio-container') || document.body).append(dialog);
    dialog.showModal();
    create.focus();
    refresh().catch(problem);
  };
})();
