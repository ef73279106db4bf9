// Share links, for the owner: `window.wanUi.share(entryId)` opens a dialog that makes an address for one gallery entry,
// lists the open links to it and ends them.
(() => {
  const day = (time) => new Date(time).toLocaleDateString(textOf('locale'), { day: 'numeric', month: 'long' });
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
      status.textContent = reasonOf(error);
    };
    const refresh = async () => {
      const links = (await callApi('shares')).shares.filter((link) => link.entry === entryId);
      list.replaceChildren(...links.map((link) => make('li', {}, textOf('share.until', { day: day(link.ends_at) }),
        button(textOf('share.withdraw'), async () => {
          try {
            await callApi(`shares/${link.id}`, { method: 'DELETE' });
            if (made.dataset.id === link.id) made.hidden = true;
            status.textContent = textOf('share.withdrawn');
            await refresh();
          } catch (error) { problem(error); }
        }, { 'aria-label': textOf('share.withdraw_which', { day: day(link.ends_at) }) }))));
    };
    const create = button(textOf('share.create'), async () => {
      create.disabled = true;
      try {
        const link = await callApi('shares', {
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
