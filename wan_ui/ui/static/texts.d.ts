declare const textOf: (key: any, values?: {}) => string;
declare const translated: (message: any) => any;
