// One stop of the Tab key for each group of buttons that belong together, with the arrow keys between its members: the
// top tabs, which Gradio makes a stop each, and toolbars.
(() => {
  const GROUPS = '#top > .tab-wrapper [role="tablist"], [role="toolbar"]';
  const MEMBERS = 'button:not(:disabled)';
  const membersOf = (group) => [...group.querySelectorAll(MEMBERS)].filter((member) => member.getClientRects().length);

  const giveStop = (group) => {
    const members = membersOf(group);
    const isSelected = (member) => member.getAttribute('aria-selected') === 'true';
    const stop =
      members.find((member) => member === document.activeElement) || members.find(isSelected) || members[0];
    for (const member of members) {
      const index = member === stop ? 0 : -1;
      if (member.tabIndex !== index) member.tabIndex = index;
    }
  };

  document.addEventListener('keydown', (event) => {
    const group = event.target.closest(GROUPS);
    if (!group || event.altKey || event.ctrlKey || event.metaKey) return;
    const members = membersOf(group);
    const to = indexAfterKey(event.key, members.indexOf(event.target), members.length);
    if (to === null) return;
    event.preventDefault();
    members[to].focus();
  });
  for (const name of ['focusin', 'focusout']) {
    document.addEventListener(name, (event) => {
      const group = event.target instanceof Element && event.target.closest(GROUPS);
      if (group) giveStop(group);
    });
  }

  let isDue = false;
  const giveStops = () => {
    isDue = false;
    document.querySelectorAll(GROUPS).forEach(giveStop);
  };
  const want = () => {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(giveStops);
  };
  new MutationObserver(want).observe(document.body, {
    attributeFilter: ['aria-selected', 'hidden', 'disabled'],
    childList: true,
    subtree: true,
  });
  want();
})();
