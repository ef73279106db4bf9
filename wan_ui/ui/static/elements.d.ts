/** An element with attributes and children; an attribute that is null or undefined is left out.
 * @param {string} tag @param {Record<string, any>} attributes @param {(Node | string)[]} children @returns {any} */
declare const make: (tag: string, attributes?: Record<string, any>, ...children: (Node | string)[]) => any;
declare const reducedMotion: MediaQueryList;
/** Calls `show` now and whenever the page grows, until the visitor scrolls, presses or types, or `time` has passed.
 * @param {() => void} show brings something into view @param {number} time milliseconds */
declare const showWhileGrowing: (show: () => void, time: number) => void;
/** The JSON answer of a route of /v1, null for one without content; an Error with its message where it is refused.
 * @param {string} path @param {RequestInit} options @returns {Promise<any>} */
declare const callApi: (path: string, options?: RequestInit) => Promise<any>;
/** Why a call failed: the server's message, or that it does not answer.
 * @param {any} error */
declare const reasonOf: (error: any) => any;
