// Share links, for the owner: `window.wanUi.share(entryId)` opens a dialog that makes an address for one gallery entry,
// lists the open links to it and ends them.
(() => {
  const day = (time) => new Date(time).toLocaleDateString(textOf('locale'), { day: 'numeric', month: 'long' });
  // To the second: it tells apart the links that end on the same day.
  const moment = (time) => new Date(time).toLocaleString(textOf('locale'),
    { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit', second: '2-digit' });
  // The end of its id tells a link even from one that was made in the same second.
  const named = (link) => ({ code: link.id.slice(-4), day: day(link.ends_at), made: moment(link.created_at) });

  window.wanUi.share = (entryId) => {
    const opener = document.activeElement;
    const days = make('select', { 'aria-label': textOf('share.ends_after') },
      ...[1, 7, 30, 90].map((count) => make('option', { value: count }, textOf('share.days', { count }))));
    days.value = '7';
    const status = make('p', { class: 'share-status', role: 'status' }), list = make('ul', { class: 'share-list' });
    const address = make('input', { readonly: '', 'aria-label': textOf('share.address') });
    const copy = makeButton({}, async () => {
      address.select();
      if (navigator.clipboard) await navigator.clipboard.writeText(address.value);
      else document.execCommand('copy'); // without TLS there is no clipboard API
      status.textContent = textOf('share.copied');
    }, textOf('share.copy'));
    const made = make('p', { class: 'share-address' }, address, copy);
    made.hidden = true;
    const problem = (error) => {
      status.textContent = reasonOf(error);
    };
    const refresh = async () => {
      const links = (await callApi('shares')).shares.filter((link) => link.entry === entryId);
      list.replaceChildren(...links.map((link) => make('li', {}, textOf('share.until', named(link)),
        makeButton({ 'aria-label': textOf('share.withdraw_which', named(link)) }, async () => {
          try {
            await callApi(`shares/${link.id}`, { method: 'DELETE' });
            if (made.dataset.id === link.id) made.hidden = true;
            status.textContent = textOf('share.withdrawn');
            await refresh();
          } catch (error) { problem(error); }
        }, textOf('share.withdraw')))));
    };
    const create = makeButton({ class: 'share-main' }, async () => {
      create.disabled = true;
      try {
        const link = await sendJson('POST', 'shares', { entry: entryId, days: Number(days.value) });
        address.value = link.url;
        made.dataset.id = link.id;
        made.hidden = false;
        status.textContent = textOf('share.created', named(link));
        await refresh();
        address.select();
      } catch (error) { problem(error); }
      create.disabled = false;
    }, textOf('share.create'));
    const dialog = make('dialog', { class: 'share-dialog', 'aria-label': textOf('share.title') },
      make('h2', {}, textOf('share.title')),
      make('p', {}, textOf('share.about')),
      make('p', { class: 'share-new' }, `${textOf('share.ends_after')} `, days, create),
      made, status, list,
      makeButton({}, () => dialog.close(), textOf('share.close')));
    dialog.addEventListener('close', () => { dialog.remove(); if (opener && opener.isConnected) opener.focus(); });
    dialog.addEventListener('keydown', (event) => event.stopPropagation()); // Space and arrows belong to its controls
    showDialog(dialog);
    create.focus();
    refresh().catch(problem);
  };
})();
