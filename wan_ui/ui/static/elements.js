// What the page's scripts share: elements made and brought into view, and calls of the API.

/** An element with attributes and children; an attribute that is null or undefined is left out.
 * @param {string} tag @param {Record<string, any>} attributes @param {(Node | string)[]} children @returns {any} */
const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
};

/** A button that calls `press`.
 * @param {Record<string, any>} attributes @param {(event: PageEvent<MouseEvent>) => any} press
 * @param {(Node | string)[]} children @returns {any} */
const makeButton = (attributes, press, ...children) => {
  const button = make('button', { type: 'button', ...attributes }, ...children);
  button.addEventListener('click', press);
  return button;
};

/** Opens a dialog within Gradio's own element, whose class holds the page's colours.
 * @param {HTMLDialogElement} dialog */
const showDialog = (dialog) => {
  (document.querySelector('.gradio-container') || document.body).append(dialog);
  dialog.showModal();
};

const reducedMotion = window.matchMedia('(prefers-reduced-motion: reduce)');

/** Calls `show` now and whenever the page grows, until the visitor scrolls, presses or types, or `time` has passed.
 * @param {() => void} show brings something into view @param {number} time milliseconds */
const showWhileGrowing = (show, time) => {
  const growth = new ResizeObserver(show);
  growth.observe(document.body);
  const leave = () => growth.disconnect();
  for (const name of ['wheel', 'touchstart', 'keydown', 'pointerdown']) {
    window.addEventListener(name, leave, { once: true });
  }
  window.setTimeout(leave, time);
  show();
};

/** When the page shows an answer's values: Gradio draws them some frames after it has them; a hidden tab draws no frames.
 * @returns {Promise<any>} */
const whenDrawn = () => new Promise((resolve) => {
  requestAnimationFrame(() => requestAnimationFrame(resolve));
  setTimeout(() => { if (document.hidden) resolve(null); }, 250);
});

/** The JSON answer of a route of /v1, null for one without content; an Error with its message where it is refused.
 * @param {string} path @param {RequestInit} options @returns {Promise<any>} */
const callApi = async (path, options = {}) => {
  const answer = await window.fetch(`v1/${path}`, { cache: 'no-store', ...options });
  if (answer.ok) return answer.status === 204 ? null : answer.json();
  let message = textOf('server.refused');
  try { message = translated((await answer.json()).detail.error.message); } catch (error) { /* not an error of the API */ }
  throw new Error(message);
};

/** Calls a route of /v1 with a body in JSON.
 * @param {string} method @param {string} path @param {object} body @returns {Promise<any>} */
const sendJson = (method, path, body) => callApi(path, {
  method, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body),
});

/** Why a call failed: the server's message, or that it does not answer.
 * @param {any} error */
const reasonOf = (error) => (error instanceof TypeError ? textOf('server.gone') : error.message);
