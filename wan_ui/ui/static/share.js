// Share links, for the owner: `window.wanUi.share(entryId)` opens a dialog that makes an address for one gallery entry,
// lists the open links to it and ends them.
(() => {
  const call = async (path, options = {}) => {
    const answer = await window.fetch(`v1/${path}`, { cache: 'no-store', ...options });
    if (answer.ok) return answer.status === 204 ? null : answer.json();
    let message = 'The server could not do this. Try again.';
    try { message = (await answer.json()).detail.error.message; } catch (error) { /* not an error of the API */ }
    throw new Error(message);
  };
  const day = (time) => new Date(time).toLocaleDateString('en-GB', { day: 'numeric', month: 'long' });
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
    const days = make('select', { 'aria-label': 'Ends after' },
      ...[[1, '1 day'], [7, '7 days'], [30, '30 days'], [90, '90 days']].map(([value, text]) => make('option', { value }, text)));
    days.value = '7';
    const status = make('p', { class: 'share-status', role: 'status' }), list = make('ul', { class: 'share-list' });
    const address = make('input', { readonly: '', 'aria-label': 'Address' });
    const copy = button('Copy link', async () => {
      address.select();
      if (navigator.clipboard) await navigator.clipboard.writeText(address.value);
      else document.execCommand('copy'); // without TLS there is no clipboard API
      status.textContent = 'Link copied.';
    });
    const made = make('p', { class: 'share-address' }, address, copy);
    made.hidden = true;
    const problem = (error) => {
      status.textContent = error instanceof TypeError ? 'The server does not answer. Try again.' : error.message;
    };
    const refresh = async () => {
      const links = (await call('shares')).shares.filter((link) => link.entry === entryId);
      list.replaceChildren(...links.map((link) => make('li', {}, `Link until ${day(link.ends_at)}`,
        button('Withdraw', async () => {
          try {
            await call(`shares/${link.id}`, { method: 'DELETE' });
            if (made.dataset.id === link.id) made.hidden = true;
            status.textContent = 'Link withdrawn. Its address opens nothing now.';
            await refresh();
          } catch (error) { problem(error); }
        }, { 'aria-label': `Withdraw the link until ${day(link.ends_at)}` }))));
    };
    const create = button('Create link', async () => {
      create.disabled = true;
      try {
        const link = await call('shares', {
          method: 'POST', headers: { 'Content-Type': 'application/json' },
          body: JSON.stringify({ entry: entryId, days: Number(days.value) }),
        });
        address.value = link.url;
        made.dataset.id = link.id;
        made.hidden = false;
        status.textContent = `Whoever has this address sees it without the password until ${day(link.ends_at)}.`;
        await refresh();
        address.select();
      } catch (error) { problem(error); }
      create.disabled = false;
    }, { class: 'share-main' });
    const dialog = make('dialog', { class: 'share-dialog', 'aria-label': 'Share' },
      make('h2', {}, 'Share'),
      make('p', {}, 'Makes an address that opens only this page, without the password, on a phone too.'),
      make('p', { class: 'share-new' }, 'Ends after ', days, create),
      made, status, list,
      button('Close', () => dialog.close()));
    dialog.addEventListener('close', () => { dialog.remove(); if (opener && opener.isConnected) opener.focus(); });
    dialog.addEventListener('keydown', (event) => event.stopPropagation()); // Space and arrows belong to its controls
    // Within Gradio's own element, whose class holds the page's colours.
    (document.querySelector('.gradio-container') || document.body).append(dialog);
    dialog.showModal();
    create.focus();
    refresh().catch(problem);
  };
})();
