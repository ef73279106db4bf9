/** @param {string} server the page's address without a slash at its end @param {object} request */
declare const curlCall: (server: string, request: object) => string;
/** A JSON value as a Python literal; JSON's strings and numbers are Python's too.
 * @param {any} value @param {string} indent @returns {string} */
declare const pythonLiteral: (value: any, indent?: string) => string;
/** @param {string} server the page's address without a slash at its end @param {object} request */
declare const pythonCall: (server: string, request: object) => string;
