// One event stream a browser: the tab that holds the lock reads GET /v1/events and passes each event on to the others.
// `wanUi.events.on(name, listener)` hears `jobs`, `progress`, `pictures`, `queue` and `server`, and at once what was last
// said; `wanUi.events.reads` tells whether this tab holds the stream.
(() => {
  const NAME = 'wan-ui-events';
  const EVENTS = ['jobs', 'progress', 'pictures', 'queue', 'server'];
  const AGAIN = 5000; // milliseconds until a stream that was refused is asked for again
  const LEASE = 6000, RENEW = 2000; // milliseconds, where the browser has no locks: pages over plain HTTP
  const channel = new BroadcastChannel(NAME);
  const latest = new Map();
  const listeners = new Map();
  let source = null;

  const hear = (name, data) => {
    if (name === 'link') window.wanUi.heard(data);
    else latest.set(name, data);
    for (const listener of listeners.get(name) || []) listener(data);
  };
  const pass = (name, data) => {
    hear(name, data);
    channel.postMessage({ name, data });
  };
  const open = () => {
    source = new EventSource('v1/events');
    for (const name of EVENTS) source.addEventListener(name, (event) => pass(name, JSON.parse(event.data)));
    source.onopen = () => pass('link', true);
    source.onerror = () => {
      pass('link', false);
      if (source.readyState === EventSource.CLOSED) window.setTimeout(open, AGAIN);
    };
  };
  channel.onmessage = (event) => {
    const { name, data } = event.data;
    if (name !== 'ask') {
      if (!source) hear(name, data);
    } else if (source) {
      for (const [known, value] of latest) channel.postMessage({ name: known, data: value });
    }
  };

  // Without locks the tab whose lease in localStorage is fresh reads the stream; the lease of a closed tab runs out.
  const lease = () => {
    const own = Math.random().toString(36).slice(2);
    const renew = () => {
      const [holder, until] = (window.localStorage.getItem(NAME) || ' 0').split(' ');
      if (holder !== own && Number(until) > Date.now()) {
        if (source) source.close();
        source = null;
        return;
      }
      window.localStorage.setItem(NAME, `${own} ${Date.now() + LEASE}`);
      if (!source) open();
    };
    renew();
    window.setInterval(renew, RENEW);
    window.addEventListener('pagehide', () => {
      if (source) window.localStorage.removeItem(NAME);
    });
  };

  window.wanUi.events = {
    on(name, listener) {
      listeners.set(name, [...(listeners.get(name) || []), listener]);
      if (latest.has(name)) listener(latest.get(name));
    },
    get reads() {
      return source !== null;
    },
  };
  channel.postMessage({ name: 'ask' });
  if (navigator.locks) navigator.locks.request(NAME, () => new Promise(open)); // held until this tab is closed
  else lease();

  // Another process serves this page now: its forms and sessions are new, and drafts are kept by the browser.
  let server = null;
  window.wanUi.events.on('server', ({ id }) => {
    if (server !== null && server !== id) window.location.reload();
    server = id;
  });
})();
